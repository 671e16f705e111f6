"""Which preference losses there are, what each of them needs, and the settings they share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lpo.errors import ConfigError


class LossType(StrEnum):
    """A preference loss, under TRL's name where TRL has it."""

    SIGMOID = "sigmoid"
    """DPO."""
    IPO = "ipo"
    """IPO on log-ratios per token, as in TRL (the paper's authors confirmed that form to TRL's)."""
    SIMPO = "simpo"
    """SimPO: mean log-probs, a target margin, no reference."""
    LN_DPO = "sigmoid_norm"
    """LN-DPO, called dpo_norm in Tülu 3: DPO on log-ratios per token."""
    R_DPO = "r_dpo"
    """R-DPO: DPO with the difference of lengths added to the margin."""
    SAMPO = "sampo"
    """SamPO: the longer side is thinned to the length of the shorter one."""
    LD_DPO = "ld_dpo"
    """LD-DPO: tokens beyond the length of the shorter side count less. TRL: `sigmoid` with `ld_alpha`."""
    ORPO = "orpo"
    """ORPO: NLL of the chosen side plus a log-odds ratio, no reference."""
    CPO = "cpo"
    """CPO: DPO's form without a reference, plus NLL of the chosen side."""
    SFT = "sft"
    """NLL of the chosen sides, as a mean over the batch's tokens. To be mixed with another loss."""

    @property
    def needs_reference(self) -> bool:
        """Whether reference log-probs enter the loss."""
        return _TRAITS[self].needs_reference

    @property
    def length_normalised(self) -> bool:
        """Whether a side counts by its mean per token, so that beta is of another order than DPO's."""
        return _TRAITS[self].length_normalised

    @property
    def needs_token_logprobs(self) -> bool:
        """Whether sums over whole sides are not enough."""
        return _TRAITS[self].needs_token_logprobs

    @property
    def smooths_labels(self) -> bool:
        """Whether `label_smoothing` is defined for it: the losses of the form -log sigmoid(z)."""
        return _TRAITS[self].smooths_labels

    @property
    def settings(self) -> frozenset[str]:
        """Names of the `LossSettings` fields that only this loss reads."""
        return _TRAITS[self].settings

    @property
    def paper(self) -> str:
        """Title and arXiv number of the paper it comes from."""
        return _TRAITS[self].paper


@dataclass(frozen=True)
class _Traits:
    paper: str
    needs_reference: bool = True
    length_normalised: bool = False
    needs_token_logprobs: bool = False
    smooths_labels: bool = True
    settings: frozenset[str] = frozenset()


_TRAITS = {
    LossType.SIGMOID: _Traits("Direct Preference Optimization, arXiv 2305.18290"),
    LossType.IPO: _Traits(
        "A General Theoretical Paradigm to Understand Learning from Human Preferences, arXiv 2310.12036",
        length_normalised=True, smooths_labels=False),
    LossType.SIMPO: _Traits(
        "SimPO: Simple Preference Optimization with a Reference-Free Reward, arXiv 2405.14734",
        needs_reference=False, length_normalised=True, settings=frozenset({"simpo_gamma"})),
    LossType.LN_DPO: _Traits("Tulu 3: Pushing Frontiers in Open Language Model Post-Training, arXiv 2411.15124",
                             length_normalised=True),
    LossType.R_DPO: _Traits("Disentangling Length from Quality in Direct Preference Optimization, arXiv 2403.19159",
                            settings=frozenset({"r_dpo_alpha"})),
    LossType.SAMPO: _Traits("Eliminating Biased Length Reliance of Direct Preference Optimization via Down-Sampled KL "
                            "Divergence, arXiv 2406.10957", needs_token_logprobs=True,
                            settings=frozenset({"sampo_seed"})),
    LossType.LD_DPO: _Traits("Length Desensitization in Direct Preference Optimization, arXiv 2409.06411",
                             needs_token_logprobs=True, settings=frozenset({"ld_alpha"})),
    LossType.ORPO: _Traits("ORPO: Monolithic Preference Optimization without Reference Model, arXiv 2403.07691",
                           needs_reference=False, length_normalised=True, smooths_labels=False,
                           settings=frozenset({"orpo_lambda"})),
    LossType.CPO: _Traits("Contrastive Preference Optimization, arXiv 2401.08417",
                          needs_reference=False, settings=frozenset({"cpo_alpha"})),
    LossType.SFT: _Traits("Iterative Reasoning Preference Optimization, arXiv 2404.19733",
                          needs_reference=False, length_normalised=True, smooths_labels=False),
}


