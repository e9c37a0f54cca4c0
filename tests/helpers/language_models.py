"""Short runs of run_mlm_ckd.py: a tiny teacher, options, and what a run leaves."""

import json
import shutil

import torch
from safetensors.torch import load_file
from transformers import BertForMaskedLM

import run_mlm_ckd
from helpers.tiny import save_tokenizer, tiny_config

QUICK_RUN = ["--do_train", "--do_eval", "--max_steps", "6", "--save_steps", "3", "--report_to", "none"]
QUICK_RUN += ["--disable_tqdm", "true", "--per_device_train_batch_size", "8", "--max_seq_length", "16"]
QUICK_RUN += ["--logging_steps", "1", "--learning_rate", "1e-3"]
STUDENT = ["--student_init", "teacher_layers", "--student_num_layers", "2"]
MASKS = ["--mlm_probability", "0.3", "--labels_and_logits", "true", "--temperature", "2"]
NO_RELATIONS = [f"--{relation}_{kind}_weight=0" for relation in ("wr", "ltr") for kind in ("distance", "angle")]


def save_teacher(folder):
    torch.manual_seed(0)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertForMaskedLM(tiny_config(layers=4, **no_dropout)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def run(command, folder, *options):
    run_mlm_ckd.main.__wrapped__([*command, "--output_dir", str(folder), *map(str, options)])
    return json.loads((folder / "all_results.json").read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    """Whether two runs have the same final weights, bit for bit."""
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def killed_after(whole, folder, step):
    """Returns a copy of a run's folder as if it had been killed after a checkpoint."""
    shutil.copytree(whole, folder)
    for path in folder.iterdir():
        if path.is_dir() and path.name != f"checkpoint-{step}":
            shutil.rmtree(path)
    for name in ("model.safetensors", "train_results.json", "all_results.json", "trainer_state.json"):
        (folder / name).unlink()
    return folder


def logs(folder):
    """Returns the log of a run without what depends on time, or on when its process started."""
    return [
        {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
        for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"]
        if "train_loss" not in entry  # the mean since the start of the process
    ]
