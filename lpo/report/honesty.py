"""What the numbers of a run show and do not show, said from the numbers themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lpo.records import CorrectionOutcome
from lpo.report.data import Interval, RunData
from lpo.report.facts import judge_is_asked
from lpo.report.kinds import RunKind
from lpo.report.scores import MEASURE, Verdict, bracket, in_sentence, measure_of, percent, signed, suites_of
from lpo.report.story import plural
from lpo.report.suites_data import HELD_OUT, SuiteData

FEW_PROMPTS = 30
FEW_PAIRS = 100
MAIN = 2
"""Scores of a suite whose difference is spoken of even where it is open."""
FEW_FULL = 0.05
"""Share of full-length pairs at which LongWriter-V's model got worse: 72 of 1,477 (arXiv 2502.14834, table 2, without
GPT-4o's feedback). With 1,439 of 2,844 it got better.
"""


class Weight(StrEnum):
    """How much a caveat matters to the reading of the scores."""

    WARNING = "warning"
    GOOD = "good"
    NOTE = "note"


@dataclass(frozen=True)
class Caveat:
    """One thing a careful reader should know."""

    weight: Weight
    text: str


def caveats(run: RunData) -> tuple[Caveat, ...]:
    """What the numbers of this run show and do not show, from the numbers themselves; what matters most first."""
    compared = (*_on_differences(run), *_on_scores(run), *_on_answers(run)) if run.kind.measures else ()
    made = (*_on_judge(run), *_on_pairs(run)) if run.kind.gives_pairs else _on_rows(run)
    found = (*compared, *made, *_on_model(run))
    return tuple(sorted(found, key=lambda caveat: list(Weight).index(caveat.weight)))


def _on_differences(run: RunData) -> list[Caveat]:
    if run.scores is None:
        return [Caveat(Weight.NOTE, "There are no scores yet: nothing here says whether training helped.")
                ] if run.kind.trains else []
    return [caveat for suite in suites_of(run.scores) if suite.difference for caveat in _on_suite(suite)]


def _on_suite(suite: SuiteData) -> list[Caveat]:
    """What the differences of a suite show and what they do not; of those that are open, the main scores'."""
    by_verdict: dict[Verdict, list[str]] = {}
    for place, measure in enumerate(map(measure_of, suite.metrics)):
        difference = suite.difference.get(measure.key, Interval())
        verdict = measure.direction.verdict(difference)
        if verdict is not Verdict.OPEN or place < MAIN:
            value = bracket(measure, difference, signed) or f"from n = {difference.n}"
            by_verdict.setdefault(verdict, []).append(f"{in_sentence(measure.name)} {value}")
    said = {
        Verdict.NO_INTERVAL: (Weight.WARNING, "the run shows nothing about a change", "needs more values"),
        Verdict.WORSE: (Weight.WARNING, "the trained model is worse", "leaves out zero"),
        Verdict.OPEN: (Weight.WARNING, "the run does not show a change", "covers zero"),
        Verdict.BETTER: (Weight.GOOD, "the trained model is better", "leaves out zero"),
    }
    on = f"On {'this prompt' if suite.n_prompts == 1 else f'these {suite.n_prompts:,} prompts'}"
    if suite.suite != HELD_OUT:
        on = f"On {plural(suite.n_prompts, 'prompt')} of {suite.title}"
    return [
        Caveat(weight, f"{on} {claim}; the 95 % interval of the difference {how}: {', '.join(by_verdict[verdict])}.")
        for verdict, (weight, claim, how) in said.items() if verdict in by_verdict
    ]


def _on_scores(run: RunData) -> list[Caveat]:
    scores = run.scores
    if scores is None:
        return []
    found: list[Caveat] = []
    few = [suite for suite in suites_of(scores) if suite.n_prompts < FEW_PROMPTS]
    for suite in few:
        named = "held-out prompts" if suite.suite == HELD_OUT else f"prompts of {suite.title}"
        found.append(Caveat(Weight.WARNING, (
            f"n = {suite.n_prompts}: so few {named} say little about others. Take this as a smoke test, not as a "
            "result.")))
    if run.kind.trains:
        found += _on_rewards(run)
    unscored = [f"{in_sentence(metric.name)} {suite.of(model, metric.key).unscored} ({model})"
                + ("" if suite.suite == HELD_OUT else f" on {suite.title}")
                for suite in suites_of(scores) for model in suite.names for metric in suite.metrics[:MAIN]
                if suite.of(model, metric.key).unscored]
    if unscored:
        found.append(Caveat(Weight.NOTE, (
            f"Answers without a score are left out, not counted as zero: {', '.join(unscored)}.")))
    which = "measured prompt" if scores.suites else "held-out prompt"
    if scores.overlap is not None and scores.overlap.found:
        found.append(Caveat(Weight.WARNING, (
            f"{scores.overlap.found} of {plural(scores.overlap.checked, which)} also stand in the build set: the "
            "scores are partly on what was trained on.")))
    elif scores.overlap is not None and scores.overlap.checked:
        found.append(Caveat(Weight.GOOD, (
            f"None of the {plural(scores.overlap.checked, which)} stands in the build set.")))
    return found


def _on_rewards(run: RunData) -> list[Caveat]:
    """Measures that also chose the pairs: a gain in them is what was trained for, not evidence of more."""
    found: list[Caveat] = []
    if run.scores is not None and run.scores.judge is not None and run.scores.judge.was_training_reward:
        found.append(Caveat(Weight.WARNING, (
            "The judge that scores the answers also chose the training pairs: a gain in its score may only mean that "
            "the model learnt this judge's taste. Weigh it against the other measures, and read the texts.")))
    weights = run.setting("build", "reward") or {}
    for key, measure in (("length", "length_score"), ("repetition", "repetition")):
        if weights.get(key):
            found.append(Caveat(Weight.NOTE, (
                f"{MEASURE[measure].name} was part of the training reward too (weight {weights[key]:g}): a gain "
                "in it shows that the reward was learnt, not that the texts are better otherwise.")))
    return found


