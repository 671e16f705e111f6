"""How fast texts are cut into segments and two versions of one are aligned: a table in Markdown.

Real kinds of text and hostile ones, each about a megabyte of characters, by every rule; then 500 segments against 500
edited ones. Times are CPU seconds of this process, medians over the repeats.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

from lpo.segmentation import align, split_segments
from lpo.writing_config import SegmentsConfig

PROSE = "The keeper wrote a letter that nobody would ever read. Rain fell; Dr. Ellis, they say, left at 3.5 knots! "
CHINESE = "他走了很远的路，今天的天气很好，我们一起去公园玩吧。“好！”她说，“可是灯塔里没有人。”"
RULES = {
    "sections": SegmentsConfig(by="sections"),
    "sections of 200 words": SegmentsConfig(by="sections", max_words=200),
    "paragraphs of 200 words": SegmentsConfig(by="paragraphs", max_words=200),
    "slides": SegmentsConfig(by="slides"),
    "separator": SegmentsConfig(by="separator", separator="---"),
}


def texts(characters: int) -> dict[str, str]:
    """Texts by kind, each of about this many characters."""
    paragraph, chinese = PROSE * 6, CHINESE * 6
    article = (f"## A heading\n\n{paragraph}\n\n- an item\n- another\n\n"
               "```py\nx = 1\n\n# no heading\n```\n\n| a | b |\n|---|---|\n| c | d |\n\n")
    units = {
        "English article, Markdown": article,
        "English paragraphs": paragraph + "\n\n",
        "English in one line": PROSE,
        "Chinese sections": f"## 标题\n\n{chinese}\n\n",
        "Chinese in one line": CHINESE,
        "slide script": f"**Slide 3: A title**\n\n{paragraph}\n\n---\n\n",
        "no punctuation, no space": "没有标点的一段话",
        "words only": "word ",
        "only opening quotes": "“",
        "only `[`": "[",
        "only `>`": ">",
        "nested quotations": ">" * 100 + " a\n",
        "nested list": "".join(" " * (2 * depth) + "- a\n" for depth in range(50)),
        "unclosed fence": "x = 1\n",
        "lines of one letter": "a\n",
        "items of one letter": "- a\n",
        "headings of one letter": "# a\n",
        "underlined letters": "a\n=\n",
        "rules": "---\n\n",
        "empty lines": "\n",
    }
    return {kind: ("```\n" if kind == "unclosed fence" else "") + unit * max(1, characters // len(unit))
            for kind, unit in units.items()}


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """CPU seconds of one call; the median."""
    taken: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def edited(text: str, random_: random.Random, words: Sequence[str]) -> str:
    """The text with every fourth word replaced, on average."""
    return " ".join(random_.choice(words) if random_.random() < 0.25 else word for word in text.split(" "))


def alignment_rows(segments: int, repeats: int) -> list[list[str]]:
    """Seconds to align `segments` segments of 50 and 200 words with as many edited ones."""
    rows: list[list[str]] = []
    for length in (50, 200):
        random_ = random.Random(0)
        words = [f"{stem}{number}" for stem in "abcdefghij" for number in range(300)]
        original = [" ".join(random_.choices(words, k=length)) for _ in range(segments)]
        revised = [edited(text, random_, words) for text in original]
        assert sum(bool(mine and theirs) for mine, theirs in align(original, revised)) == segments
        seconds = median_seconds(lambda original=original, revised=revised: align(original, revised), repeats)
        rows.append([f"{segments} x {segments} segments of {length} words", f"{seconds:.2f}"])
    return rows


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """A table in Markdown."""
    for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows]:
        print("| " + " | ".join(row) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--characters", type=int, default=1_000_000)
    parser.add_argument("--segments", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    rows: list[list[str]] = []
    for kind, text in texts(arguments.characters).items():
        size = len(text.encode()) / 1e6
        cells = [f"{kind} ({size:.1f} MB)"]
        for config in RULES.values():
            assert "".join(split_segments(text, config)) == text
            seconds = median_seconds(lambda text=text, config=config: split_segments(text, config), arguments.repeats)
            cells.append(f"{seconds:.2f} ({size / seconds:.0f})" if seconds >= 0.01 else "< 0.01")
        rows.append(cells)
    print(f"Seconds for {arguments.characters:,} characters, in brackets MB/s:\n")
    print_table(["text", *RULES], rows)
    print("\nSeconds to align:\n")
    print_table(["original x revised", "seconds"], alignment_rows(arguments.segments, arguments.repeats))


if __name__ == "__main__":
    main()
