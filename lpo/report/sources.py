"""The papers whose methods a run used."""

from __future__ import annotations

from dataclasses import dataclass

from lpo.report.data import RunData
from lpo.report.kinds import RunKind


@dataclass(frozen=True)
class Source:
    """A paper whose method this run used."""

    what: str
    title: str
    address: str


LONGDPO = Source("how the pairs are built", "LongDPO: Unlock Better Long-form Generation Abilities for LLMs via "
                 "Critique-augmented Stepwise Information", "arXiv 2502.02095")
LONGREWARD = Source("how the answers are scored", "LongReward: Improving Long-context Large Language Models with AI "
                    "Feedback", "arXiv 2410.21252")
ITERDPO = Source("how the pairs are built", "LongWriter-V: Enabling Ultra-Long and High-Fidelity Generation in "
                 "Vision-Language Models", "arXiv 2502.14834")
SELF_LENGTHEN = Source("how the answers are lengthened", "Language Models can Self-Lengthen to Generate Long Texts",
                       "arXiv 2410.23933")
MINIMUM_TUNING = Source("which rows are kept", "Minimum Tuning to Unlock Long Output from LLMs with High Quality Data "
                        "as the Key", "arXiv 2410.10210")
DPO = Source("what training rests on", "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
             "arXiv 2305.18290")
LONGWRITER = "LongWriter: Unleashing 10,000+ Word Generation from Long Context LLMs"


def sources(run: RunData) -> tuple[Source, ...]:
    """Papers behind what this run did."""
    built = run.kind is not RunKind.MEASURED
    method = run.setting("build", "method") if built else None
    planned = method == "agent_write"
    by_length = planned or run.scores is not None or bool(run.setting("build", "reward", "length"))
    longwriter = Source("how the answers are written, and the length score" if planned else
                        "the length score and the counting of words", LONGWRITER, "arXiv 2408.07055")
    used = (
        (LONGDPO, method in ("longdpo", "longdpo_released")), (ITERDPO, method == "iterdpo"),
        (LONGREWARD, built and not planned and bool(run.setting("build", "reward", "longreward"))),
        (SELF_LENGTHEN, method in ("best_of_n", "iterdpo") and bool(run.setting("build", "answers", "extension"))),
        (DPO, bool(run.events)), (longwriter, by_length), (MINIMUM_TUNING, planned),
    )
    return tuple(source for source, applies in used if applies)
