import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.errors import ConfigError, DataError
from lpo.trainers.losses import LossInputs, LossSettings, LossType, SideIndex, preference_loss, segment_sums

LN2 = math.log(2)
NEEDED = {LossType.R_DPO: {"r_dpo_alpha": 0.02}}
DPO_LIKE = [LossType.SIGMOID, LossType.LN_DPO, LossType.SAMPO, LossType.LD_DPO]


def make_settings(*loss_types: LossType, **fields) -> LossSettings:
    for loss_type in loss_types:
        fields = NEEDED.get(loss_type, {}) | fields
    return LossSettings(loss_types, **fields)


def random_inputs(chosen, rejected, *, seed=0, dtype=torch.float32, spread=0.5) -> LossInputs:
    """Pairs of the given lengths: all chosen sides first, then all rejected ones."""
    generator = torch.Generator().manual_seed(seed)
    n_tokens = sum(chosen) + sum(rejected)
    policy_N = -3 * torch.rand(n_tokens, generator=generator, dtype=dtype)
    noise_N = spread * torch.randn(n_tokens, generator=generator, dtype=dtype)
    return LossInputs(policy_N.requires_grad_(), SideIndex.from_lengths(chosen),
                      SideIndex.from_lengths(rejected, start=sum(chosen)), (policy_N.detach() - noise_N))


def tokens_of(inputs: LossInputs, pair: int) -> tuple[list[int], list[int]]:
    def indices(sides: SideIndex) -> list[int]:
        return sides.token_index_M[sides.side_id_M == pair].tolist()

    return indices(inputs.chosen), indices(inputs.rejected)


def oracle(inputs: LossInputs, pair: int, loss_type: LossType, chosen: LossSettings) -> float:
    """The formula of one pair in Python's own float64, token by token."""
    policy = inputs.policy_logprobs_N.tolist()
    assert inputs.reference_logprobs_N is not None
    reference = inputs.reference_logprobs_N.tolist()
    w, l = tokens_of(inputs, pair)  # noqa: E741 - the papers' letters
    lp = [sum(policy[i] for i in side) for side in (w, l)]
    lr = [sum(policy[i] - reference[i] for i in side) for side in (w, l)]
    n_pairs = inputs.chosen.n_sides
    mean_length = len(inputs.chosen.token_index_M) / n_pairs

    def nls(z: float) -> float:
        return math.log1p(math.exp(-z)) if z > 0 else -z + math.log1p(math.exp(z))

    def smooth(z: float) -> float:
        return (1 - chosen.label_smoothing) * nls(z) + chosen.label_smoothing * nls(-z)

    match loss_type:
        case LossType.SIGMOID:
            return smooth(chosen.beta * (lr[0] - lr[1]))
        case LossType.IPO:
            return (lr[0] / len(w) - lr[1] / len(l) - 1 / (2 * chosen.beta)) ** 2
        case LossType.LN_DPO:
            return smooth(chosen.beta * (lr[0] / len(w) - lr[1] / len(l)))
        case LossType.SIMPO:
            assert chosen.simpo_gamma is not None
            return smooth(chosen.beta * lp[0] / len(w) - chosen.beta * lp[1] / len(l) - chosen.simpo_gamma)
        case LossType.R_DPO:
            assert chosen.r_dpo_alpha is not None
            return smooth(chosen.beta * (lr[0] - lr[1]) + chosen.r_dpo_alpha * (len(w) - len(l)))
        case LossType.LD_DPO:
            assert chosen.ld_alpha is not None
            shared = min(len(w), len(l))
            heads, tails = ([sum(policy[i] - reference[i] for i in part) for part in parts]
                            for parts in ((w[:shared], l[:shared]), (w[shared:], l[shared:])))
            return smooth(chosen.beta * (heads[0] - heads[1] + chosen.ld_alpha * (tails[0] - tails[1])))
        case LossType.CPO:
            assert chosen.cpo_alpha is not None
            return smooth(chosen.beta * (lp[0] - lp[1])) - chosen.cpo_alpha * lp[0] / mean_length
        case LossType.ORPO:
            assert chosen.orpo_lambda is not None
            odds = [math.exp(total / len(side)) for total, side in zip(lp, (w, l), strict=True)]
            odds = [p / (1 - p) for p in odds]
            return -lp[0] / mean_length + chosen.orpo_lambda * nls(math.log(odds[0]) - math.log(odds[1]))
        case LossType.SFT:
            return -lp[0] / mean_length
        case LossType.SAMPO:
            raise AssertionError("SamPO draws tokens; it has tests of its own")


