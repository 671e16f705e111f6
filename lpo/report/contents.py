"""What a page holds of the things a reader looks at one by one: pairs, trees, corrections, answers, plans, texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lpo.report.answers import AnswerSection, answer_section
from lpo.report.corrections import CorrectionSection, correction_section
from lpo.report.data import RunData
from lpo.report.kinds import RunKind
from lpo.report.pairs import PairSection, pair_section
from lpo.report.plans import PlanSection, plan_section
from lpo.report.samples import SampleSection, sample_section
from lpo.report.trees import TreeSection, tree_section


@dataclass(frozen=True)
class Contents:
    """Sections of the page, with as much as there is room for; None for what a run of its kind does not have."""

    pairs: PairSection | None
    trees: TreeSection | None
    corrections: CorrectionSection | None
    answers: AnswerSection | None
    plans: PlanSection | None
    samples: SampleSection | None

    @property
    def left_out(self) -> frozenset[str]:
        """What is not on the page as a whole."""
        found = {name: section.left_out for name, section in (
            ("pairs", self.pairs), ("trees", self.trees), ("corrections", self.corrections), ("answers", self.answers),
            ("plans", self.plans)) if section is not None}
        texts = 0 if self.samples is None else sum(suite.left_out for suite in self.samples.suites)
        return frozenset(name for name, count in {**found, "texts": texts}.items() if count)


NAMES = ("pairs", "trees", "corrections", "answers", "plans", "texts")


def browser_data(pairs: PairSection | None, trees: TreeSection | None, corrections: CorrectionSection | None
                 ) -> dict[str, dict[str, Any]]:
    """What the page's script is given: id of the element -> values."""
    return {name: {"entries": section.entries, "scales": section.scales} for name, section in (
        ("pair-data", pairs), ("tree-data", trees), ("correction-data", corrections))
        if section is not None and section.entries}


def contents(run: RunData, share: float) -> Contents:
    """The sections of a run's page.

    Args:
        run: The run.
        share: Of the room that each of them usually has.
    """
    def has(name: str) -> bool:
        return name in dict(sections(run))

    return Contents(
        pairs=pair_section(run, share) if has("pairs") else None,
        trees=tree_section(run, share) if has("trees") else None,
        corrections=correction_section(run, share) if has("corrections") else None,
        answers=answer_section(run, share) if has("answers") else None,
        plans=plan_section(run, share) if has("plans") else None, samples=sample_section(run, share),
    )


def sections(run: RunData) -> tuple[tuple[str, str], ...]:
    """`(id, title)` of the sections of the page."""
    return tuple(section for section in run.kind.sections if section[0] != "answers" or run.kind is not RunKind.SCRIPTS
                 or run.candidates)  # corrections of a file come without answers of their own
