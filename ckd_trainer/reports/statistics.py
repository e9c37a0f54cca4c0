"""Which differences between methods are real, given several seeds and one set of validation examples.

A score varies with the seed (initialization, data order, dropout) and with the validation examples. Both are samples:
the question is whether one method would beat another with other seeds, on other examples of the same kind. Intervals
that count only one of them are too narrow (Bouthillier et al. 2021, "Accounting for variance in machine learning
benchmarks").

**Model.** Let d[s, e] be the outcome of a method minus that of the baseline, for seed s of n and example e of m. It is
a mean difference plus an effect of the seed, one of the example, and their interaction. A score on fixed examples
already contains the interaction, and so does an example's mean over a few seeds. Adding their variances would count
it twice. The variance of the mean difference is therefore V = v_seeds + v_examples, with

    v_seeds    = var over s of (mean over e of d) / n
    v_examples = var over e of (mean over s of d) / m - R / (n m), at least 0

where R is the residual mean square of the two-way table: (d[s, e] - row mean - column mean + mean)^2, summed and
divided by (n - 1) (m - 1). Radiology compares scans in this way, with readers instead of seeds and cases instead of
examples (Obuchowski and Rockette 1995). Standard errors with two-way clusters subtract the intersection of the
clusters too (Cameron, Gelbach and Miller 2011).

**Interval.** difference +- sqrt(t_seeds^2 v_seeds + t_examples^2 v_examples), with quantiles of Student's t for n - 1
and m - 1 degrees of freedom. These are the widths of two intervals, one for seeds and one for examples, squared and
added (as in Zou and Donner 2008). The p value is the level at which the interval ends at 0. It is below 0.05 exactly
when the 95 % interval excludes 0.

The form was chosen by simulation (see benchmarks/README.md). It is not too narrow at any level that was tried: Holm's
correction needs more than 95 %. With three seeds, 95 % intervals cover the truth in 95 to 98 % of cases, from five
seeds on in 95 to 97 %. One t with Satterthwaite's degrees of freedom for v_seeds + v_examples, the usual choice,
covers as few as 92 % with three seeds: when they happen to agree, it trusts them. The bootstrap of seeds and examples
covers as few as 85 % where seeds matter most, as three seeds drawn from three vary too little. It covers 99 % where
they do not matter, as it counts the interaction twice.

**Pairs of seeds.** Two methods that ran with the same seeds share data order and initial weights, and their scores may
rise and fall together. d is then taken seed by seed, which is right for any correlation between them. It costs degrees
of freedom if there is none: t is 4.3 with three seeds, 2.8 with five. With different seeds, v_seeds is the sum for the
two methods, each with its own spread, with the degrees of freedom of Welch and Satterthwaite, and R / (n m) is
subtracted for each method. The examples are always the same, and always paired.

**Other metrics.** F1, Matthews' and other correlations are not means over examples. A jackknife turns them into values
per example whose mean is the score, and these are treated as outcomes (Dorfman, Berbaum and Metz 1992).

Examples count as independent. The candidates of a query are not, so queries take the place of examples in rankings. If
examples come in other groups, such as questions about one article, intervals are too narrow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import stdtrit

from ckd_trainer.utils.errors import InputError, first_of, short

Metric = Callable[[np.ndarray, np.ndarray], float]  # (labels, predictions) -> score, as in sklearn.metrics
Metrics = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]  # the same for several scores by name
Component = tuple[float, float]  # a variance and its degrees of freedom

SIGNIFICANCE = 0.05
_MOST_GROUPS = 500  # of the jackknife: the standard error is then known to 1 / sqrt(2 * 500), about 3 %
_SMALLEST_P = 1e-30  # given for all smaller ones, whose quantiles leave the range of floats
_ROUNDING = 1e-9  # relative: less is rounding. A metric moves in steps of about 1 / examples.


@dataclass(frozen=True, eq=False)
class MethodScores:
    """The scores of the runs of one method, one run per seed. Made by one of the three `from_...`.

    Attributes:
        name: of the method, for messages and results.
        seeds: of the runs, in ascending order.
        scores: the metric of each run, of shape (seeds,).
        values: what each example contributes, of shape (seeds, examples), with the scores as means over examples.
            None if only the scores are known.
    """

    name: str
    seeds: tuple[int, ...]
    scores: np.ndarray
    values: np.ndarray | None = None

    @classmethod
    def from_scores(cls, name: str, scores: Mapping[int, float]) -> "MethodScores":
        """Takes {seed: score}, where no predictions are known. Differences then hold for these examples only."""
        seeds = _seeds(name, scores)
        return cls(name, seeds, _numbers(name, seeds, [scores[seed] for seed in seeds]))

    @classmethod
    def from_outcomes(cls, name: str, outcomes: Mapping[int, ArrayLike]) -> "MethodScores":
        """Takes {seed: outcomes} for a metric that is a mean over examples, such as accuracy or squared error.

        Args:
            outcomes: one number per validation example, such as 1 for a right answer and 0 for a wrong one, of shape
                (examples,). All methods need the same examples in the same order.

        Raises:
            InputError: no seeds, fewer than two examples, different numbers of examples, NaN or infinite numbers.
        """
        seeds = _seeds(name, outcomes)
        values = _numbers(name, seeds, _same_length(name, {seed: np.asarray(outcomes[seed]) for seed in seeds}))
        return cls(name, seeds, values.mean(axis=1), values)

    @classmethod
    def from_predictions(
        cls, name: str, predictions: Mapping[int, ArrayLike], labels: ArrayLike, metric: Metric
    ) -> "MethodScores":
        """Takes {seed: predictions} for any other metric, such as F1, Matthews' or Pearson's correlation.

        The values are theta + (m - 1) (mean of theta_(-e) - theta_(-e)), with theta the metric and theta_(-e) the
        metric without example e. For accuracy these are exactly the outcomes.

        Args:
            predictions: one per validation example, of shape (examples, ...): classes (integers) or numbers.
            labels: of shape (examples, ...).
            metric: called with labels and predictions, in this order, as in `sklearn.metrics`. It must not depend on
                the order of examples. For up to 22 classes, it is called once per pair of label and prediction that
                occurs. Else it is called at most 500 times: m is then a number of random groups of examples.

        Raises:
            InputError: as `from_outcomes`; or all labels are equal; or the metric is NaN.

        Example::

            MethodScores.from_predictions("ckd", {1: predictions}, labels, sklearn.metrics.matthews_corrcoef)
        """
        labels = np.asarray(labels)
        seeds = _seeds(name, predictions)
        rows = _same_length(name, {seed: np.asarray(predictions[seed]) for seed in seeds}, len(labels))
        if labels.ndim == 1 and (labels == labels[0]).all():
            raise InputError(
                f"all {len(labels)} labels are {short(labels.tolist()[0])}: to compare {name} by a metric that is not "
                "a mean over examples, give examples with at least two different labels."
            )
        values = _numbers(
            name, seeds, [contributions(lambda *arrays: {name: metric(*arrays)}, labels, row)[name] for row in rows]
        )
        return cls(name, seeds, values.mean(axis=1), values)

    @property
    def mean(self) -> float:
        """Mean of the scores over seeds."""
        return float(self.scores.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the scores over seeds (divided by seeds - 1); NaN for one seed."""
        return float(self.scores.std(ddof=1)) if len(self.seeds) > 1 else float("nan")