# --- values ------------------------------------------------------------


@pytest.mark.parametrize("loss_type", [loss_type for loss_type in LossType if loss_type != LossType.SAMPO])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_loss_equals_its_formula_pair_by_pair(loss_type, dtype):
    inputs = random_inputs([5, 17, 1, 40], [9, 3, 2, 40], dtype=dtype)
    chosen = make_settings(loss_type, beta=0.3, label_smoothing=0.1 if loss_type.smooths_labels else 0.0)
    expected = [oracle(inputs, pair, loss_type, chosen) for pair in range(4)]
    outputs = preference_loss(inputs, chosen)
    assert outputs.losses_P.dtype == dtype
    torch.testing.assert_close(outputs.losses_P.double(), torch.tensor(expected, dtype=torch.float64),
                               rtol=2e-6 if dtype == torch.float32 else 1e-12, atol=0)
    torch.testing.assert_close(outputs.loss, outputs.losses_P.mean())


@pytest.mark.parametrize("loss_type", DPO_LIKE)
def test_policy_equal_to_reference_gives_ln_2_and_no_reward(loss_type):
    inputs = random_inputs([5, 17], [9, 3], spread=0.0)
    outputs = preference_loss(inputs, make_settings(loss_type))
    torch.testing.assert_close(outputs.losses_P, torch.full((2,), LN2))
    assert outputs.metrics["rewards/margins"] == 0
    assert outputs.metrics["rewards/accuracies"] == 0
    assert outputs.metrics["kl"] == 0


def test_policy_equal_to_reference_gives_ipo_its_squared_target():
    outputs = preference_loss(random_inputs([5, 17], [9, 3], spread=0.0), make_settings(LossType.IPO, beta=0.1))
    torch.testing.assert_close(outputs.losses_P, torch.full((2,), 25.0))


def test_policy_equal_to_reference_gives_r_dpo_the_difference_of_lengths():
    outputs = preference_loss(random_inputs([5, 17], [9, 3], spread=0.0), make_settings(LossType.R_DPO))
    expected = [math.log1p(math.exp(-0.02 * gap)) for gap in (-4, 14)]
    torch.testing.assert_close(outputs.losses_P, torch.tensor(expected))


def equal_sides() -> LossInputs:
    inputs = random_inputs([6, 8], [6, 8])
    same = SideIndex(inputs.chosen.token_index_M, inputs.chosen.side_id_M, 2)
    return replace(inputs, rejected=same)


def test_equal_sides_leave_simpo_its_target_margin():
    outputs = preference_loss(equal_sides(), make_settings(LossType.SIMPO, beta=2.0, simpo_gamma=0.5))
    torch.testing.assert_close(outputs.losses_P, torch.full((2,), math.log1p(math.exp(0.5))))
    assert outputs.losses_P[0].item() == pytest.approx(0.9741, abs=5e-5)


@pytest.mark.parametrize(("loss_type", "factor"), [(LossType.ORPO, 0.1), (LossType.CPO, 1.0)])
def test_equal_sides_leave_orpo_and_cpo_ln_2_and_the_nll(loss_type, factor):
    inputs = equal_sides()
    nll = preference_loss(inputs, make_settings(LossType.SFT)).loss
    torch.testing.assert_close(preference_loss(inputs, make_settings(loss_type)).loss, factor * LN2 + nll)


def test_ld_dpo_with_alpha_1_is_dpo():
    inputs = random_inputs([5, 17], [9, 3])
    ld_dpo = preference_loss(inputs, make_settings(LossType.LD_DPO, ld_alpha=1.0))
    dpo = preference_loss(inputs, make_settings(LossType.SIGMOID))
    torch.testing.assert_close(ld_dpo.losses_P, dpo.losses_P)
    torch.testing.assert_close(ld_dpo.rewards_chosen_P, dpo.rewards_chosen_P)


