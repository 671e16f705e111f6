"""The journal under kills, corruption, locks and full disks."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hash_model import IDENTITY, HashModel, ask, ask_all, fill, stored_keys

from lpo.errors import LpoError, RunLockedError
from lpo.llm.journal import Journal, JournaledLLM, request_key
from lpo.llm.journal_file import Outcome

JOURNALING_CHILD = """
    import asyncio, sys
    sys.path.insert(0, {tests!r})
    from hash_model import HashModel, ask
    from lpo.llm.journal import Journal, JournaledLLM
    from pathlib import Path

    async def worker(llm, first):
        for seed in range(first, 10**6, 4):
            await llm.generate(ask(seed))
            print(seed, flush=True)

    async def main():
        llm = JournaledLLM(HashModel(), Journal(Path({path!r})))
        await asyncio.gather(*(worker(llm, first) for first in range(4)))

    asyncio.run(main())
"""


def test_kill_9_loses_no_reply_that_was_returned(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    program = textwrap.dedent(JOURNALING_CHILD).format(tests=str(Path(__file__).parent), path=str(path))
    reported: list[int] = []
    for life in range(3):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout
        lives_until = len(reported) + 50 + 37 * life
        for line in child.stdout:
            reported.append(int(line))
            if len(reported) >= lives_until:
                break
        os.kill(child.pid, signal.SIGKILL)
        reported.extend(int(line) for line in child.stdout if line.endswith("\n"))
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    assert {request_key(IDENTITY, ask(seed)) for seed in reported} <= stored_keys(path)
    with Journal(path) as journal:
        counts = journal.counts()
        model = HashModel()
        replies = asyncio.run(ask_all(JournaledLLM(model, journal), reported))
        assert [reply.text for reply in replies] == [model.text(ask(seed)) for seed in reported]
    assert not model.reached
    assert counts.entries == counts.ever[Outcome.ANSWER]  # three lives, and no call was finished twice


def damage_by_truncation(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def damage_a_page(path: Path) -> None:
    """Overwrite the page that holds reply 150: the scans from both ends stop there."""
    payload = bytearray(path.read_bytes())
    page = payload.index(b"answer to 150/0") // 4096
    payload[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
    path.write_bytes(payload)


def damage_by_overwriting(path: Path) -> None:
    payload = bytearray(path.read_bytes())
    payload[:200] = b"not a database " * 13 + b"12345"
    path.write_bytes(payload)


def damage_one_reply(path: Path) -> None:
    payload = path.read_bytes()
    assert payload.count(b"answer to 17/0") == 1
    path.write_bytes(payload.replace(b"answer to 17/0", b"answer to 71/0"))


def damage_by_another_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def damage_by_the_first_version(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript("""
        CREATE TABLE replies (key TEXT PRIMARY KEY, purpose TEXT NOT NULL, value TEXT NOT NULL, checksum TEXT NOT NULL);
        CREATE TABLE calls (outcome TEXT PRIMARY KEY, n INTEGER NOT NULL);
        INSERT INTO calls VALUES ('answer', 7);
        PRAGMA user_version = 1;
    """)
    connection.close()


def damage_by_another_program(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE replies (anything)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(("damage", "least", "most"), [
    (damage_by_truncation, 0, 299), (damage_a_page, 250, 299), (damage_one_reply, 299, 299),
    (damage_by_overwriting, 0, 0), (damage_by_another_version, 0, 0), (damage_by_the_first_version, 0, 0),
    (damage_by_another_program, 0, 0),
])
def test_a_file_that_cannot_be_trusted_is_set_aside_and_only_whole_replies_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], least: int, most: int
) -> None:
    path = tmp_path / "journal.sqlite"
    fill(path, 300)
    damage(path)
    damaged = path.read_bytes()
    with caplog.at_level(logging.WARNING), Journal(path) as journal:
        counts = journal.counts()
        model = HashModel()
        replies = asyncio.run(ask_all(JournaledLLM(model, journal), range(300)))
        assert [reply.text for reply in replies] == [model.text(ask(seed)) for seed in range(300)]
        assert journal.counts().entries == 300
    assert least <= counts.entries <= most
    assert counts.ever[Outcome.ANSWER] == counts.entries
    # What was paid is read from the broken file where it is legible, and is else that of the replies taken over.
    legible = damage in (damage_a_page, damage_one_reply)
    assert counts.spent.calls == (300 if legible else counts.entries)
    assert counts.spent.cost == (None if not counts.spent.calls else 0.25 * counts.spent.calls)
    assert len(model.reached) == 300 - counts.entries
    assert (tmp_path / "journal.sqlite.broken-1").read_bytes() == damaged
    assert "journal.sqlite.broken-1" in caplog.text
    with Journal(path) as journal:
        assert journal.counts().entries == 300
    assert not (tmp_path / "journal.sqlite.broken-2").exists()


def test_a_second_broken_file_does_not_overwrite_the_first(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    for content in (b"first" * 500, b"second" * 500):
        path.write_bytes(content)
        Journal(path).close()
    assert (tmp_path / "j.sqlite.broken-1").read_bytes() == b"first" * 500
    assert (tmp_path / "j.sqlite.broken-2").read_bytes() == b"second" * 500


def test_an_empty_file_is_a_new_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j.sqlite"
    path.touch()
    with Journal(path) as journal:
        assert journal.counts().entries == 0
    assert not caplog.records


def test_a_locked_file_is_a_clear_error_and_becomes_usable_again(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    fill(path, 1)
    other = sqlite3.connect(path, isolation_level=None)
    with Journal(path) as journal:
        llm = JournaledLLM(HashModel(), journal)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunLockedError, match="another process"):
            asyncio.run(llm.generate(ask(5)))
        other.execute("ROLLBACK")
        assert asyncio.run(llm.generate(ask(5))).usage.calls == 1
    other.close()


def test_a_full_disk_is_a_clear_error_and_keeps_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    fill(path, 5)
    with Journal(path) as journal:
        pages = journal._file._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._file._connection.execute(f"PRAGMA max_page_count = {pages}")
        model = HashModel()
        model.text = lambda _request: "long " * 10_000
        with pytest.raises(LpoError, match="disk is full"):
            asyncio.run(JournaledLLM(model, journal).generate(ask(99)))
    with Journal(path) as journal:
        assert journal.counts().entries == journal.counts().ever[Outcome.ANSWER] == 5


def test_a_folder_that_cannot_be_written_to_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LpoError, match="journal cannot be used"):
        Journal(tmp_path / "file" / "j.sqlite")


def test_values_are_json_and_hold_what_the_call_took(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    fill(path, 1)
    connection = sqlite3.connect(path)
    value = json.loads(connection.execute("SELECT value FROM replies").fetchone()[0])
    connection.close()
    assert value["usage"]["cost"] == 0.25
