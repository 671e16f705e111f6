"""Progress in a terminal and in a log file."""

import io
import re

from rich.console import Console

from lpo.run.progress import Reporter, rate


def test_outside_a_terminal_there_are_plain_lines_with_rate_and_no_control_codes():
    stream = io.StringIO()
    reporter = Reporter(stream)
    reporter.say("pairs [step_1] kept")
    with reporter.bar("build", 3, "layers") as update:
        update(1, "first")
        update(2, "too soon for another line")
        update(3, "done")
        update(3, "said once")
    lines = stream.getvalue().split("\n")
    assert lines[0] == "pairs [step_1] kept", "square brackets are text"
    assert re.fullmatch(r"build: 1/3 layers in \d+ s \([\d.]+/s\), about \d+ s left; first", lines[1])
    assert re.fullmatch(r"build: 3/3 layers in \d+ s \([\d.]+/s\); done", lines[2])
    assert lines[3:] == [""] and "\x1b" not in stream.getvalue()


def test_in_a_terminal_there_is_a_bar_whose_note_may_hold_brackets():
    stream = io.StringIO()
    reporter = Reporter(stream)
    reporter.console = Console(file=stream, force_terminal=True, width=160)
    with reporter.bar("build", 2, "layers") as update:
        update(2, "note [bold] stays")
    assert "2/2" in stream.getvalue() and "note [bold] stays" in stream.getvalue()


def test_slow_rates_are_told_per_minute():
    assert [rate(0, 5), rate(30, 10), rate(1, 20)] == ["", "3.0/s", "3.0/min"]
