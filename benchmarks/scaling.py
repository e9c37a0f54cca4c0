"""Measures the four relation losses against length, matched layers, width and window, as a share of the floor.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --lengths 64 128 --layer_counts --widths --windows --repeats 3  # one axis, quick

One axis is varied at a time around --batch, --length, --layers, --width and --window.

Time: forward and backward of `contextual_relation_losses` on random hidden states, alternating with a floor step (see
floor.py) of the same shape. Its student has --layers minus 1 layers (for the embeddings), its teacher twice as many.
The share is the median over rounds of (losses / floor step of the same round). Memory: as in relation_losses.py, the
peak that one step adds to a fresh process that holds the hidden states. Everything runs on the CPU in float32.

Writes one row per point to --output, replacing earlier rows, and draws --plot.
"""

import argparse
import functools
from pathlib import Path
from typing import NamedTuple

import measure
import torch
from floor import bert_pair, floor_step
from relation_losses import hidden_states, measure_memory, step, window_size

TITLES = {"length": "tokens of a text", "layers": "matched layers", "width": "hidden size", "window": "window"}


class Shape(NamedTuple):
    batch: int
    length: int
    layers: int
    width: int
    window: int | None


def shapes(options):
    """Returns the points of each axis, [(axis, Shape)]."""
    center = Shape(options.batch, options.length, options.layers, options.width, options.window)
    axes = {
        "length": options.lengths,
        "layers": options.layer_counts,
        "width": options.widths,
        "window": options.windows,
    }
    return [(axis, center._replace(**{axis: value})) for axis, values in axes.items() for value in values]


def memory_of(shape, threads):
    sizes = {name: "none" if value is None else value for name, value in shape._asdict().items()}
    return measure_memory("gram", [f"--{name}={value}" for name, value in {**sizes, "threads": threads}.items()])


def measure_times(shape, repeats):
    """Returns the seconds of the losses and of a floor step, {side: [...]}."""
    inputs = hidden_states(shape)
    teacher, student = bert_pair(teacher_layers=2 * (shape.layers - 1), width=shape.width)
    teacher.eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-5, fused=True)  # as Trainer's
    tokens = torch.randint(1000, teacher.config.vocab_size, (shape.batch, shape.length))
    batch = {"input_ids": tokens, "attention_mask": inputs[2], "labels": tokens[:, 0] % 2}
    steps = {
        "losses": functools.partial(step, "gram", inputs, shape.window),
        "floor": functools.partial(floor_step, teacher, student.train(), optimizer, batch),
    }
    for call in steps.values():
        call()
    return measure.in_turns(steps, repeats)


def row_of(shape, seconds, memory, repeats):
    return {
        **shape._asdict(),
        **measure.spread(seconds["losses"]),
        "floor_median_s": measure.spread(seconds["floor"])["median_s"],
        "share_of_floor": f"{measure.ratio(seconds['losses'], seconds['floor']):.4f}",
        "extra_peak_mb": f"{memory:.1f}",
        "repeats": repeats,
        **measure.conditions(),
    }


def draw(rows, options):
    """Draws a column per axis: time, with its share of the floor step, above memory."""
    from ckd_trainer.reports.style import COLORS, NOTE_COLOR, TEXT_COLOR  # after measuring, as in `measure.panels`

    lines = [[row for row in rows if row["axis"] == axis] for axis in TITLES]
    lines = [line for line in lines if line]
    center = f"batch {options.batch}, {options.length} tokens, {options.layers} layers, width {options.width}"
    title = f"Relation losses, forward and backward: {center}, window {options.window or 'none'}, one varied at a time"
    title = f"{title}\n{measure.machine(rows[0])}"
    figure, grid = measure.panels(2, len(lines), (3.9, 2.7), title, sharex="col", sharey="row")
    for column, line in zip(grid.T, lines, strict=True):
        axis = line[0]["axis"]
        places = [int(row[axis] or row["length"]) for row in line]  # no window: all tokens
        times, low, high = ([1000 * float(row[name]) for row in line] for name in ("median_s", "p20_s", "p80_s"))
        column[0].fill_between(places, low, high, color=COLORS[0], alpha=0.2, linewidth=0)
        column[0].plot(places, times, color=COLORS[0], marker="o", markersize=4)
        for place, time, row in zip(places, times, line, strict=True):
            share = f"{100 * float(row['share_of_floor']):.1f} %"
            off_the_line = {"textcoords": "offset points", "xytext": (0, 6), "ha": "right"}
            column[0].annotate(share, (place, time), **off_the_line, color=NOTE_COLOR, fontsize=8)
        memory = [float(row["extra_peak_mb"]) for row in line]
        column[1].plot(places, memory, color=COLORS[1], marker="o", markersize=4)
        column[1].set_xscale("log")
        column[1].minorticks_off()
        column[1].set_xticks(places, [row[axis] or "none" for row in line])
        column[1].set_xlabel(TITLES[axis], color=TEXT_COLOR)
    for axes in grid.flat:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter("")
        axes.margins(x=0.15, y=0.2)
    grid[0, 0].set_ylabel("time (ms)\nand share of a floor step", color=TEXT_COLOR)
    grid[1, 0].set_ylabel("extra peak memory (MB)", color=TEXT_COLOR)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("length", 128), ("layers", 7), ("width", 768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--window", type=window_size, default=21)
    parser.add_argument("--lengths", type=int, nargs="*", default=[32, 64, 128, 256, 384, 512])
    parser.add_argument("--layer_counts", type=int, nargs="*", default=[3, 5, 7, 9, 11, 13])
    parser.add_argument("--widths", type=int, nargs="*", default=[128, 256, 512, 768, 1024])
    parser.add_argument("--windows", type=window_size, nargs="*", default=[5, 11, 21, 41, 81, None])
    parser.add_argument("--repeats", type=int, default=5, help="timed steps per point")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "scaling.csv")
    parser.add_argument("--plot", type=Path, default=measure.PROJECT / "docs" / "scaling.png")
    parser.add_argument("--draw_only", action="store_true", help="draw the rows of --output without measuring")
    return parser.parse_args(argv)


def main(argv=None):
    options = parse(argv)
    torch.set_num_threads(options.threads)
    if not options.draw_only:
        points, rows, measured = shapes(options), [], {}
        # The center is a point of every axis, and measured once. Memory first, while this process is still small.
        memory = {shape: memory_of(shape, options.threads) for shape in {shape for _, shape in points}}
        for axis, shape in points:
            if shape not in measured:
                seconds = measure_times(shape, options.repeats)
                measured[shape] = row_of(shape, seconds, memory[shape], options.repeats)
            rows.append({"axis": axis, **measured[shape]})
            print(
                "{axis} {length} x {layers} x {width}, window {window}: {median_s} s ({p20_s} to {p80_s}), "
                "{share_of_floor} of a floor step, {extra_peak_mb} MB".format(**rows[-1]),
                flush=True,
            )
            measure.write_rows(options.output, rows)
    draw(measure.read_rows(options.output), options)


if __name__ == "__main__":
    main()