@dataclass(frozen=True)
class Difference:
    """The mean score of a method minus that of the baseline, and whether it is more than chance.

    Attributes:
        method, baseline: their names.
        difference: of the means over seeds.
        low, high: the 95 % confidence interval of this difference alone. It is infinite if the runs show no spread
            from which to estimate it.
        p_value: below 0.05 exactly when the interval excludes 0.
        corrected_p_value: corrected for the number of comparisons; it decides.
        counted: what the interval counts as drawn at random. "seeds" if the predictions are not known, "examples" if
            a method has only one seed.
    """

    method: str
    baseline: str
    difference: float
    low: float
    high: float
    p_value: float
    corrected_p_value: float
    counted: Literal["seeds and examples", "seeds", "examples"]

    @property
    def verdict(self) -> str:
        """Says "no difference shown", or "higher" or "lower", with the limits of what was counted.

        "No difference shown" does not mean that the methods are equally good: see how wide the interval is.
        """
        if self.corrected_p_value >= SIGNIFICANCE:
            return "no difference shown"
        limits = {"seeds and examples": "", "seeds": " on these examples", "examples": " for these runs alone"}
        return ("higher" if self.difference > 0 else "lower") + limits[self.counted]


def compare_with_baseline(methods: Sequence[MethodScores], baseline: MethodScores) -> list[Difference]:
    """Compares each method with the baseline, and corrects the p values for the number of comparisons (Holm).

    Args:
        methods: in any order, without the baseline. Runs are taken as pairs if a method has exactly the seeds of the
            baseline.
        baseline: evaluated on the same examples in the same order.

    Returns:
        one `Difference` per method, in the given order.

    Raises:
        InputError: a method has other numbers of examples than the baseline, or one seed and no predictions.

    Example::

        plain = MethodScores.from_outcomes("plain", {1: [0, 1, 0, 1, 1, 0], 2: [0, 1, 0, 0, 1, 0]})
        ckd = MethodScores.from_outcomes("ckd", {1: [1, 1, 0, 1, 1, 0], 2: [1, 1, 0, 1, 1, 1]})
        [found] = compare_with_baseline([ckd], plain)
        f"{found.difference:.2f} [{found.low:.2f}, {found.high:.2f}]: {found.verdict}"
        # "0.33 [-1.81, 2.48]: no difference shown"
    """
    found = [_difference(method, baseline) for method in methods]
    corrected = holm([difference.p_value for difference in found])
    return [replace(one, corrected_p_value=float(p)) for one, p in zip(found, corrected, strict=True)]


