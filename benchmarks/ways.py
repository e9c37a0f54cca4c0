"""Trains a teacher, then students in four ways with several seeds, and shows which differences are real.

    python benchmarks/ways.py --task stsb --data_dir glue --model MODEL --seeds 1 2 3 --student_num_layers 3
    python benchmarks/ways.py --task squad --data_dir squad --model MODEL --max_train_samples 4000

The ways differ only in their losses. "alone" is fine-tuned on the labels. "published" is the recipe with the published
settings, and "logits" the same without its relations. "balanced" replaces its loss by the defaults of `CKDArguments`.
--task is a GLUE task or squad. --model is a pre-trained model, a folder or an id on the Hub. Instead of it, --teacher
takes the output folder of run_teacher.py. Other options are passed on to every run. Commands are printed as they run,
and completed runs are not repeated.

Prints a table of scores, and the lead of "balanced" over the others: means over seeds, with a 95 % bootstrap interval.
The bootstrap draws, with replacement, the seeds of both ways and the rows of the dev set (the same rows for both).
Three seeds drawn from three underestimate the spread of all seeds. For SQuAD, there are scores only. Writes one row
per run to benchmarks/results/ways_<task>.csv.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from measure import PROJECT, RESULTS, write_rows
from scipy.stats import bootstrap
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.data.glue import load_task, metrics_of, tokenize
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.metrics.glue import GlueMetric

WEIGHTS = ("wr_distance_weight", "wr_angle_weight", "ltr_distance_weight", "ltr_angle_weight")
NO_RELATIONS = [word for weight in WEIGHTS for word in (f"--{weight}", "0")]
BALANCED = ("alpha", "temperature", "term_balance", "relation_normalization", "relation_temperature", *WEIGHTS)
RESAMPLES = 2000
WAYS = {
    "alone": ["--alpha", "0", *NO_RELATIONS],
    "logits": NO_RELATIONS,
    "published": [],
    "balanced": [word for name in BALANCED for word in (f"--{name}", str(getattr(CKDArguments(), name)))],
}


def main():
    options, common, folder = parse()
    squad = options.task.startswith("squad")
    script = "run_squad_ckd.py" if squad else "run_glue_ckd.py"
    published = f"recipes/{options.task if squad else f'glue_{options.task}'}_ckd.yaml"
    teacher = Path(options.teacher) if options.teacher else folder / "teacher"
    if not options.teacher:
        launch("run_teacher.py", published.replace("_ckd", "_teacher"), teacher, common + teacher_options(options))
    runs = {("teacher", None): teacher}
    for seed in options.seeds:
        for way, weights in WAYS.items():
            runs[way, seed] = folder / f"{way}_seed{seed}"
            source = ["--teacher_model_name_or_path", str(teacher), "--seed", str(seed)]
            source += ["--student_num_layers", str(options.student_num_layers)]
            source += ["--student_layers", options.student_layers]
            launch(script, published, runs[way, seed], common + source + weights)
    rows = [row(way, seed, run) for (way, seed), run in runs.items()]
    output = RESULTS / f"ways_{options.task}.csv"
    write_rows(output, rows)
    print_scores(rows)
    if not squad:
        print_differences(options.task, runs, options.seeds)
    print(f"rows: {output.relative_to(PROJECT)}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--model", help="pre-trained model to fine-tune as the teacher")
    parser.add_argument("--teacher", help="already trained teacher, instead of --model")
    parser.add_argument("--student_num_layers", type=int, default=3)
    parser.add_argument("--student_layers", default="first")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--teacher_learning_rate", default="1e-4", help="small models need more than the recipe's 2e-5"
    )
    parser.add_argument("--teacher_epochs", default="5")
    options, common = parser.parse_known_args()
    if not (options.model or options.teacher):
        parser.error("give --model or --teacher")
    return options, common, Path("runs") / f"ways_{options.task}"


def teacher_options(options):
    training = ["--learning_rate", options.teacher_learning_rate, "--num_train_epochs", options.teacher_epochs]
    return ["--model_name_or_path", options.model, *training]


def launch(script, recipe, folder, options):
    command = [sys.executable, script, recipe, "--output_dir", str(folder), *options, "--save_total_limit", "1"]
    print("$ python", *command[1:], flush=True)
    if not (PROJECT / folder / "eval_results.json").is_file():
        subprocess.run(command, cwd=PROJECT, check=True)


def row(way, seed, folder):
    results = json.loads((PROJECT / folder / "all_results.json").read_text(encoding="utf-8"))
    record = json.loads((PROJECT / folder / "run.json").read_text(encoding="utf-8"))
    costs = ("eval_loss", "eval_runtime", "eval_samples", "eval_samples_per_second", "eval_steps_per_second")
    metrics = {name: value for name, value in results.items() if name.startswith("eval_") and name not in costs}
    return {
        "way": way,
        "seed": "" if seed is None else seed,
        **{name.removeprefix("eval_"): round(value, 4) for name, value in metrics.items() if "mismatched" not in name},
        "parameters": results["parameters"],
        "latency_ms": results["latency_ms"],
        "train_minutes": round(results["train_runtime"] / 60, 2),
        "train_samples": results["train_samples"],
        "torch": record["versions"]["torch"],
        "transformers": record["versions"]["transformers"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "started": record["started"],
    }


def print_scores(rows):
    fixed = {"way", "seed", "parameters", "latency_ms", "train_minutes", "train_samples"}
    metrics = [name for name in rows[0] if name not in fixed and isinstance(rows[0][name], float)]
    scale = 1 if {"exact", "exact_match"} & {*metrics} else 100  # SQuAD's scores are percentages
    print("|", " | ".join(["", "parameters", *metrics, "minutes"]), "|")
    print("| --- " * (len(metrics) + 3) + "|")
    for way in ("teacher", *WAYS):
        runs = [row for row in rows if row["way"] == way]
        cells = [", ".join(f"{scale * run[name]:.1f}" for run in runs) for name in metrics]
        minutes = statistics.mean(run["train_minutes"] for run in runs)
        print("|", " | ".join([way, f"{runs[0]['parameters']:,}", *cells, f"{minutes:.1f}"]), "|")


def print_differences(name, runs, seeds):
    """Prints the lead of balanced students over others, and the share of the teacher's score that they keep."""
    folder = PROJECT / runs["balanced", seeds[0]]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(GlueArguments) if field.init}
    arguments = GlueArguments(**{name: value for name, value in recipe.items() if name in fields})
    task = load_task(arguments, seed=recipe["seed"], splits=("validation",))
    metric, _ = metrics_of(arguments)
    scores = GlueMetric(config_name=name, keep_in_memory=True)
    predictions = {run: predict(PROJECT / path, task, arguments) for run, path in runs.items()}
    labels = np.asarray(task.validation[""]["label"])

    def score(run, rows):
        return scores._compute(predictions[run][rows], labels[rows])[metric]  # `compute` is ten times as slow

    def mean(way, rows, drawn):
        return np.mean([score((way, seed), rows) for seed in drawn])

    rows, draw = np.arange(len(labels)), np.random.default_rng(0)
    print(f"{metric} x 100, balanced minus others: mean over seeds, 95 % interval over seeds and {len(labels)} rows")
    for way in [way for way in WAYS if way != "balanced"]:

        def difference(rows, way=way):
            ours, theirs = (draw.choice(seeds, len(seeds)) for _ in range(2))
            return 100 * (mean("balanced", rows, ours) - mean(way, rows, theirs))

        found = bootstrap(
            (rows,),
            difference,
            n_resamples=RESAMPLES,
            batch=1,
            vectorized=False,
            method="percentile",
            random_state=draw,
        ).confidence_interval
        value = 100 * (mean("balanced", rows, seeds) - mean(way, rows, seeds))
        print(f"{way:10} {value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]")
    kept = mean("balanced", rows, seeds) / score(("teacher", None), rows)
    print(f"balanced students keep {100 * kept:.1f} % of the teacher's score")


def predict(folder, task, arguments):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as unused:
        trainer = Trainer(
            AutoModelForSequenceClassification.from_pretrained(folder),
            TrainingArguments(unused, per_device_eval_batch_size=64, report_to="none", disable_tqdm=True),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        logits = trainer.predict(tokenize(task.validation[""], task, tokenizer, arguments)).predictions
    return logits[:, 0] if task.is_regression else logits.argmax(-1)


if __name__ == "__main__":
    main()
