"""IterDPO (LongWriter-V, arXiv 2502.14834): an answer is corrected segment by segment, by a model or by people.

The segments are taken in order, so that each is corrected with the corrected text before it in sight. A model corrects
in two steps, critique and revision, and the judge decides: it sees the segment as it was and as it would be, both in
their place. What people corrected stands in a file. Which pairs a script gives is decided afterwards: `script_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpo.build_config import BuildConfig
from lpo.given_answers import ANSWERS
from lpo.llm.asking import NoReply, NoReplyError
from lpo.llm.base import LLM
from lpo.pair_builders.base import BuilderModels, BuildEvent
from lpo.pair_builders.best_of_n import AnswerWriter, scored_answers
from lpo.pair_builders.correcting import Corrector, Segment
from lpo.pair_builders.corrections_file import Corrections, load_corrections
from lpo.pair_builders.growing_tree import ROOT
from lpo.pair_builders.pairs import live, normalised
from lpo.pair_builders.resampling import Resampler, Spot
from lpo.pair_builders.steps import derive_seed
from lpo.records import (
    Correction,
    CorrectionOutcome,
    Judgement,
    Prompt,
    Script,
    ScriptSegment,
    SearchNode,
    SearchTree,
)
from lpo.reward import Draft
from lpo.segmentation import split_segments


class IterativeCorrection:
    """Writes answers, as best-of-N does, and has one of them corrected: the best-scored, or the only one (which is not
    scored then). Answers that come with the prompt take the place of sampled ones. With corrections from a file the
    script is the file's, and answers are written only to be compared with each other.

    Args:
        config: The `build` section; its `answers`, `segments` and `correction` are what the method reads.
        models: Who writes, judges and corrects.
        on_event: Called as the work goes on, for progress.

    Raises:
        DataError: The file of corrections cannot be used.
    """

    def __init__(self, config: BuildConfig, models: BuilderModels, on_event: Callable[[BuildEvent], None]) -> None:
        self._config, self._models, self._on_event = config, models, on_event
        self._writer = AnswerWriter(config.answers, models, early_ends=config.early_ends)
        file = config.correction.file
        self._corrections: Corrections | None = None
        if config.correction.by == "file" and file is not None:
            self._corrections = load_corrections(Path(file), config.segments)
        self._resampler = Resampler(models.policy, models.scorer, config.correction, early_ends=config.early_ends) \
            if config.correction.by == "resample" else None
        self._corrector = Corrector(_corrector_llm(config, models), config.correction, models.dialect, models.templates)

    async def build(self, prompt: Prompt, *, seed: int) -> SearchTree:
        """One tree: the answers are its layer, the correction of one of them is its `script`.

        Raises:
            BackendError: A model cannot be used.
            DataError: Answers or a correction of this prompt cannot be used.
        """
        answers = await self._answers(prompt, seed)
        if self._corrections is not None:
            script = self._corrections.script(prompt)
        else:
            draft = _best(answers)
            script = await self._corrected(prompt, draft, seed) if draft is not None else None
        return SearchTree(id=prompt.id, prompt=prompt, method=self._config.method, seed=seed, nodes=(ROOT, *answers),
                          script=script)

    async def _answers(self, prompt: Prompt, seed: int) -> list[SearchNode]:
        """The answers; scored if there are several. None are written that nobody would read."""
        wanted = self._config.answers
        compared = wanted.samples > 1 or wanted.extension is not None or prompt.meta.get(ANSWERS) is not None
        if self._corrections is not None and not compared:
            return []
        answers = await self._writer.answers(prompt, seed)
        if len(live(answers)) > 1:
            answers = await scored_answers(self._models.scorer, prompt, answers)
        self._on_event(BuildEvent.LAYER)
        return answers

    async def _corrected(self, prompt: Prompt, draft: SearchNode, seed: int) -> Script:
        originals = split_segments(draft.text, self._config.segments)
        if self._resampler is not None:
            return await self._redrawn(self._resampler, prompt, draft, originals, seed)
        done: list[ScriptSegment] = []
        for index, original in enumerate(originals):
            place = _Place(
                prompt=prompt, number=index, before="".join(segment.revised for segment in done),
                ends=index + 1 == len(originals) and draft.ends,
                required_words=_required_words(prompt, draft, originals[:index + 1]),
            )
            segment = await self._segment(place, original, seed)
            done.append(segment)
            changed = segment.original != segment.revised
            self._on_event(BuildEvent.CORRECTED if changed else BuildEvent.NOT_CORRECTED)
        return Script(draft=draft.id, ends=draft.ends, segments=tuple(done))

    async def _redrawn(self, resampler: Resampler, prompt: Prompt, draft: SearchNode, originals: Sequence[str],
                       seed: int) -> Script:
        """The script of segments that were drawn again. Where a new version ends the answer, the last segment of the
        script holds all that followed in the draft, and has that version in its place.
        """
        done: list[ScriptSegment] = []
        ends = draft.ends
        for index, original in enumerate(originals):
            spot = Spot(
                prompt=prompt, number=index, before="".join(segment.revised for segment in done),
                after="".join(originals[index + 1:]), draft_ends=draft.ends,
                required_words=_required_words(prompt, draft, originals[:index + 1]),
            )
            stands, corrections, ended = original, [], False
            for number in range(self._config.correction.rounds if original.strip() else 0):
                redrawn = await resampler.redraw(spot, stands, number, seed)
                corrections.append(redrawn.correction)
                if redrawn.correction.outcome is not CorrectionOutcome.ACCEPTED or redrawn.correction.text is None:
                    break
                stands, ended = redrawn.correction.text, redrawn.ends
                if ended:
                    break
            changed = original != stands
            self._on_event(BuildEvent.CORRECTED if changed else BuildEvent.NOT_CORRECTED)
            rest = spot.after if ended else ""
            done.append(ScriptSegment(original=original + rest, revised=stands, corrections=tuple(corrections)))
            if changed and not spot.after:
                ends = ended
            if ended:
                ends = True
                break
        return Script(draft=draft.id, ends=draft.ends, revised_ends=ends, segments=tuple(done))

    async def _segment(self, place: _Place, original: str, seed: int) -> ScriptSegment:
        """Correct one segment until a round changes nothing. One without words is left alone."""
        stands = original
        corrections: list[Correction] = []
        for number in range(self._config.correction.rounds if original.strip() else 0):
            correction = await self._attempt(place, stands, number, seed)
            corrections.append(correction)
            if correction.outcome is not CorrectionOutcome.ACCEPTED or correction.text is None:
                break
            stands = correction.text
        return ScriptSegment(original=original, revised=stands, corrections=tuple(corrections))

    async def _attempt(self, place: _Place, stands: str, number: int, seed: int) -> Correction:
        """One critique, one revision and its judgement."""
        segment = Segment(place.prompt, place.before, stands.strip(), last=place.ends)
        try:
            critique = await self._corrector.critique(segment)
        except NoReplyError as error:
            return _failed(number, error, CorrectionOutcome.NO_CRITIQUE)
        attempt = Correction(round=number, outcome=CorrectionOutcome.UNCHANGED, faults=critique.faults,
                             failed=critique.dropped)
        if not critique.faults:
            return attempt
        drawn = derive_seed(seed, place.prompt.id, "segment", place.number, number)
        try:
            revised = await self._corrector.revision(segment, critique.faults, drawn)
        except NoReplyError as error:
            return _failed(number, error, CorrectionOutcome.NO_REVISION, attempt)
        text = _in_the_place_of(stands, revised)
        attempt = attempt.model_copy(update={"text": text})
        if normalised(text) == normalised(stands):
            return attempt
        before, after = await self._models.scorer.score([place.draft(stands), place.draft(text)])
        return attempt.model_copy(update={"outcome": self._verdict(before, after), "before": before, "after": after})

    def _verdict(self, before: Judgement, after: Judgement) -> CorrectionOutcome:
        if before.overall is None or after.overall is None:
            return CorrectionOutcome.UNSCORED
        if self._config.correction.accept == "if_better" and after.overall <= before.overall:
            return CorrectionOutcome.NOT_BETTER
        return CorrectionOutcome.ACCEPTED


@dataclass(frozen=True)
class _Place:
    """Where a segment stands.

    Args:
        prompt: The task.
        number: Of the segment, from 0.
        before: The corrected text before it.
        ends: Does the answer end with it? What was cut at its budget does not, so that nobody winds it up.
        required_words: Words that the answer should have by its end.
    """

    prompt: Prompt
    number: int
    before: str
    ends: bool
    required_words: int | None

    def draft(self, text: str) -> Draft:
        """A version of the segment, to be judged in its place."""
        return Draft(self.prompt, self.before, text, complete=self.ends, required_words=self.required_words)


def _corrector_llm(config: BuildConfig, models: BuilderModels) -> LLM:
    """Who corrects; people ask nothing of it."""
    return {"critic": models.critic, "policy": models.policy}.get(config.correction.by, models.judge)


def _best(answers: Sequence[SearchNode]) -> SearchNode | None:
    """The answer that is corrected: the best-scored, the first of equals; None when there is no usable one."""
    return max(live(answers), key=lambda node: -1.0 if node.score is None else node.score, default=None)


def _required_words(prompt: Prompt, draft: SearchNode, upto: Sequence[str]) -> int | None:
    """Words that the answer should have by now: the share of the target that these segments are of the draft."""
    if prompt.target_words is None:
        return None
    return max(1, round(prompt.target_words * sum(map(len, upto)) / len(draft.text)))


def _in_the_place_of(segment: str, revised: str) -> str:
    """A revised segment with the white space around the one that it replaces, so that its neighbours still join."""
    words = segment.strip()
    start = segment.index(words)
    return segment[:start] + revised + segment[start + len(words):]


def _failed(number: int, error: NoReplyError, outcome: CorrectionOutcome,
            attempt: Correction | None = None) -> Correction:
    """An attempt that ended with an unusable reply."""
    if error.reason is NoReply.REQUEST_REJECTED:
        outcome = CorrectionOutcome.REQUEST_REJECTED
    elif error.reason is NoReply.EMPTY and attempt is not None:
        outcome = CorrectionOutcome.EMPTY
    why = f"{error.reason}: {error.detail}".rstrip(": ")
    return Correction(round=number, outcome=outcome, faults=attempt.faults if attempt is not None else (), failed=why)
