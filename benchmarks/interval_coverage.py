"""Simulates how often the intervals of `ckd_trainer.reports.statistics` cover a known difference, and false alarms.

    python benchmarks/interval_coverage.py   # all settings, an hour
    python benchmarks/interval_coverage.py --metrics matthews --examples 400 --replications 200   # quick

Draws runs of two methods with known scores (tests/helpers/simulated_scores.py), again and again, with new seeds and
new examples. For every setting, appends a row to --output with the share of 95 % intervals that contain the true
difference. For comparison, rows hold the coverage of four other intervals, where the methods share their seeds:

- satterthwaite: the same variances, with Satterthwaite's degrees of freedom for their sum
- bootstrap: percentiles over 1000 draws of seeds and examples (for up to 400 examples)
- seeds_only: a paired t-test of the scores
- examples_only: a paired t-test of the examples' means over seeds

For false alarms (up to 400 examples), six methods are as good as the baseline. The row has the share of comparisons
with at least one verdict other than "no difference shown", and the coverage of the six intervals.
"""

import argparse
import datetime
import itertools
from pathlib import Path

import measure
import numpy as np
import scipy
from helpers.simulated_scores import Setting, simulate, true_score
from scipy.special import stdtrit

from ckd_trainer.reports.statistics import compare_with_baseline

SKILLS = (1.3, 1.2)  # an accuracy of about 0.82 and 0.80
SPREADS = (0.0, 0.05, 0.2)
PAIRINGS = ((True, 0.0), (True, 0.7), (False, 0.0))  # same seeds?, correlation of the effects of a seed
DRAWS, MOST_EXAMPLES = 1000, 400  # of the bootstrap; false alarms are also simulated with few examples only
OTHERS = ("satterthwaite", "bootstrap", "seeds_only", "examples_only")


def settings(metric, examples, seeds):
    """Yields the settings of a metric. With no spread, the seeds' effects do not correlate."""
    for spread, (same_seeds, shared) in itertools.product(SPREADS, PAIRINGS):
        if spread or not shared:
            yield Setting(metric, seeds, examples, spread, shared, same_seeds)


def coverage(setting, replications, rng):
    """Returns the row of a setting."""
    spreads = (setting.spread, setting.spread / 2)
    ours, theirs = (true_score(setting.metric, *method) for method in zip(SKILLS, spreads, strict=True))
    others = Others(setting, rng)
    covered, widths, stds, found = 0, [], [], []
    for _ in range(replications):
        method, baseline = simulate(setting, SKILLS, spreads, rng)
        [difference] = compare_with_baseline([method], baseline)
        covered += difference.low <= ours - theirs <= difference.high
        widths.append((difference.high - difference.low) / 2)
        found.append(difference.difference)
        stds.append(method.std)
        if setting.same_seeds:
            others.count(method.values - baseline.values, ours - theirs)
    share = covered / replications
    return {
        **row_start(setting, replications),
        "coverage": f"{share:.4f}",
        "standard_error": f"{(share * (1 - share) / replications) ** 0.5:.4f}",
        **{name: others.share(name, replications) for name in OTHERS},
        "true_difference": f"{ours - theirs:.5f}",
        "mean_difference": f"{np.mean(found):.5f}",
        "std_over_seeds": f"{np.sqrt(np.mean(np.square(stds))):.5f}",
        "median_half_width": f"{np.median(widths):.5f}",
        **conditions(),
    }


