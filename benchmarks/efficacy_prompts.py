"""Writing tasks of the efficacy benchmark: kinds x topics x points to cover, drawn with a seed.

Build and held-out tasks have no topic in common, so that what is measured is not what was practised.
"""

from __future__ import annotations

import random

from lpo.records import Message, Prompt, fingerprint

LENGTHS = (100, 130, 160, 200, 250, 300)
"""Words asked for: all of them equally often."""
POINTS = 3
"""Points that a task asks to be covered."""

_KINDS = ("a short travel note", "a letter to a friend", "a blog post", "a newspaper report", "a short story",
          "a magazine article", "a diary entry", "a speech")

BUILD_TOPICS: dict[str, tuple[str, ...]] = {
    "a harbour town in autumn": ("the fish market", "the old lighthouse", "the rain", "a ferry"),
    "learning to bake bread": ("the flour", "kneading the dough", "a hot oven", "the first loaf"),
    "a community garden": ("the tomatoes", "the volunteers", "a wooden fence", "the compost"),
    "a long train journey": ("the window", "a sleeping passenger", "the mountains", "a late arrival"),
    "moving to a new flat": ("the boxes", "the neighbours", "a broken lift", "the view"),
    "a village football match": ("the muddy pitch", "the goalkeeper", "the crowd", "a penalty"),
    "repairing an old bicycle": ("the chain", "a flat tyre", "the tools", "a test ride"),
    "a winter market": ("the candles", "hot chocolate", "the snow", "a choir"),
    "a school library": ("the shelves", "a quiet corner", "the librarian", "a lost book"),
    "a storm at sea": ("the captain", "the waves", "a torn sail", "the harbour"),
    "keeping bees": ("the hive", "the honey", "a sting", "the flowers"),
    "a family dinner": ("the soup", "the grandmother", "an argument", "the dessert"),
    "the first day at work": ("the office", "a friendly colleague", "the coffee", "a mistake"),
    "a mountain hike": ("the path", "the fog", "a stone hut", "the summit"),
    "an old cinema": ("the red seats", "the projector", "the tickets", "a silent film"),
    "adopting a dog": ("the shelter", "the leash", "the first night", "a walk"),
    "a street musician": ("the guitar", "the coins", "the police", "a song"),
    "a broken dam": ("the river", "the farmers", "the engineers", "the repair"),
    "painting a house": ("the ladder", "the colour", "the weather", "a spilled bucket"),
    "a chess club": ("the board", "the champion", "a young girl", "the clock"),
}
HELD_OUT_TOPICS: dict[str, tuple[str, ...]] = {
    "an island in spring": ("the beach", "the goats", "a small chapel", "the wind"),
    "learning to swim": ("the pool", "the teacher", "cold water", "the first lap"),
    "a night at the observatory": ("the telescope", "the stars", "the cold", "an astronomer"),
    "a flea market": ("an old radio", "the seller", "the price", "the crowd"),
    "a city marathon": ("the runners", "the bridge", "the water", "the finish"),
    "a power cut": ("the candles", "the silence", "the neighbours", "the fridge"),
    "planting trees": ("the soil", "the children", "the oaks", "the rain"),
    "a lost suitcase": ("the airport", "the clothes", "a phone call", "the label"),
    "a museum of clocks": ("the pendulum", "the guide", "the tower", "a watchmaker"),
    "a tea house": ("the garden", "the cups", "the steam", "an old woman"),
    "a village school": ("the blackboard", "the teacher", "the bell", "the winter"),
    "a desert road": ("the sand", "the truck", "the heat", "a petrol station"),
    "a choir rehearsal": ("the conductor", "the piano", "the tenors", "a concert"),
    "making cheese": ("the milk", "the cellar", "the salt", "the taste"),
    "a river in flood": ("the bridge", "the boats", "the mayor", "the sandbags"),
    "an apprentice carpenter": ("the workshop", "the saw", "a chair", "the master"),
    "a night bus": ("the driver", "the rain", "a student", "the last stop"),
    "a fishing trip": ("the boat", "the net", "the sunrise", "a big fish"),
    "a theatre premiere": ("the actors", "the curtain", "the applause", "the critics"),
    "a snowed-in hotel": ("the guests", "the fireplace", "the road", "the kitchen"),
    "a robot in a hospital": ("the nurses", "the corridor", "the batteries", "the patients"),
    "an old orchard": ("the apples", "the ladder", "the wasps", "the cider"),
    "a letter from abroad": ("the stamp", "the sister", "the news", "a photograph"),
    "a lighthouse keeper": ("the lamp", "the stairs", "the ships", "the loneliness"),
}


def make_prompts(topics: dict[str, tuple[str, ...]], count: int, *, seed: int) -> list[Prompt]:
    """Tasks, one for each of the first `count` topics.

    Args:
        topics: Topic -> points that can be asked for.
        count: How many; no more than there are topics.
        seed: Of the kinds, lengths and points.

    Returns:
        Prompts with `target_words` and the points under `meta["cover"]`.

    Raises:
        ValueError: More are asked for than there are topics.
    """
    if count > len(topics):
        raise ValueError(f"{count} prompts are asked for, and there are {len(topics)} topics")
    draw = random.Random(seed)
    lengths = [LENGTHS[index % len(LENGTHS)] for index in range(count)]
    draw.shuffle(lengths)
    return [_prompt(topic, draw.choice(_KINDS), words, tuple(draw.sample(topics[topic], POINTS)))
            for topic, words in zip(list(topics)[:count], lengths, strict=True)]


def _prompt(topic: str, kind: str, words: int, cover: tuple[str, ...]) -> Prompt:
    text = f"Write {kind} of about {words} words about {topic}. Cover: {'; '.join(cover)}."
    return Prompt(id=fingerprint(text, 8), prompt=(Message(role="user", content=text),), target_words=words,
                  meta={"kind": kind, "topic": topic, "cover": list(cover)})