def test_ld_dpo_with_alpha_0_does_not_see_the_tail():
    inputs = random_inputs([5, 17], [9, 3])
    gradient = torch.autograd.grad(preference_loss(inputs, make_settings(LossType.LD_DPO, ld_alpha=0.0)).loss,
                                   inputs.policy_logprobs_N)[0]
    seen = [gradient[torch.tensor(side)] != 0 for pair in range(2) for side in tokens_of(inputs, pair)]
    assert [mask.tolist() for mask in seen] == [[True] * 5, [True] * 5 + [False] * 4, [True] * 3 + [False] * 14,
                                                [True] * 3]


@pytest.mark.parametrize("loss_type", [LossType.SAMPO, LossType.LD_DPO, LossType.R_DPO])
def test_at_equal_lengths_the_length_losses_are_dpo(loss_type):
    inputs = random_inputs([7, 12], [7, 12])
    torch.testing.assert_close(preference_loss(inputs, make_settings(loss_type)).losses_P,
                               preference_loss(inputs, make_settings(LossType.SIGMOID)).losses_P)


def test_at_equal_lengths_ln_dpo_with_beta_times_length_is_dpo():
    inputs = random_inputs([12, 12], [12, 12])
    torch.testing.assert_close(preference_loss(inputs, make_settings(LossType.LN_DPO, beta=0.1 * 12)).losses_P,
                               preference_loss(inputs, make_settings(LossType.SIGMOID, beta=0.1)).losses_P)


# --- SamPO's draw ------------------------------------------------------------


def sampled_tokens(inputs: LossInputs, seed: int = 0) -> list[set[int]]:
    gradient = torch.autograd.grad(preference_loss(inputs, make_settings(LossType.SAMPO, sampo_seed=seed)).loss,
                                   inputs.policy_logprobs_N)[0]
    return [{index for index in side if gradient[index] != 0} for pair in range(inputs.chosen.n_sides)
            for side in tokens_of(inputs, pair)]


def test_sampo_keeps_the_shorter_side_and_as_many_tokens_of_the_longer():
    inputs = random_inputs([5, 17, 4], [9, 3, 4])
    assert [len(side) for side in sampled_tokens(inputs)] == [5, 5, 3, 3, 4, 4]


def test_sampo_draws_every_token_equally_often_and_anew_at_each_step():
    inputs = random_inputs([8, 2], [2, 8])
    counts = torch.zeros(20)
    draws = [sampled_tokens(replace(inputs, step=step)) for step in range(600)]
    for draw in draws:
        counts[torch.tensor(sorted(set().union(*draw)))] += 1
    longer = torch.cat([counts[:8], counts[12:]])
    assert all(abs(share - 0.25) < 0.08 for share in (longer / 600).tolist())  # 4.5 standard errors
    assert len({tuple(sorted(draw[0])) for draw in draws}) == 28  # every 2 of 8
    assert len({(tuple(sorted(draw[0])), tuple(sorted(draw[3]))) for draw in draws}) > 300  # pairs draw apart


def test_sampo_depends_on_seed_and_key_and_not_on_the_batch():
    inputs = replace(random_inputs([30, 30], [6, 5]), pair_key_P=torch.tensor([11, 7]))
    assert sampled_tokens(inputs) == sampled_tokens(inputs)
    assert sampled_tokens(inputs) != sampled_tokens(inputs, seed=1)
    assert sampled_tokens(inputs) != sampled_tokens(replace(inputs, pair_key_P=torch.tensor([12, 7])))
    alone = LossInputs(inputs.policy_logprobs_N, SideIndex.from_lengths([30], start=30),
                       SideIndex.from_lengths([5], start=66), inputs.reference_logprobs_N, torch.tensor([7]))
    assert sampled_tokens(alone) == sampled_tokens(inputs)[2:]


# --- shapes ------------------------------------------------------------


