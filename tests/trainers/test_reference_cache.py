import json
import logging
import os
import pickle
import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))

from reference_caches import KEY, UNITS, filled, holds, read, shards, start, values

from lpo.errors import UnsoundError
from lpo.trainers.reference_cache import ReferenceCache

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
