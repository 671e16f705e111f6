"""What is compared: the arms of the efficacy benchmark, how each of them makes its pairs, and how its answers score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from lpo.config import RunConfig
from lpo.llm.base import Finish
from lpo.records import PreferencePair, Prompt, SearchTree
from lpo.reward import coverage, length_score, points_of, repeated_ngram_share
from lpo.words import count_words

METRICS = ("length_score", "repetition", "coverage", "words", "ended")
"""What is measured on an answer: S_l (0-100), share of repeated 4-grams, share of points covered (both 0-1), words, and
whether it ended by itself (0 or 1)."""

_WORD = re.compile(r"\b[a-zA-Z]+\b|[\u4e00-\u9fff]")


class Arm(StrEnum):
    """What answers the held-out prompts."""

    BASE = "base"
    """The model as it is."""
    BASE_CUT = "base_cut"
    """Its answers, ended at the length asked for: no answer of its own."""
    SFT = "sft"
    """Fine-tuned on the chosen answers of `outcome`: the same prompts, rows and steps, another loss."""
    OUTCOME = "outcome"
    """DPO on whole answers: the best of N against the worst."""
    LONGDPO = "longdpo"
    """DPO on the steps of a tree search."""
    ITERDPO = "iterdpo"
    """DPO on answers whose segments were drawn again where that made them better."""

    @property
    def label(self) -> str:
        """As tables name it."""
        return {
            Arm.BASE: "base", Arm.BASE_CUT: "base, cut at the length asked for", Arm.SFT: "SFT on the best of N",
            Arm.OUTCOME: "(a) outcome DPO", Arm.LONGDPO: "(b) LongDPO", Arm.ITERDPO: "(c) IterDPO",
        }[self]

    @property
    def trains(self) -> bool:
        """Is anything trained?"""
        return self not in (Arm.BASE, Arm.BASE_CUT)

    @property
    def pairs_of(self) -> Arm | None:
        """The arm that builds the pairs it is trained on."""
        if not self.trains:
            return None
        return Arm.OUTCOME if self is Arm.SFT else self


BUILDS: dict[Arm, dict[str, Any]] = {
    Arm.OUTCOME: {
        "method": "best_of_n", "answers": {"samples": 5, "max_tokens": 360},
        "pairs": {"chosen": "best_score", "rejected": "worst", "min_margin": 0.05},
    },
    Arm.LONGDPO: {},
    Arm.ITERDPO: {
        "method": "iterdpo", "answers": {"samples": 3, "max_tokens": 360},
        "segments": {"by": "paragraphs", "max_words": 60},
        "correction": {"by": "resample", "samples": 3, "segment_tokens": 90, "mode": "local",
                       "sampling": {"temperature": 0.8}},
        "pairs": {"chosen": "best_score", "rejected": "worst", "min_margin": 0.05},
    },
}
"""What the `build` section of an arm has instead of the recipe's search; the recipe itself is LongDPO's."""

_SHARED = ("reward", "early_ends", "stability_check", "concurrency")
"""Settings of the recipe's `build` section that all arms have."""


def arm_config(recipe: RunConfig, arm: Arm, *, seed: int, build: dict[str, Any] | None = None) -> RunConfig:
    """The configuration of an arm.

    Args:
        recipe: The recipe, which is LongDPO's.
        arm: One that trains.
        seed: Of the sampling, the order of the data and the adapter's first weights.
        build: Settings of the `build` section instead of the arm's own.
    """
    maker = arm.pairs_of
    assert maker is not None
    values = recipe.model_dump(mode="json")
    wanted = BUILDS[maker] if build is None else build
    if wanted:
        values["build"] = {**{name: values["build"][name] for name in _SHARED if name in values["build"]}, **wanted}
    if arm is Arm.SFT:
        values["train"]["args"] |= {"loss_type": ["sft"], "loss_weights": None}
    values |= {"name": arm.value, "seed": seed}
    return RunConfig.model_validate(values)


def sft_pairs(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The best answer to each prompt alone: the loss `sft` reads no rejected side, which is one mark here."""
    best = {pair.group: pair for pair in reversed(pairs)}
    return [pair.model_copy(update={"rejected": "-", "rejected_ends": False, "scores": None, "margin": None})
            for pair in best.values()]


def sampled_tokens(trees: Sequence[SearchTree]) -> int:
    """Tokens of all candidates of these trees, as sampled."""
    return sum(node.tokens or 0 for tree in trees for node in tree.nodes)


def score_answer(prompt: Prompt, text: str, finish: Finish) -> dict[str, Any]:
    """An answer to a held-out prompt, with every metric."""
    assert prompt.target_words is not None
    words = count_words(text)
    return {
        "prompt_id": prompt.id, "target_words": prompt.target_words,
        "length_score": length_score(required=prompt.target_words, written=words),
        "repetition": repeated_ngram_share(text), "coverage": coverage(points_of(prompt), text),
        "words": words, "ended": float(finish is Finish.STOP), "text": text,
    }


def cut_at_target(prompt: Prompt, answer: dict[str, Any]) -> dict[str, Any]:
    """The base's answer ended behind the word that reaches the length asked for; a shorter one stays as it is."""
    assert prompt.target_words is not None
    ends = [match.end() for match in _WORD.finditer(answer["text"])]
    if len(ends) <= prompt.target_words:
        return score_answer(prompt, answer["text"], Finish.STOP if answer["ended"] else Finish.LENGTH)
    return score_answer(prompt, answer["text"][:ends[prompt.target_words - 1]], Finish.STOP)
