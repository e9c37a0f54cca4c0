"""Differences between methods: against scipy and loops, by simulation with known effects, and on degenerate input."""

import math
from itertools import product

import numpy as np
import pytest
from helpers.simulated_scores import Setting, pearson_values, simulate, true_score
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ckd_trainer.reports.statistics import Difference, MethodScores, compare_with_baseline, contributions, holm
from ckd_trainer.utils.errors import InputError

from_scores, from_outcomes, from_predictions = (
    MethodScores.from_scores,
    MethodScores.from_outcomes,
    MethodScores.from_predictions,
)


def answers(name, seeds=(1, 2, 3), examples=60, rate=0.8, stream=0, order=1):
    """Returns right and wrong answers at random. Later examples are harder; with order -1, earlier ones."""
    rng = np.random.default_rng(stream)
    easy = np.linspace(1, 0, examples)[::order]
    return from_outcomes(name, {seed: rng.random(examples) < rate * easy**0.3 for seed in seeds})


def same(found, expected_interval, expected_p):
    low, high = expected_interval
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(expected_p)


def test_mean_and_standard_deviation_over_seeds():
    method = from_scores("ckd", {3: 0.9, 1: 0.7, 2: 0.8})
    assert method.seeds == (1, 2, 3)
    assert (method.mean, method.std) == pytest.approx((0.8, 0.1))
    assert math.isnan(from_scores("ckd", {1: 0.7}).std)


def test_scores_alone_are_compared_by_the_t_test_of_pairs_or_of_welch():
    ours, theirs = [0.81, 0.84, 0.80, 0.86], [0.79, 0.83, 0.81, 0.80]
    method = from_scores("ckd", dict(enumerate(ours)))
    [paired] = compare_with_baseline([method], from_scores("plain", dict(enumerate(theirs))))
    expected = stats.ttest_rel(ours, theirs)
    same(paired, expected.confidence_interval(), expected.pvalue)
    [welch] = compare_with_baseline([method], from_scores("plain", dict(enumerate(theirs[:3], 10))))
    expected = stats.ttest_ind(ours, theirs[:3], equal_var=False)
    same(welch, expected.confidence_interval(), expected.pvalue)
    assert paired.counted == welch.counted == "seeds"


def test_one_seed_is_compared_over_examples_alone_and_says_so():
    method, baseline = answers("ckd", seeds=[1], stream=1), answers("plain", seeds=[1], rate=0.5, stream=2)
    [found] = compare_with_baseline([method], baseline)
    expected = stats.ttest_rel(method.values[0].astype(float), baseline.values[0].astype(float))
    same(found, expected.confidence_interval(), expected.pvalue)
    assert found.counted == "examples" and found.verdict == "higher for these runs alone"
    [found] = compare_with_baseline([answers("ckd")], baseline)  # one of the two has one seed
    assert found.counted == "examples"


def residual_mean_square(table):
    seeds, examples = len(table), len(table[0])
    rows = [sum(row) / examples for row in table]
    columns = [sum(row[e] for row in table) / seeds for e in range(examples)]
    mean = sum(rows) / seeds
    squares = [(table[s][e] - rows[s] - columns[e] + mean) ** 2 for s, e in product(range(seeds), range(examples))]
    return sum(squares) / ((seeds - 1) * (examples - 1))


@pytest.mark.parametrize("same_seeds", [True, False])
def test_interval_follows_the_formula(same_seeds):
    method = answers("ckd", stream=1, order=-1)
    baseline = answers("plain", seeds=(1, 2, 3) if same_seeds else (4, 5, 6, 7), stream=2)
    ours, theirs = method.values.tolist(), baseline.values.tolist()
    if same_seeds:
        differences = [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(ours, theirs, strict=True)]
        v_seeds = np.var(method.scores - baseline.scores, ddof=1) / 3
        freedom, interaction = 2, residual_mean_square(differences) / 3 / 60
    else:
        welch = [np.var(method.scores, ddof=1) / 3, np.var(baseline.scores, ddof=1) / 4]
        v_seeds = sum(welch)
        freedom = v_seeds**2 / (welch[0] ** 2 / 2 + welch[1] ** 2 / 3)
        interaction = residual_mean_square(ours) / 3 / 60 + residual_mean_square(theirs) / 4 / 60
    by_example = np.var(np.mean(ours, axis=0) - np.mean(theirs, axis=0), ddof=1) / 60
    v_examples = by_example - interaction
    assert v_examples > 0

    def half_width(p):
        return math.sqrt(v_seeds * stats.t.isf(p / 2, freedom) ** 2 + v_examples * stats.t.isf(p / 2, 59) ** 2)

    [found] = compare_with_baseline([method], baseline)
    difference = np.mean(ours) - np.mean(theirs)
    assert found.difference == pytest.approx(difference)
    assert (found.low, found.high) == pytest.approx((difference - half_width(0.05), difference + half_width(0.05)))
    assert half_width(found.p_value) == pytest.approx(abs(difference))
    assert found.counted == "seeds and examples"