def _on_answers(run: RunData) -> list[Caveat]:
    written: dict[str, list[str]] = {}
    for measured in run.measured.values():
        for model, rows in measured.items():
            written.setdefault(model, []).extend(row.answer.finish for row in rows)
    if not any("length" in finishes for finishes in written.values()):
        return []
    listed = ", ".join(f"{finishes.count('length')} of {len(finishes)} ({model})"
                       for model, finishes in written.items())
    return [Caveat(Weight.NOTE, (
        f"Answers cut at the token limit: {listed}. Their length is partly a property of the limit."))]


def _on_judge(run: RunData) -> list[Caveat]:
    build = run.build
    if build is None:
        return []
    found: list[Caveat] = []
    if build.judgements.unscored:
        reasons = ", ".join(f"{name}: {count}" for name, count in build.judgements.reasons.items())
        total = build.judgements.scored + build.judgements.unscored
        found.append(Caveat(Weight.NOTE, (
            f"{build.judgements.unscored} of {total} judgements of candidates gave no score ({reasons}) and decided "
            "nothing.")))
    tau = build.stability.kendall_tau if build.stability else None
    if build.stability is not None and tau is not None and tau < 0.5:
        found.append(Caveat(Weight.WARNING, (
            f"Reworded, the rubric ranks the same candidates differently (Kendall's τ {tau:.2f}".replace("-", "−")
            + f", {plural(build.stability.layers, 'layer')}): which side of a pair is called chosen is partly "
            "chance.")))
    mass = run.trees.counts.mean_grade_mass
    if mass is not None and mass < 0.5:
        found.append(Caveat(Weight.NOTE, (
            f"The judge gave the five grades {percent(mass)} of its next-token probability on average; the "
            "rest fell on other words. The expected grade is taken over the grades alone.")))
    return found


def _on_pairs(run: RunData) -> list[Caveat]:
    if run.build is None:
        return []
    found = _on_corrections(run)
    gap = run.length_gap
    if gap is not None and gap.systematic:
        longer = gap.mean > 0
        mend = "; build.pairs.length_penalty takes it out" if run.setting("build", "pairs") and longer else ""
        found.append(Caveat(Weight.WARNING, (
            f"The chosen sides are {'longer' if longer else 'shorter'} than the rejected ones, chosen minus rejected "
            f"{gap.bracket} ({percent(gap.longer)} of the pairs have the longer side chosen): whatever else the pairs "
            f"teach, they teach length{mend}.")))
    if run.kind.trains and len(run.pairs) < FEW_PAIRS:
        found.append(Caveat(Weight.NOTE, (
            f"{plural(len(run.pairs), 'pair')} can teach habits (length, not repeating), hardly judgement.")))
    return found


def _on_corrections(run: RunData) -> list[Caveat]:
    scripts, found = run.trees.counts.scripts, list[Caveat]()
    if not scripts.scripts:
        return found
    people = scripts.outcomes[CorrectionOutcome.GIVEN]
    if not scripts.accepted and not people:
        found.append(Caveat(Weight.WARNING, (
            f"No correction was accepted ({plural(scripts.outcomes.total(), 'attempt')}): this run shows nothing about "
            "learning from corrections.")))
    full = run.full_length_pairs
    if run.pairs and full / len(run.pairs) <= FEW_FULL:
        found.append(Caveat(Weight.WARNING, (
            f"{f'Only {full:,}' if full else 'None'} of {plural(len(run.pairs), 'pair')} "
            f"{'has' if full <= 1 else 'have'} the full length of an answer. In the paper's ablation prefix pairs with "
            f"{percent(FEW_FULL)} full-length ones made the model worse than before: it stopped early. Mix full-length "
            "pairs in: build.answers.samples, build.correction.full_share or build.mix.")))
    return found


def _on_rows(run: RunData) -> list[Caveat]:
    if run.build is None:
        return []
    if not run.sft:
        return [Caveat(Weight.WARNING, "No answer was kept: there is nothing to fine-tune on. The reasons are below.")]
    least = run.setting("build", "agent_write", "min_length_score")
    asked = sum(row.length_score is not None for row in run.sft)
    found = [Caveat(Weight.NOTE, (
        "Rows are kept by their length, and nobody has judged what they say: read some before you train on them."
        if least and asked else "Nobody has judged what the rows say: read some before you train on them."))]
    if asked < len(run.sft):
        found.append(Caveat(Weight.NOTE, (
            f"{len(run.sft) - asked} of {plural(len(run.sft), 'row')} answer prompts that ask for no length, so "
            "nothing holds their length to what was asked.")))
    return found


def _on_model(run: RunData) -> list[Caveat]:
    model = str(run.setting("policy", "model") or "")
    found: list[Caveat] = []
    if model.startswith("demo:") and (run.kind is not RunKind.SCORED or judge_is_asked(run)):
        found.append(Caveat(Weight.NOTE, (
            f"{model.removeprefix('demo:')} is a small base model that was never taught to follow requests. It can "
            "show that every stage works and pick up habits such as length and not repeating itself. It cannot plan an "
            "essay or get facts right, and as a judge it has little taste. Use it to learn the tool, not to judge the "
            "method.")))
    if run.manifest.git and run.manifest.git.get("dirty"):
        found.append(Caveat(Weight.NOTE, "The code had uncommitted changes: the commit alone does not reproduce it."))
    return found