def holm(p_values: ArrayLike) -> np.ndarray:
    """Corrects p values so that false alarms stay below 5 % for all comparisons together (Holm 1979).

    The smallest of k p values is multiplied by k, the next by k - 1, and so on. None is larger than 1, nor smaller
    than one before it. Comparisons may depend on each other in any way, as those with one baseline do.
    """
    p = np.asarray(p_values, dtype=float)
    order = p.argsort()
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def _difference(method: MethodScores, baseline: MethodScores) -> Difference:
    """Returns the difference of two methods, with its p value not corrected."""
    several_seeds = min(len(method.seeds), len(baseline.seeds)) > 1
    seeds_paired = method.seeds == baseline.seeds
    components: list[Component] = []
    if several_seeds:
        components.append(_seed_variance(_terms(method.scores, baseline.scores, seeds_paired)))
    if method.values is not None and baseline.values is not None:
        if method.values.shape[1] != baseline.values.shape[1]:
            raise InputError(
                f"{method.name} has values for {method.values.shape[1]} examples and {baseline.name} for "
                f"{baseline.values.shape[1]}: evaluate both on the same examples."
            )
        components.append(_example_variance(_terms(method.values, baseline.values, seeds_paired)))
    elif not several_seeds:
        one = method if len(method.seeds) == 1 else baseline
        raise InputError(
            f"{one.name} has one seed and no predictions, so its spread cannot be estimated: run it with more "
            "seeds (three or more), or keep the predictions of every method."
        )
    scale = max(np.abs(method.scores).max(), np.abs(baseline.scores).max())
    difference = method.mean - baseline.mean
    half_width, p_value = _interval(difference, components, rounding=_ROUNDING * scale)
    return Difference(
        method=method.name,
        baseline=baseline.name,
        difference=difference,
        low=difference - half_width,
        high=difference + half_width,
        p_value=p_value,
        corrected_p_value=p_value,
        counted="seeds and examples" if len(components) == 2 else "seeds" if several_seeds else "examples",
    )


def _terms(method: np.ndarray, baseline: np.ndarray, seeds_paired: bool) -> list[np.ndarray]:
    """Returns arrays with independent seeds, (seeds, ...), whose means over seeds add up to the difference."""
    return [method - baseline] if seeds_paired else [method, -baseline]


def _seed_variance(scores: list[np.ndarray]) -> Component:
    """Returns v_seeds and its degrees of freedom (Welch and Satterthwaite for two terms, n - 1 for one)."""
    variances = np.array([term.var(ddof=1) / len(term) for term in scores])
    freedoms = np.array([len(term) - 1 for term in scores])
    if not variances.any():
        return 0.0, float(freedoms.min())
    return float(variances.sum()), float(variances.sum() ** 2 / (variances**2 / freedoms).sum())


def _example_variance(values: list[np.ndarray]) -> Component:
    """Returns v_examples and its degrees of freedom. With one seed, v_examples contains the interaction."""
    examples = values[0].shape[1]
    variance = sum(term.mean(axis=0) for term in values).var(ddof=1) / examples
    if all(len(term) > 1 for term in values):
        variance -= sum(_residual_mean_square(term) / term.size for term in values)
    return max(0.0, float(variance)), examples - 1.0


def _residual_mean_square(table: np.ndarray) -> float:
    """Returns R of a table of shape (seeds, examples): its interaction, once effects of rows and columns are gone."""
    rest = table - table.mean(axis=1, keepdims=True)
    rest -= rest.mean(axis=0)
    return float(np.square(rest).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1)))