def test_example_of_the_docstring():
    plain = from_outcomes("plain", {1: [0, 1, 0, 1, 1, 0], 2: [0, 1, 0, 0, 1, 0]})
    ckd = from_outcomes("ckd", {1: [1, 1, 0, 1, 1, 0], 2: [1, 1, 0, 1, 1, 1]})
    [found] = compare_with_baseline([ckd], plain)
    shown = f"{found.difference:.2f} [{found.low:.2f}, {found.high:.2f}]: {found.verdict}"
    assert shown == "0.33 [-1.81, 2.48]: no difference shown"
    assert shown in compare_with_baseline.__doc__


def test_p_value_agrees_with_the_interval():
    rng, excluded = np.random.default_rng(0), 0
    for _ in range(300):
        method, baseline = simulate(Setting(examples=100), (1.7, 1.2), (0.1, 0.1), rng)
        [found] = compare_with_baseline([method], baseline)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
        excluded += found.p_value < 0.05
    assert 50 < excluded < 250


def test_pairs_are_matched_by_seed_and_not_by_order():
    method = {1: 0.81, 2: 0.85, 3: 0.90}
    baseline = {3: 0.89, 1: 0.80, 2: 0.83}
    [found] = compare_with_baseline([from_scores("ckd", method)], from_scores("plain", baseline))
    assert found.p_value == pytest.approx(stats.ttest_rel([0.81, 0.85, 0.90], [0.80, 0.83, 0.89]).pvalue)


# Simulations: their random seed is fixed. With 2,000 replications, the standard error of a coverage of 95 % is 0.5 %.


def coverage(setting, replications=2000):
    rng, skills, spreads = np.random.default_rng(0), (1.3, 1.2), (setting.spread, setting.spread / 2)
    ours, theirs = (true_score(setting.metric, *method) for method in zip(skills, spreads, strict=True))
    covered = 0
    for _ in range(replications):
        method, baseline = simulate(setting, skills, spreads, rng)
        [found] = compare_with_baseline([method], baseline)
        covered += found.low <= ours - theirs <= found.high
    return covered / replications


@pytest.mark.parametrize(
    "setting",
    [
        Setting(seeds=3, spread=0.05, shared=0.7),
        Setting(seeds=3, spread=0.2, same_seeds=False),
        Setting(seeds=5, spread=0.2, shared=0.7),
        Setting(seeds=10, spread=0.05),
        Setting("pearson", seeds=3, spread=0.2),
    ],
    ids=str,
)
def test_intervals_cover_the_true_difference(setting):
    # With three seeds, the form that never gives too many false alarms covers up to 97.8 %.
    assert 0.93 <= coverage(setting) <= (0.98 if setting.seeds == 3 else 0.97)


def test_intervals_of_matthews_correlation_cover_the_true_difference():
    assert 0.93 <= coverage(Setting("matthews", seeds=3, spread=0.2), replications=800) <= 0.98


def test_false_alarms_stay_below_five_percent_for_all_comparisons_together():
    rng, alarms, replications = np.random.default_rng(0), 0, 500
    for _ in range(replications):
        baseline, *methods = simulate(Setting(examples=200), [1.3] * 7, [0.2] * 7, rng)
        found = compare_with_baseline(methods, baseline)
        alarms += any(difference.verdict != "no difference shown" for difference in found)
    assert alarms / replications <= 0.05


def test_large_effects_are_found():
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        method, baseline = simulate(Setting(seeds=5), (1.9, 1.2), (0.1, 0.1), rng)
        found += compare_with_baseline([method], baseline)
    assert np.mean([difference.verdict == "higher" for difference in found]) > 0.95


# Metrics that are not means over examples


def test_values_for_accuracy_are_the_outcomes():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, 50), {seed: rng.integers(0, 3, 50) for seed in (1, 2)}
    found = from_predictions("ckd", predictions, labels, accuracy_score)
    assert found.values == pytest.approx(np.stack([row == labels for row in predictions.values()]).astype(float))


