"""What the methods that work on whole answers ask of their models for one prompt, at most."""

from __future__ import annotations

from math import ceil

from lpo.config import RunConfig
from lpo.run.loads import DEMONSTRATIONS, INSTRUCTIONS, WORDS_OF_TOKENS, Load, Role

SEGMENT_WORDS = 200
"""Words of a segment, guessed where `build.segments` sets no limit."""
STATEMENTS = 25
"""Statements that LongReward finds in an answer, guessed: the paper's answers have 18 to 33."""


def answer_loads(config: RunConfig, prompt_tokens: int) -> tuple[dict[str, Load], list[int]]:
    """The calls of one prompt by methods other than tree search.

    Args:
        config: The run.
        prompt_tokens: Length of the prompt, its context included.

    Returns:
        Calls by what they are for, without those that score; and the lengths of all texts that are scored, in tokens.
    """
    build, answers = config.build, config.build.answers
    if build.method == "agent_write":
        return _planned(config, prompt_tokens), []
    if build.method == "iterdpo" and build.correction.by == "file" and answers.samples == 1 and not answers.extension:
        return {}, []  # the corrected answers stand in the file
    loads = {"answers": Load(Role.POLICY, answers.samples, answers.samples * prompt_tokens, answers.max_tokens)}
    judged = [prompt_tokens + answers.max_tokens] * answers.samples
    if answers.extension is not None:
        extension = answers.extension
        calls = answers.samples * extension.tries * extension.rounds * 2
        read = calls * (prompt_tokens + 2 * extension.max_tokens + INSTRUCTIONS)
        loads["longer answers"] = Load(Role.POLICY, calls, read, extension.max_tokens)
        judged += [prompt_tokens + extension.rounds * extension.max_tokens] * answers.samples
    if build.method == "iterdpo":
        if answers.samples == 1:
            judged.clear()  # nothing to choose among
        corrections, texts = _corrections(config, prompt_tokens)
        loads |= corrections
        judged += texts
    return loads, judged


def _planned(config: RunConfig, prompt_tokens: int) -> dict[str, Load]:
    """A plan and its sections, each asked for once more where the first reply cannot be used."""
    build = config.build
    sections = build.agent_write.max_sections
    role = Role.POLICY if build.plan.by == "policy" else Role.JUDGE
    before = sections * build.agent_write.section_tokens // 2 if build.agent_write.mode == "sequential" else 0
    read = prompt_tokens + build.plan.max_tokens + before + INSTRUCTIONS
    return {"plans": Load(role, 2, 2 * (prompt_tokens + INSTRUCTIONS), build.plan.max_tokens),
            "sections": Load(Role.POLICY, 2 * sections, 2 * sections * read, build.agent_write.section_tokens)}


def _corrections(config: RunConfig, prompt_tokens: int) -> tuple[dict[str, Load], list[int]]:
    """A critique and a revision of every segment in every round, and both versions of it scored."""
    build, correction = config.build, config.build.correction
    if correction.by == "file":
        return {}, []
    length = build.answers.max_tokens
    # Two neighbours together are longer than the limit, or they would be one.
    segments = 2 * ceil(length * WORDS_OF_TOKENS / (build.segments.words or SEGMENT_WORDS)) + 1
    calls = segments * correction.rounds
    if correction.by == "resample":
        drawn = calls * correction.samples
        read = drawn * (prompt_tokens + length // 2)
        # Both the segment and the rest of the answer are scored beside the new versions.
        return ({"segments drawn again": Load(Role.POLICY, drawn, read, correction.segment_tokens)},
                [prompt_tokens + length // 2] * (drawn + 2 * calls))
    read = calls * (prompt_tokens + length // 2 + INSTRUCTIONS)
    role = {"judge": Role.JUDGE, "critic": Role.CRITIC, "policy": Role.POLICY}[correction.by]
    return ({"critiques of segments": Load(role, calls, read, correction.max_tokens),
             "revised segments": Load(role, calls, read, correction.segment_tokens)},
            [prompt_tokens + length // 2] * (2 * calls))


def longreward_loads(config: RunConfig, texts: list[int], prompt_tokens: int) -> dict[str, Load]:
    """LongReward's questions about answers of so many tokens, and its notes on their document, taken once."""
    settings, count = config.build.longreward, len(texts)
    read = DEMONSTRATIONS + settings.passages * ceil(settings.passage_words / WORDS_OF_TOKENS)
    questions = (4 + STATEMENTS) * count
    notes = ceil(prompt_tokens * WORDS_OF_TOKENS / settings.note_words)
    return {
        "LongReward's questions": Load(Role.JUDGE, questions, 4 * sum(texts) + questions * read, settings.max_tokens),
        "LongReward's notes": Load(Role.JUDGE, notes, prompt_tokens + notes * INSTRUCTIONS, 2 * settings.max_tokens),
    }


def trained_tokens(config: RunConfig, prompt_tokens: int) -> int:
    """Tokens of the training rows of one prompt, each distinct one once."""
    build, answers = config.build, config.build.answers
    if not build.gives_pairs:
        return 0
    number = answers.samples * (2 if answers.extension is not None else 1)
    texts = number if build.pairs.per_layer is None else min(number, 2 * build.pairs.per_layer)
    if build.method == "iterdpo":
        texts = (texts if answers.samples > 1 else 0) + 2
    return prompt_tokens + texts * answers.max_tokens
