"""General preference data beside the pairs of a build, kept apart from the prompts that models are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lpo.config import RunConfig
from lpo.pair_builders.mixing import General, mix, read_general
from lpo.prompts import overlap
from lpo.records import PreferencePair, Prompt, Reason, RejectedRow


@dataclass(frozen=True)
class Mixed:
    """How much general data there is, as stored in build.json.

    Args:
        source: Where it comes from.
        usable: Its usable rows.
        taken: Rows that stand in pairs.jsonl.
        ratio: Their share of all pairs.
        cleaned_characters: Characters that were replaced or dropped.
    """

    source: str
    usable: int
    taken: int
    ratio: float
    cleaned_characters: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """As a person is told."""
        return (f"mixed in: {self.taken} of {self.usable} general pairs from {self.source}, "
                f"{self.ratio:.1%} of all pairs")


@dataclass(frozen=True)
class MixedPairs:
    """General pairs that were taken, and their counts."""

    pairs: list[PreferencePair]
    counts: Mixed


def usable_general(config: RunConfig, held_out: Sequence[Prompt]) -> General:
    """The rows of `build.mix` that may be trained on. Read before any call is made: a wrong file costs nothing.

    A row whose prompt is, or nearly is, one that models are measured on is rejected.

    Raises:
        DataError: The source is missing or broken.
    """
    if config.build.mix is None:
        return General((), ())
    general = read_general(config.build.mix.path, plain_text=config.prompts.plain_text)
    asked = [Prompt(id=pair.id, prompt=pair.prompt) for pair in general.pairs]
    measured = dict(overlap(asked, held_out))
    rejected = [RejectedRow(stage="build", id=pair.id, reason=Reason.HELD_OUT,
                            detail=f"models are measured on {measured[pair.id]}, which asks nearly the same")
                for pair in general.pairs if pair.id in measured]
    return General(tuple(pair for pair in general.pairs if pair.id not in measured),
                   (*general.rejected, *rejected), general.cleaned)


def mixed_in(config: RunConfig, general: General, built: int) -> MixedPairs | None:
    """As many of them as `build.mix.ratio` asks for beside the built pairs; None when nothing is to be mixed in."""
    if config.build.mix is None:
        return None
    taken = mix(built, general.pairs, config.build.mix.ratio, config.seed)
    share = len(taken) / (len(taken) + built) if taken else 0.0
    return MixedPairs(taken, Mixed(config.build.mix.path, len(general.pairs), len(taken), share, general.cleaned))