@pytest.mark.parametrize("metric", [matthews_corrcoef, lambda *rows: f1_score(*rows, average="macro")])
@pytest.mark.parametrize("classes", [[0, 1], ["no", "maybe", "yes"]])
def test_values_for_classes_are_the_jackknife(metric, classes):
    rng = np.random.default_rng(0)
    labels, predictions = rng.choice(classes, 40), rng.choice(classes, 40)
    theta = metric(labels, predictions)
    without = [metric(np.delete(labels, e), np.delete(predictions, e)) for e in range(40)]
    expected = [theta + 39 * (np.mean(without) - one) for one in without]
    found = from_predictions("ckd", {1: predictions}, labels, metric)
    assert found.values[0] == pytest.approx(np.array(expected))
    assert found.scores == pytest.approx([theta])


def correlation(labels, predictions):
    return np.corrcoef(labels, predictions)[0, 1]  # many times as fast as scipy's


def test_values_for_numbers_are_the_jackknife():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=80)
    predictions = labels + rng.normal(size=(2, 80))
    found = from_predictions("ckd", dict(enumerate(predictions)), labels, correlation)
    # Groups of one example, in random order.
    assert np.sort(found.values) == pytest.approx(np.sort(pearson_values(labels, predictions)))


def test_many_numbers_are_left_out_in_groups_which_say_the_same():
    rng = np.random.default_rng(0)
    labels = np.sort(rng.normal(size=900))
    ours, theirs = labels + rng.normal(size=(2, 3, 900))
    grouped, single = [], []
    for name, rows in (("ckd", ours), ("plain", theirs)):
        grouped.append(from_predictions(name, dict(enumerate(rows)), labels, correlation))
        values = pearson_values(labels, rows)
        single.append(MethodScores(name, (0, 1, 2), values.mean(axis=1), values))
    assert grouped[0].values.shape == (3, 500)
    [by_group], [by_example] = (compare_with_baseline([method], baseline) for method, baseline in (grouped, single))
    assert by_group.difference == pytest.approx(by_example.difference)
    assert by_group.high - by_group.low == pytest.approx(by_example.high - by_example.low, rel=0.1)


def test_examples_of_a_group_are_left_out_together():
    rng = np.random.default_rng(4)
    labels, predictions, groups = rng.integers(0, 2, 40), rng.integers(0, 2, 40), rng.integers(10, 16, 40)
    found = contributions(lambda *both: {"f1": f1_score(*both)}, labels, predictions, groups)["f1"]
    whole = f1_score(labels, predictions)
    without = np.array([f1_score(labels[groups != one], predictions[groups != one]) for one in np.unique(groups)])
    # In a fixed order that is not that of the groups.
    assert sorted(found) == pytest.approx(sorted(whole + 5 * (without.mean() - without)))
    # Of accuracy, with groups of the same size, each is the accuracy of its group.
    pairs = np.repeat(np.arange(20), 2)
    found = contributions(lambda *both: {"accuracy": accuracy_score(*both)}, labels, predictions, pairs)["accuracy"]
    assert sorted(found) == pytest.approx(sorted((labels == predictions).reshape(20, 2).mean(1)))


def test_many_groups_are_left_out_in_sets():
    rng = np.random.default_rng(5)
    labels, predictions, groups = rng.integers(0, 2, 4000), rng.integers(0, 2, 4000), np.repeat(np.arange(1000), 4)
    metrics = [lambda *both: {"accuracy": accuracy_score(*both)}, labels, predictions, groups]
    found = contributions(*metrics)["accuracy"]
    each = (labels == predictions).reshape(1000, 4).mean(1)
    assert len(found) == 500 and found.mean() == pytest.approx(each.mean())
    assert found.std() / 500**0.5 == pytest.approx(each.std() / 1000**0.5, rel=0.1)
    assert (found == contributions(*metrics)["accuracy"]).all()


def test_counts_per_example_make_any_metric_of_sums():
    """Such as F1 of entities: true positives, predicted and gold entities of each sentence."""
    counts = np.random.default_rng(0).integers(0, [2, 4, 4], (30, 3))

    def f1(_, counts):
        hits, predicted, gold = counts.sum(axis=0)
        return 2 * hits / (predicted + gold)

    found = from_predictions("ckd", {1: counts}, np.arange(30), f1)
    assert found.scores == pytest.approx([f1(None, counts)])
    assert found.values.shape == (1, 30)


# Holm and the words


def test_holm_by_hand():
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 is not below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


