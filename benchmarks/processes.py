"""Measures the throughput of training in one process and in several, with the same global batch.

    python benchmarks/processes.py --processes 2 --rounds 5

A random BERT of 6 layers and width 384 is distilled to 3 layers, with the default CKD loss, on examples of 40 random
tokens. Without an accelerator, the processes share the cores. One process with the same number of threads in total
then shows the overhead of several processes. One process with the threads of one of them shows what the others add.
The sides alternate, each in fresh processes. The first steps are not counted.

Writes one row per side to benchmarks/results/processes.csv, replacing earlier rows.
"""

import argparse
import json
import os
import sys
import tempfile
import time

import measure
import numpy as np
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments, set_seed

from ckd_trainer import CKDArguments, DistillationTrainer

WARM_UP = 5
LENGTH, WORDS = 40, 1000


class Clock(TrainerCallback):
    """Times all steps after the warm-up."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            measure.synchronize()
            self.start = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        measure.synchronize()
        self.seconds = (time.perf_counter() - self.start) / (state.max_steps - WARM_UP)


def make_model(layers):
    set_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=384,
            num_hidden_layers=layers,
            num_attention_heads=12,
            intermediate_size=1536,
            max_position_embeddings=LENGTH,
        )
    )


def worker(options):
    """Trains in each process. The first process prints the seconds per step."""
    torch.set_num_threads(options.threads)
    tokens = np.random.default_rng(0).integers(1, WORDS, (options.batch * (WARM_UP + options.steps), LENGTH))
    examples = Dataset.from_dict({"input_ids": tokens.tolist(), "labels": [row % 2 for row in range(len(tokens))]})
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=make_model(3),
            teacher_model=make_model(6),
            ckd_args=CKDArguments(**measure.ALL_RELATIONS),
            args=TrainingArguments(
                folder,
                per_device_train_batch_size=options.batch // options.processes,
                max_steps=WARM_UP + options.steps,
                use_cpu=not torch.accelerator.is_available(),
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=examples,
            callbacks=[clock],
        )
        trainer.train()
        if trainer.is_world_process_zero():
            print(json.dumps(clock.seconds))
        trainer.accelerator.end_training()


def seconds_of(processes, threads, options):
    """Returns the seconds per step, measured in fresh processes."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    argv = ["--processes", processes, "--threads", threads, "--batch", options.batch, "--steps", options.steps]
    if processes == 1:
        return measure.fresh_process(__file__, argv)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    return measure.fresh_process("-m", [*launcher, __file__, *argv])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--processes", type=int, default=2, help="processes to compare with one (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=32, help="examples per step in total (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="number of runs per side (default: %(default)s)")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # for a worker
    options = parser.parse_args()
    if options.threads:
        return worker(options)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    few = max(1, cores // options.processes)
    sides = {(1, cores): [], (1, few): [], (options.processes, few): []}
    for turn in range(options.rounds):
        for side in reversed(sides) if turn % 2 else sides:
            sides[side].append(seconds_of(*side, options))
            print(f"round {turn + 1}: {side[0]} x {side[1]} threads: {sides[side][-1]:.4f} s a step", file=sys.stderr)
    rows = []
    for (processes, threads), seconds in sides.items():
        row = {"processes": processes, "threads_each": threads, "batch": options.batch} | measure.spread(seconds)
        row["examples_per_s"] = f"{options.batch / np.median(seconds):.1f}"
        row["to_one_process"] = f"{measure.ratio(seconds, sides[1, cores]):.3f}"
        rows.append(row | {"rounds": options.rounds} | measure.conditions() | {"threads": processes * threads})
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    measure.write_rows(measure.RESULTS / "processes.csv", rows)


if __name__ == "__main__":
    main()