class Others:
    """Counts how often other intervals cover the truth, for methods with the same seeds."""

    def __init__(self, setting, rng):
        self.covered = dict.fromkeys(OTHERS, 0)
        self.same_seeds, self.bootstraps = setting.same_seeds, setting.examples <= MOST_EXAMPLES
        if self.bootstraps:  # the same draws for each replication, as they are independent of its data
            self.draws = [
                rng.multinomial(size, [1 / size] * size, DRAWS) / size for size in (setting.seeds, setting.examples)
            ]

    def count(self, table, truth):
        """Counts one replication: `table` has the differences of values, of shape (seeds, examples)."""
        seeds, examples = table.shape
        rows, columns = table.mean(axis=1), table.mean(axis=0)
        mean = rows.mean()
        rest = np.square(table - rows[:, None] - columns + mean).sum() / ((seeds - 1) * (examples - 1))
        by_seed, by_example = rows.var(ddof=1) / seeds, columns.var(ddof=1) / examples
        error = abs(mean - truth)
        both = by_seed + max(0.0, by_example - rest / table.size)
        freedom = (seeds - 1) * (both / by_seed) ** 2 if by_seed else examples - 1
        self.covered["satterthwaite"] += error <= stdtrit(freedom, 0.975) * np.sqrt(both)
        self.covered["seeds_only"] += error <= stdtrit(seeds - 1, 0.975) * np.sqrt(by_seed)
        self.covered["examples_only"] += error <= stdtrit(examples - 1, 0.975) * np.sqrt(by_example)
        if self.bootstraps:
            drawn = ((table @ self.draws[1].T) * self.draws[0].T).sum(axis=0)
            low, high = np.quantile(drawn, [0.025, 0.975])
            self.covered["bootstrap"] += low <= truth <= high

    def share(self, name, replications):
        if not self.same_seeds or (name == "bootstrap" and not self.bootstraps):
            return ""
        return f"{self.covered[name] / replications:.4f}"


def false_alarms(setting, replications, rng, methods=6):
    """Returns the row of a setting in which all methods and the baseline have the same true score."""
    alarms = covered = 0
    for _ in range(replications):
        baseline, *others = simulate(setting, [SKILLS[0]] * (methods + 1), [setting.spread] * (methods + 1), rng)
        found = compare_with_baseline(others, baseline)
        alarms += any(difference.verdict != "no difference shown" for difference in found)
        covered += sum(difference.low <= 0 <= difference.high for difference in found)
    share = alarms / replications
    return {
        **row_start(setting, replications),
        "methods": methods,
        "false_alarms": f"{share:.4f}",
        "standard_error": f"{(share * (1 - share) / replications) ** 0.5:.4f}",
        "coverage": f"{covered / replications / methods:.4f}",
        **conditions(),
    }


def row_start(setting, replications):
    return {
        "metric": setting.metric,
        "seeds": setting.seeds,
        "examples": setting.examples,
        "spread": setting.spread,
        "same_seeds": setting.same_seeds,
        "shared": setting.shared,
        "replications": replications,
    }


def conditions():
    return {"numpy": np.__version__, "scipy": scipy.__version__, "date": datetime.date.today().isoformat()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", nargs="+", default=["accuracy", "matthews", "pearson"])
    parser.add_argument("--examples", nargs="+", type=int, default=[400, 5000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 5, 10])
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--random_seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "interval_coverage.csv")
    parser.add_argument("--false_alarms_output", type=Path, default=measure.RESULTS / "false_alarms.csv")
    arguments = parser.parse_args(argv)
    rng = np.random.default_rng(arguments.random_seed)
    for metric, examples, seeds in itertools.product(arguments.metrics, arguments.examples, arguments.seeds):
        for setting in settings(metric, examples, seeds):
            row = coverage(setting, arguments.replications, rng)
            measure.append_rows(arguments.output, [row])
            print(setting, row["coverage"], *(f"{name} {row[name]}" for name in OTHERS if row[name]), flush=True)
        for spread in SPREADS if examples <= MOST_EXAMPLES else ():
            setting = Setting(metric, seeds, examples, spread)
            row = false_alarms(setting, arguments.replications, rng)
            measure.append_rows(arguments.false_alarms_output, [row])
            print(setting, "false alarms", row["false_alarms"], flush=True)


if __name__ == "__main__":
    main()
