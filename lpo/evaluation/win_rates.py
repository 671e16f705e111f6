"""Win-rates that length does not explain, and win-rates of several models side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lpo.errors import UnsoundError
from lpo.intervals import FEWEST, Interval, widened_level

FOLDS = 5
CHOSEN_FROM = 25
"""Prompts from which on the penalty is chosen by cross-validation: five folds of five."""
MILD = 100.0
"""Inverse strength of the penalty where it is not chosen: the published one."""
_STRENGTHS = np.logspace(-4, 4, 10)
"""Inverse strengths to choose from; scikit-learn's default, which the published code uses."""
_CELLS = 1_000_000
"""Numbers held at once while resampling."""


@dataclass(frozen=True)
class LengthControlled:
    """A win-rate as it would be if both models wrote equally long texts.

    Args:
        win_rate: 0–100, with its interval over prompts.
        theta: How much better the judge finds the model, in logits, length aside.
        phi: What length does: logits for a text that is longer by far (tanh near 1). Above 0 the judge likes length.
        scale: Standard deviation of the length difference, in characters: about what `by far` is.
        strength: Inverse strength of the penalty, C.
        notes: What a reader must know.
    """

    win_rate: Interval
    theta: float
    phi: float
    scale: float
    strength: float
    notes: tuple[str, ...]


def length_controlled(preferences: Sequence[float], length_differences: Sequence[float], *, seed: int,
                      resamples: int) -> LengthControlled | None:
    """The length-controlled win-rate of a model against a baseline, on a set of prompts of one's own.

    The judge's preference is taken to be `sigmoid(theta + phi * tanh(d / std(d)))`, d being how many characters the
    model's text is longer, and the win-rate is `100 * sigmoid(theta)`: the prediction at d = 0. There is no further
    intercept, so that swapping the models gives 100 minus the rate, and a model against itself 50. Lengths are scaled
    and not centred.

    theta and phi minimise `|theta| + |phi| + C * sum of log-losses`, C being chosen among ten values by the log-loss
    of five folds; below 25 prompts it is 100. A preference p between 0 and 1 counts as a win of weight p and a loss
    of weight 1 - p. The interval is a BCa bootstrap over prompts, lengths scaled and the model fitted anew in each
    resample, always with C = 100 (a strong penalty, once chosen, would press theta to 0 in every resample, and the
    interval would have no width); where it does not hold the win-rate itself it is widened to do so. 500 prompts and
    300 resamples take less than a second.

    Args:
        preferences: Of the judge for the model, 0–1, one per prompt; see `lpo.evaluation.pairwise`.
        length_differences: Characters of the model's text minus those of the baseline's.
        seed: Of the resampling.
        resamples: How many.

    Returns:
        None for fewer than two prompts.

    Source:
        Dubois et al., "Length-Controlled AlpacaEval" (arXiv 2404.04475) and its code. Differences: theirs subtracts
        the other way round, which turns the sign of phi alone; their term for an instruction's difficulty is fitted
        over the models of a leaderboard, and their pull towards a baseline asked to be verbose or concise needs such
        answers: sets of one's own have neither; their standard error is that of predictions that differ by difficulty
        alone, and would be 0 here.
    """
    share_N, difference_N = np.array(preferences, dtype=float), np.array(length_differences, dtype=float)
    n = len(share_N)
    if n < 2:
        return None
    lean_N = 2 * share_N - 1
    length_N = _scaled(difference_N)
    strength = _choose_strength(length_N, lean_N) if n >= CHOSEN_FROM else MILD
    theta, phi = (float(value) for value in _fit(length_N[None], lean_N[None], np.array([strength]))[0])
    rate = float(_rate(np.array(theta)))
    low, high = _interval(difference_N, lean_N, rate, seed=seed, resamples=resamples)
    return LengthControlled(Interval(rate, low, high, n, 0), theta, phi, float(difference_N.std(ddof=1)), strength,
                            tuple(_notes(share_N, rate, low, difference_N)))


@dataclass(frozen=True)
class WinRate:
    """How often one model's text is preferred to another's, 0–100.

    Args:
        interval: The raw rate.
        lc: With length taken out; None where it was not.
    """

    interval: Interval
    lc: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def win_matrix(results: Iterable[tuple[str, str, Interval, Interval | None]]) -> dict[str, dict[str, WinRate]]:
    """Put pairwise win-rates together; each comparison fills two cells, which add up to 100.

    Args:
        results: Baseline, model, and how often the model is preferred: raw, and with length taken out.

    Returns:
        Model -> other model -> how often the first one is preferred, models in order of appearance.

    Raises:
        UnsoundError: A pair of models stands there twice, or a model is compared with itself.
    """
    matrix: dict[str, dict[str, WinRate]] = {}
    for baseline, model, rate, lc in results:
        of_baseline, of_model = matrix.setdefault(baseline, {}), matrix.setdefault(model, {})
        if model in of_baseline or model == baseline:
            raise UnsoundError(f"{model!r} and {baseline!r} are compared twice" if model != baseline else
                               f"{model!r} is compared with itself", where="win-rate matrix",
                               mend="give each pair of different models once")
        of_model[baseline] = WinRate(rate, lc)
        of_baseline[model] = WinRate(_mirrored(rate), None if lc is None else _mirrored(lc))
    return matrix


