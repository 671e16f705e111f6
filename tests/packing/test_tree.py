import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import groups, paths_of, rows, scored_paths_of, steps

from lpo.packing import Group, Row, pack

some_groups = st.lists(groups(), min_size=1, max_size=2)


def texts(tree):
    """The tokens of the path to each packed token, walked parent by parent."""
    found = []
    for index, (token, parent) in enumerate(zip(tree.input_ids_T.tolist(), tree.parent_T.tolist(), strict=True)):
        assert parent < index
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


def all_rows(some):
    return [row for group in some for row in group.rows]


@settings(max_examples=60)
@given(some_groups)
def test_every_row_comes_back(some):
    tree = pack(some)
    assert len(tree.row_end) == len(tree.row_tokens) == len(all_rows(some))
    for number, row in enumerate(all_rows(some)):
        path = tree.path(number)
        assert tree.input_ids_T[path].tolist() == list(row.ids)
        assert tree.position_ids_T[path].tolist() == list(range(len(row.ids)))
        assert path[-1] == tree.row_end[number]
        scored = tree.row_tokens[number]
        assert tree.target_id_N[scored].tolist() == list(row.ids[row.start : row.end])
        assert tree.hidden_index_N[scored].tolist() == path[row.start - 1 : row.end - 1]


@settings(max_examples=60)
@given(some_groups)
def test_each_distinct_path_token_stands_once_in_its_group(some):
    tree = pack(some)
    found = texts(tree)
    begin = 0
    for group in some:
        expected = paths_of(group.rows)
        assert sorted(found[begin : begin + len(expected)]) == sorted(expected)
        begin += len(expected)
    assert begin == tree.n_tokens
    assert tree.sharing == sum(len(group.rows[row].ids) for group in some for unit in group.units
                               for row in unit) / tree.n_tokens


@settings(max_examples=60)
@given(some_groups)
def test_depth_is_position(some):
    tree = pack(some)
    assert tree.position_ids_T.tolist() == [len(path) - 1 for path in texts(tree)]


@settings(max_examples=60)
@given(some_groups)
def test_intervals_are_the_ancestor_relation(some):
    tree = pack(some)
    ancestors = []
    for index, parent in enumerate(tree.parent_T.tolist()):
        ancestors.append({index, *(ancestors[parent] if parent >= 0 else ())})
    ends = tree.subtree_end_T.tolist()
    for query in range(tree.n_tokens):
        assert {key for key in range(query + 1) if query < ends[key]} == ancestors[query]


@settings(max_examples=60)
@given(some_groups)
def test_chains_see_what_their_intervals_say(some):
    tree = pack(some)
    edges = [chain.start for chain in tree.chains] + [tree.n_tokens]
    assert edges == [0, *(chain.stop for chain in tree.chains)]
    for chain in tree.chains:
        above = [index for start, stop in chain.ancestors for index in range(start, stop)]
        assert tree.position_ids_T[above].tolist() == list(range(chain.position))
        assert all(key < chain.start < tree.subtree_end_T[key] for key in above)
        assert chain.parent == tree.parent_T[chain.start]
        whole = [index for packed in chain.ranges(0, chain.position + chain.stop - chain.start)
                 for index in range(*packed)]
        assert whole == [*above, *range(chain.start, chain.stop)]


