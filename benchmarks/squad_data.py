"""Measures the processing of SQuAD's data: reading, tokenizing, extracting answers from logits, scoring.

    python benchmarks/squad_data.py --train_file train-v1.1.json --validation_file dev-v1.1.json --tokenizer MODEL

MODEL is a folder or an id on the Hub. `--questions 87599` repeats a slice of the training file up to the size of the
full file. The logits are random, which takes as much work as real ones. Appends to benchmarks/results/squad_data.csv.
"""

import argparse
import time
from pathlib import Path

import measure
import numpy as np
import torch
from datasets import concatenate_datasets, disable_progress_bars
from transformers import AutoTokenizer

from ckd_trainer.data.spans import read_answers, write_answers
from ckd_trainer.data.squad import load_questions
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_features import encode
from ckd_trainer.metrics.squad import SquadMetric


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--questions", type=int, help="number of training questions; those of the file by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "squad_data.csv")
    return parser.parse_args()


def main():
    options = parse()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    arguments = SquadArguments(train_file=options.train_file, validation_file=options.validation_file)
    state = {}

    def read():
        state["data"] = load_questions(arguments, seed=0, splits=["train", "validation"])

    def tokenize_train():
        train = state["data"].train
        wanted = options.questions or len(train)
        train = concatenate_datasets([train] * -(-wanted // len(train))).select(range(wanted))
        state["train"] = encode(train, tokenizer, arguments, with_offsets=False)

    def tokenize_validation():
        state["validation"] = encode(state["data"].validation[""], tokenizer, arguments, with_offsets=True)

    def find_answers():
        shape = (len(state["validation"]), arguments.max_seq_length)
        logits = (np.random.default_rng(side).standard_normal(shape, np.float32) for side in range(2))
        state["answers"] = read_answers(
            state["data"].validation[""],
            state["validation"],
            *logits,
            n_best=arguments.n_best_size,
            max_answer_length=arguments.max_answer_length,
            null_answers=True,
        )

    def write():
        write_answers(state["answers"], measure.PROJECT / "runs" / "squad_data", null_threshold=0.0)

    def score():
        gold = state["data"].validation[""].select_columns(["id", "answers"]).to_list()
        said = [{"id": name, "prediction_text": text} for name, text in state["answers"].text.items()]
        SquadMetric(config_name="squad", keep_in_memory=True).compute(predictions=said, references=gold)

    rows = []
    for step in (read, tokenize_train, tokenize_validation, find_answers, write, score):
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        rows.append({"step": step.__name__, **measure.spread(seconds), "repeats": options.repeats})
        print("{step}: {median_s} s ({p20_s} to {p80_s})".format(**rows[-1]), flush=True)
    sizes = {
        "train_features": len(state["train"]),
        "validation_questions": len(state["data"].validation[""]),
        "validation_features": len(state["validation"]),
        "threads": torch.get_num_threads(),
    }
    measure.append_rows(options.output, [row | sizes | measure.conditions() for row in rows])


if __name__ == "__main__":
    main()