def _interval(difference: float, components: list[Component], rounding: float) -> tuple[float, float]:
    """Returns half the width of the 95 % confidence interval, and the p value that agrees with it."""
    variances, freedoms = np.array(components).T
    if np.sqrt(variances.sum()) <= rounding:  # equal runs, or a difference that is the same everywhere
        return (0.0, 1.0) if abs(difference) <= rounding else (float("inf"), 1.0)

    def half_width(p: float) -> float:
        # scipy.stats.t.isf calls the same function, and takes a hundred times as long.
        return float(np.sqrt(variances @ stdtrit(freedoms, p / 2) ** 2))

    if abs(difference) >= half_width(_SMALLEST_P):
        p_value = _SMALLEST_P
    elif abs(difference) <= half_width(1.0):  # which is rounding in older versions of scipy, not 0
        p_value = 1.0
    else:
        log_p = brentq(lambda log_p: half_width(np.exp(log_p)) - abs(difference), np.log(_SMALLEST_P), 0.0)
        p_value = float(np.exp(log_p))
    return half_width(SIGNIFICANCE), p_value


def contributions(
    metrics: Metrics, labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Returns what each example contributes to the scores of one run: values whose mean is the score.

    They are the values that `MethodScores.from_predictions` explains. More than 500 examples with numbers as
    predictions, or with more than 22 classes, are taken in 500 random groups. If the examples come in groups
    themselves, the values are those of groups, or of 500 random sets of them.

    Args:
        metrics: called with labels and predictions, returns scores by name.
        labels, predictions: of shape (examples, ...), at least two examples.
        groups: the number of each example's group, (examples,), with at least two groups; None for independent
            examples.

    Returns:
        values by the name of the score, of shape (examples or groups,).
    """
    is_of_classes = predictions.ndim == labels.ndim == 1 and not np.issubdtype(predictions.dtype, np.floating)
    kinds, label_kinds = np.unique(labels, return_inverse=True) if is_of_classes else (labels, labels)
    if groups is None and is_of_classes and len(kinds) ** 2 <= _MOST_GROUPS:
        # Without either of two examples with the same label and prediction, the scores are the same.
        _, prediction_kinds = np.unique(predictions, return_inverse=True)
        _, left_out, place = np.unique(
            prediction_kinds * len(kinds) + label_kinds, return_index=True, return_inverse=True
        )
    else:
        # Random, as examples may be sorted; and the same for every run, as runs are compared by group.
        units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
        order = np.random.default_rng(0).permutation(units.max() + 1)
        parts = np.array_split(order, min(len(order), _MOST_GROUPS))
        part_of = np.empty(len(order), int)
        part_of[order] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        in_part = part_of[units]
        left_out = np.split(np.argsort(in_part, kind="stable"), np.bincount(in_part).cumsum()[:-1])
        place = slice(None)
    without = [metrics(np.delete(labels, rows, axis=0), np.delete(predictions, rows, axis=0)) for rows in left_out]

    def values(score: float, scores: np.ndarray) -> np.ndarray:
        return score + (len(scores) - 1) * (scores.mean() - scores)

    whole = metrics(labels, predictions)
    return {name: values(whole[name], np.array([scores[name] for scores in without])[place]) for name in whole}


def _seeds(name: str, runs: Mapping[int, object]) -> tuple[int, ...]:
    if not runs:
        raise InputError(f"{name} has no runs to compare: give at least one seed.")
    return tuple(sorted(runs))


def _same_length(name: str, rows: dict[int, np.ndarray], length: int | None = None) -> list[np.ndarray]:
    lengths = {seed: len(row) for seed, row in rows.items()}
    expected = next(iter(lengths.values())) if length is None else length
    for seed, found in lengths.items():
        if found != expected:
            raise InputError(
                f"{name} with seed {seed} has {found} predictions for {expected} examples: evaluate every run on the "
                "same examples."
            )
    if expected < 2:
        raise InputError(f"{name} has {expected} validation examples: give at least two to compare methods.")
    return list(rows.values())


def _numbers(name: str, seeds: tuple[int, ...], rows: Sequence[ArrayLike]) -> np.ndarray:
    values = np.array(rows, dtype=float)
    wrong = [seed for seed, row in zip(seeds, values, strict=True) if not np.isfinite(row).all()]
    if wrong:
        raise InputError(
            f"{name} has scores that are NaN or infinite, for seeds {first_of(wrong)}: leave out runs that diverged, "
            "and use a metric that is defined for every set of predictions."
        )
    return values