def test_shared_and_nested_sides_equal_separate_rows():
    """A chosen side that extends another one reads the same scored tokens; its gradient adds up there."""
    tree = LossInputs(torch.linspace(-2, -1, 9).requires_grad_(), SideIndex.from_lists([[0, 1, 2], [0, 1, 2, 3, 4]]),
                      SideIndex.from_lists([[5, 6], [0, 1, 7, 8]]), torch.full((9,), -1.4))
    flat = torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 0, 1, 7, 8])
    assert tree.reference_logprobs_N is not None
    rows = LossInputs(tree.policy_logprobs_N[flat], SideIndex.from_lengths([3, 5]),
                      SideIndex.from_lengths([2, 4], start=8), tree.reference_logprobs_N[flat])
    for loss_type in LossType:
        results = [preference_loss(inputs, make_settings(loss_type)) for inputs in (tree, rows)]
        torch.testing.assert_close(results[0].losses_P, results[1].losses_P)
        gradients = [torch.autograd.grad(result.loss, tree.policy_logprobs_N, retain_graph=True)[0]
                     for result in results]
        torch.testing.assert_close(*gradients)


def test_positions_and_lengths_of_sides():
    sides = SideIndex.from_lists([[4, 5], [0, 1, 2]])
    assert sides.lengths_S.tolist() == [2, 3]
    assert sides.position_M.tolist() == [0, 1, 0, 1, 2]
    assert segment_sums(torch.arange(6.0), sides).tolist() == [9.0, 3.0]


def test_a_side_without_tokens_is_refused():
    with pytest.raises(DataError, match="side 1"):
        SideIndex.from_lengths([3, 0, 2])


def test_what_does_not_pair_up_is_refused():
    inputs = random_inputs([3, 4], [2, 2])
    with pytest.raises(DataError, match="2 chosen sides against 1"):
        preference_loss(replace(inputs, rejected=SideIndex.from_lengths([2])), make_settings(LossType.SIGMOID))
    with pytest.raises(DataError, match="no pair"):
        preference_loss(replace(inputs, chosen=SideIndex.from_lengths([]), rejected=SideIndex.from_lengths([])),
                        make_settings(LossType.SIGMOID))
    with pytest.raises(DataError, match="sigmoid needs reference"):
        preference_loss(replace(inputs, reference_logprobs_N=None), make_settings(LossType.SIGMOID))


@pytest.mark.parametrize("loss_type", [loss_type for loss_type in LossType if not loss_type.needs_reference])
def test_losses_that_need_no_reference_run_without_one(loss_type):
    inputs = random_inputs([3, 4], [2, 2])
    without = preference_loss(replace(inputs, reference_logprobs_N=None), make_settings(loss_type))
    torch.testing.assert_close(without.losses_P, preference_loss(inputs, make_settings(loss_type)).losses_P)
    assert "kl" not in without.metrics


def test_half_precision_logprobs_are_summed_in_float32():
    inputs = random_inputs([800], [900])
    half = replace(inputs, policy_logprobs_N=inputs.policy_logprobs_N.detach().bfloat16())
    outputs = preference_loss(half, make_settings(LossType.SIGMOID))
    assert outputs.loss.dtype == torch.float32
    expected = half.policy_logprobs_N[:800].double().sum()
    assert abs(outputs.logps_chosen_P.double() - expected) < 1e-2


# --- mixtures, rewards and metrics ------------------------------------------------------------


def test_a_mixture_is_the_weighted_sum_of_its_losses():
    inputs = random_inputs([5, 17], [9, 3])
    mixed = preference_loss(inputs, make_settings(LossType.SIGMOID, LossType.SFT, weights=(1.0, 0.2)))
    parts = [preference_loss(inputs, make_settings(loss_type)).loss for loss_type in (LossType.SIGMOID, LossType.SFT)]
    torch.testing.assert_close(mixed.loss, parts[0] + 0.2 * parts[1])
    torch.testing.assert_close(mixed.metrics["loss/sigmoid"], parts[0].detach())
    torch.testing.assert_close(mixed.metrics["loss/sft"], parts[1].detach())


def test_sft_never_leads_the_reported_rewards():
    inputs = random_inputs([5, 17], [9, 3])
    behind = preference_loss(inputs, make_settings(LossType.SFT, LossType.SIGMOID))
    torch.testing.assert_close(behind.rewards_chosen_P,
                               preference_loss(inputs, make_settings(LossType.SIGMOID)).rewards_chosen_P)


