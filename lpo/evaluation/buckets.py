"""LongBench-Write's buckets of required words."""

from __future__ import annotations

BUCKETS = {"[0, 500)": (0, 500), "[500, 2k)": (500, 2000), "[2k, 4k)": (2000, 4000), "[4k, 20k]": (4000, 20_001)}
"""Name -> first and one past the last."""


def bucket(target_words: int | None) -> str | None:
    """LongBench-Write's bucket of a required length; None without one, or above 20,000 words."""
    if target_words is None:
        return None
    return next((name for name, (low, end) in BUCKETS.items() if low <= target_words < end), None)
