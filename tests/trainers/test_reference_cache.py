import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))

from reference_cache_worker import KEY, PROCESSES, read, values, write

from lpo.errors import LpoError, UnsoundError
from lpo.trainers.reference_cache import ReferenceCache

UNITS = [f"unit-{number}" for number in range(40)]


def filled(folder, numbers=range(40), **options):
    cache = ReferenceCache(folder, KEY, **options)
    for number in numbers:
        cache.put(f"unit-{number}", values(number))
    cache.flush()
    return cache


def holds(cache, numbers):
    return all(torch.equal(cache[f"unit-{number}"], values(number)) for number in numbers)


def shards(cache):
    return sorted(cache.folder.glob("shard-*"))


def start(target, *arguments):
    """A process, and the connection on which it tells."""
    hear, tell = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=target, args=(*arguments, tell))
    process.start()
    tell.close()
    return process, hear


def told_until_end(hear):
    """Everything a process told before it ended."""
    messages = []
    with suppress(EOFError, ConnectionResetError):
        while True:
            messages += hear.recv()
    return messages


# ---- what is put comes back ----


def test_every_float_comes_back_bit_for_bit_in_this_and_in_a_later_process_object(tmp_path):
    cache = filled(tmp_path, shard_bytes=4000)
    assert holds(cache, range(40))
    assert holds(ReferenceCache(tmp_path, KEY), range(40))
    sizes = [sum(array.nbytes for array in load_file(path).values()) for path in shards(cache)]
    assert len(sizes) > 5
    assert max(sizes) < 4000 + values(6).nbytes, "a shard holds at most one unit more than its limit"


def test_units_not_yet_on_disk_can_be_read_and_are_not_missing(tmp_path):
    cache = ReferenceCache(tmp_path, KEY)
    cache.put("unit-3", values(3))
    assert cache.missing(["unit-4", "unit-3", "unit-5", "unit-4"]) == ["unit-4", "unit-5"]
    assert torch.equal(cache["unit-3"], values(3))
    assert ReferenceCache(tmp_path, KEY).missing(["unit-3"]) == ["unit-3"], "not flushed"


def test_a_shard_that_has_waited_long_enough_is_written(tmp_path):
    cache = ReferenceCache(tmp_path, KEY, shard_seconds=0.05)
    cache.put("unit-1", values(1))
    assert not shards(cache)
    time.sleep(0.06)
    cache.put("unit-2", values(2))
    assert holds(ReferenceCache(tmp_path, KEY), [1, 2])


def test_float64_is_stored_as_float32_and_a_changed_result_does_not_change_the_cache(tmp_path):
    cache = ReferenceCache(tmp_path, KEY)
    cache.put("unit-1", values(1).double())
    for _ in range(2):
        cache["unit-1"].zero_()
        assert torch.equal(cache["unit-1"], values(1))
        cache.flush()


def test_a_unit_put_twice_lies_there_once(tmp_path):
    cache = filled(tmp_path, range(5))
    before = shards(cache)
    filled(tmp_path, range(5))
    cache.put("unit-0", values(0))
    cache.flush()
    assert shards(cache) == before


def test_ranks_write_side_by_side_and_see_each_other_after_refresh(tmp_path):
    caches = [ReferenceCache(tmp_path, KEY, rank=rank) for rank in range(3)]
    for rank, cache in enumerate(caches):
        for number in [*range(rank, 12, 3), 12]:  # all of them put the last one
            cache.put(f"unit-{number}", values(number))
        cache.flush()
    assert len(caches[0].missing(UNITS[:13])) == 8
    for cache in caches:
        cache.refresh()
        assert cache.missing(UNITS[:13]) == []
        assert holds(cache, range(13))


def test_the_cache_can_be_sent_to_a_worker_that_reads(tmp_path):
    cache = filled(tmp_path, range(3))
    assert holds(cache, range(3))
    assert holds(pickle.loads(pickle.dumps(cache)), range(3))


def test_a_cache_is_not_read_into_memory(tmp_path):
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc here")
    cache = ReferenceCache(tmp_path, KEY)
    large_N = -torch.rand(2**20)
    for number in range(24):  # 96 MiB
        cache.put(f"large-{number}", large_N - number)
    cache.flush()
    process, hear = start(read, tmp_path, "large-7")
    taken, total = hear.recv()
    process.join()
    assert total == float((large_N - 7).double().sum())
    assert taken < 32 * 2**20


# ---- the folder ----


def test_a_moved_folder_is_the_same_cache_and_names_neither_place_nor_machine(tmp_path):
    cache = filled(tmp_path / "here", range(8))
    for path in cache.folder.iterdir():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content
        assert socket.gethostname().encode() not in content
    moved = tmp_path / "there" / "refs"
    moved.parent.mkdir()
    shutil.move(tmp_path / "here", moved)
    again = ReferenceCache(moved, KEY)
    assert again.missing(UNITS[:8]) == []
    assert holds(again, range(8))


def test_the_key_lies_beside_the_numbers_and_the_log_says_how_a_new_one_differs(tmp_path, caplog):
    cache = filled(tmp_path, range(2))
    stored = json.loads((cache.folder / "key.json").read_text())
    assert stored["key"] == {name: getattr(KEY, name) for name in KEY.__dataclass_fields__}
    assert f"torch {torch.__version__.split('+')[0]}" in stored["first_written_with"]
    with caplog.at_level(logging.INFO, logger="lpo"):
        other = ReferenceCache(tmp_path, replace(KEY, template="another"))
    assert "differs in: template" in caplog.text
    assert other.missing(UNITS[:2]) == UNITS[:2]


