"""Compares Gram matrices with difference vectors: time and memory of the four relation losses, forward and backward.

    python benchmarks/relation_losses.py                                    # the shapes of the README
    python benchmarks/relation_losses.py --batch 2 --length 32 --repeats 20  # quick
    python benchmarks/relation_losses.py --threads 2 --output rows.csv

"gram" is `ckd_trainer.losses.contextual_relation_losses`. "differences" is its twin in tests/helpers/reference.py,
which builds the difference vectors of every angle. Both get the same random hidden states, and their values must
agree.

Time: the sides alternate, so that other load on the machine affects both alike. Memory: the peak that one step adds to
a fresh process that already holds the hidden states (Linux and macOS). Appends one row per side to --output.
"""

import argparse
import functools
import statistics
import sys
from pathlib import Path

import measure
import torch
from helpers import reference

from ckd_trainer.losses import contextual_relation_losses

SIDES = ("gram", "differences")


def hidden_states(shapes):
    """Returns states of student (with gradient) and teacher, and a mask; every other example is a quarter shorter."""
    torch.manual_seed(0)
    size = (shapes.layers, shapes.batch, shapes.length, shapes.width)
    student, teacher = (list(torch.randn(size).unbind()) for _ in range(2))
    mask = torch.ones(shapes.batch, shapes.length, dtype=torch.long)
    mask[1::2, shapes.length - shapes.length // 4 :] = 0
    return [layer.requires_grad_() for layer in student], teacher, mask


def step(side, inputs, window):
    """Runs one forward and backward pass, and returns the four losses."""
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
    """Returns the seconds of every step, {side: [...]}. A warm-up round checks that the sides agree."""
    steps = {side: functools.partial(step, side, inputs, shapes.window) for side in SIDES}
    values = {side: call() for side, call in steps.items()}
    for name, value in values["gram"].items():
        if abs(value - values["differences"][name]) > 1e-4 * abs(value) + 1e-7:
            raise SystemExit(f"error: the sides disagree on {name}: {values}")
    return measure.in_turns(steps, shapes.repeats)


def measure_memory(side, argv):
    """Runs this script for one step of a side, and returns the MB that the step adds to the inputs."""
    return measure.fresh_process(__file__, [*argv, "--one-step", side])


def window_size(text):
    return None if text == "none" else int(text)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("layers", 7), ("length", 128), ("width", 768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--window", type=window_size, default=21, help="none for all triples")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps per side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "relation_losses.csv")
    parser.add_argument("--one-step", choices=SIDES, help=argparse.SUPPRESS)  # for measure_memory
    return parser.parse_args(argv)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.one_step:
        inputs = hidden_states(arguments)
        tiny = argparse.Namespace(batch=1, layers=3, length=4, width=8)
        step(arguments.one_step, hidden_states(tiny), window=3)  # loads code, which is not the step's memory
        before = measure.peak_mb()
        step(arguments.one_step, inputs, arguments.window)
        print(measure.peak_mb() - before)
        return

    memory = {side: measure_memory(side, argv) for side in SIDES}  # first, while this process is still small
    seconds = measure_times(hidden_states(arguments), arguments)
    rows = []
    for side in SIDES:
        rows.append(
            {
                "side": side,
                **measure.spread(seconds[side]),
                "extra_peak_mb": f"{memory[side]:.0f}",
                **{name: getattr(arguments, name) for name in ("batch", "layers", "length", "width", "window")},
                "repeats": arguments.repeats,
                **measure.conditions(),
            }
        )
        print("{side}: {median_s} s ({p20_s} to {p80_s}), {extra_peak_mb} MB".format(**rows[-1]))
    measure.append_rows(arguments.output, rows)
    faster = statistics.median(seconds["differences"]) / statistics.median(seconds["gram"])
    print(
        f"gram is {faster:.1f} times faster and takes {memory['differences'] / memory['gram']:.1f} times less memory"
    )


if __name__ == "__main__":
    main()
