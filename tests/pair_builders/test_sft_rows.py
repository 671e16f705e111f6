import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.build_config import BuildConfig
from lpo.pair_builders.deriving import rows_of
from lpo.records import Message, Origin, PlannedSection, Prompt, SearchNode, SearchTree
from lpo.words import count_words

PROMPT = Prompt(id="p1", prompt=(Message(role="system", content="Be plain."), Message(role="user", content="Of bees.")),
                context="A page.", target_words=100)


def tree(*texts, prompt=PROMPT, planned=None, root=None, **changes):
    """A planned answer; `changes` are of the last section."""
    nodes = [SearchNode(id="0", parent=None, depth=0, text="", role="root", **(root or {}))]
    for depth, text in enumerate(texts, start=1):
        nodes.append(SearchNode(id=nodes[-1].id + ".0", parent=nodes[-1].id, depth=depth, text=text,
                                ends=depth == len(texts), origin=Origin.PLANNED))
    if changes:
        nodes[-1] = nodes[-1].model_copy(update=changes)
    count = len(texts) if planned is None else planned
    plan = tuple(PlannedSection(title=f"S{number}", words=50) for number in range(count))
    return SearchTree(id=prompt.id, prompt=prompt, method="agent_write", seed=3, nodes=tuple(nodes), plan=plan)


def derive(made, **settings):
    return rows_of(made, BuildConfig(method="agent_write", agent_write=settings))


def bees(count: int) -> str:
    return ("bee " * count).strip()


def test_a_row_holds_prompt_and_answer_its_length_and_where_it_comes_from():
    derived = derive(tree(f"{bees(60)}\n\n", bees(45)))
    [row] = derived.sft
    assert [(message.role, message.content) for message in row.messages] == [
        ("system", "Be plain."), ("user", "A page.\n\nOf bees."), ("assistant", f"{bees(60)}\n\n{bees(45)}")]
    assert (row.id, row.method, row.target_words, row.words) == ("p1", "agent_write", 100, 105)
    assert row.length_score == pytest.approx(100 * (1 - 0.05 / 3))
    assert row.provenance == {"tree": "p1", "seed": 3, "section_words": [60, 45],
                              "plan": [{"title": "S0", "words": 50}, {"title": "S1", "words": 50}]}
    assert not derived.pairs and not derived.rejected
    assert [node.role for node in derived.tree.nodes] == ["root", "chosen", "chosen"]


def test_plain_text_becomes_the_users_message():
    [row] = derive(tree(bees(100), prompt=Prompt(id="p", prompt="Bees:\n", target_words=100))).sft
    assert row.messages[0] == Message(role="user", content="Bees:\n")


def test_sections_that_were_cut_are_named():
    [row] = derive(tree(bees(50), bees(50), failures={"end": "cut: 9 tokens"})).sft
    assert row.provenance["cut_sections"] == [2]


@pytest.mark.parametrize(("made", "reason", "detail"), [
    (tree(planned=0, root={"failures": {"plan": "unparsable: no JSON"}}), "no_plan", "unparsable: no JSON"),
    (tree(bees(50), "", failures={"section": "refused"}, note="refused"), "incomplete", "section 2 of 2: refused"),
    (tree(bees(50), "", planned=4, failures={"section": "request_rejected: long"}), "incomplete",
     "section 2 of 4: request_rejected: long"),
    (tree(bees(90), planned=2), "incomplete", "1 of 2 sections"),
    (tree(" \n", bees(90)), "incomplete", "section 1 of 2: empty"),
    (tree(planned=0), "incomplete", "0 of 0 sections"),
    (tree(bees(50)), "off_length", "50 words for 100: S_l 50.0"),
    (tree(bees(300)), "off_length", "300 words for 100: S_l 33.3"),
    (tree("1984."), "off_length", "0 words for 100: S_l 0.0"),
    (tree(bees(90), prompt=PROMPT.model_copy(update={"target_words": None})), "no_length", "neither target_words"),
    (tree(planned=0, root={"note": "no_length"}, prompt=PROMPT.model_copy(update={"target_words": None})), "no_length",
     "neither target_words"),
], ids=range(11))
def test_an_answer_that_is_not_kept_is_a_rejected_row_with_its_reason(made, reason, detail):
    derived = derive(made)
    [row] = derived.rejected
    assert (row.stage, row.id, row.reason) == ("build", "p1", reason) and row.detail.startswith(detail)
    assert not derived.sft and {node.role for node in derived.tree.nodes} <= {"root", "unused"}


def test_the_length_may_stand_in_the_prompts_words_and_the_field_counts_before_it():
    words = (Message(role="user", content="Of bees, in 200 words."),)
    stated = derive(tree(bees(200), prompt=Prompt(id="p", prompt=words)))
    assert stated.sft[0].target_words == 200 and "stated_words" not in stated.sft[0].provenance
    both = derive(tree(bees(100), prompt=Prompt(id="p", prompt=words, target_words=100)))
    assert both.sft[0].target_words == 100 and both.sft[0].provenance["stated_words"] == 200
    [row] = derive(tree(bees(200), prompt=Prompt(id="p", prompt=words, target_words=100))).rejected
    assert row.detail.endswith("; the prompt's own words say 200")


def test_without_the_filter_answers_without_a_length_are_kept():
    silent = PROMPT.model_copy(update={"target_words": None})
    [row] = derive(tree(bees(7), prompt=silent), explicit_length=False).sft
    assert (row.target_words, row.length_score, row.words) == (None, None, 7)
    unwritten = derive(tree(planned=0, root={"note": "no_length"}, prompt=silent), explicit_length=False)
    assert unwritten.rejected[0].reason == "no_length" and "not written" in unwritten.rejected[0].detail


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0, 100))
def test_one_row_or_one_rejected_row_by_the_length_score(written, target, least):
    made = tree(f"{bees(written)}.", prompt=PROMPT.model_copy(update={"target_words": target}))
    derived = derive(made, min_length_score=least)
    assert len(derived.sft) + len(derived.rejected) == 1
    ratio = count_words(f"{bees(written)}.") / target
    score = 0.0 if not written else max(0.0, 1 - (ratio - 1) / 3 if ratio > 1 else 1 - (1 / ratio - 1) / 2) * 100
    if abs(score - least) > 1e-6:
        assert bool(derived.sft) is (score > least)
