"""The parts of the build stage by themselves: counts, the bound on failures, the spool, progress, stability, mixing."""

import asyncio
import random
from collections import Counter

import pytest

from lpo.build_config import BudgetConfig, BuildConfig
from lpo.config import validate
from lpo.errors import ConfigError, UnsoundError
from lpo.pair_builders import BuildEvent
from lpo.pair_builders.pairs import Derived
from lpo.prompts import PromptSet
from lpo.records import (
    Fact,
    Judgement,
    Message,
    PreferencePair,
    Prompt,
    Reason,
    Refinement,
    RefinementOutcome,
    RejectedRow,
    Rollout,
    SearchNode,
    SearchPath,
    SearchTree,
    Usage,
    Veto,
    fingerprint,
)
from lpo.run.build_counts import BuildCounts, check_failures, count_rows, count_tree, listed
from lpo.run.build_mixing import mixed_in, usable_general
from lpo.run.build_models import asks_judge, check_released_judge
from lpo.run.build_progress import BuildProgress, budget_share
from lpo.run.build_spool import Spool
from lpo.run.build_stability import rankings_of
from lpo.run.directory import Stage, identity_hash
from lpo.run.pipeline import prompts_hash
from lpo.run.workload import layer_depths
from lpo.storage import write_jsonl


def scored(value, scorer="judge", **parts):
    return Judgement(scorer=scorer, overall=value, parts=parts)


def failed(reason):
    return Judgement(scorer="judge", unscored=reason)


def node(name, **fields):
    parent = name.rpartition(".")[0] or None
    return SearchNode(id=name, parent=parent, depth=name.count("."), text=f"step {name}", **fields)


FACT = Fact(id="0.1#1", node="0.1", text="The keeper is blind.")
TREE = SearchTree(
    id="t", prompt=Prompt(id="t", prompt="Write."), method="longdpo", seed=1,
    nodes=(
        SearchNode(id="0", parent=None, depth=0, text="", failures={"plan": "cut: no end"}),
        node("0.0", judgement=scored(0.2)),
        node("0.1", judgement=scored(0.5), facts=(FACT, FACT.model_copy(update={"id": "0.1#2"})),
             refinement=Refinement(outcome=RefinementOutcome.NOT_BETTER, node="0.1r", failed=("unparsable",))),
        node("0.2", note="duplicate of 0.1"),
        node("0.3", note="empty"),
        SearchNode(id="0.1r", parent="0", depth=1, text="anew", refines="0.1", judgement=scored(0.4),
                   note="rewritten, not_better"),
        node("0.1.0", judgement=scored(0.9), failures={"check": "unparsable: no JSON", "facts": "cut"}),
        node("0.1.1", judgement=failed("unparsable"), vetoes=(Veto(fact="0.1#1", statement="s", quote="q"),)),
        node("0.1.2", note="request_rejected: too long"),
        node("0.1.0.0", judgement=scored(0.1, invented=2.5)),
    ),
    paths=(SearchPath(nodes=("0", "0.1", "0.1.0", "0.1.0.0"), value=0.3,
                      rollout=Rollout(text="rest", ends=True, judgement=scored(0.3))),
           SearchPath(nodes=("0", "0.1", "0.1.0", "0.1.0.0"), value=0.3,
                      rollout=Rollout(text="rest", ends=True, judgement=scored(0.3))),
           SearchPath(nodes=("0", "0.0"), value=None, rollout=Rollout(text="", ends=False, note="refused"))),
)


def test_a_tree_is_counted_as_one_would_by_hand():
    counts = count_tree(TREE)
    assert counts == BuildCounts(
        trees=1, layers=3, candidates=8, set_aside=Counter(duplicate=1, empty=1, request_rejected=1), paths=3,
        rollouts=2, failed_rollouts=Counter(refused=1), scored=6, unscored=Counter(unparsable=1), invented=1,
        continued=2, facts=2, failed_extractions=Counter(cut=1), checked=3, vetoed=1,
        failed_checks=Counter(unparsable=1), failed_plans=Counter(cut=1), refinements=Counter(not_better=1),
        failed_critiques=1)


