"""Measures a whole task, epoch by epoch: fine-tuning, CKD with a live teacher, and CKD with a teacher cache.

    python benchmarks/epochs.py --task cola --data_dir glue --teacher runs/glue_cola_teacher
    python benchmarks/epochs.py --task cola --data_dir glue --teacher TEACHER --max_train_samples 2000 --seeds 1 --bf16

TEACHER is a fine-tuned classifier with a tokenizer, such as `run_teacher.py` makes. The students start
from some of its layers. Settings are those of recipes/glue_<task>_ckd.yaml, except that the last epoch counts, not the
best.

The sides alternate epoch by epoch, so that other load on the machine affects all of them alike. Each stops at the end
of an epoch, and resumes from its checkpoint at its next turn. The time of an epoch includes its steps and drawing
their batches, but not evaluation and checkpoints. Building the cache, once per seed, has its own row (epoch 0).

Writes one row per side, seed and epoch to benchmarks/results/epochs_<task>.csv, replacing earlier rows, and draws
--plot.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import measure
import numpy as np
import torch
import transformers
from transformers import DataCollatorWithPadding, TrainerCallback, TrainingArguments, set_seed

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.arguments import ModelArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.text_tasks import compute_metrics_for, load_task, tokenize
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.runs.recipe import parse_recipe

SIDES = {"fine_tuning": "fine-tuning", "ckd_live": "CKD, live teacher", "ckd_cached": "CKD, cached teacher"}


class OneEpoch(TrainerCallback):
    """Times epochs, and ends a call of `Trainer.train` after one epoch."""

    def __init__(self):
        self.seconds = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        measure.synchronize()
        self.start = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        measure.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        control.should_training_stop = True  # evaluation and checkpoint come first


def make_trainer(side, seed, folder, options):
    """Returns a trainer configured as in `run_glue_ckd.py`, and the callback that times it."""
    argv = [str(measure.PROJECT / "recipes" / f"glue_{options.task}_ckd.yaml")]
    given = {
        "teacher_model_name_or_path": options.teacher,
        "student_num_layers": options.student_num_layers,
        "num_train_epochs": options.epochs,
        "data_dir": options.data_dir or "None",
        "max_train_samples": options.max_train_samples or "none",
        "seed": seed,
        "bf16": options.bf16,
        "output_dir": folder / side,
        "load_best_model_at_end": False,
        "disable_tqdm": True,
    }
    argv += [text for name, value in given.items() for text in (f"--{name}", str(value))]
    types = (ModelArguments, GlueArguments, TrainingArguments, CKDArguments)
    model_args, data_args, args, ckd_args = parse_recipe(types, argv)
    if side == "fine_tuning":
        ckd_args = CKDArguments.fine_tuning()
    elif side == "ckd_cached":
        ckd_args = dataclasses.replace(ckd_args, teacher_cache_dir=str(folder / "cache"))
    task = load_task(data_args, seed=options.seeds[0], splits=("train", "validation"))
    pair = ModelPair(model_args, distills=side != "fine_tuning", trains=True)
    pair.set_labels(task.label_names)
    set_seed(seed)
    student, teacher = pair.load()
    timer = OneEpoch()
    trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        ckd_args=ckd_args,
        args=args,
        train_dataset=tokenize(task.train, task, pair.tokenizer, data_args),
        eval_dataset=tokenize(task.validation[""], task, pair.tokenizer, data_args),
        data_collator=DataCollatorWithPadding(pair.tokenizer),
        processing_class=pair.tokenizer,
        compute_metrics=compute_metrics_for(task),
        callbacks=[timer],
    )
    return trainer, timer


def train_in_turns(seed, folder, options):
    """Trains all sides. Returns {side: (trainer, timer)} and the seconds for building the cache."""
    sides = {side: make_trainer(side, seed, folder, options) for side in SIDES}
    measure.synchronize()
    start = time.perf_counter()
    sides["ckd_cached"][0].get_train_dataloader()  # builds the cache for `train`
    build = time.perf_counter() - start
    for epoch in range(options.epochs):
        for side in reversed(SIDES) if epoch % 2 else SIDES:
            if epoch == 0:
                set_seed(seed)  # the same batches and dropout for all sides; checkpoints keep the state
            sides[side][0].train(resume_from_checkpoint=epoch > 0)
    return sides, build


def rows_of(sides, build, seed, options):
    metric = GLUE_TASKS[options.task].best_metric
    rows = [("ckd_cached", 0, build, "")]
    for side, (trainer, timer) in sides.items():
        scores = [entry[f"eval_{metric}"] for entry in trainer.state.log_history if f"eval_{metric}" in entry]
        for epoch, (seconds, score) in enumerate(zip(timer.seconds, scores, strict=True), start=1):
            rows.append((side, epoch, seconds, f"{score:.4f}"))
    trainer = sides["ckd_cached"][0]
    return [
        {
            "task": options.task,
            "side": side,
            "seed": seed,
            "epoch": epoch,
            "seconds": f"{seconds:.3f}",
            "metric": metric,
            "score": score,
            "precision": "bf16" if options.bf16 else "float32",
            "batch": trainer.args.per_device_train_batch_size,
            "train_samples": len(trainer.train_dataset),
            "student_layers": trainer.model.config.num_hidden_layers,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            **measure.conditions(),
        }
        for side, epoch, seconds, score in rows
    ]


def seconds_of(rows, side):
    """Returns the seconds of each (seed, epoch), without building the cache."""
    return {
        (row["seed"], row["epoch"]): float(row["seconds"])
        for row in rows
        if row["side"] == side and row["epoch"] != "0"
    }


def last_scores(rows, side):
    """Returns the score after the last epoch, one per seed."""
    return list({row["seed"]: float(row["score"]) for row in rows if row["side"] == side and row["score"]}.values())


def report(rows):
    fine_tuning = seconds_of(rows, "fine_tuning")
    for side in SIDES:
        seconds, scores = seconds_of(rows, side), last_scores(rows, side)
        ratio = measure.ratio(list(seconds.values()), [fine_tuning[key] for key in seconds])
        print(
            f"{side}: {statistics.median(seconds.values()):.2f} s an epoch, {ratio:.3f} x fine-tuning; "
            f"{rows[0]['metric']} {', '.join(f'{score:.4f}' for score in scores)}, mean {np.mean(scores):.4f}"
        )
    builds = [float(row["seconds"]) for row in rows if row["epoch"] == "0"]
    print(f"building the cache: {', '.join(f'{build:.2f}' for build in builds)} s")


def draw(rows, path):
    """Draws the seconds of each epoch (median over seeds) and the metric after the last epoch (a point per seed)."""
    from ckd_trainer.reports.style import COLORS, TEXT_COLOR

    first = rows[0]
    what = f"{first['task']}, {first['train_samples']} texts in batches of {first['batch']}, {first['precision']}"
    figure, grid = measure.panels(1, 2, (5.6, 4.2), f"{what}; {measure.machine(first)}")
    bars, points = grid[0]
    epochs = sorted({int(row["epoch"]) for row in rows} - {0})
    colors = dict(zip(SIDES, (COLORS[0], COLORS[2], COLORS[3]), strict=True))
    for place, (side, name) in enumerate(SIDES.items()):
        seconds = seconds_of(rows, side)
        per_epoch = [[value for (_, epoch), value in seconds.items() if int(epoch) == number] for number in epochs]
        middle = [statistics.median(values) for values in per_epoch]
        whiskers = [
            [value - min(values) for value, values in zip(middle, per_epoch, strict=True)],
            [max(values) - value for value, values in zip(middle, per_epoch, strict=True)],
        ]
        places = [number + 0.27 * (place - 1) for number in epochs]
        bars.bar(places, middle, 0.25, yerr=whiskers, ecolor=TEXT_COLOR, capsize=2, color=colors[side], label=name)
        if side == "ckd_cached":
            build = statistics.median(float(row["seconds"]) for row in rows if row["epoch"] == "0")
            hatched = {"facecolor": "white", "edgecolor": colors[side], "hatch": "////"}
            bars.bar(places[0], build, 0.25, bottom=middle[0], **hatched, label="building the cache, once")
        scores = last_scores(rows, side)
        points.plot([place] * len(scores), scores, "o", color=colors[side], alpha=0.7)
        points.hlines(np.mean(scores), place - 0.25, place + 0.25, color=colors[side], linewidth=2)
    bars.set_xticks(epochs)
    bars.grid(axis="x", visible=False)
    bars.set_xlabel("epoch (bar: median over the seeds; whisker: all of them)", color=TEXT_COLOR)
    bars.set_ylabel("seconds", color=TEXT_COLOR)
    bars.set_ylim(0, 1.35 * bars.get_ylim()[1])  # room for the legend
    bars.legend(frameon=False, labelcolor=TEXT_COLOR, fontsize=8, loc="upper right", ncols=2)
    points.set_xticks(range(len(SIDES)), SIDES.values(), color=TEXT_COLOR, fontsize=8)
    points.set_xlim(-0.5, len(SIDES) - 0.5)
    points.grid(axis="x", visible=False)
    points.set_xlabel("after the last epoch (point: a seed; line: their mean)", color=TEXT_COLOR)
    points.set_ylabel(first["metric"].replace("_", " "), color=TEXT_COLOR)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=GLUE_TASKS, required=True)
    parser.add_argument("--data_dir", help="GLUE folder; the Hub by default")
    parser.add_argument("--teacher", help="fine-tuned model, a folder or an id on the Hub")
    parser.add_argument("--student_num_layers", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--max_train_samples", type=int)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path, default=measure.PROJECT / "docs" / "epochs.png")
    parser.add_argument("--draw_only", action="store_true", help="draw the rows of --output without training")
    options = parser.parse_args(argv)
    if not options.teacher and not options.draw_only:
        parser.error("--teacher is missing: name a fine-tuned model.")
    options.output = options.output or measure.RESULTS / f"epochs_{options.task}.csv"
    return options


def main(argv=None):
    options = parse(argv)
    torch.set_num_threads(options.threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if not options.draw_only:
        rows = []
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                sides, build = train_in_turns(seed, Path(folder), options)
                rows += rows_of(sides, build, seed, options)
            measure.write_rows(options.output, rows)
    rows = measure.read_rows(options.output)
    report(rows)
    draw(rows, options.plot)


if __name__ == "__main__":
    main()