def test_a_folder_renamed_to_fit_another_key_is_refused(tmp_path):
    cache = filled(tmp_path, range(2))
    other = replace(KEY, dtype="weights bfloat16")
    shutil.move(cache.folder, tmp_path / other.digest())
    with pytest.raises(UnsoundError, match="dtype differ"):
        ReferenceCache(tmp_path, other)


def test_shards_of_another_reference_are_never_read(tmp_path, caplog):
    cache = filled(tmp_path, range(2))
    other = ReferenceCache(tmp_path, replace(KEY, weights="others"))
    shutil.copy(shards(cache)[0], other.folder)
    other.refresh()
    other.refresh()
    assert other.missing(UNITS[:2]) == UNITS[:2]
    assert caplog.text.count("belongs to another reference") == 1


def test_a_broken_key_file_costs_nothing(tmp_path):
    cache = filled(tmp_path, range(2))
    (cache.folder / "key.json").write_text('{"key": {"wei')
    assert holds(ReferenceCache(tmp_path, KEY), range(2))
    assert json.loads((cache.folder / "key.json").read_text())["key"]["weights"] == "w"


def test_what_a_kill_left_unfinished_is_removed_after_a_day(tmp_path):
    cache = filled(tmp_path, range(2))
    old, new = cache.folder / ".shard-a.x.tmp", cache.folder / ".shard-b.y.tmp"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    assert holds(ReferenceCache(tmp_path, KEY), range(2))
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


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


# ---- the spot check ----


def test_the_sample_is_drawn_from_what_lay_on_disk_before(tmp_path):
    filled(tmp_path, range(30))
    cache = ReferenceCache(tmp_path, KEY)
    for number in range(30, 40):
        cache.put(f"unit-{number}", values(number))
    cache.flush()
    assert len(cache.sample_for_check(UNITS, seed=0)) == 1, "at least one"
    assert set(cache.sample_for_check(UNITS, share=1.0, seed=0)) == set(UNITS[:30])
    assert cache.sample_for_check(UNITS[28:], share=0.9, seed=0) == cache.sample_for_check(UNITS[:27:-1], 0.9, seed=0)
    assert set(cache.sample_for_check(UNITS[28:], share=1.0, seed=0)) == {"unit-28", "unit-29"}
    assert cache.sample_for_check(UNITS[30:], seed=0) == []
    assert len(cache.sample_for_check(UNITS, share=0.2, seed=0)) == 6
    assert len({cache.sample_for_check(UNITS, seed=seed)[0] for seed in range(60)}) > 15, "other seeds, other units"


def test_a_fresh_cache_has_nothing_to_check(tmp_path):
    assert filled(tmp_path, range(30)).sample_for_check(UNITS, seed=0) == []


def test_rounding_passes_the_check_and_anything_larger_does_not(tmp_path):
    cache = filled(tmp_path, range(2))
    computed_N = values(1).double()
    cache.check("unit-1", computed_N, tolerance=0.0)
    cache.check("unit-1", computed_N * (1 + 1e-7), tolerance=0.0)
    computed_N[17] += 0.01
    cache.check("unit-1", computed_N, tolerance=0.0101)
    with pytest.raises(UnsoundError, match=r"unit-1 .* 0\.01 nats at scored token 17 \(allowed: 0\.009\)") as caught:
        cache.check("unit-1", computed_N, tolerance=0.009)
    assert str(cache.folder) in str(caught.value)
    assert "delete this folder" in (caught.value.mend or "")
    computed_N[17] = float("nan")
    with pytest.raises(UnsoundError, match="at scored token 17"):
        cache.check("unit-1", computed_N, tolerance=1.0)
    with pytest.raises(UnsoundError, match="has 200 scored tokens, but 201"):
        cache.check("unit-1", values(0), tolerance=1.0)


def test_numbers_of_another_model_pass_every_checksum_and_fail_the_check(tmp_path, tiny_model):
    """What a key that forgets something would let through."""
    from lpo.trainers.scoring import attach_scoring

    ids_RT = torch.randint(3, 500, (12, 24), generator=torch.Generator().manual_seed(1))

    def logprobs(model, row):
        with torch.no_grad():
            return model(input_ids=ids_RT[row][None], scored_index=torch.arange(9, 23), scored_targets=ids_RT[row][10:])

    right, wrong = tiny_model(seed=0), tiny_model(seed=0)
    with torch.no_grad():
        wrong.model.layers[1].mlp.down_proj.weight *= 1.05
    for model in (right, wrong):
        attach_scoring(model)
    for name, model in (("right", right), ("wrong", wrong)):
        writer = ReferenceCache(tmp_path / name, KEY)
        for row in range(12):
            writer.put(f"row-{row}", logprobs(model, row))
        writer.flush()
        cache = ReferenceCache(tmp_path / name, KEY)
        units = [f"row-{row}" for row in range(12)]
        assert cache.missing(units) == []
        (unit,) = cache.sample_for_check(units, seed=3)
        recomputed_N = logprobs(right, int(unit[4:]))
        if name == "right":
            cache.check(unit, recomputed_N, tolerance=1e-5)
        else:
            with pytest.raises(UnsoundError, match=f"{unit} differ from those of the reference at hand"):
                cache.check(unit, recomputed_N, tolerance=1e-3)
