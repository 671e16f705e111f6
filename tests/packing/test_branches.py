import torch
from hypothesis import given, settings
from packing_cases import groups, paths_of, steps

from lpo.packing import Group, Row, pack, take_apart


def texts_of(part, trunk_ids):
    """The tokens of the path to each token of a part, read along its chains' ranges."""
    ids = trunk_ids[: part.prefix] + part.tree.input_ids_T.tolist()
    found = []
    for chain in part.tree.chains:
        path = [ids[index] for packed in chain.ranges(0, chain.position + chain.stop - chain.start)
                for index in range(*packed)]
        found += [tuple(path[: depth + 1]) for depth in range(chain.position, len(path))]
    return found


def check(group):
    tree = pack([group])
    parts = take_apart(tree)
    trunk_ids = parts.trunk.tree.input_ids_T.tolist()
    whole = [parts.trunk, *parts.branches]
    found = [texts_of(part, trunk_ids) for part in whole]
    assert sorted(text for texts in found for text in texts) == sorted(paths_of(group.rows))
    assert parts.trunk.prefix == 0 and len(parts.trunk.tree.chains) == 1
    for number, (part, texts) in enumerate(zip(whole, found, strict=True)):
        assert part.tree.position_ids_T.tolist() == [len(text) - 1 for text in texts]
        assert part.tree.chains[0].start == part.prefix
        # Every token sees its branch above it, by intervals as by chains.
        ends = part.tree.subtree_end_T.tolist()
        for query, text in enumerate(texts):
            seen = [key for key in range(query + 1) if query < ends[key]]
            assert [texts[key] for key in seen] == [text[:depth] for depth in range(part.prefix + 1, len(text) + 1)]
        # Scored is what its hidden states predict.
        assert torch.equal(part.tree.target_id_N, tree.target_id_N[part.scored_N])
        assert (parts.part_N[part.scored_N] == number).all()
        hidden = part.tree.hidden_index_N.tolist()
        assert [part.tree.position_ids_T[index] for index in hidden] \
            == tree.position_ids_T[tree.hidden_index_N[part.scored_N]].tolist()
    assert sorted(torch.cat([part.scored_N for part in whole]).tolist()) == list(range(tree.n_scored))


@settings(max_examples=60)
@given(groups())
def test_parts_hold_every_path_once(group):
    check(group)


def test_branches_of_another_root_stay_with_it():
    group = Group((Row([1, 2, 3, 4], 1), Row([2, 2, 3], 1), Row([2, 2, 4], 1)))
    check(group)
    (other,) = take_apart(pack([group])).branches
    assert other.prefix == 0 and other.tree.input_ids_T.tolist() == [2, 2, 3, 4]


def test_a_document_comes_apart_into_its_siblings():
    parts = take_apart(pack([steps(4)]))
    assert parts.trunk.tree.n_tokens == 2 + 4 * 3
    assert [(branch.prefix, branch.tree.n_tokens) for branch in parts.branches] == [(11, 3), (8, 3), (5, 3), (2, 3)]