def test_counts_add_up_in_any_order():
    trees = [TREE.model_copy(update={"nodes": TREE.nodes[:size]}) for size in range(1, len(TREE.nodes) + 1)]
    sums = []
    for order in (trees, trees[::-1]):
        total = BuildCounts()
        for tree in order:
            total += count_tree(tree)
        sums.append(total)
    assert sums[0] == sums[1] and sums[0].to_json() == sums[1].to_json()
    assert sums[0].trees == len(trees) and sums[0].set_aside["empty"] == len(trees) - 4
    rows = [RejectedRow(stage="build", id="a", reason=Reason.TIE)] * 2
    pairs = (PreferencePair(id="p", group="p", prompt="a", chosen="b b", rejected="c"),
             PreferencePair(id="q", group="p", prompt="a", chosen="b", rejected="c", provenance={"full_length": False}))
    assert count_rows(Derived(TREE, pairs, tuple(rows))) == BuildCounts(
        pairs=2, prefix_pairs=1, chosen_words=3, rejected_words=2, pairs_by_rule=Counter(given=2),
        rejected=Counter(tie=2))
    assert listed(Counter(b=1, a=1, c=5)) == "c: 5, a: 1, b: 1"


@pytest.mark.parametrize(("counts", "said"), [
    (BuildCounts(scored=79, unscored=Counter(cut=11, empty=10)), r"21 of 100 judgements .*cut: 11, empty: 10"),
    (BuildCounts(checked=100, failed_checks=Counter(cut=21)), r"21 of 100 checks"),
    (BuildCounts(continued=100, failed_extractions=Counter(cut=21)), r"21 of 100 extractions"),
])
def test_each_kind_of_failure_is_bounded_by_itself(counts, said):
    with pytest.raises(UnsoundError, match=said):
        check_failures(counts, 0.2)
    check_failures(counts, 0.21)
    check_failures(counts, 0.2, enough=101)
    with pytest.raises(UnsoundError):
        check_failures(counts, 0.2, enough=100)
    check_failures(BuildCounts(), 0.0)
    with pytest.raises(UnsoundError):
        check_failures(counts, 0.0)


def test_the_spool_gives_back_in_the_order_of_the_items_what_came_in_any_order(tmp_path):
    blocks = [(b"tree %d\n" % item, b"pair\n" * (item % 3), b"" if item % 2 else b"row\n") for item in range(50)]
    order = list(range(50))
    random.Random(0).shuffle(order)
    with Spool(tmp_path, 50, kinds=3) as spool:
        for item in order:
            spool.put(item, blocks[item])
        for kind in range(3):
            assert list(spool.blocks(kind)) == [block[kind] for block in blocks]
        assert not list(tmp_path.iterdir()), "it has no name: a kill leaves nothing behind"


