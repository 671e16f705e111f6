import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from reference_caches import KEY, UNITS, filled, holds, shards, start, told_until_end, values, write

from lpo.errors import LpoError, UnsoundError
from lpo.trainers.reference_cache import ReferenceCache

# ---- damage ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache of six units in one shard."""
    cache = filled(tmp_path_factory.mktemp("whole"), range(6))
    (path,) = shards(cache)
    return cache.folder, path.name, path.read_bytes()


@st.composite
def damages(draw):
    """A way to damage a file: where to cut it, or which bits to flip; places as parts of the length."""
    place = st.floats(0, 1, exclude_max=True)
    if draw(st.booleans()):
        return draw(place), []
    near_start = st.floats(0, 0.2)
    return None, draw(st.lists(st.tuples(st.one_of(place, near_start), st.integers(0, 7)), min_size=1, max_size=4))


@settings(max_examples=80, deadline=None)
@given(damage=damages())
def test_no_damage_to_a_shard_ever_gives_wrong_numbers(whole, tmp_path_factory, damage):
    folder, name, intact = whole
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(folder, root / folder.name)
    cut, flips = damage
    content = bytearray(intact if cut is None else intact[: int(cut * len(intact))])
    for place, bit in flips:
        content[int(place * len(content))] ^= 1 << bit
    (root / folder.name / name).write_bytes(content)

    cache = ReferenceCache(root, KEY)
    missing = cache.missing(UNITS[:6])
    first_value = 8 + int.from_bytes(intact[:8], "little")
    if cut is not None or content[first_value:] != intact[first_value:]:
        assert missing
    for number in range(6):
        if f"unit-{number}" in missing:
            with pytest.raises(UnsoundError, match="no reference log-probs"):
                cache[f"unit-{number}"]
            cache.put(f"unit-{number}", values(number))
        else:
            assert torch.equal(cache[f"unit-{number}"], values(number))
    cache.flush()
    assert holds(ReferenceCache(root, KEY), range(6)), "mended by computing again"
    shutil.rmtree(root)


def test_a_damaged_array_is_named_and_a_second_copy_takes_its_place(tmp_path, caplog):
    cache = filled(tmp_path, range(3))
    path = shards(cache)[0]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in the last array
    path.write_bytes(content)
    again = ReferenceCache(tmp_path, KEY)
    lost = again.missing(UNITS[:3])
    assert len(lost) == 1
    assert path.name in caplog.text
    assert "checksum" in caplog.text
    filled(tmp_path, [int(lost[0][5:])], rank=1)
    assert holds(ReferenceCache(tmp_path, KEY), range(3))


def test_damage_while_a_training_runs_is_an_error_not_a_number(tmp_path):
    cache = filled(tmp_path, range(1))
    assert cache.missing(UNITS[:1]) == []
    with shards(cache)[0].open("r+b") as handle:
        handle.seek(-3, os.SEEK_END)
        handle.write(b"\x01")
    with pytest.raises(UnsoundError, match="no reference log-probs of unit unit-0"):
        cache["unit-0"]


@pytest.mark.parametrize(("logprobs_N", "cause"), [
    (torch.tensor([-1.0, float("nan")]), "log-prob 1 is not finite"),
    (torch.tensor([float("-inf")]), "log-prob 0 is not finite"),
    (torch.ones(3, dtype=torch.bfloat16), "bfloat16"),
    (torch.ones(3, dtype=torch.int64), "int64"),
    (torch.tensor(-3.0), "one float32 for each scored token"),
    (torch.ones(2, 3), r"shape \(2, 3\)"),
    (torch.ones(0), r"shape \(0,\)"),
])
def test_only_finite_float32_per_token_is_stored(tmp_path, logprobs_N, cause):
    cache = ReferenceCache(tmp_path, KEY)
    with pytest.raises(UnsoundError, match=cause):
        cache.put("unit-0", logprobs_N)
    cache.flush()
    assert not shards(cache)


def test_a_length_that_is_not_expected_is_an_error(tmp_path):
    cache = filled(tmp_path, [1])
    assert len(cache.read("unit-1", n_scored=201)) == 201
    with pytest.raises(UnsoundError, match="unit-1 has 200 scored tokens, but 201"):
        cache.read("unit-1", n_scored=200)
    with pytest.raises(UnsoundError, match="unit-1 has 3 scored tokens, but 201"):
        cache.put("unit-1", values(1)[:3])


@contextmanager
def file_size_limit(n_bytes):
    """The kernel refuses to write files beyond this size: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_on_the_disk_is_a_clear_error_and_loses_nothing(tmp_path):
    cache = filled(tmp_path, range(2))
    for number in range(2, 20):
        cache.put(f"unit-{number}", values(number))
    with file_size_limit(4096), pytest.raises(LpoError, match="no room for reference log-probs") as caught:
        cache.flush()
    assert "free space" in (caught.value.mend or "")
    assert not list(cache.folder.glob(".*.tmp"))
    assert holds(cache, range(20)), "what is not written stays in memory"
    assert holds(ReferenceCache(tmp_path, KEY), range(2))
    cache.flush()
    assert holds(ReferenceCache(tmp_path, KEY), range(20))


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LpoError, match="the reference cache cannot be used"):
        ReferenceCache(tmp_path / "file", KEY)


# ---- kills ----


def test_two_processes_killed_again_and_again_lose_at_most_their_last_shards(tmp_path):
    count, told, kills = 1000, set(), 0
    random_instants = random.Random(5)
    while True:
        pause = 0.005 if kills < 5 else 0.0
        workers = [start(write, tmp_path, rank, count, pause) for rank in (0, 1)]
        if kills < 5:
            for _, hear in workers:  # both have written something
                told |= set(hear.recv())
            time.sleep(random_instants.uniform(0, 0.2))
            for process, _ in workers:
                os.kill(process.pid, signal.SIGKILL)
        for process, hear in workers:
            told |= set(told_until_end(hear))
            process.join()
            assert process.exitcode == (-signal.SIGKILL if kills < 5 else 0)
        cache = ReferenceCache(tmp_path, KEY)
        missing = set(cache.missing([f"unit-{number}" for number in range(count)]))
        assert not missing & told, "what was said to be on disk is on disk"
        assert holds(cache, [number for number in range(count) if f"unit-{number}" not in missing])
        if kills == 5:
            break
        assert missing
        kills += 1
    assert not missing