def test_metrics_are_detached_tensors_of_the_right_numbers():
    inputs = random_inputs([5, 17], [9, 3])
    outputs = preference_loss(inputs, make_settings(LossType.SIGMOID))
    assert inputs.reference_logprobs_N is not None
    ratio_N = (inputs.policy_logprobs_N - inputs.reference_logprobs_N).detach()
    assert all(isinstance(value, torch.Tensor) and not value.requires_grad and value.dim() == 0
               for value in outputs.metrics.values())
    assert outputs.metrics["lengths/chosen"] == 11
    assert outputs.metrics["lengths/rejected"] == 6
    torch.testing.assert_close(outputs.metrics["rewards/chosen"], 0.1 * ratio_N[:22].sum() / 2)
    torch.testing.assert_close(outputs.metrics["rewards/rejected"], 0.1 * ratio_N[22:].sum() / 2)
    torch.testing.assert_close(outputs.metrics["kl"], (ratio_N.exp() - 1 - ratio_N).mean())


def test_kl_estimates_the_divergence_from_the_reference_on_text_it_wrote():
    generator = torch.Generator().manual_seed(3)
    reference, policy = (torch.log_softmax(torch.randn(50, generator=generator), 0) for _ in range(2))
    drawn = torch.multinomial(reference.exp(), 40_000, replacement=True, generator=generator)
    inputs = LossInputs(policy[drawn], SideIndex.from_lengths([20_000]), SideIndex.from_lengths([20_000], start=20_000),
                        reference[drawn])
    divergence = (reference.exp() * (reference - policy)).sum()
    estimate = preference_loss(inputs, make_settings(LossType.SIGMOID)).metrics["kl"]
    torch.testing.assert_close(estimate, divergence, rtol=0.05, atol=0)


# --- properties ------------------------------------------------------------

lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, loss_type=st.sampled_from(LossType), seed=st.integers(0, 10_000), data=st.data())
def test_shuffling_pairs_changes_no_loss(lengths, loss_type, seed, data):
    order = data.draw(st.permutations(range(len(lengths))))
    inputs = random_inputs([w for w, _ in lengths], [r for _, r in lengths], seed=seed)
    inputs = replace(inputs, pair_key_P=torch.arange(len(lengths)) * 37 + 5)
    assert inputs.pair_key_P is not None
    sides = [tokens_of(inputs, pair) for pair in order]
    shuffled = replace(inputs, chosen=SideIndex.from_lists([w for w, _ in sides]),
                       rejected=SideIndex.from_lists([r for _, r in sides]),
                       pair_key_P=inputs.pair_key_P[torch.tensor(order)])
    before, after = (preference_loss(each, make_settings(loss_type)) for each in (inputs, shuffled))
    torch.testing.assert_close(after.losses_P, before.losses_P[torch.tensor(order)])
    torch.testing.assert_close(after.loss, before.loss)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 10_000), spread=st.floats(0, 5),
       loss_type=st.sampled_from([loss_type for loss_type in LossType if loss_type != LossType.IPO]))
def test_every_step_raises_the_chosen_side_and_lowers_the_rejected_one(lengths, seed, spread, loss_type):
    inputs = random_inputs([w for w, _ in lengths], [r for _, r in lengths], seed=seed, spread=spread)
    gradient = torch.autograd.grad(preference_loss(inputs, make_settings(loss_type)).loss, inputs.policy_logprobs_N)[0]
    n_chosen = sum(w for w, _ in lengths)
    assert (gradient[:n_chosen] <= 0).all()
    assert (gradient[n_chosen:] >= 0).all()


@pytest.mark.parametrize("loss_type", list(LossType))
@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_extreme_margins_stay_finite(loss_type, shift):
    """A log-ratio of ±1e4 nats on the chosen side; also log-probs of exactly 0, where ORPO's odds are infinite."""
    policy_N = torch.cat([torch.full((4,), -abs(shift) / 4), torch.zeros(4)]).requires_grad_()
    reference_N = policy_N.detach().clone()
    reference_N[:4] -= shift / 4
    for first, second in (((0, 4), (4, 4)), ((4, 4), (0, 4))):
        inputs = LossInputs(policy_N, SideIndex.from_lengths([first[1]], start=first[0]),
                            SideIndex.from_lengths([second[1]], start=second[0]), reference_N)
        outputs = preference_loss(inputs, make_settings(loss_type, beta=1.0))
        gradient = torch.autograd.grad(outputs.loss, policy_N, allow_unused=True)[0]
        assert outputs.loss.isfinite()
        assert gradient.isfinite().all()
        assert all(value.isfinite() for value in outputs.metrics.values())


