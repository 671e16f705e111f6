import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from lpo.errors import UnsoundError
from lpo.evaluation.win_rates import MILD, WinRate, _fit, length_controlled, win_matrix
from lpo.intervals import Interval


def planted(n: int, theta: float, phi: float, *, longer_by: float = 800, seed: int = 0, soft: bool = False):
    """Preferences drawn from the model itself: `theta` is quality, `phi` what length does."""
    rng = np.random.default_rng(seed)
    difference_N = rng.normal(longer_by, 1000, n).round()
    chance_N = expit(theta + phi * np.tanh(difference_N / difference_N.std(ddof=1)))
    return (chance_N if soft else (rng.random(n) < chance_N).astype(float)), difference_N


def published_rate(preferences: np.ndarray, differences: np.ndarray, **choice: float) -> float:
    """Length-controlled AlpacaEval's `minimal` model as its code states it, put together from scikit-learn.

    Lengths are subtracted the other way round, each prompt is one row of class 1 and one of class 0, weighted, and the
    prediction at length difference 0 is averaged over prompts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import GroupKFold

    n = len(preferences)
    columns = np.column_stack([np.tanh(-differences / differences.std(ddof=1)), np.ones(n)])
    rows, labels = np.vstack([columns, columns]), np.repeat([1, 0], n)
    weights, groups = np.concatenate([preferences, 1 - preferences]), np.tile(np.arange(n), 2)
    settings = {"solver": "liblinear", "fit_intercept": False, "random_state": 123, "tol": 1e-8, "max_iter": 5000}
    if choice:
        chosen = choice["strength"]
    else:
        # LogisticRegressionCV's loop, written out: it passes weights on to its scorer by metadata routing only.
        losses = []
        for strength in np.logspace(-4, 4, 10):
            of_folds = []
            for seen, left in GroupKFold(5).split(rows, labels, groups):
                model = LogisticRegression(C=strength, l1_ratio=1.0, **settings)
                model.fit(rows[seen], labels[seen], sample_weight=weights[seen])
                chances = model.predict_proba(rows[left])[:, 1]
                of_folds.append(log_loss(labels[left], chances, sample_weight=weights[left]))
            losses.append(np.mean(of_folds))
        chosen = np.logspace(-4, 4, 10)[int(np.argmin(losses))]
    model = LogisticRegression(C=chosen, l1_ratio=1.0, **settings).fit(rows, labels, sample_weight=weights)
    return 100 * float(model.predict_proba(np.column_stack([np.zeros(n), np.ones(n)]))[:, 1].mean())


@pytest.mark.parametrize(("theta", "phi", "soft"), [(0.6, -1.5, False), (-0.4, 2.0, False), (0.2, 0.7, True),
                                                    (0.0, 0.0, False)])
def test_the_rate_is_that_of_alpaca_evals_formula(theta, phi, soft):
    preferences, differences = planted(120, theta, phi, soft=soft, seed=3)
    found = length_controlled(preferences, differences, seed=0, resamples=100)
    assert found is not None
    assert found.win_rate.mean == pytest.approx(published_rate(preferences, differences, strength=found.strength),
                                                abs=1e-3)
    assert found.win_rate.mean == pytest.approx(published_rate(preferences, differences), abs=1e-3), \
        "the penalty is chosen alike"


@pytest.mark.parametrize("strength", [0.05, 1.0, MILD])
def test_the_fit_minimises_the_objective_it_states(strength):
    """Against a general optimiser: parameters in two non-negative halves make the penalty smooth."""
    preferences, differences = planted(20, 0.5, 1.0, seed=8)
    preferences[:5] = (0.5, 0.25, 0.9, 0.5, 0.0)
    length = np.tanh(differences / differences.std(ddof=1))

    def objective(halves: np.ndarray) -> float:
        chance = expit((halves[0] - halves[1]) + (halves[2] - halves[3]) * length)
        losses = -(preferences * np.log(chance) + (1 - preferences) * np.log(1 - chance))
        return float(halves.sum() + strength * losses.sum())

    best = minimize(objective, np.full(4, 0.1), bounds=[(0, None)] * 4, method="L-BFGS-B",
                    options={"ftol": 1e-14, "gtol": 1e-10, "maxiter": 2000})
    [[theta, phi]] = _fit(length[None], (2 * preferences - 1)[None], np.array([strength]))
    assert (theta, phi) == pytest.approx((best.x[0] - best.x[1], best.x[2] - best.x[3]), abs=1e-4)
    assert objective(np.maximum([theta, -theta, phi, -phi], 0)) <= best.fun + 1e-9


def test_quality_is_recovered_where_length_misleads():
    """A judge that likes length, and a model that writes longer and worse: raw it wins, length-controlled it loses."""
    preferences, differences = planted(1500, -0.4, 2.0, longer_by=1200, seed=5)
    found = length_controlled(preferences, differences, seed=0, resamples=300)
    assert found is not None and found.win_rate.low is not None and found.win_rate.high is not None
    truth = 100 * expit(-0.4)
    assert preferences.mean() > 0.6
    assert found.win_rate.low <= truth <= found.win_rate.high < 50
    assert found.phi == pytest.approx(2.0, abs=0.5)
    assert found.theta == pytest.approx(-0.4, abs=0.3)
    assert any("correction is large" in note for note in found.notes)


def test_intervals_cover_the_planted_rate_about_as_often_as_they_say():
    truth = 100 * expit(0.3)
    covered = 0
    for seed in range(60):
        preferences, differences = planted(80, 0.3, 1.0, longer_by=300, seed=100 + seed)
        found = length_controlled(preferences, differences, seed=seed, resamples=200)
        assert found is not None and found.win_rate.low is not None and found.win_rate.high is not None
        covered += found.win_rate.low <= truth <= found.win_rate.high
    assert covered >= 52  # fewer happens once in 200 times where 95 % are covered, once in 10 where 88 % are


def test_swapping_the_models_turns_the_rate_and_equal_models_are_at_fifty():
    for seed, n in enumerate((7, 24, 25, 200)):
        preferences, differences = planted(n, 0.7, 1.2, seed=seed)
        preferences[: n // 3] = 0.3
        one = length_controlled(preferences, differences, seed=0, resamples=100)
        other = length_controlled(1 - preferences, -differences, seed=0, resamples=100)
        assert one is not None and other is not None and one.win_rate.mean is not None
        assert other.win_rate.mean == pytest.approx(100 - one.win_rate.mean, abs=1e-9)
        assert (other.phi, other.strength) == (pytest.approx(one.phi, abs=1e-9), one.strength)
    itself = length_controlled([0.5] * 30, [0.0] * 30, seed=0, resamples=100)
    assert itself is not None and itself.win_rate == Interval(50.0, 50.0, 50.0, 30, 0)


def test_without_length_differences_the_rate_is_the_raw_one():
    preferences = np.array([1.0] * 60 + [0.0] * 40)
    found = length_controlled(preferences, np.zeros(100), seed=0, resamples=200)
    assert found is not None and found.win_rate.mean == pytest.approx(60, abs=0.5) and found.phi == 0
    assert any("no length to control" in note for note in found.notes)


def test_a_signal_that_cross_validation_presses_to_nothing_still_has_an_interval():
    rng = np.random.default_rng(1)
    preferences, differences = (rng.random(40) < 0.5).astype(float), rng.normal(0, 500, 40)
    found = length_controlled(preferences, differences, seed=0, resamples=300)
    assert found is not None and found.strength < 0.1 and found.win_rate.mean == 50
    assert found.win_rate.low is not None and found.win_rate.high is not None
    assert found.win_rate.low < 45 and found.win_rate.high > 55


@pytest.mark.parametrize(("preferences", "differences", "note"), [
    ([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [10, 200, 30, 400, 50, 60, 700], "hardly be told apart"),
    ([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [-10, 0, -30, -400, -50, -60, -700], "never longer"),
    ([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [100] * 7, "cannot be told"),
    ([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0], [100, -100, 100, -100, 100, -100, 100], "length explains every"),
    ([1.0, 0.0, 1.0], [100, -100, 50], "too few"),
])
def test_what_cannot_be_known_is_said(preferences, differences, note):
    found = length_controlled(preferences, differences, seed=0, resamples=100)
    assert found is not None and any(note in one for one in found.notes)
    assert math.isfinite(found.theta) and math.isfinite(found.phi)


def test_a_rate_needs_two_prompts():
    assert length_controlled([1.0], [3.0], seed=0, resamples=100) is None
    assert length_controlled([], [], seed=0, resamples=100) is None


def test_the_matrix_mirrors_each_comparison_and_leaves_holes():
    raw, lc = Interval(60.0, 55.0, 70.0, 20, 1), Interval(52.0, 45.0, 61.0, 20, 0)
    few = Interval(80.0, None, None, 3, 0)
    matrix = win_matrix([("base", "dpo", raw, lc), ("base", "longdpo", few, None)])
    assert matrix == {
        "base": {"dpo": WinRate(Interval(40.0, 30.0, 45.0, 20, 1), Interval(48.0, 39.0, 55.0, 20, 0)),
                 "longdpo": WinRate(Interval(20.0, None, None, 3, 0), None)},
        "dpo": {"base": WinRate(raw, lc)},
        "longdpo": {"base": WinRate(few, None)},
    }
    assert list(matrix) == ["base", "dpo", "longdpo"]
    for twice in (("dpo", "base"), ("base", "dpo")):
        with pytest.raises(UnsoundError, match="twice"):
            win_matrix([("base", "dpo", raw, lc), (*twice, few, None)])
    with pytest.raises(UnsoundError, match="itself"):
        win_matrix([("dpo", "dpo", few, None)])
