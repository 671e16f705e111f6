"""Small rows and groups for the tests of packing, and what a trie of them must hold, without a trie."""

from hypothesis import strategies as st

from lpo.packing import Group, Row


def paths_of(rows):
    """Every distinct path token, as the tuple of tokens up to it: what a trie of the rows must hold."""
    return {tuple(row.ids[: index + 1]) for row in rows for index in range(len(row.ids))}


def scored_paths_of(rows):
    return {tuple(row.ids[: index + 1]) for row in rows for index in range(row.start, row.end)}


@st.composite
def rows(draw):
    """A row of few tokens over a small alphabet, so that rows share beginnings, repeat and extend one another."""
    ids = draw(st.lists(st.integers(0, 2), min_size=2, max_size=9))
    start = draw(st.integers(1, len(ids) - 1))
    stop = draw(st.none() | st.integers(start + 1, len(ids)))
    return Row(ids, start, stop)


@st.composite
def groups(draw, max_units=5):
    """Pairs of rows; a row may belong to several, as a chosen side with K rejected ones does."""
    some = draw(st.lists(rows(), min_size=1, max_size=8))
    index = st.integers(0, len(some) - 1)
    units = draw(st.lists(st.tuples(index, index), min_size=1, max_size=max_units))
    held = sorted({row for unit in units for row in unit})
    return Group(tuple(some[row] for row in held),
                 tuple(tuple(held.index(row) for row in unit) for unit in units))


def steps(n_steps, step=3, sibling=3, siblings=1, prompt=2):
    """A document of n_steps steps with rejected siblings at each; units are (chosen, rejected)."""
    trunk = list(range(prompt + n_steps * step))
    some, units = [], []
    for number in range(n_steps):
        begin = prompt + number * step
        some.append(Row(trunk[: begin + step], begin))
        chosen = len(some) - 1
        for sister in range(siblings):
            other = [1000 * (1 + number * siblings + sister) + token for token in range(sibling)]
            some.append(Row(trunk[:begin] + other, begin))
            units.append((chosen, len(some) - 1))
    return Group(tuple(some), tuple(units))