def test_smoothed_labels_put_the_optimum_at_the_flip_rate():
    """With flip rate e the loss of one pair is least where sigmoid(z) = 1 - e."""
    margins = torch.linspace(-6, 6, 2401)
    losses = [preference_loss(LossInputs(torch.tensor([margin, 0.0]), SideIndex.from_lengths([1]),
                                         SideIndex.from_lengths([1], start=1), torch.zeros(2)),
                              make_settings(LossType.SIGMOID, beta=1.0, label_smoothing=0.2)).loss.item()
              for margin in margins.tolist()]
    best = margins[min(range(len(losses)), key=losses.__getitem__)]
    assert torch.sigmoid(best).item() == pytest.approx(0.8, abs=2e-3)


# --- settings ------------------------------------------------------------


@pytest.mark.parametrize(("field", "value", "reader"), [
    ("simpo_gamma", 0.5, LossType.SIMPO), ("r_dpo_alpha", 0.1, LossType.R_DPO), ("ld_alpha", 0.5, LossType.LD_DPO),
    ("orpo_lambda", 0.1, LossType.ORPO), ("cpo_alpha", 1.0, LossType.CPO), ("sampo_seed", 0, LossType.SAMPO),
])
def test_a_setting_that_no_chosen_loss_reads_is_refused(field, value, reader):
    for loss_type in LossType:
        if loss_type == reader:
            assert getattr(make_settings(loss_type, **{field: value}), field) == value
        else:
            with pytest.raises(ConfigError, match=field):
                make_settings(loss_type, **{field: value})


@pytest.mark.parametrize("loss_type", [loss_type for loss_type in LossType if not loss_type.smooths_labels])
def test_label_smoothing_is_refused_where_it_is_not_defined(loss_type):
    with pytest.raises(ConfigError, match="label_smoothing"):
        make_settings(loss_type, label_smoothing=0.1)


@pytest.mark.parametrize("fields", [
    {"beta": 0.0}, {"beta": -1.0}, {"beta": math.nan}, {"beta": math.inf}, {"label_smoothing": 0.5},
    {"label_smoothing": -0.1}, {"weights": (1.0, 2.0)}, {"weights": (0.0,)}, {"weights": (math.nan,)},
    {"loss_types": ()}, {"loss_types": ("sigmoid", "sigmoid")}, {"loss_types": ("kto",)},
    {"loss_types": ("r_dpo",)}, {"loss_types": ("ld_dpo",), "ld_alpha": 1.5},
    {"loss_types": ("simpo",), "simpo_gamma": -0.1},
])
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError):
        LossSettings(**fields)


def test_strings_are_understood_and_defaults_filled_in():
    chosen = LossSettings(("simpo", "sft"))  # type: ignore[arg-type]
    assert chosen.loss_types == (LossType.SIMPO, LossType.SFT)
    assert chosen.simpo_gamma == 0.5
    assert not chosen.needs_reference
    assert chosen.weighted == ((LossType.SIMPO, 1.0), (LossType.SFT, 1.0))


def test_every_loss_names_its_paper():
    papers = [loss_type.paper for loss_type in LossType]
    assert all("arXiv 2" in paper for paper in papers)
    assert len(set(papers)) == len(papers)


def test_larger_beta_saturates_sooner():
    """What docs/beta.md says: the pull sigmoid(-beta * nats) falls as beta grows."""
    inputs = random_inputs([400], [400], spread=0.0)
    assert inputs.reference_logprobs_N is not None
    inputs.reference_logprobs_N[:400] -= 0.05
    pulls = [torch.autograd.grad(preference_loss(inputs, make_settings(LossType.SIGMOID, beta=beta)).loss,
                                 inputs.policy_logprobs_N)[0][0].item() / beta for beta in (0.05, 0.1, 0.5)]
    assert all(abs(later) < abs(earlier) for earlier, later in pairwise(pulls))
    assert pulls == pytest.approx([-1 / (1 + math.exp(beta * 20)) for beta in (0.05, 0.1, 0.5)], rel=1e-3)
