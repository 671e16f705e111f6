"""Preference losses as pure functions of per-token log-probabilities.

Notation: w chosen, l rejected; lp = sum of log pi over a side's tokens, lr = sum of log(pi / pi_ref), |y| = number of
a side's scored tokens, avg = lp / |y|, sigma = logistic function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from lpo.errors import DataError
from lpo.trainers.loss_settings import LossSettings, LossType
from lpo.trainers.sides import SideIndex, segment_sums

__all__ = ["LossInputs", "LossOutputs", "LossSettings", "LossType", "SideIndex", "preference_loss", "segment_sums"]


@dataclass(frozen=True)
class LossInputs:
    """Log-probabilities of a batch of pairs: pair p is side p of `chosen` against side p of `rejected`.

    Args:
        policy_logprobs_N: [N], log-prob of every scored token under the policy, in nats.
        chosen: The chosen sides of the P pairs.
        rejected: The rejected sides of the P pairs.
        reference_logprobs_N: [N], the same tokens under the reference; None if no loss needs it.
        pair_key_P: int64 [P], a number that names each pair (SamPO draws by it, so that the draw does not depend on
            the batch a pair falls into); None numbers the pairs of this batch.
        step: Training step; SamPO draws anew at each.
        mean_chosen_tokens: Mean length of the chosen sides of everything that one optimiser step reads; the token NLL
            divides by it. None: the mean of these pairs.
    """

    policy_logprobs_N: torch.Tensor
    chosen: SideIndex
    rejected: SideIndex
    reference_logprobs_N: torch.Tensor | None = None
    pair_key_P: torch.Tensor | None = None
    step: int = 0
    mean_chosen_tokens: torch.Tensor | float | None = None


@dataclass(frozen=True)
class LossOutputs:
    """A batch's loss and what is logged about it.

    Args:
        loss: Scalar: weighted sum over the losses of their means over pairs.
        losses_P: [P], each pair's share; their mean is `loss`.
        rewards_chosen_P: [P], implicit reward of the chosen side under the leading loss: beta x log-ratio as TRL
            reports it; beta x log-prob (mean per token if `length_normalised`) for losses without a reference.
        rewards_rejected_P: [P], the same for the rejected side.
        logps_chosen_P: [P], summed log-prob of the chosen side, in nats.
        logps_rejected_P: [P], summed log-prob of the rejected side, in nats.
        metrics: Detached scalars under TRL's names, plus `lengths/*`, `kl` and, for several losses, `loss/<type>`.
    """

    loss: torch.Tensor
    losses_P: torch.Tensor
    rewards_chosen_P: torch.Tensor
    rewards_rejected_P: torch.Tensor
    logps_chosen_P: torch.Tensor
    logps_rejected_P: torch.Tensor
    metrics: dict[str, torch.Tensor]


def preference_loss(inputs: LossInputs, settings: LossSettings) -> LossOutputs:
    """The weighted preference loss of a batch of pairs.

    Args:
        inputs: Log-probs of the scored tokens, and which tokens make up the sides.
        settings: Losses, weights and hyper-parameters.

    Returns:
        Loss, per-pair values and metrics; float32 (float64 if the log-probs are).

    Raises:
        DataError: The sides do not pair up, there is no pair, or reference log-probs are missing.
    """
    _check(inputs, settings)
    sums = _Sums(inputs, settings)
    losses_by_type = {loss_type: _FORMULAS[loss_type](sums, settings) for loss_type in settings.loss_types}
    losses_P = torch.stack([weight * losses_by_type[loss_type] for loss_type, weight in settings.weighted]).sum(0)
    loss = losses_P.mean()
    chosen_P, rejected_P = _rewards(sums, settings)
    metrics = _metrics(sums, chosen_P, rejected_P)
    if len(losses_by_type) > 1:
        metrics |= {f"loss/{name}": values_P.detach().mean() for name, values_P in losses_by_type.items()}
    return LossOutputs(loss=loss, losses_P=losses_P, rewards_chosen_P=chosen_P, rewards_rejected_P=rejected_P,
                       logps_chosen_P=sums.chosen_logps_P.detach(), logps_rejected_P=sums.rejected_logps_P.detach(),
                       metrics=metrics)


def _check(inputs: LossInputs, settings: LossSettings) -> None:
    if inputs.chosen.n_sides != inputs.rejected.n_sides:
        raise DataError(f"{inputs.chosen.n_sides} chosen sides against {inputs.rejected.n_sides} rejected ones",
                        where="preference_loss", mend="give both sides of every pair")
    if inputs.chosen.n_sides == 0:
        raise DataError("the batch holds no pair", where="preference_loss", mend="skip empty batches")
    if settings.needs_reference and inputs.reference_logprobs_N is None:
        names = ", ".join(loss_type for loss_type in settings.loss_types if loss_type.needs_reference)
        raise DataError(f"{names} needs reference log-probs", where="preference_loss",
                        mend="compute them, or choose a loss without a reference")


class _Sums:
    """What the formulas speak about, each computed once and only if a formula asks for it."""

    def __init__(self, inputs: LossInputs, settings: LossSettings) -> None:
        self.inputs = inputs
        self.settings = settings
        self.policy_N = _wide(inputs.policy_logprobs_N)
        self.chosen_len_P = inputs.chosen.lengths_S.to(self.policy_N.dtype)
        self.rejected_len_P = inputs.rejected.lengths_S.to(self.policy_N.dtype)

    @cached_property
    def ratio_N(self) -> torch.Tensor:
        """Log-ratios per token. Subtracting before summing keeps the small difference of two large sums exact."""
        assert self.inputs.reference_logprobs_N is not None
        return self.policy_N - _wide(self.inputs.reference_logprobs_N).detach()

    @cached_property
    def chosen_logps_P(self) -> torch.Tensor:
        return segment_sums(self.policy_N, self.inputs.chosen)

    @cached_property
    def rejected_logps_P(self) -> torch.Tensor:
        return segment_sums(self.policy_N, self.inputs.rejected)

    @cached_property
    def chosen_ratio_P(self) -> torch.Tensor:
        return segment_sums(self.ratio_N, self.inputs.chosen)

    @cached_property
    def rejected_ratio_P(self) -> torch.Tensor:
        return segment_sums(self.ratio_N, self.inputs.rejected)

    @property
    def chosen_avg_P(self) -> torch.Tensor:
        return self.chosen_logps_P / self.chosen_len_P

    @property
    def rejected_avg_P(self) -> torch.Tensor:
        return self.rejected_logps_P / self.rejected_len_P

    @cached_property
    def desensitised_P2(self) -> tuple[torch.Tensor, torch.Tensor]:
        """LD-DPO's log-ratios of both sides: tokens beyond min(|w|, |l|) are weighted alpha (eq. 8)."""
        assert self.settings.ld_alpha is not None
        alpha = self.settings.ld_alpha
        return self._weighted_ratios(lambda sides, shared_M: torch.where(sides.position_M < shared_M, 1.0, alpha))

    @cached_property
    def sampled_P2(self) -> tuple[torch.Tensor, torch.Tensor]:
        """SamPO's log-ratios of both sides: min(|w|, |l|) tokens of each, drawn without replacement."""
        assert self.settings.sampo_seed is not None
        key_P = self.inputs.pair_key_P
        if key_P is None:
            key_P = torch.arange(self.inputs.chosen.n_sides, device=self.policy_N.device)
        seed_P = _mix(_mix(key_P + self.settings.sampo_seed) + self.inputs.step)
        return self._weighted_ratios(lambda sides, shared_M: (_draw_order(sides, seed_P) < shared_M).float())

    def _weighted_ratios(
        self, weigh: Callable[[SideIndex, torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, rejected = self.inputs.chosen, self.inputs.rejected
        shared_P = torch.minimum(chosen.lengths_S, rejected.lengths_S)
        chosen_P, rejected_P = (
            segment_sums(self.ratio_N, sides, weigh(sides, shared_P[sides.side_id_M]).to(self.ratio_N.dtype))
            for sides in (chosen, rejected)
        )
        return chosen_P, rejected_P

    @property
    def token_nll_P(self) -> torch.Tensor:
        """NLL of the chosen sides, scaled so that the mean over pairs is the mean over all their chosen tokens."""
        mean_length = self.inputs.mean_chosen_tokens
        return -self.chosen_logps_P / (self.chosen_len_P.mean() if mean_length is None else mean_length)


def _wide(logprobs_N: torch.Tensor) -> torch.Tensor:
    """At least float32: sums over hundreds of tokens and small differences do not survive in half precision."""
    return logprobs_N if logprobs_N.dtype == torch.float64 else logprobs_N.float()


def _mix(key: torch.Tensor) -> torch.Tensor:
    """A bijection of int64 that leaves no pattern (the finaliser of SplitMix64); same on every device.

    The shifts of int64 carry the sign in, so the bits that came in are masked off.
    """
    key = (key ^ ((key >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    key = (key ^ ((key >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return key ^ ((key >> 31) & 0x1FFFFFFFF)


def _draw_order(sides: SideIndex, seed_P: torch.Tensor) -> torch.Tensor:
    """A random rank of every entry within its side, from 0: the first T ranks are T tokens without replacement."""
    noise_M = _mix(seed_P[sides.side_id_M] + sides.position_M)
    shuffled_M = torch.argsort(noise_M, stable=True)
    by_side_M = shuffled_M[torch.argsort(sides.side_id_M[shuffled_M], stable=True)]
    return torch.empty_like(by_side_M).scatter_(0, by_side_M, sides.position_M)


def _log_sigmoid_loss(z_P: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    """-log sigma(z), or its conservative form (1-e)(-log sigma(z)) + e(-log sigma(-z)) under label smoothing e."""
    losses_P = -F.logsigmoid(z_P)
    if settings.label_smoothing:
        losses_P = (1 - settings.label_smoothing) * losses_P - settings.label_smoothing * F.logsigmoid(-z_P)
    return losses_P


def _dpo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """-log sigma(beta (lr_w - lr_l))."""
    return _log_sigmoid_loss(settings.beta * (sums.chosen_ratio_P - sums.rejected_ratio_P), settings)


def _mean_ratio_gap(sums: _Sums) -> torch.Tensor:
    return sums.chosen_ratio_P / sums.chosen_len_P - sums.rejected_ratio_P / sums.rejected_len_P


def _ipo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """(lr_w/|w| - lr_l/|l| - 1/(2 tau))^2 with tau = beta."""
    return (_mean_ratio_gap(sums) - 1 / (2 * settings.beta)) ** 2


def _ln_dpo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """-log sigma(beta (lr_w/|w| - lr_l/|l|))."""
    return _log_sigmoid_loss(settings.beta * _mean_ratio_gap(sums), settings)


def _simpo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """-log sigma(beta avg_w - beta avg_l - gamma)."""
    assert settings.simpo_gamma is not None
    gap_P = sums.chosen_avg_P - sums.rejected_avg_P
    return _log_sigmoid_loss(settings.beta * gap_P - settings.simpo_gamma, settings)


def _r_dpo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """-log sigma(beta (lr_w - lr_l) + alpha (|w| - |l|)): pairs won by the longer side pull less."""
    assert settings.r_dpo_alpha is not None
    z_P = settings.beta * (sums.chosen_ratio_P - sums.rejected_ratio_P)
    return _log_sigmoid_loss(z_P + settings.r_dpo_alpha * (sums.chosen_len_P - sums.rejected_len_P), settings)


def _sampo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """-log sigma(beta (lr_w - lr_l)) over equally many sampled tokens; policy and reference share the sample."""
    chosen_P, rejected_P = sums.sampled_P2
    return _log_sigmoid_loss(settings.beta * (chosen_P - rejected_P), settings)


def _ld_dpo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """-log sigma(beta (lr_w - lr_l)) with the longer side's tail weighted alpha."""
    chosen_P, rejected_P = sums.desensitised_P2
    return _log_sigmoid_loss(settings.beta * (chosen_P - rejected_P), settings)


def _orpo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """NLL_w + lambda (-log sigma(logodds_w - logodds_l))."""
    assert settings.orpo_lambda is not None
    log_odds_ratio_P = _log_odds(sums.chosen_avg_P) - _log_odds(sums.rejected_avg_P)
    return sums.token_nll_P - settings.orpo_lambda * F.logsigmoid(log_odds_ratio_P)


def _log_odds(avg_P: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of p = exp(avg); p is kept one rounding step below 1, where the odds are infinite."""
    avg_P = avg_P.clamp(max=-torch.finfo(avg_P.dtype).eps)
    return avg_P - torch.log(-torch.expm1(avg_P))


def _cpo(sums: _Sums, settings: LossSettings) -> torch.Tensor:
    """-log sigma(beta (lp_w - lp_l)) + alpha NLL_w."""
    assert settings.cpo_alpha is not None
    gap_P = sums.chosen_logps_P - sums.rejected_logps_P
    return _log_sigmoid_loss(settings.beta * gap_P, settings) + settings.cpo_alpha * sums.token_nll_P


def _sft(sums: _Sums, _settings: LossSettings) -> torch.Tensor:
    """NLL_w."""
    return sums.token_nll_P


_FORMULAS: dict[LossType, Callable[[_Sums, LossSettings], torch.Tensor]] = {
    LossType.SIGMOID: _dpo,
    LossType.IPO: _ipo,
    LossType.SIMPO: _simpo,
    LossType.LN_DPO: _ln_dpo,
    LossType.R_DPO: _r_dpo,
    LossType.SAMPO: _sampo,
    LossType.LD_DPO: _ld_dpo,
    LossType.ORPO: _orpo,
    LossType.CPO: _cpo,
    LossType.SFT: _sft,
}


def _rewards(sums: _Sums, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Implicit rewards of both sides under the leading loss."""
    match settings.leading:
        case LossType.LD_DPO:
            chosen_P, rejected_P = sums.desensitised_P2
        case LossType.SAMPO:
            chosen_P, rejected_P = sums.sampled_P2
        case leading if leading.needs_reference:
            chosen_P, rejected_P = sums.chosen_ratio_P, sums.rejected_ratio_P
        case leading if leading.length_normalised:
            chosen_P, rejected_P = sums.chosen_avg_P, sums.rejected_avg_P
        case _:
            chosen_P, rejected_P = sums.chosen_logps_P, sums.rejected_logps_P
    return settings.beta * chosen_P.detach(), settings.beta * rejected_P.detach()


def _metrics(sums: _Sums, chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> dict[str, torch.Tensor]:
    metrics = {
        "rewards/chosen": chosen_P.mean(),
        "rewards/rejected": rejected_P.mean(),
        "rewards/accuracies": (chosen_P > rejected_P).to(chosen_P.dtype).mean(),
        "rewards/margins": (chosen_P - rejected_P).mean(),
        "logps/chosen": sums.chosen_logps_P.detach().mean(),
        "logps/rejected": sums.rejected_logps_P.detach().mean(),
        "lengths/chosen": sums.chosen_len_P.mean(),
        "lengths/rejected": sums.rejected_len_P.mean(),
    }
    if sums.inputs.reference_logprobs_N is not None:
        # Over the entries of the sides, so that a token that serves several sides counts as in rows of their own.
        entries_M = torch.cat((sums.inputs.chosen.token_index_M, sums.inputs.rejected.token_index_M))
        metrics["kl"] = _kl(sums.ratio_N.detach()[entries_M])
    return metrics


def _kl(ratio_N: torch.Tensor) -> torch.Tensor:
    """KL(reference || policy) in nats per token, estimated on text that the reference wrote.

    E[exp(r) - 1 - r] with r = log(pi / pi_ref) equals the KL divergence for tokens drawn from the reference, is never
    negative and has less variance than E[-r]. On text of other origin it is a distance, not the divergence.
    """
    return (torch.expm1(ratio_N.clamp(max=20.0)) - ratio_N).mean()
