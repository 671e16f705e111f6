"""What is measured: documents of a given shape, as token numbers, and the shapes that have names."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """The shape of one document.

    Args:
        name: As given on the command line.
        tokens: Length of the chosen answer, L.
        steps: Into how many equal steps (or segments) it is cut, N.
        siblings: Rejected siblings of a step, K; each makes a pair.
        prompt_tokens: Length of the prompt.
        growing: False: step i against its siblings, behind the chosen steps before it (LongDPO; with one step, two
            answers to one prompt). True: the first i chosen segments against the first i rejected ones (IterDPO).
    """

    name: str
    tokens: int
    steps: int
    siblings: int = 1
    prompt_tokens: int = 32
    growing: bool = False

    @property
    def n_pairs(self) -> int:
        """Pairs of the document."""
        return self.steps * self.siblings

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row, without beginning and end of sequence."""
        return self.prompt_tokens + self.tokens

    @property
    def family(self) -> tuple[object, ...]:
        """Cells that differ in the number of steps only."""
        return self.tokens, self.siblings, self.prompt_tokens, self.growing


CELLS = {cell.name: cell for cell in (
    Cell("longdpo-2k-4", 2048, 4),
    Cell("longdpo-2k-8", 2048, 8),
    Cell("longdpo-2k-16", 2048, 16),
    Cell("longdpo-4k-16", 4096, 16),
    Cell("longdpo-4k-8-k4", 4096, 8, siblings=4),
    Cell("longdpo-8k-16", 8192, 16),
    Cell("longdpo-8k-32", 8192, 32),
    # 20 segments of 102 and of 409 tokens.
    Cell("iterdpo-2k", 2040, 20, growing=True),
    Cell("iterdpo-8k", 8180, 20, growing=True),
    Cell("longreward-8k", 256, 1, prompt_tokens=8192),
)}

# Not part of a default run: a check of the machinery that takes seconds.
SMOKE = {cell.name: cell for cell in (
    Cell("smoke-4", 64, 4, siblings=2, prompt_tokens=8),
    Cell("smoke-8", 64, 8, siblings=2, prompt_tokens=8),
    Cell("smoke-growing", 60, 4, prompt_tokens=8, growing=True),
)}


@dataclass(frozen=True)
class Pair:
    """Two continuations of one context, in word numbers."""

    step: int
    prompt: tuple[int, ...]
    prefix: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def document(cell: Cell, n_words: int, seed: int = 0) -> list[Pair]:
    """A random document of a cell's shape.

    Sides of one pair differ in their first token, and so do the siblings of a step: what is shared is exactly what the
    cell says.

    Args:
        cell: The shape.
        n_words: Words are numbered 0 to n_words - 1.
        seed: Of the words.
    """
    draw = random.Random(f"{cell.name} {seed}")
    words = range(n_words)
    width = cell.tokens // cell.steps
    prompt = tuple(draw.choices(words, k=cell.prompt_tokens))
    chosen = [tuple(draw.choices(words, k=width)) for _ in range(cell.steps)]
    if cell.growing:
        rejected = [_other_steps(draw, words, [step], 1)[0] for step in chosen]
        return [Pair(i, prompt, (), sum(chosen[: i + 1], ()), sum(rejected[: i + 1], ())) for i in range(cell.steps)]
    return [Pair(i, prompt, sum(chosen[:i], ()), chosen[i], sibling)
            for i in range(cell.steps) for sibling in _other_steps(draw, words, [chosen[i]], cell.siblings)]


def _other_steps(
    draw: random.Random, words: range, taken: list[tuple[int, ...]], count: int
) -> list[tuple[int, ...]]:
    """Steps as long as those taken, each with a first token of its own."""
    steps = list(taken)
    while len(steps) < len(taken) + count:
        step = tuple(draw.choices(words, k=len(taken[0])))
        if step[0] not in {other[0] for other in steps}:
            steps.append(step)
    return steps[len(taken):]


def sampled(n_pairs: int, count: int) -> list[int]:
    """Numbers of `count` pairs spread evenly over the document, the first and the last among them."""
    if count >= n_pairs:
        return list(range(n_pairs))
    if count < 2:
        raise ValueError("a sample has at least the first and the last pair")
    return [round(i * (n_pairs - 1) / (count - 1)) for i in range(count)]
