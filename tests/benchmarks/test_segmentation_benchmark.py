"""The benchmark of segmentation at a size of a second."""

import re
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


def test_every_rule_and_kind_of_text_is_in_the_table(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["segmentation.py", "--characters", "2000", "--segments", "9", "--repeats", "1"])
    import segmentation

    segmentation.main()
    tables = capsys.readouterr().out
    for kind, text in segmentation.texts(2000).items():
        assert 1000 < len(text) < 5000, kind
        row = next(line for line in tables.split("\n") if line.startswith(f"| {kind} ("))
        assert len(re.findall(r" (?:\d+\.\d\d \(\d+\)|< 0\.01) ", row)) == len(segmentation.RULES)
    assert len(re.findall(r"9 x 9 segments of \d+ words \| \d", tables)) == 2
