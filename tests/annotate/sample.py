"""A small run with everything that can be annotated, and a server of it in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lpo.records import (
    Aspect,
    Correction,
    CorrectionOutcome,
    Fault,
    Judgement,
    Message,
    Prompt,
    Script,
    ScriptSegment,
    SearchNode,
    SearchTree,
)

ROOT = Path(__file__).resolve().parent.parent.parent
ATTACKS = (
    "<script>alert('from a model')</script>",
    '" onload="alert(1)" x="',
    "</script><script>alert('closed the data')</script>",
    "<img src=https://example.invalid/track.png onerror=alert(2)>",
    "{{ 7 * 7 }} {% raw %} [step_1] \x1b[31mred\x1b[0m &lt;b&gt; ]]> <!--",
    "javascript:alert(document.cookie) \u2028 \u202eabc\u202c 👩‍👩‍👧‍👦",
)
BRIDGE = [
    "## The old bridge\n\nFor two hundred years the old bridge carried carts, sheep and one famous elephant. It was "
    "built in 1781 from stone of the quarry at Elm Hollow, and it leaned a little to the left.\n\n",
    "## Why it had to go\n\nThe bridge was too narrow for lorries. The bridge was too narrow. In 1974 the council "
    "voted to replace it, nine to two.\n\n",
    "",
    "## Opening day\n\nThe band played. The mayor cut the ribbon.\r\nThen it rained.\n\n",
    "## What remains\n\nA single arch stands in the park.",
]
REVISED = ("## Why it had to go\n\nThe bridge was too narrow for lorries. In 1974 the council voted, nine to two, to "
           "replace it.\n\n")
FAULTS = (
    Fault(aspect=Aspect.REPETITION, quote="The bridge was too narrow. ", advice="Say it once."),
    Fault(aspect=Aspect.FACTUALITY, quote="nine to two", advice="The prompt says the vote was eight to three."),
)
CHINESE = ["# 早市\n\n天还没亮，河边的早市已经醒了。卖鱼的老陈把竹筐摆开，",
           "水珠顺着鱼鳞往下淌。\n\n", "卖豆腐的姑娘吆喝着，声音又脆又长。"]
ANSWER = "# Bees\n\nBees dance.\n\n# Honey\n\nHoney keeps for years.\n\n# Wax\n\nWax burns slowly."


def judged(score: float | None) -> Judgement:
    """A judgement with this score, or none."""
    return Judgement(scorer="json_judge", overall=score, unscored=None if score is not None else "cut")


def script_tree(name: str, request: str, segments: list[ScriptSegment], **prompt: Any) -> SearchTree:
    """The tree of an answer that was corrected."""
    nodes = (SearchNode(id="0", parent=None, depth=0, text=""),
             SearchNode(id="0.0", parent="0", depth=1, text="".join(one.original for one in segments), ends=True))
    return SearchTree(id=name, prompt=Prompt(id=name, **{"prompt": request, **prompt}), method="iterdpo", seed=0,
                      nodes=nodes, script=Script(draft="0.0", ends=True, segments=tuple(segments)))


def answers_tree(name: str, answers: list[tuple[str, float | None]]) -> SearchTree:
    """The tree of several answers."""
    nodes = [SearchNode(id="0", parent=None, depth=0, text="")]
    nodes += [SearchNode(id=f"0.{number}", parent="0", depth=1, text=text, ends=True, judgement=judged(score))
              for number, (text, score) in enumerate(answers)]
    return SearchTree(id=name, prompt=Prompt(id=name, prompt=f"Write about {name}."), method="iterdpo", seed=0,
                      nodes=tuple(nodes))


def plain(texts: list[str]) -> list[ScriptSegment]:
    """Segments that no model has changed."""
    return [ScriptSegment(original=text, revised=text) for text in texts]


def sample_trees() -> list[SearchTree]:
    """A script with a missing segment and a revision, hostile texts, Chinese, an answer to be cut, and one without."""
    bridge = plain(BRIDGE)
    bridge[1] = ScriptSegment(original=BRIDGE[1], revised=REVISED, corrections=(Correction(
        round=0, outcome=CorrectionOutcome.ACCEPTED, faults=FAULTS, text=REVISED, before=judged(0.4),
        after=judged(0.7)),))
    hostile = [ScriptSegment(original=f"{attack}\n\n", revised=f"{attack}\n\n", corrections=(Correction(
        round=0, outcome=CorrectionOutcome.NOT_BETTER, faults=(Fault(aspect=Aspect.COHERENCE, quote=attack,
                                                                      advice=attack),), text=attack),))
               for attack in ATTACKS]
    conversation = (Message(role="system", content="You write for newspapers."),
                    Message(role="user", content="Tell the story of our old bridge.\nFive short sections, please."))
    return [
        script_tree("bridge", "", bridge, prompt=conversation, target_words=120,
                    context="Minutes of 1974: the vote was eight to three."),
        script_tree("attack", f"Describe {ATTACKS[0]} and {ATTACKS[1]}.", hostile),
        script_tree("market", "描写一个南方小城的早市。", plain(CHINESE), target_words=400),
        answers_tree("bees", [("# Bees\n\nBees are small.", 0.2), (ANSWER, 0.9), ("", None)]),
        answers_tree("nobody", [("One.", None), ("Two.", None)]),
    ]


def make_run(folder: Path, trees: list[SearchTree] | None = None) -> Path:
    """Write a run whose build is complete."""
    folder.mkdir(parents=True)
    config = {"name": folder.name, "build": {"method": "iterdpo"},
              "policy": {"model": "demo:gemma-3-270m"}, "judge": {"model": "demo:gemma-3-270m"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"stages": {"build": {"status": "complete"}}}), encoding="utf-8")
    rows = [json.dumps(tree.to_json(), ensure_ascii=False) for tree in trees or sample_trees()]
    (folder / "trees.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return folder


class Serving:
    """`lpo annotate` in a process of its own.

    Args:
        run: The run directory.
        options: More options; the port is free and stays the same over restarts.
        environment: More environment variables.
    """

    def __init__(self, run: Path, *options: str, **environment: str) -> None:
        self.run, self.options, self.environment = run, options, environment
        self.port = 0
        self.log = run.parent / f"{run.name}.serving.log"
        self.start()

    def start(self) -> None:
        """Start it, on the port it had before, and wait for its address."""
        self.log.write_text("")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lpo", "annotate", str(self.run), "--port", str(self.port), *self.options],
                cwd=self.run.parent, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
                     **self.environment})
        deadline = time.monotonic() + 60
        while "Ctrl-C" not in self.output:
            assert self.process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.05)
        found = re.search(r"open (http://\S+:(\d+))/\?key=(\S+)", self.output)
        assert found is not None, self.output
        self.base, self.port, self.key = found[1], int(found[2]), found[3]

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8")

    @property
    def entry(self) -> str:
        """The address that lets one in."""
        return f"{self.base}/?key={self.key}"

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=20)
