from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import groups, steps

from lpo.packing import Budget, CostModel, Group, Row, fill, pack, packed_tokens, sharing, split_group

MODEL = CostModel(body_parameters=7, hidden_size=3, vocab_size=5, attention_widths=(2, 4), windows=(None, 3))
cost_models = st.sampled_from([None, MODEL])


def sizes(group, units, cost_model):
    """Packed tokens and cost of some units, by packing them."""
    part = group.restricted(units)
    return pack([part]).n_tokens, 0 if cost_model is None else cost_model.tree([part]).total


def within(size, budget):
    return (budget.tokens is None or size[0] <= budget.tokens) and (budget.cost is None or size[1] <= budget.cost)


def budgets(cost_model):
    tokens, cost = st.integers(2, 40), st.integers(600, 9000)
    if cost_model is None:
        return st.builds(Budget, tokens=st.none() | tokens)
    return st.builds(Budget, tokens=st.none() | tokens, cost=st.none() | cost)


def end_order(group):
    """Units in the order of the packed ends of their rows."""
    ends = pack([group]).row_end
    return sorted(range(len(group.units)), key=lambda unit: sorted(ends[row] for row in group.units[unit]))


def ways_to_cut(units):
    for n_cuts in range(len(units)):
        for cuts in combinations(range(1, len(units)), n_cuts):
            edges = [0, *cuts, len(units)]
            yield [tuple(units[start:stop]) for start, stop in pairwise(edges)]


def ways_to_part(units):
    """Every partition into sets."""
    if not units:
        yield []
        return
    first, *rest = units
    for chosen in range(2 ** len(rest)):
        inside = [unit for place, unit in enumerate(rest) if chosen >> place & 1]
        outside = [unit for place, unit in enumerate(rest) if not chosen >> place & 1]
        for others in ways_to_part(outside):
            yield [(first, *inside), *others]


@given(groups(), st.data())
def test_a_split_is_whole_within_the_budget_and_the_cheapest(group, data):
    cost_model = data.draw(cost_models)
    budget = data.draw(budgets(cost_model))
    split = split_group(group, budget, cost_model)
    alone = [within(sizes(group, [unit], cost_model), budget) for unit in range(len(group.units))]
    assert split.oversized == tuple(unit for unit, fits in enumerate(alone) if not fits)
    kept = [unit for unit in end_order(group) if alone[unit]]
    assert [unit for piece in split.pieces for unit in piece] == kept

    def price(way):
        measured = [sizes(group, piece, cost_model) for piece in way]
        fits = all(within(size, budget) for size in measured)
        total = sum(size[cost_model is not None] for size in measured) if fits else float("inf")
        return total, [-len(piece) for piece in way]

    if kept:
        assert list(split.pieces) == min(ways_to_cut(kept), key=price)


@pytest.mark.parametrize("limit", [11, 14, 17, 20, 26, 32])
@pytest.mark.parametrize("prompt", [2, 5])
def test_cutting_along_the_trunk_loses_nothing_against_any_other_parting(limit, prompt):
    group = steps(6, prompt=prompt)
    split = split_group(group, Budget(tokens=limit))
    kept = [unit for unit in range(6) if unit not in split.oversized]
    best = min(sum(packed_tokens(group.restricted(piece)) for piece in way) for way in ways_to_part(kept)
               if all(packed_tokens(group.restricted(piece)) <= limit for piece in way))
    assert sum(packed_tokens(group.restricted(piece)) for piece in split.pieces) == best


def test_a_document_is_cut_in_the_order_of_its_steps():
    # Steps 1-4 take 2 + 12 + 12 tokens; the later pieces hold the trunk as well.
    split = split_group(steps(6), Budget(tokens=26))
    assert split.pieces == ((0, 1, 2, 3), (4, 5)) and split.oversized == ()


def test_siblings_stay_with_their_step():
    # 14 + 29 + 23 tokens; filling the first piece would have made it 26 + 20 + 23.
    split = split_group(steps(4, siblings=3), Budget(tokens=29))
    assert split.pieces == ((0, 1, 2), (3, 4, 5, 6, 7, 8), (9, 10, 11))