@settings(max_examples=60)
@given(some_groups)
def test_each_scored_token_stands_once(some):
    tree = pack(some)
    assert tree.n_scored == sum(len(scored_paths_of(group.rows)) for group in some)
    scored = torch.cat(tree.row_tokens)
    assert sorted(set(scored.tolist())) == list(range(tree.n_scored))


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(group, random):
    order = list(range(len(group.rows)))
    random.shuffle(order)
    one, other = pack([Group(group.rows)]), pack([Group(tuple(group.rows[row] for row in order))])
    assert one.chains == other.chains
    for name in ("input_ids_T", "position_ids_T", "subtree_end_T", "hidden_index_N", "target_id_N"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert [one.row_end[row] for row in order] == list(other.row_end)


@given(rows(), rows())
def test_groups_share_nothing(first, second):
    apart, together = pack([Group((first,)), Group((second,))]), pack([Group((first, second))])
    assert apart.n_tokens == len(first.ids) + len(second.ids)
    assert together.n_tokens == len(paths_of([first, second]))


def test_the_trunk_comes_first_and_is_one_chain():
    tree = pack([steps(4)])
    assert tree.chains[0].stop - tree.chains[0].start == 2 + 4 * 3
    assert len(tree.chains) == 5
    assert [len(chain.ancestors) for chain in tree.chains] == [0, 1, 1, 1, 1]


def test_one_hidden_state_predicts_several_tokens():
    tree = pack([steps(2, siblings=4)])
    assert tree.hidden_index_N.tolist().count(1) == 5  # the prompt's last token: the chosen step and its 4 siblings


def test_rows_equal_up_to_their_last_token():
    tree = pack([Group((Row([1, 2, 3, 4], 1), Row([1, 2, 3, 5], 1)))])
    assert tree.input_ids_T.tolist() == [1, 2, 3, 4, 5]
    assert tree.hidden_index_N.tolist() == [0, 1, 2, 2]
    assert [tokens.tolist() for tokens in tree.row_tokens] == [[0, 1, 2], [0, 1, 3]]


def test_a_row_that_is_the_beginning_of_another():
    tree = pack([Group((Row([1, 2, 3, 4], 3), Row([1, 2], 1), Row([1, 2, 3], 2)))])
    assert tree.input_ids_T.tolist() == [1, 2, 3, 4]
    assert tree.row_end == (3, 1, 2)
    assert [tree.target_id_N[tokens].tolist() for tokens in tree.row_tokens] == [[4], [2], [3]]


def test_duplicates_cost_nothing():
    row = Row([5, 6, 7], 2)
    tree = pack([Group((row, row, Row([5, 6, 7], 1)))])
    assert tree.n_tokens == 3 and tree.sharing == 3
    assert [tokens.tolist() for tokens in tree.row_tokens] == [[1], [1], [0, 1]]


def test_nothing_shared_not_even_the_first_token():
    tree = pack([Group((Row([1, 2], 1), Row([2, 2], 1)))])
    assert tree.parent_T.tolist() == [-1, 0, -1, 2]
    assert tree.subtree_end_T.tolist() == [2, 2, 4, 4]


def test_a_token_after_stop_is_read_and_not_scored():
    ending = Row([1, 2, 3, 9], 1, stop=3)
    tree = pack([Group((ending,))])
    assert tree.input_ids_T.tolist() == [1, 2, 3, 9] and tree.target_id_N.tolist() == [2, 3]


def test_token_arrays_are_rows_too():
    one, other = (pack([Group((Row(make([1, 2, 3]), 1), Row(make([1, 4]), 1)))]) for make in (list, np.array))
    assert torch.equal(one.input_ids_T, other.input_ids_T)


def test_moving_a_tree_moves_its_tensors_and_nothing_else():
    tree = pack([steps(2)])
    moved = tree.to("meta")
    assert moved.input_ids_T.device.type == moved.target_id_N.device.type == "meta"
    assert moved.chains == tree.chains and moved.row_tokens[0].device.type == "cpu"


@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, None), (2, 2), (1, 4)])
def test_a_row_must_score_something_that_it_holds(start, stop):
    with pytest.raises(ValueError, match="scored range"):
        Row([1, 2, 3], start, stop)


@pytest.mark.parametrize("units", [((0,),), ((0, 1), ())], ids=["a row in no unit", "an empty unit"])
def test_units_must_hold_the_rows(units):
    with pytest.raises(ValueError, match="unit"):
        Group((Row([1, 2], 1), Row([1, 3], 1)), units)


def test_a_group_without_rows_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        Group(())


def test_a_long_document_packs_right():
    """64 pairs on a trunk of 8,192 tokens, each side whole: 64 · 8,192 row tokens and more in 2 · 8,192."""
    group = steps(64, step=128, sibling=128, prompt=1)
    tree = pack([group])
    assert tree.n_tokens == 1 + 2 * 8192 and len(tree.chains) == 65
    for number in (0, 1, 62, 63, 126, 127):
        path, row = tree.path(number), group.rows[number]
        assert tree.input_ids_T[path].tolist() == row.ids
        assert tree.hidden_index_N[tree.row_tokens[number]].tolist() == path[row.start - 1 : -1]
        assert (tree.subtree_end_T[path] > path[-1]).all()
    assert int((tree.subtree_end_T - torch.arange(tree.n_tokens)).sum()) == int((tree.position_ids_T + 1).sum())
