"""Simulated runs of methods whose true scores are known, for the tests and the benchmark of the statistics.

An answer depends on a latent number: the method's skill, plus normal effects of the seed, of the example, of the
method on the example, and of all three together.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from ckd_trainer.reports.statistics import MethodScores

EXAMPLE, METHOD_EXAMPLE, RUN_EXAMPLE = 1.2, 0.4, 0.6  # standard deviations of the latent number
NOISE = float(np.hypot(np.hypot(EXAMPLE, METHOD_EXAMPLE), RUN_EXAMPLE))
POSITIVES, THRESHOLD = 0.3, 0.4  # of Matthews' labels


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Attributes:
        metric: accuracy, matthews or pearson.
        seeds, examples: their numbers.
        spread: standard deviation of the seeds' effect on the latent number, half of that for the baseline.
            An accuracy of 0.8 varies by about 0.2 times as much.
        shared: correlation of the effects of a seed on two methods.
        same_seeds: whether the methods ran with the same seeds. If not, `shared` must be 0.
    """

    metric: str = "accuracy"
    seeds: int = 3
    examples: int = 400
    spread: float = 0.2
    shared: float = 0.0
    same_seeds: bool = True


def simulate(setting, skills, spreads, rng):
    """Returns one `MethodScores` per skill, on the same new examples."""
    size = (setting.seeds, setting.examples)
    labels = _labels(setting, rng)
    example = EXAMPLE * _normal(rng, setting.examples)
    common = _normal(rng, setting.seeds)
    methods = []
    for number, (skill, spread) in enumerate(zip(skills, spreads, strict=True)):
        own = np.sqrt(setting.shared) * common + np.sqrt(1 - setting.shared) * _normal(rng, setting.seeds)
        noise = RUN_EXAMPLE * _normal(rng, size) + (example + METHOD_EXAMPLE * _normal(rng, setting.examples))
        runs = (skill + spread * own)[:, None] * labels + noise
        first = 0 if setting.same_seeds else number * setting.seeds
        methods.append(_scores(setting, str(number), first, runs, labels))
    return methods


def true_score(metric, skill, spread):
    """Returns the mean score over all seeds and examples: Gauss and Hermite's quadrature over the seed's effect."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    strength = skill + spread * nodes
    if metric == "accuracy":
        scores = ndtr(strength / NOISE)
    elif metric == "pearson":
        scores = strength / np.hypot(strength, NOISE)
    else:
        hits = POSITIVES * ndtr((strength - THRESHOLD) / NOISE)
        false_alarms = (1 - POSITIVES) * ndtr((-strength - THRESHOLD) / NOISE)
        predicted = hits + false_alarms
        covariance = hits - POSITIVES * predicted
        scores = covariance / np.sqrt(POSITIVES * (1 - POSITIVES) * predicted * (1 - predicted))
    return float(weights @ scores / weights.sum())


def matthews(labels, predictions):
    """Matthews' correlation of labels and predictions of 0 and 1, a hundred times as fast as sklearn's."""
    n, positives, predicted = len(labels), np.count_nonzero(labels), np.count_nonzero(predictions)
    scale = positives * (n - positives) * predicted * (n - predicted)
    return (n * np.count_nonzero(labels & predictions) - positives * predicted) / scale**0.5 if scale else 0.0


def pearson_values(labels, predictions):
    """The values of examples for Pearson's correlation, of shape (seeds, examples), with each left out in closed form.

    Args:
        labels: of shape (examples,).
        predictions: of shape (seeds, examples).
    """
    x, y = labels.astype(float), predictions.astype(float)

    def correlation(n, x, y, xx, yy, xy):  # from sums
        return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))

    terms = [x, y, x * x, y * y, x * y]
    sums = [term.sum(axis=-1, keepdims=True) for term in terms]
    without = correlation(len(x) - 1, *(total - term for total, term in zip(sums, terms, strict=True)))
    return correlation(len(x), *sums) + (len(x) - 1) * (without.mean(axis=1, keepdims=True) - without)


def _labels(setting, rng):
    if setting.metric == "accuracy":
        return np.ones(setting.examples, dtype=np.float32)
    if setting.metric == "pearson":
        return _normal(rng, setting.examples)
    return np.where(rng.random(setting.examples) < POSITIVES, np.float32(1), np.float32(-1))


def _scores(setting, name, first_seed, runs, labels):
    if setting.metric == "accuracy":
        return MethodScores.from_outcomes(name, dict(enumerate(runs > 0, first_seed)))
    if setting.metric == "pearson":
        values = pearson_values(labels, runs)
        return MethodScores(name, tuple(range(first_seed, first_seed + len(runs))), values.mean(axis=1), values)
    return MethodScores.from_predictions(name, dict(enumerate(runs > THRESHOLD, first_seed)), labels > 0, matthews)


def _normal(rng, size):
    return rng.standard_normal(size, dtype=np.float32)