def test_corrected_p_values_come_from_all_comparisons():
    methods = [answers(f"method {i}", rate=rate, stream=i) for i, rate in enumerate((0.9, 0.7, 0.4))]
    found = compare_with_baseline(methods, answers("plain", stream=9))
    assert [one.method for one in found] == ["method 0", "method 1", "method 2"]
    assert {one.baseline for one in found} == {"plain"}
    assert [one.corrected_p_value for one in found] == pytest.approx(holm([one.p_value for one in found]).tolist())


@pytest.mark.parametrize(
    "difference, corrected, counted, verdict",
    [
        (0.1, 0.05, "seeds and examples", "no difference shown"),
        (0.1, 0.04, "seeds and examples", "higher"),
        (-0.1, 0.04, "seeds and examples", "lower"),
        (-0.1, 0.04, "seeds", "lower on these examples"),
        (0.1, 0.04, "examples", "higher for these runs alone"),
    ],
)
def test_verdict_comes_from_the_corrected_p_value(difference, corrected, counted, verdict):
    assert Difference("ckd", "plain", difference, 0.0, 0.0, 0.001, corrected, counted).verdict == verdict


# Degenerate input


def test_a_difference_of_exactly_0():
    """Its p value is 1, even where a quantile of 0.5 is rounding instead of 0."""
    ours = MethodScores.from_scores("ours", {1: 0.2, 2: 0.4, 3: 0.6})
    theirs = MethodScores.from_scores("theirs", {1: 0.6, 2: 0.2, 3: 0.4})
    [found] = compare_with_baseline([ours], theirs)
    assert abs(found.difference) < 1e-15 and found.p_value == pytest.approx(1) and found.low < 0 < found.high


def test_equal_predictions_have_no_difference():
    [found] = compare_with_baseline([answers("copy")], answers("plain"))
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize(
    "method, baseline",
    [
        # In floats, 0.83 - 0.82 and 0.82 - 0.81 differ by 1e-16, which is not a spread.
        (from_scores("ckd", {1: 0.83, 2: 0.82}), from_scores("plain", {1: 0.82, 2: 0.81})),
        (from_scores("ckd", {1: 0.9, 2: 0.9}), from_scores("plain", {3: 0.8, 4: 0.8})),
        (from_outcomes("ckd", {1: [1, 1, 1], 2: [1, 1, 1]}), from_outcomes("plain", {1: [0, 0, 0], 2: [0, 0, 0]})),
    ],
)
def test_no_spread_shows_no_difference(method, baseline):
    [found] = compare_with_baseline([method], baseline)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.difference > 0 and found.verdict == "no difference shown"


def test_tiny_p_values_are_numbers():
    rng = np.random.default_rng(0)
    method = from_outcomes("ckd", {1: 100 + rng.random(5000)})
    [found] = compare_with_baseline([method], from_outcomes("plain", {1: rng.random(5000)}))
    assert 0 < found.p_value <= 1e-30 and found.verdict == "higher for these runs alone"


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="ckd has no runs"):
        from_scores("ckd", {})
    with pytest.raises(InputError, match="ckd has scores that are NaN or infinite, for seeds 2:"):
        from_scores("ckd", {1: 0.5, 2: math.nan})
    with pytest.raises(InputError, match="for seeds 1:"):
        from_outcomes("ckd", {1: [0, math.inf]})
    with pytest.raises(InputError, match="ckd with seed 2 has 3 predictions for 2 examples"):
        from_outcomes("ckd", {1: [0, 1], 2: [0, 1, 1]})
    with pytest.raises(InputError, match="ckd has 1 validation examples: give at least two"):
        from_outcomes("ckd", {1: [0]})
    with pytest.raises(InputError, match="ckd with seed 1 has 2 predictions for 3 examples"):
        from_predictions("ckd", {1: [0, 1]}, [0, 1, 1], matthews_corrcoef)
    with pytest.raises(InputError, match="all 3 labels are 1"):
        from_predictions("ckd", {1: [0, 1, 1]}, np.array([1, 1, 1]), matthews_corrcoef)
    with pytest.raises(InputError, match="use a metric that is defined for every set"):
        from_predictions("ckd", {1: [0, 1, 1]}, [0, 1, 1], lambda labels, predictions: math.nan)
    with pytest.raises(InputError, match="ckd has values for 60 examples and plain for 50"):
        compare_with_baseline([answers("ckd")], answers("plain", examples=50))
    with pytest.raises(InputError, match="plain has one seed and no predictions"):
        compare_with_baseline([from_scores("ckd", {1: 0.8, 2: 0.9})], from_scores("plain", {1: 0.7}))
