"""The best model is the one that a run leaves, however evaluations, checkpoints and interruptions fall."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from helpers.commands import SHORT_RUN
from helpers.files import sentences, write_tsv
from safetensors.torch import load_file

import run_glue_ckd
import run_teacher
from ckd_trainer.runs.interruption import LogWhereSaved
from ckd_trainer.tasks.text_classification import TextClassification

QUICK = ["--student_init", "teacher_layers", "--student_num_layers", "2", "--max_seq_length", "32", "--do_train"]
QUICK += ["--per_device_train_batch_size", "8", "--learning_rate", "3e-3", "--report_to", "none"]
QUICK += ["--disable_tqdm", "true", "--do_eval", "--load_best_model_at_end"]
LITTLE_OF_THE_TEACHER = [*SHORT_RUN, "--alpha", "0.1"]
BY_LOSS = ["--metric_for_best_model", "eval_loss", "--greater_is_better", "false"]
STEPS = ["--eval_strategy", "steps", "--eval_steps", "5", "--save_strategy", "steps", "--save_steps", "10"]
STEPS += ["--max_steps", "20", *BY_LOSS]
EPOCHS = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--num_train_epochs", "3", *BY_LOSS]


@pytest.fixture
def worsening(tmp_path):
    """Options of files where every step on the training set makes the validation set worse: its labels are swapped."""
    swapped = {"good": "bad", "bad": "good"}
    rows = [(text, swapped[label]) for text, label in sentences(22, seed=1)]
    files = {"train_file": write_tsv(tmp_path / "train.tsv", sentences(96))}
    files["validation_file"] = write_tsv(tmp_path / "validation.tsv", rows)
    return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def distill(teacher, output, *options):
    return run_glue_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), "--output_dir", str(output), *QUICK, *LITTLE_OF_THE_TEACHER]
        + [*options]
    )


def state_of(folder):
    return json.loads((folder / "trainer_state.json").read_text())


def scores(folder, name="eval_loss"):
    """The evaluations of the training, by step."""
    log = state_of(folder)["log_history"]
    return {entry["step"]: entry[name] for entry in log if name in entry}


def same_weights(folder, other):
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def timeless(folder):
    return [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second", "train_loss"))}
        for entry in state_of(folder)["log_history"]
    ]


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Has the next run get a signal in the step after this one."""

    def send(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(LogWhereSaved, "on_step_begin", send)


@pytest.mark.parametrize("more", [[], ["--save_total_limit", "1"]], ids=["all checkpoints", "one checkpoint"])
def test_the_best_evaluation_is_saved_where_no_checkpoint_was_due(tiny_teacher, worsening, tmp_path, more):
    metrics = distill(tiny_teacher, tmp_path / "out", *worsening, *STEPS, *more)
    by_step = scores(tmp_path / "out")
    best = min(by_step, key=by_step.get)
    assert best % 10 and len(by_step) == 4  # or this test shows nothing
    state = state_of(tmp_path / "out")
    assert state["best_model_checkpoint"] == str(tmp_path / "out" / f"checkpoint-{best}")
    assert metrics["eval_loss"] == state["best_metric"] == by_step[best]
    assert same_weights(tmp_path / "out", tmp_path / "out" / f"checkpoint-{best}")


def test_a_teacher_is_the_best_too(tiny_teacher, worsening, tmp_path):
    options = [*QUICK[QUICK.index("--max_seq_length") :], *worsening, *STEPS]
    metrics = run_teacher.main(
        ["--model_name_or_path", str(tiny_teacher), "--output_dir", str(tmp_path / "out"), *options]
    )
    by_step = scores(tmp_path / "out")
    assert min(by_step, key=by_step.get) % 10 and metrics["eval_loss"] == min(by_step.values())


def test_a_greater_metric_and_a_late_first_evaluation(tiny_teacher, worsening, tmp_path):
    options = [*STEPS, "--metric_for_best_model", "accuracy", "--greater_is_better", "true", "--eval_delay", "7"]
    metrics = distill(tiny_teacher, tmp_path / "out", *worsening, *options)
    by_step = scores(tmp_path / "out", "eval_accuracy")
    assert list(by_step) == [10, 15, 20] and metrics["eval_accuracy"] == max(by_step.values())


@pytest.mark.parametrize("why", ["no evaluation", "no numbers"])
def test_a_run_without_a_best_evaluation_says_so(tiny_teacher, worsening, tmp_path, monkeypatch, caplog, why):
    if why == "no numbers":
        monkeypatch.setattr(TextClassification, "compute_metrics", lambda self, prediction: {"accuracy": math.nan})
    late = ["--eval_delay", "100"] if why == "no evaluation" else []
    options = [*STEPS, "--metric_for_best_model", "accuracy", "--greater_is_better", "true", *late]
    distill(tiny_teacher, tmp_path / "out", *worsening, *options)
    assert "no evaluation during training gave a value of accuracy: the model of the last step is" in caplog.text
    assert same_weights(tmp_path / "out", tmp_path / "out" / "checkpoint-20")


@pytest.mark.parametrize(
    "step", [pytest.param(7, marks=pytest.mark.slow), 9, pytest.param(15, marks=pytest.mark.slow)]
)
def test_a_signal_changes_nothing_of_it(tiny_teacher, worsening, tmp_path, monkeypatch, step):
    """Between two evaluations, in the step of one, and after the best one."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*worsening, *STEPS, "--logging_steps", "3"]
    distill(tiny_teacher, whole, *options)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at(patch, step)
        distill(tiny_teacher, cut, *options)
    distill(tiny_teacher, cut, *options)
    assert same_weights(cut, whole)
    assert scores(cut) == scores(whole)
    assert state_of(cut)["best_model_checkpoint"] == str(cut / "checkpoint-5")


def test_a_signal_where_epochs_are_evaluated_and_saved(tiny_teacher, worsening, tmp_path, monkeypatch):
    """12 steps an epoch. One that is cut short is not evaluated, and the training is not taken for ended."""
    whole = tmp_path / "whole"
    options = [*worsening, *EPOCHS, "--early_stopping_patience", "3"]
    distill(tiny_teacher, whole, *options)
    assert list(scores(whole)) == [12, 24, 36]
    for step in (15, 23):  # within an epoch, and in its last step
        cut = tmp_path / f"cut{step}"
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            stop_at(patch, step)
            distill(tiny_teacher, cut, *options)
        assert (cut / f"checkpoint-{step + 1}").is_dir()
        distill(tiny_teacher, cut, *options)
        assert scores(cut) == scores(whole) and same_weights(cut, whole)


def test_a_run_from_the_best_checkpoint_logs_what_it_would_have_logged(tiny_teacher, worsening, tmp_path):
    """Though the best evaluation (at step 5) is between two logs (every 3 steps)."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*worsening, *STEPS, "--logging_steps", "3"]
    distill(tiny_teacher, whole, *options)
    shutil.copytree(whole, cut)
    for path in cut.iterdir():
        if path.name not in ("recipe.yaml", "run.json", "checkpoint-5"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    distill(tiny_teacher, cut, *options)
    assert timeless(cut) == timeless(whole)
