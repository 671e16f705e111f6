"""Files that survive a kill: written bit by bit or at once, they are whole or untouched; a torn tail is set aside."""

import os
import tracemalloc

import pytest

from lpo.errors import DataError
from lpo.storage import iter_jsonl, open_atomic, read_jsonl, write_atomic, write_jsonl


def test_a_file_takes_its_place_only_when_all_of_it_was_written(tmp_path):
    path = tmp_path / "folder" / "rows.jsonl"
    write_atomic(path, "old\n")

    def rows():
        yield {"row": 1}
        assert path.read_text() == "old\n", "a reader sees the old file meanwhile"
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert path.read_text() == "old\n"
    assert os.listdir(path.parent) == ["rows.jsonl"], "nothing is left behind"
    write_jsonl(path, [{"row": "ä"}, {"row": 2}])
    assert path.read_text(encoding="utf-8") == '{"row": "ä"}\n{"row": 2}\n'
    with open_atomic(path) as handle:
        handle.write(b"a")
        handle.write(b"b")
    assert path.read_bytes() == b"ab" and os.stat(path).st_mode & 0o777 == 0o644


def test_rows_are_read_and_written_one_at_a_time(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"text": "x" * 100_000}
    tracemalloc.start()
    write_jsonl(path, (row for _ in range(300)))
    assert sum(1 for _ in iter_jsonl(path)) == 300
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 30_000_000 > 10 * peak


def test_a_torn_last_line_is_set_aside_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"a": "ü"}\n{"a": 3'.encode())
    assert read_jsonl(path, torn_tail=True) == [{"a": 1}, {"a": "ü"}]
    assert (tmp_path / "rows.jsonl.torn").read_bytes() == b'{"a": 3\n'
    assert path.read_bytes() == '{"a": 1}\n{"a": "ü"}\n'.encode()
    assert read_jsonl(path, torn_tail=True) == [{"a": 1}, {"a": "ü"}]
    assert (tmp_path / "rows.jsonl.torn").read_bytes() == b'{"a": 3\n', "a whole file is left alone"


@pytest.mark.parametrize("torn_tail", [False, True])
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path, torn_tail):
    with pytest.raises(DataError, match="no such file"):
        read_jsonl(tmp_path / "none.jsonl", torn_tail=torn_tail)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n{"a": 2}\n')
    with pytest.raises(DataError, match="line 3 is not valid JSON") as caught:
        read_jsonl(path, torn_tail=torn_tail)
    assert caught.value.where == f"{path}:3"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n[2]\n')
    with pytest.raises(DataError, match="line 2 is not a JSON object"):
        read_jsonl(path, torn_tail=torn_tail)


def test_a_last_line_without_its_newline_counts_where_others_write_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