@dataclass(frozen=True)
class LossSettings:
    """One or several losses, their weights and hyper-parameters.

    A field that only one loss reads is None unless that loss is chosen; giving it without the loss is an error.

    Args:
        loss_types: The losses whose weighted sum is minimised. The first one other than `sft` leads: its implicit
            reward is the one reported.
        weights: One weight per loss; None gives every loss the weight 1.
        beta: Strength of the pull of the pairs against the reference: 1 / nats of log-ratio. For losses that are
            `length_normalised`, 1 / (nats per token). IPO's tau. Unused by ORPO and SFT but in reported rewards.
        label_smoothing: Probability in [0, 0.5) that a pair is labelled the wrong way round (conservative DPO).
        simpo_gamma: SimPO's target margin gamma, in units of beta x nats per token. Default 0.5.
        r_dpo_alpha: R-DPO's weight of |chosen| - |rejected|, per token. No default: it depends on the lengths.
        ld_alpha: LD-DPO's weight in [0, 1] of tokens beyond the shorter side; 1 is plain DPO. Default 0.5.
        orpo_lambda: ORPO's weight of the odds-ratio term (TRL calls it beta). Default 0.1.
        cpo_alpha: CPO's weight of the NLL term. Default 1.0.
        sampo_seed: Seed of SamPO's token sampling. Default 0.

    Raises:
        ConfigError: A value is out of range, or no chosen loss would read it.
    """

    loss_types: tuple[LossType, ...] = (LossType.SIGMOID,)
    weights: tuple[float, ...] | None = None
    beta: float = 0.1
    label_smoothing: float = 0.0
    simpo_gamma: float | None = None
    r_dpo_alpha: float | None = None
    ld_alpha: float | None = None
    orpo_lambda: float | None = None
    cpo_alpha: float | None = None
    sampo_seed: int | None = None

    def __post_init__(self) -> None:
        self._coerce_types()
        self._check_weights()
        self._refuse_unread()
        self._fill_defaults()
        self._check_ranges()

    @property
    def needs_reference(self) -> bool:
        """Whether any of the losses reads reference log-probs."""
        return any(loss_type.needs_reference for loss_type in self.loss_types)

    @property
    def leading(self) -> LossType:
        """The loss whose implicit reward is reported."""
        return next((loss_type for loss_type in self.loss_types if loss_type != LossType.SFT), LossType.SFT)

    @property
    def weighted(self) -> tuple[tuple[LossType, float], ...]:
        """Every loss with its weight."""
        return tuple(zip(self.loss_types, self.weights or (1.0,) * len(self.loss_types), strict=True))

    def _coerce_types(self) -> None:
        try:
            types = tuple(LossType(value) for value in self.loss_types)
        except ValueError as error:
            known = ", ".join(LossType)
            raise ConfigError(str(error), where="loss_type", mend=f"use one or several of: {known}") from None
        if not types or len(set(types)) != len(types):
            raise ConfigError(f"needs one or more different losses, got {list(map(str, types))}", where="loss_type",
                              mend="name each loss once; its share goes into loss_weights")
        object.__setattr__(self, "loss_types", types)

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        weights = tuple(float(weight) for weight in self.weights)
        if len(weights) != len(self.loss_types):
            raise ConfigError(f"{len(weights)} weights for {len(self.loss_types)} losses", where="loss_weights",
                              mend="give one weight per entry of loss_type")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ConfigError(f"weights must be above zero, got {list(weights)}", where="loss_weights",
                              mend="leave out a loss instead of giving it no weight")
        object.__setattr__(self, "weights", weights)

    def _refuse_unread(self) -> None:
        read = frozenset[str]().union(*(loss_type.settings for loss_type in self.loss_types))
        for loss_type in LossType:
            for name in sorted(loss_type.settings - read):
                if getattr(self, name) is not None:
                    raise ConfigError(f"no chosen loss reads it (only {loss_type} does)", where=name,
                                      mend=f"remove it, or add {loss_type} to loss_type")
        if self.label_smoothing and not any(loss_type.smooths_labels for loss_type in self.loss_types):
            raise ConfigError("not defined for the chosen losses", where="label_smoothing",
                              mend="remove it, or choose a loss of the form -log sigmoid, such as sigmoid")

    def _fill_defaults(self) -> None:
        for loss_type in self.loss_types:
            for name in loss_type.settings:
                if getattr(self, name) is None:
                    if name not in _DEFAULTS:
                        raise ConfigError(f"{loss_type} needs it", where=name,
                                          mend="a start: 1 / (typical difference of lengths in tokens)")
                    object.__setattr__(self, name, _DEFAULTS[name])

    def _check_ranges(self) -> None:
        _require(self.beta > 0, "beta", self.beta, "above 0")
        _require(0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "in [0, 0.5)")
        for name in ("simpo_gamma", "r_dpo_alpha", "orpo_lambda", "cpo_alpha"):
            value = getattr(self, name)
            _require(value is None or value >= 0, name, value, "0 or above")
        _require(self.ld_alpha is None or 0 <= self.ld_alpha <= 1, "ld_alpha", self.ld_alpha, "in [0, 1]")


_DEFAULTS: dict[str, Any] = {"simpo_gamma": 0.5, "ld_alpha": 0.5, "orpo_lambda": 0.1, "cpo_alpha": 1.0, "sampo_seed": 0}


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"must be {allowed}, got {value!r}", where=name, mend="change the value")