def _mirrored(rate: Interval) -> Interval:
    mean, high, low = (None if end is None else 100 - end for end in (rate.mean, rate.low, rate.high))
    return Interval(mean, low, high, rate.n, rate.unscored)


def _scaled(difference_RN: np.ndarray) -> np.ndarray:
    """Tanh of length differences in standard deviations; 0 where they are all equal: there is nothing to learn."""
    std_R1 = difference_RN.std(axis=-1, ddof=1, keepdims=True)
    return np.tanh(np.divide(difference_RN, std_R1, out=np.zeros_like(difference_RN), where=std_R1 > 0))


def _rate(theta_R: np.ndarray) -> np.ndarray:
    return 50 * (1 + np.tanh(theta_R / 2))


def _choose_strength(length_N: np.ndarray, lean_N: np.ndarray) -> float:
    """The inverse strength with the least mean log-loss on prompts left out; of equally good ones the smallest."""
    n, count = len(lean_N), len(_STRENGTHS)
    fold_N = np.arange(n)[::-1] % FOLDS  # as GroupKFold deals groups of one size: from the last to the first
    seen_FN = (fold_N != np.arange(FOLDS)[:, None]).astype(float)
    seen_RN = np.repeat(seen_FN, count, axis=0)
    strength_R = np.tile(_STRENGTHS, FOLDS)
    rows = len(strength_R)
    weights_R2 = _fit(np.broadcast_to(length_N, (rows, n)), np.broadcast_to(lean_N, (rows, n)), strength_R, seen_RN)
    loss_RN = _losses(weights_R2[:, :1] + weights_R2[:, 1:] * length_N, lean_N)
    left_RN = 1 - seen_RN
    loss_R = (loss_RN * left_RN).sum(axis=1) / left_RN.sum(axis=1)
    return float(_STRENGTHS[int(np.argmin(loss_R.reshape(FOLDS, count).mean(axis=0)))])


