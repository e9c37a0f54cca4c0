"""Code shared by the benchmarks: alternating timing, peak memory, fresh processes, CSV rows and the style of plots.

Import it before `ckd_trainer`: it puts the checkout, and the slow twins in tests/, first on the path.
"""

import csv
import datetime
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
# The default has one of the four; benchmarks have all, as the paper does.
ALL_RELATIONS = {f"{relation}_{kind}_weight": 0.3 for relation in ("wr", "ltr") for kind in ("distance", "angle")}
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]


def in_turns(steps, repeats):
    """Calls every step once per round, so that other load on the machine affects all sides alike.

    Args:
        steps: {side: function without arguments}; call each once before, as a warm-up.
        repeats: number of rounds. Every other round runs in reverse order, so that a drift within a round cancels out.

    Returns:
        seconds of each call, {side: [one per round]}.
    """
    seconds = {side: [] for side in steps}
    for turn in range(repeats):
        for side in reversed(steps) if turn % 2 else steps:
            synchronize()
            start = time.perf_counter()
            steps[side]()
            synchronize()
            seconds[side].append(time.perf_counter() - start)
    return seconds


def synchronize():
    """Waits for the accelerator, which runs asynchronously."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def spread(seconds):
    """Returns the median and the 20th and 80th percentiles as columns of a row."""
    values = np.percentile(seconds, [50, 20, 80])
    return {name: f"{value:.5f}" for name, value in zip(("median_s", "p20_s", "p80_s"), values, strict=True)}


def ratio(seconds, reference):
    """Returns the median over rounds of (side / reference in the same round).

    A slow moment of the machine lasts longer than a round, so it affects both sides of a ratio, but not always both
    medians.
    """
    return float(np.median(np.divide(seconds, reference)))


def peak_mb(device_type="cpu"):
    """Returns this process's peak memory in MB: tensors on a GPU, or the whole process on a CPU."""
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def fresh_process(script, argv):
    """Runs a script in its own process, and returns its last line of output, parsed as JSON.

    A process inherits the peak memory of its parent: call this before loading anything large.
    """
    command = [sys.executable, str(script), *map(str, argv)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def conditions():
    """Returns the conditions of a measurement, other than its shapes, as columns of a row."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": cpu_model(),
        "date": datetime.date.today().isoformat(),
    }


def machine(row):
    """Returns the machine on which a row was measured, for the title of a plot."""
    if row.get("device", "cpu") != "cpu":
        return f"{row['device']}, torch {row['torch']}"
    return f"{row['cpu']}, {row['threads']} thread{'' if row['threads'] == '1' else 's'}, torch {row['torch']}"


def cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def append_rows(path, rows):
    """Appends rows to a CSV file with the same columns, or creates the file."""
    if path.exists() and list(read_rows(path)[0]) != list(rows[0]):
        raise SystemExit(f"error: {path} has other columns than {', '.join(rows[0])}: give another --output.")
    write_rows(path, rows, mode="a" if path.exists() else "w")


def write_rows(path, rows, mode="w"):
    """Writes rows to a CSV file; the default mode replaces its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode, newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        if mode == "w":
            writer.writeheader()
        writer.writerows(rows)


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def panels(rows, columns, size, title, **options):
    """Returns a figure and its grid of axes, in the colors of `ckd_trainer.reports.style`.

    Args:
        rows, columns: number of panels.
        size: of a panel, in inches.
        title: of the figure, with the shapes and the machine.
        options: passed to `Figure.subplots`.
    """
    # Imported late, so that measured memory does not include them.
    from matplotlib.figure import Figure

    from ckd_trainer.reports.style import GRID_COLOR, NOTE_COLOR, TEXT_COLOR

    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.4), dpi=160, layout="constrained")
    figure.suptitle(title, color=TEXT_COLOR, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(NOTE_COLOR)
        axes.tick_params(colors=NOTE_COLOR, labelsize=9)
        axes.grid(color=GRID_COLOR)
        axes.set_axisbelow(True)
    return figure, grid