def test_items_that_never_came_are_left_out_of_the_spool(tmp_path):
    with Spool(tmp_path, 3, kinds=1) as spool:
        spool.put(2, [b"c"])
        spool.put(0, [b"a"])
        assert list(spool.blocks(0)) == [b"a", b"c"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def tree_of(layers):
    nodes = [SearchNode(id="0", parent=None, depth=0, text="")]
    for _ in range(layers):
        nodes.append(node(f"{nodes[-1].id}.0"))
    return SearchTree(id="t", prompt=Prompt(id="t", prompt="Write."), method="longdpo", seed=1, nodes=tuple(nodes))


def progress_of(prompts, **build):
    shown, usage, clock = [], [Usage()], Clock()
    progress = BuildProgress(BuildConfig(**build), prompts, lambda: usage[0], lambda: usage[0] + usage[0],
                             lambda done, note="", left=None: shown.append((done, note, left)), clock)
    return progress, shown, usage, clock


def test_progress_names_what_happened_and_only_that():
    progress, shown, usage, clock = progress_of(1, depth=2)
    progress.on_event(BuildEvent.LAYER)
    assert shown[-1] == (0, "1 layers, 0 calls, 0 tokens", None)
    usage[0] = Usage(calls=1200, cached=34, tokens_in=1_000_000, tokens_out=234_567, cost=1.5)
    progress.on_event(BuildEvent.VETO)
    assert len(shown) == 1, "not at every event"
    clock.now = 1
    progress.on_event(BuildEvent.REFINED)
    for _ in range(2):
        progress.on_event(BuildEvent.NOT_REFINED)
    progress.tree_done(tree_of(1))
    assert shown[-1][:2] == (1, "1 layers, 1,200 calls + 34 from the journal, 1,234,567 tokens, 1 vetoed, "
                                "1 of 3 weak steps refined, cost 1.5000")
    assert shown[-1][2] == 0, "the last tree is shown at once"


def test_progress_tells_the_share_of_the_limit_that_is_nearest_over_all_starts():
    progress, shown, usage, _ = progress_of(2, budget={"calls": 100, "tokens": 1000})
    usage[0] = Usage(calls=10, tokens_in=300, tokens_out=100)
    progress.show(now=True)
    assert shown[-1][1].endswith("10 calls, 400 tokens, 80% of the budget")
    assert budget_share(BudgetConfig(), usage[0]) == 0
    assert budget_share(BudgetConfig(cost=2), Usage(cost=0.5)) == 0.25


def test_the_time_left_goes_by_layers_and_leaves_out_what_came_from_the_journal():
    progress, shown, usage, clock = progress_of(10, depth=5, search={"num_paths": 1})
    for _ in range(25):  # five trees come from the journal, at once
        progress.on_event(BuildEvent.LAYER)
    for _ in range(5):
        progress.tree_done(tree_of(5))
    clock.now = 1
    progress.show(now=True)
    assert shown[-1][2] is None, "nothing was asked yet, so nothing is known of the speed"
    for second in range(2, 7):  # then five layers a second
        clock.now = second
        usage[0] = Usage(calls=second)
        for _ in range(2):
            progress.on_event(BuildEvent.LAYER)
    progress.show(now=True)
    assert shown[-1][2] == pytest.approx(15 / 2, rel=0.05), "10 of the 25 layers that were left took 5 seconds"


@pytest.mark.parametrize(("build", "layers"), [
    ({"depth": 4, "search": {"num_paths": 4}}, 13), ({"depth": 4, "search": {"algorithm": "greedy"}}, 4),
    ({"method": "best_of_n"}, 1), ({"method": "longdpo_released", "depth": 3}, 3)])
def test_most_layers(build, layers):
    assert len(layer_depths(BuildConfig(**build))) == layers


class Reworded:
    """Grades by the number at the end of the text."""

    name = "judge"

    async def score(self, drafts):
        assert all(draft.prefix == "" for draft in drafts)
        return [failed("cut") if draft.text.endswith("3") else scored(int(draft.text[-1]) / 10) for draft in drafts]


def test_stability_compares_the_judges_own_scores_of_the_first_candidates():
    nodes = (node("0.0", judgement=scored(0.9)), node("0.1", judgement=failed("cut")), node("0.2", note="empty"),
             node("0.3", judgement=Judgement(scorer="weighted", overall=0.5, scores={"judge": 0.7})),
             node("0.4", judgement=Judgement(scorer="weighted", unscored="no", parts={"judge": {"invented": 2.5}},
                                             scores={"judge": 0.4})),
             node("0.5", judgement=scored(0.4, invented=2.5)),
             SearchNode(id="0.0r", parent="0", depth=1, text="9", refines="0.0", judgement=scored(1.0)),
             node("0.0.0", judgement=scored(0.3)))
    tree = TREE.model_copy(update={"nodes": nodes})
    rankings = asyncio.run(rankings_of(tree, "judge", Reworded()))
    assert rankings.first == (0.9, None, 0.7, None, None)
    assert rankings.second == (0.0, 0.1, None, 0.4, 0.5)
    lone = TREE.model_copy(update={"nodes": nodes[:1]})
    assert asyncio.run(rankings_of(lone, "judge", Reworded())) is None


def run_config(**sections):
    config, issues = validate({"name": "x", **sections})
    assert config is not None, issues
    return config


def test_general_data_is_kept_apart_from_held_out_prompts_and_counted(tmp_path):
    asked = "Write a long story about the old lighthouse and the keeper who never left it."
    rows = [{"prompt": f"Explain subject number {'abcdefghij'[i]}.", "chosen": "Yes.", "rejected": "No."}
            for i in range(10)]
    rows += [{"prompt": asked.upper(), "chosen": "A.", "rejected": "B."},
             {"prompt": "C", "chosen": "x", "rejected": "x"}]
    write_jsonl(tmp_path / "general.jsonl", rows)
    config = run_config(build={"mix": {"path": str(tmp_path / "general.jsonl"), "ratio": 0.25}})
    held_out = (Prompt(id="h", prompt=(Message(role="user", content=asked),)),)
    general = usable_general(config, held_out)
    assert [(row.reason, row.id) for row in general.rejected] == [
        (Reason.EQUAL_TEXTS, "general.jsonl:12"), (Reason.HELD_OUT, "general/general.jsonl:11")]
    assert len(general.pairs) + len(general.rejected) == len(rows), "kept + rejected = input"
    mixed = mixed_in(config, general, built=12)
    assert len(mixed.pairs) == 4 and mixed.counts.ratio == 0.25 and "4 of 10 general pairs" in str(mixed.counts)
    assert mixed_in(config, general, built=0).counts.ratio == 0
    plain = run_config()
    assert usable_general(plain, held_out).pairs == () and mixed_in(plain, general, 12) is None


@pytest.mark.parametrize(("build", "asked"), [
    ({}, True),
    ({"reward": {"judge": 0, "length": 1}}, True),
    ({"reward": {"judge": 0, "length": 1}, "memory": {"enabled": False}}, True),
    ({"reward": {"judge": 0, "length": 1}, "memory": {"enabled": False}, "critique": {"enabled": False}}, False),
    ({"reward": {"judge": 0, "length": 1}, "memory": {"enabled": False}, "critique": {"by": "policy"}}, False),
    ({"reward": {"judge": 0, "length": 1}, "memory": {"enabled": False}, "critique": {"enabled": False},
      "boundary": "sections", "plan": {"by": "judge"}}, True),
    ({"reward": {"judge": 0, "length": 1}, "method": "best_of_n"}, False),
])
def test_the_judge_is_opened_only_when_somebody_asks_it(build, asked):
    assert asks_judge(BuildConfig(**build)) is asked


def test_the_released_method_needs_a_judge_that_writes():
    server = {"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
    with pytest.raises(ConfigError, match=r"judge\.method.*expected_grade writes nothing"):
        check_released_judge(run_config(build={"method": "longdpo_released"}))
    check_released_judge(run_config(build={"method": "longdpo_released"}, judge={**server, "method": "json"}))
    check_released_judge(run_config(build={"method": "longdpo_released", "reward": {"judge": 0, "length": 1}}))


def test_a_build_depends_on_its_critic_and_not_on_budget_or_concurrency():
    def identity(**sections):
        return identity_hash(run_config(**sections), "prompts", Stage.BUILD)

    critic = {"build": {"critique": {"by": "critic"}}}
    assert identity(critic={"model": "a"}, **critic) != identity(critic={"model": "b"}, **critic)
    assert identity(critic={"model": "a", "batch_size": 2}, **critic) == identity(critic={"model": "a"}, **critic)
    assert identity(build={"budget": {"calls": 5}, "concurrency": 2}) == identity()


def test_the_hash_of_the_prompts_is_that_of_their_list():
    prompts = [Prompt(id=f"p{i}", prompt=(Message(role="user", content=f"Schreib über {i}."),), meta={"b": 1, "a": i})
               for i in range(3)]
    for build, held_out in (((), ()), (prompts[:1], ()), (prompts[:2], prompts[2:])):
        prompt_set = PromptSet(tuple(build), tuple(held_out), (), 0)
        assert prompts_hash(prompt_set) == fingerprint([prompt.to_json() for prompt in (*build, *held_out)])
