"""Scripts for tests: written by hand, and drawn at random."""

from hypothesis import strategies as st
from tree_cases import PROMPT, ROOT, node

from lpo.build_config import BuildConfig
from lpo.records import Correction, CorrectionOutcome, Judgement, Script, ScriptSegment, SearchTree


def judged(score: float) -> Judgement:
    return Judgement(scorer="s", overall=score)


def segment(original: str, revised: str | None = None, before: float | None = None, after: float | None = None,
            outcome: CorrectionOutcome = CorrectionOutcome.ACCEPTED) -> ScriptSegment:
    """One that a model corrected; without a revised text nothing was tried."""
    if revised is None:
        return ScriptSegment(original=original, revised=original)
    taken = outcome in (CorrectionOutcome.ACCEPTED, CorrectionOutcome.GIVEN)
    return ScriptSegment(original=original, revised=revised if taken else original, corrections=(Correction(
        round=0, outcome=outcome, text=revised, before=None if before is None else judged(before),
        after=None if after is None else judged(after)),))


def script_tree(*segments: ScriptSegment, ends: bool = True, scores: tuple[float, ...] = (), seed: int = 0,
                tree_id: str = "p") -> SearchTree:
    """A tree with these answers and this script; without segments, without a script."""
    script = Script(draft="0.0", ends=ends, segments=segments) if segments else None
    nodes = (ROOT, *(node(f"0.{index}", score) for index, score in enumerate(scores)))
    return SearchTree(id=tree_id, prompt=PROMPT, method="iterdpo", seed=seed, nodes=nodes, script=script)


def build_config(mode: str = "prefix", share: float | None = None, **settings) -> BuildConfig:
    correction = {"mode": mode, **({} if share is None else {"full_share": share})}
    return BuildConfig(method="iterdpo", correction=correction, **settings)


TEXTS = st.sampled_from(["", " ", "one. ", "two.\n\n", "three ", "四。", "one. two.\n\n", "five"])


@st.composite
def script_trees(draw: st.DrawFn) -> SearchTree:
    """Any tree with any script, or none: changed and unchanged segments, empty ones on either side, any answers."""
    segments = [segment(draw(TEXTS), draw(st.none() | TEXTS), draw(st.none() | st.floats(0, 1)),
                        draw(st.none() | st.floats(0, 1)), draw(st.sampled_from(CorrectionOutcome)))
                for _ in range(draw(st.integers(0, 7)))]
    scores = tuple(draw(st.lists(st.floats(0, 1), max_size=4)))
    return script_tree(*segments, ends=draw(st.booleans()), scores=scores, seed=draw(st.integers(0, 2**31)))