def _losses(logit: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Log-loss of a prediction, targets as 2p - 1: `-p log s - (1 - p) log(1 - s)`, s being sigmoid(logit)."""
    size = np.abs(logit)
    return size / 2 + np.log1p(np.exp(-size)) - lean * logit / 2


def _fit(length_RN: np.ndarray, lean_RN: np.ndarray, strength_R: np.ndarray,
         weight_RN: np.ndarray | None = None) -> np.ndarray:
    """Fit many models at once.

    Proximal Newton: each step minimises the second-order expansion of the losses plus the penalty exactly, and is
    halved until the objective falls. Targets are symmetric about 0 and so is every operation: turning all signs turns
    the solution's.

    Args:
        length_RN: Scaled lengths, R sets of N prompts.
        lean_RN: Targets, 2p - 1.
        strength_R: C of each set.
        weight_RN: Weights of the prompts; None: 1.

    Returns:
        `[R, 2]` theta and phi.
    """
    weight_RN = np.ones_like(length_RN) if weight_RN is None else weight_RN
    found_R2 = np.zeros((len(length_RN), 2))
    left_M = np.arange(len(length_RN))  # the sets that have not converged
    for _ in range(100):
        at_M2, length_MN, lean_MN = found_R2[left_M], length_RN[left_M], lean_RN[left_M]
        weight_MN = weight_RN[left_M] * strength_R[left_M, None]
        half_MN = np.tanh((at_M2[:, :1] + at_M2[:, 1:] * length_MN) / 2)
        slope_MN = weight_MN * (half_MN - lean_MN) / 2
        bend_MN = weight_MN * (1 - half_MN**2) / 4
        slope_M2 = np.stack([slope_MN.sum(axis=1), (slope_MN * length_MN).sum(axis=1)], axis=1)
        bend_M3 = np.stack([bend_MN.sum(axis=1), (bend_MN * length_MN).sum(axis=1),
                            (bend_MN * length_MN**2).sum(axis=1)], axis=1)
        step_M2 = _newton_point(at_M2, slope_M2, bend_M3) - at_M2

        def objective(point_M2: np.ndarray, length_MN: np.ndarray = length_MN, lean_MN: np.ndarray = lean_MN,
                      weight_MN: np.ndarray = weight_MN) -> np.ndarray:
            losses_MN = _losses(point_M2[:, :1] + point_M2[:, 1:] * length_MN, lean_MN)
            return np.abs(point_M2).sum(axis=1) + (weight_MN * losses_MN).sum(axis=1)

        before_M, size_M1 = objective(at_M2), np.ones((len(left_M), 1))
        for _ in range(40):
            # Close to the end a step's gain is less than rounding: it must not be halved for that.
            worse_M = objective(at_M2 + size_M1 * step_M2) > before_M * (1 + 1e-12)
            if not worse_M.any():
                break
            size_M1[worse_M] /= 2
        else:
            size_M1[worse_M] = 0
        found_R2[left_M] = at_M2 + size_M1 * step_M2
        left_M = left_M[(np.abs(size_M1 * step_M2) > 1e-9).any(axis=1)]
        if not len(left_M):
            break
    return found_R2


def _newton_point(at_M2: np.ndarray, slope_M2: np.ndarray, bend_M3: np.ndarray) -> np.ndarray:
    """Where `slope (u - at) + (u - at)' bend (u - at) / 2 + |u|` is least: the best of all its stationary points.

    The penalty is linear in each quadrant and on each axis; there the least point has a closed form.
    """
    a, b, c = bend_M3[:, 0] + 1e-12, bend_M3[:, 1], bend_M3[:, 2] + 1e-12
    # The expansion as bend u - pull
    pull_0 = a * at_M2[:, 0] + b * at_M2[:, 1] - slope_M2[:, 0]
    pull_1 = b * at_M2[:, 0] + c * at_M2[:, 1] - slope_M2[:, 1]
    zero = np.zeros_like(a)
    points = [(zero, zero)]
    for sign in (-1, 1):
        points += [((pull_0 - sign) / a, zero), (zero, (pull_1 - sign) / c)]
    spread = np.maximum(a * c - b * b, 1e-12 * a * c)
    for sign_0 in (-1, 1):
        for sign_1 in (-1, 1):
            u, v = pull_0 - sign_0, pull_1 - sign_1
            points.append(((c * u - b * v) / spread, (a * v - b * u) / spread))
    values = [a * x * x / 2 + b * x * y + c * y * y / 2 - pull_0 * x - pull_1 * y + np.abs(x) + np.abs(y)
              for x, y in points]
    best_M = np.argmin(np.stack(values), axis=0)
    points_K2M = np.stack([np.stack(point) for point in points])
    return points_K2M[best_M, :, np.arange(len(best_M))]


def _interval(difference_N: np.ndarray, lean_N: np.ndarray, rate: float, *, seed: int,
              resamples: int) -> tuple[float | None, float | None]:
    n = len(lean_N)
    if n < FEWEST:
        return None, None
    from scipy.stats import bootstrap

    def of_resample(index: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = np.moveaxis(index, axis, -1).astype(int)
        rows_RN = drawn.reshape(-1, drawn.shape[-1])
        weights_R2 = _fit(_scaled(difference_N[rows_RN]), lean_N[rows_RN], np.full(len(rows_RN), MILD))
        return _rate(weights_R2[:, 0]).reshape(drawn.shape[:-1])

    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples that are all the same: dealt with below
        found = bootstrap((np.arange(n),), of_resample, vectorized=True, confidence_level=widened_level(n),
                          n_resamples=resamples, batch=max(1, _CELLS // n), method="BCa",
                          rng=np.random.default_rng(seed)).confidence_interval
    low, high = float(found.low), float(found.high)
    if not (math.isfinite(low) and math.isfinite(high)):  # every resample gave the same
        low = high = rate
    low, high = min(low, rate), max(high, rate)
    # No spread among preferences is one thing; none in theta although they differ means that length explains them all.
    return (low, high) if high - low > 1e-9 or np.ptp(lean_N) == 0 else (None, None)


def _notes(share_N: np.ndarray, rate: float, low: float | None, difference_N: np.ndarray) -> Iterable[str]:
    n, raw = len(difference_N), 100 * float(share_N.mean())
    if n < FEWEST:
        yield f"{n} prompts are too few for an interval"
    elif low is None:
        yield "length explains every preference: nothing is left that could tell how sure the rate is"
    if not difference_N.any():
        yield "all texts are as long as their counterparts: there is no length to control for"
    elif np.ptp(difference_N) == 0:
        yield "every text differs in length by as much: what length does cannot be told, and is not taken out"
    elif (difference_N >= 0).all() or (difference_N <= 0).all():
        side = "longer" if difference_N.max() > 0 else "shorter"
        yield (f"the model's texts are never {'shorter' if side == 'longer' else 'longer'} than the baseline's: what "
               "is length and what is quality can hardly be told apart")
    if rate < min(raw - raw / 4, raw - 10) or rate > max(raw + (100 - raw) / 4, raw + 10):
        yield (f"the correction is large ({raw:.1f} to {rate:.1f}): the fit may have failed, or length explains most "
               "of the preference")
