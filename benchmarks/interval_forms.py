"""Simulates forms of the interval for a difference whose error has a part from seeds and a part from examples.

    python benchmarks/interval_forms.py

All effects are normal, and the examples are numerous, so their variances are known: only the variance of a few
seeds is estimated. The rows say how often each form excludes the true difference, at two levels: 5 %, and the 5 % / 6
that the smallest of six p values has to reach (Holm). Rates above the level are too high. The forms:

- added: the half widths for seeds and for examples, squared and added (`ckd_trainer.reports.statistics`)
- cochran_cox: the mean of both quantiles, weighted by the variances, times the standard error
- satterthwaite: Student's t with Satterthwaite's degrees of freedom for the sum of the variances, as Hillis 2007

Variances are in units of the square of the difference's error: `seeds` of the seeds' effect, `examples` of the
examples' effect and `interaction` of both, each divided by its number.
"""

import argparse
import datetime
import itertools
from pathlib import Path

import measure
import numpy as np
import scipy
from scipy.special import ndtri, stdtrit

LEVELS = (0.05, 0.05 / 6)
SEEDS = (2, 3, 5, 10)
VARIANCES = (  # of seeds, examples, interaction
    (0, 1, 0.5),
    (0, 0.3, 1),
    (0.2, 1, 0.1),
    (1, 1, 0.1),
    (5, 1, 0.1),
    (20, 1, 0.1),
    (100, 1, 0.1),
    (1, 0.2, 0.2),
    (0.2, 0.2, 1),
)


def half_widths(level, by_seeds, by_examples, freedom):
    """Returns {form: half width}; `by_seeds` is the estimated variance of the mean over seeds, `freedom` its own."""
    t, z = -stdtrit(freedom, level / 2), -ndtri(level / 2)
    both = by_seeds + by_examples
    return {
        "added": np.sqrt(t**2 * by_seeds + z**2 * by_examples),
        "cochran_cox": (t * by_seeds + z * by_examples) / np.sqrt(both),
        "satterthwaite": -stdtrit(freedom * (both / by_seeds) ** 2, level / 2) * np.sqrt(both),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=200_000)
    parser.add_argument("--random_seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "interval_forms.csv")
    arguments = parser.parse_args(argv)
    rng = np.random.default_rng(arguments.random_seed)
    rows = []
    for n, (seeds, examples, interaction) in itertools.product(SEEDS, VARIANCES):
        # The spread over seeds on fixed examples contains the interaction.
        by_seeds = (seeds + interaction) * rng.chisquare(n - 1, arguments.replications) / (n - 1)
        error = np.sqrt(seeds + examples + interaction) * np.abs(rng.standard_normal(arguments.replications))
        for level in LEVELS:
            rates = {
                form: np.mean(error > half) for form, half in half_widths(level, by_seeds, examples, n - 1).items()
            }
            rows.append(
                {
                    "n_seeds": n,
                    "seeds": seeds,
                    "examples": examples,
                    "interaction": interaction,
                    "level": f"{level:.5f}",
                    **{form: f"{rate:.5f}" for form, rate in rates.items()},
                    "replications": arguments.replications,
                    "numpy": np.__version__,
                    "scipy": scipy.__version__,
                    "date": datetime.date.today().isoformat(),
                }
            )
    measure.write_rows(arguments.output, rows)
    for n, level in itertools.product(SEEDS, LEVELS):
        chosen = [row for row in rows if row["n_seeds"] == n and row["level"] == f"{level:.5f}"]
        for form in ("added", "cochran_cox", "satterthwaite"):
            rates = [float(row[form]) / level for row in chosen]
            print(f"{n} seeds, level {level:.4f}, {form}: {min(rates):.2f} to {max(rates):.2f} times the level")


if __name__ == "__main__":
    main()
