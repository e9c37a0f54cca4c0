"""What the benchmarks share: timing in turns, peak memory, fresh processes, rows in CSV files, the look of plots.

Imported before `ckd_trainer`, it also makes the checkout (and the slow twins in tests/) what the scripts measure.
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
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "helpers")]


def in_turns(steps, repeats):
    """Calls every step once a round, so that whatever else the machine does hits all sides alike.

    Args:
        steps: {side: function without arguments}, each called before, as a first call warms up.
        repeats: rounds; every other one goes backwards, so that a drift within a round cancels out.

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
    """Waits for the accelerator, which works on after a call has returned."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def spread(seconds):
    """Returns median, 20th and 80th percentile as columns of a row."""
    values = np.percentile(seconds, [50, 20, 80])
    return {name: f"{value:.5f}" for name, value in zip(("median_s", "p20_s", "p80_s"), values, strict=True)}


def ratio(seconds, reference):
    """Returns the median over rounds of (side / reference in the same round).

    A slow moment of the machine lasts longer than a round, so it is in both; in two medians it need not be.
    """
    return float(np.median(np.divide(seconds, reference)))


def peak_mb(device_type="cpu"):
    """Returns the most memory that this process ever held, in MB: its tensors on a GPU, all of it on a CPU."""
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def fresh_process(script, argv):
    """Runs a script in a process of its own and returns what it prints last, read as JSON.

    A process starts with the peak memory of the one that starts it: call this before anything large is loaded.
    """
    command = [sys.executable, str(script), *map(str, argv)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def conditions():
    """Returns what a measurement depends on beside its shapes, as columns of a row."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": cpu_model(),
        "date": datetime.date.today().isoformat(),
    }


def machine(row):
    """Returns where a row was measured, for the title of a plot."""
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
    """Adds rows to a CSV file, which is made where it is missing and must have the same columns where it is not."""
    if path.exists() and list(read_rows(path)[0]) != list(rows[0]):
        raise SystemExit(f"error: {path} has other columns than {', '.join(rows[0])}: give another --output.")
    write_rows(path, rows, mode="a" if path.exists() else "w")


def write_rows(path, rows, mode="w"):
    """Writes rows as a CSV file in place of what it held."""
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
    """Returns a figure and its grid of axes, in the colors of `ckd_trainer.reports.table`.

    Args:
        rows, columns: how many panels.
        size: of one panel, in inches.
        title: of the figure: the shapes and the machine.
        options: for `Figure.subplots`.
    """
    # Here, as the memory of what is measured should not hold them.
    from matplotlib.figure import Figure

    from ckd_trainer.reports.table import GRID_COLOR, NOTE_COLOR, TEXT_COLOR

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
