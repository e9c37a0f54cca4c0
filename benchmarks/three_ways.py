"""One teacher, then students three ways (fine-tuned alone, logits only, CKD) with several seeds, by the recipes.

    python benchmarks/three_ways.py --task cola --data_dir glue --model MODEL --student_num_layers 3 --seeds 1 2 --bf16
    python benchmarks/three_ways.py --task squad --data_dir squad --model MODEL --max_train_samples 4000

TASK is a GLUE task, squad or squad_v2; MODEL is a pre-trained model, a folder or an id on the Hub. All students start
from the same teacher layers and differ in the loss weights and the seed alone. Other options go to every run. The
commands are printed as they run; a run that is complete is not repeated.
Writes one row per run to benchmarks/results/three_ways_<task>.csv and prints a table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from measure import PROJECT, RESULTS, write_rows

NO_RELATIONS = [
    option for term in ("wr_distance", "wr_angle", "ltr_distance", "ltr_angle") for option in (f"--{term}_weight", "0")
]
WAYS = {"fine_tuned": ["--alpha", "0", *NO_RELATIONS], "logits": NO_RELATIONS, "ckd": []}


def main():
    options, common, folder = parse()
    teacher = folder / "teacher"
    squad = options.task in ("squad", "squad_v2")
    recipe = f"recipes/{options.task if squad else f'glue_{options.task}'}"
    script = "run_squad_ckd.py" if squad else "run_glue_ckd.py"
    launch("run_teacher.py", f"{recipe}_teacher.yaml", teacher, common, options.teacher_options)
    rows = [row("teacher", None, teacher)]
    for seed in options.seeds:
        for way, weights in WAYS.items():
            student = folder / f"{way}_seed{seed}"
            layers = ["--student_num_layers", str(options.student_num_layers)]
            source = ["--teacher_model_name_or_path", str(teacher), *layers, "--seed", str(seed)]
            launch(script, f"{recipe}_ckd.yaml", student, common, [*source, *weights])
            rows.append(row(way, seed, student))
    output = RESULTS / f"three_ways_{options.task}.csv"
    write_rows(output, rows)
    print_table(rows)
    print(f"rows: {output.relative_to(PROJECT)}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--model", required=True, help="pre-trained model that becomes the teacher")
    parser.add_argument("--student_num_layers", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--teacher_learning_rate", default="5e-5", help="small models want more than the recipe's 2e-5"
    )
    options, common = parser.parse_known_args()
    options.teacher_options = [
        "--model_name_or_path",
        options.model,
        "--learning_rate",
        options.teacher_learning_rate,
    ]
    return options, common, Path("runs") / f"three_ways_{options.task}"


def launch(script, recipe, folder, common, extra):
    command = [sys.executable, script, recipe, "--output_dir", str(folder), *common, *extra, "--save_total_limit", "1"]
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


def print_table(rows):
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


if __name__ == "__main__":
    main()
