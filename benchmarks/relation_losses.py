"""Gram form against difference vectors: time and memory of the four relation losses, forward and backward.

    python benchmarks/relation_losses.py                                    # the shapes of the README
    python benchmarks/relation_losses.py --batch 2 --length 32 --repeats 20  # quick
    python benchmarks/relation_losses.py --threads 2 --output rows.csv

"gram" is `ckd_trainer.losses.contextual_relation_losses`, "differences" its twin in tests/reference.py, which builds
the difference vectors of every angle. Both get the same random hidden states and first have to agree on the values.

Time: the sides take turns, so that whatever else the machine does hits both alike. Memory: the most that one step
adds to a fresh process that already holds the hidden states (Linux and macOS). Appends one row per side to --output.
"""

import argparse
import csv
import datetime
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

import reference  # noqa: E402

from ckd_trainer.losses import contextual_relation_losses  # noqa: E402

SIDES = ("gram", "differences")


def hidden_states(shapes):
    """Student (with gradient), teacher and mask; every other example is padded to a quarter less."""
    torch.manual_seed(0)
    size = (shapes.layers, shapes.batch, shapes.length, shapes.width)
    student, teacher = (list(torch.randn(size).unbind()) for _ in range(2))
    mask = torch.ones(shapes.batch, shapes.length, dtype=torch.long)
    mask[1::2, shapes.length - shapes.length // 4 :] = 0
    return [layer.requires_grad_() for layer in student], teacher, mask


def step(side, inputs, window):
    """One forward and backward; returns the four losses."""
    student, teacher, mask = inputs
    pairs = [(layer, layer) for layer in range(len(student))]
    if side == "gram":
        terms = contextual_relation_losses(student, teacher, mask, window_size=window, layer_mapping=pairs)
    else:
        terms = reference.vectorized_relation_losses(student, teacher, mask, window_size=window, pairs=pairs)
    sum(terms.values()).backward()
    for layer in student:
        layer.grad = None
    return {name: value.item() for name, value in terms.items()}


def measure_times(inputs, shapes):
    """Seconds of every step, {side: [...]}; the first round warms up and checks that the sides agree."""
    values = {side: step(side, inputs, shapes.window) for side in SIDES}
    for name, value in values["gram"].items():
        if abs(value - values["differences"][name]) > 1e-4 * abs(value) + 1e-7:
            raise SystemExit(f"error: the sides disagree on {name}: {values}")
    seconds = {side: [] for side in SIDES}
    for _ in range(shapes.repeats):
        for side in SIDES:
            start = time.perf_counter()
            step(side, inputs, shapes.window)
            seconds[side].append(time.perf_counter() - start)
    return seconds


def peak_mb():
    """The most memory this process ever held, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure_memory(side, argv):
    """Runs this script again for one step of one side; returns the MB that the step added to the inputs."""
    command = [sys.executable, __file__, *argv, "--one-step", side]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def append_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("layers", 7), ("length", 128), ("width", 768), ("window", 21)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=10, help="timed steps per side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=PROJECT / "benchmarks" / "results" / "relation_losses.csv")
    parser.add_argument("--one-step", choices=SIDES, help=argparse.SUPPRESS)  # for measure_memory
    return parser.parse_args(argv)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.one_step:
        inputs = hidden_states(arguments)
        tiny = argparse.Namespace(batch=1, layers=3, length=4, width=8)
        step(arguments.one_step, hidden_states(tiny), window=3)  # loads the code, which is not the step's memory
        before = peak_mb()
        step(arguments.one_step, inputs, arguments.window)
        print(peak_mb() - before)
        return

    # Memory first: a process starts with the peak of the one that starts it, so this one must still be small.
    memory = {side: measure_memory(side, argv) for side in SIDES}
    seconds = measure_times(hidden_states(arguments), arguments)
    rows = []
    for side in SIDES:
        deciles = statistics.quantiles(seconds[side], n=10, method="inclusive")
        rows.append(
            {
                "side": side,
                "median_s": f"{statistics.median(seconds[side]):.4f}",
                "p20_s": f"{deciles[1]:.4f}",
                "p80_s": f"{deciles[7]:.4f}",
                "extra_peak_mb": f"{memory[side]:.0f}",
                **{name: getattr(arguments, name) for name in ("batch", "layers", "length", "width", "window")},
                "repeats": arguments.repeats,
                "threads": arguments.threads,
                "torch": torch.__version__,
                "cpu": cpu_model(),
                "date": datetime.date.today().isoformat(),
            }
        )
        print("{side}: {median_s} s ({p20_s} to {p80_s}), {extra_peak_mb} MB".format(**rows[-1]))
    append_rows(arguments.output, rows)
    faster = statistics.median(seconds["differences"]) / statistics.median(seconds["gram"])
    print(
        f"gram is {faster:.1f} times faster and takes {memory['differences'] / memory['gram']:.1f} times less memory"
    )


if __name__ == "__main__":
    main()