def test_a_group_within_the_budget_is_one_piece_and_units_that_share_nothing_fill_pieces():
    assert len(split_group(steps(5), Budget()).pieces) == 1
    apart = Group(tuple(Row([number, number], 1) for number in range(7)))
    assert [len(piece) for piece in split_group(apart, Budget(tokens=6)).pieces] == [3, 3, 1]


def test_a_pair_that_fits_nowhere_is_named():
    group = Group((*steps(2).rows, Row(list(range(50)), 8), Row([*range(49), 60], 8)), (*steps(2).units, (4, 5)))
    split = split_group(group, Budget(tokens=14))
    assert split.oversized == (2,) and split.pieces == ((0, 1),)
    filled = fill([steps(1), group], Budget(tokens=14))
    assert [(item.group, item.unit, item.n_tokens) for item in filled.oversized] == [(1, 2, 51)]
    assert {(part.group, part.units) for pack_ in filled.packs for part in pack_.parts} == {(0, (0,)), (1, (0, 1))}


@settings(max_examples=60)
@given(st.lists(groups(), max_size=6), st.data())
def test_packs_hold_everything_once_within_the_budget(some, data):
    cost_model = data.draw(cost_models)
    budget = data.draw(budgets(cost_model))
    filled = fill(some, budget, cost_model)
    assert fill(some, budget, cost_model) == filled
    parts = [part for pack_ in filled.packs for part in pack_.parts]
    units = sorted([(part.group, unit) for part in parts for unit in part.units]
                   + [(item.group, item.unit) for item in filled.oversized])
    assert units == [(number, unit) for number, group in enumerate(some) for unit in range(len(group.units))]
    for pack_ in filled.packs:
        tree = pack(pack_.groups)
        assert tree.n_tokens == pack_.n_tokens
        assert pack_.cost == (0 if cost_model is None else cost_model.tree(pack_.groups).total)
        assert within((pack_.n_tokens, pack_.cost), budget)
        assert [part.group for part in pack_.parts] == sorted(part.group for part in pack_.parts)
        for part in pack_.parts:
            whole = len(part.units) == len(some[part.group].units)
            assert part.content == (some[part.group] if whole else some[part.group].restricted(part.units))
    first = [(pack_.parts[0].group, [part.group for part in parts].index(pack_.parts[0].group))
             for pack_ in filled.packs]
    assert first == sorted(first)
    for number, group in enumerate(some):
        if within(sizes(group, range(len(group.units)), cost_model), budget):
            assert sum(part.group == number for part in parts) == 1


def test_packs_are_few():
    def of(n_tokens):
        return Group((Row(list(range(n_tokens)), 1),))

    filled = fill([of(size) for size in (8, 16, 2, 8, 4, 2, 14, 12, 6)], Budget(tokens=20))
    assert [[part.group for part in pack_.parts] for pack_ in filled.packs] == [[0, 7], [1, 4], [2, 3, 5], [6, 8]]


def test_without_limits_everything_is_one_pack_and_nothing_is_none():
    assert len(fill([steps(2), steps(3)], Budget()).packs) == 1
    assert fill([], Budget(tokens=5)).packs == ()


@given(groups())
def test_size_without_tensors(group):
    assert packed_tokens(group) == pack([group]).n_tokens


@given(st.lists(groups(), min_size=1, max_size=4))
def test_sharing_of_a_data_set(some):
    tree = pack(some)
    found = sharing(some)
    assert (found.row_tokens, found.packed_tokens) == (tree.n_row_tokens, tree.n_tokens)
    assert found.ratio == tree.sharing


def test_ten_thousand_pairs_are_split():
    group = Group(tuple(Row([1, 2, 3, number, side], 3) for number in range(10_000) for side in (0, 1)),
                  tuple((2 * number, 2 * number + 1) for number in range(10_000)))
    split = split_group(group, Budget(tokens=3 + 3 * 2_500))
    assert [len(piece) for piece in split.pieces] == [2_500] * 4
    assert sorted(unit for piece in split.pieces for unit in piece) == list(range(10_000))


@pytest.mark.parametrize("limits", [{"tokens": 0}, {"cost": -1.0}])
def test_a_limit_is_above_zero(limits):
    with pytest.raises(ValueError, match="above zero"):
        Budget(**limits)


def test_a_limit_of_cost_needs_a_cost_model():
    with pytest.raises(ValueError, match="cost model"):
        fill([steps(2)], Budget(cost=1e9))
