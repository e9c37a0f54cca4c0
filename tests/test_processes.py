"""Two processes under `accelerate launch` do what one does: the same students, metrics and files."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import PROJECT, sentences, write_questions, write_tagged, write_tsv
from helpers.label_sets import LABELS, write_label_sets
from helpers.launching import ENVIRONMENT, command, in_two_processes, launch, logged, resumes, without_dropout
from helpers.rankings import write_rankings
from helpers.tiny import ARGUMENTS, qa_model, save_base, tiny_config
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, BertForTokenClassification, TrainerControl

import run_glue_ckd
import run_ner_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer.data.demo import agreement, reading
from ckd_trainer.runs.checkpoints import last_checkpoint
from ckd_trainer.runs.interruption import StopOnSignal
from ckd_trainer.utils.errors import Interrupted

QUICK = ["--report_to", "none", "--disable_tqdm", "true", "--logging_steps", "2"]


def results(folder):
    # `Trainer` fills the last batches up with examples that it takes out of predictions again, but not of the loss.
    times = ("_runtime", "_per_second", "latency_ms", "_time", "eval_loss")
    left = json.loads((folder / "all_results.json").read_text())
    return {name: value for name, value in left.items() if not name.endswith(times)}


def test_classification_in_two_processes(tiny_teacher, tmp_path):
    """Two batches of 2 in each of two processes are the batch of 8 in one, whatever the lengths, also grouped by them.

    23 and 13 examples do not fill the last batches, of which none may be lost or counted twice.
    """
    without_dropout(tiny_teacher)
    train = write_tsv(tmp_path / "train.tsv", sentences(96))
    validation = write_tsv(tmp_path / "validation.tsv", sentences(23, seed=1))
    test = write_tsv(tmp_path / "test.tsv", [row[:1] for row in sentences(13, seed=2)], header=("text",))
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *QUICK, "--train_file", str(train)]
    options += ["--validation_file", str(validation), "--test_file", str(test), "--max_seq_length", "32"]
    options += ["--do_train", "--do_eval", "--do_predict", "--max_steps", "6", "--save_steps", "3"]
    # Plain descent, by which weights differ as much as gradients do.
    options += ["--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0"]
    options += ["--train_sampling_strategy", "group_by_length", "--alpha", "0.7"]
    one, two = tmp_path / "one", tmp_path / "two"
    batches = ["--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "4"]
    run_glue_ckd.main([*options, *batches, "--output_dir", str(one)])
    batches[1:2] = ["2", "--gradient_accumulation_steps", "2"]
    cache = ["--teacher_cache_dir", str(tmp_path / "cache")]
    said = launch("run_glue_ckd.py", *options, *batches, "--output_dir", str(two))
    assert said.count("loss = 0.3 task + 0.7 logits") == 1  # the main process speaks for both

    assert json.loads((two / "run.json").read_text())["processes"] == 2
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    for mine, other in zip(logged(two), logged(one), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)
    assert results(two) == pytest.approx(results(one), rel=1e-4)
    files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (one, two)]
    assert [name for name in files[1] if "rng_state" not in name] == [
        name for name in files[0] if "rng_state" not in name
    ]
    assert (two / "predictions/predictions.tsv").read_text() == (one / "predictions/predictions.tsv").read_text()

    # From the cache, which both build, and one reads.
    cached = tmp_path / "cached"
    launch("run_glue_ckd.py", *options, *batches, "--output_dir", str(cached), *cache)
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    built = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, tensor in load_file(cached / "model.safetensors").items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)
    alone = ["--teacher_cache_dir", str(tmp_path / "alone"), "--output_dir", str(tmp_path / "alone_out")]
    run_glue_ckd.main([*options, *batches, *alone])
    (folder,) = (path for path in (tmp_path / "alone").iterdir() if path.is_dir())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == built


def test_unlabeled_texts_in_two_processes(tiny_teacher, tmp_path):
    """Two processes draw the same steps of labeled and unlabeled texts as one, and share the encoded ones."""
    without_dropout(tiny_teacher)
    train = write_tsv(tmp_path / "train.tsv", sentences(32))
    more = write_tsv(tmp_path / "more.tsv", [row[:1] for row in sentences(70, seed=3)], header=("text",))
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *QUICK, "--train_file", str(train)]
    options += ["--unlabeled_file", str(more), "--max_seq_length", "32", "--do_train", "--max_steps", "10"]
    options += ["--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0", "--alpha", "0.7"]
    options += ["--train_sampling_strategy", "group_by_length"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_glue_ckd.main([*options, "--per_device_train_batch_size", "8", "--output_dir", str(one)])
    launch("run_glue_ckd.py", *options, "--per_device_train_batch_size", "4", "--output_dir", str(two))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    for mine, other in zip(logged(two), logged(one), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)


def test_projections_in_two_processes(tiny_teacher, tmp_path):
    """They are averaged like any weights: two batches of 2 in two processes are the batch of 8 in one."""
    without_dropout(tiny_teacher)
    train = write_tsv(tmp_path / "train.tsv", sentences(48))
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *QUICK, "--train_file", str(train)]
    options += ["--max_seq_length", "32", "--do_train", "--max_steps", "5", "--save_steps", "5"]
    options += ["--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0"]
    options += ["--tinybert_embedding_weight", "0.3", "--tinybert_hidden_weight", "0.3"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_glue_ckd.main([*options, "--per_device_train_batch_size", "8", "--output_dir", str(one)])
    batches = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    launch("run_glue_ckd.py", *options, *batches, "--output_dir", str(two))
    for file in ("model.safetensors", "checkpoint-5/projections.safetensors"):
        ours, theirs = (load_file(folder / file) for folder in (two, one))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    for mine, other in zip(logged(two), logged(one), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)


@resumes
def test_two_processes_go_on_in_a_later_epoch(tiny_teacher, tmp_path, capsys):
    """From step 15 of 12 an epoch, grouped by length and with projections: the same student, bit for bit."""
    train = write_tsv(tmp_path / "train.tsv", sentences(96))
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *QUICK, "--train_file", str(train)]
    options += ["--max_seq_length", "32", "--do_train", "--num_train_epochs", "2", "--save_steps", "5"]
    options += ["--per_device_train_batch_size", "4", "--train_sampling_strategy", "group_by_length"]
    options += ["--tinybert_hidden_weight", "0.3"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    launch("run_glue_ckd.py", *options, "--output_dir", str(whole))
    shutil.copytree(whole, resumed)
    for path in resumed.iterdir():
        if path.name not in ("recipe.yaml", "run.json", "checkpoint-5", "checkpoint-10", "checkpoint-15"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SystemExit):
        run_glue_ckd.main([*options, "--output_dir", str(resumed)])
    assert "saved by 2 processes, but this run has 1: a step would have 4 examples instead" in capsys.readouterr().err
    said = launch("run_glue_ckd.py", *options, "--output_dir", str(resumed))
    assert "from checkpoint-15" in said
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert logged(resumed) == logged(whole)


MADE_ONCE = """
import sys
import datasets
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from ckd_trainer.utils.processes import made_once

def make():
    with open(sys.argv[1], "a") as file:
        file.write("made\\n")
    return DatasetDict({"train": Dataset.from_dict({"ids": [[1, 2], [3]]}), "test-": Dataset.from_dict({"ids": [[]]})})

PartialState(cpu=True)
datasets.config.HF_DATASETS_CACHE = sys.argv[2]  # as the variable sets it where datasets is imported
with made_once(make) as sets:
    assert sets["train"]["ids"][:] == [[1, 2], [3]] and sets["test-"]["ids"][:] == [[]]
    assert sets["train"].cache_files  # mapped from disk
"""


def test_data_is_made_once(tmp_path):
    """What a run that was killed has left goes, and what one that lives holds stays."""
    (tmp_path / "script.py").write_text(MADE_ONCE)
    cache = tmp_path / "cache"
    for name in ("ckd-trainer-killed", "ckd-trainer-lives"):
        (cache / name).mkdir(parents=True)
        (cache / f"{name}.lock").touch()
    with FileLock(cache / "ckd-trainer-lives.lock"):
        launch(tmp_path / "script.py", str(tmp_path / "made.txt"), str(cache))
        assert sorted(path.name for path in cache.iterdir()) == ["ckd-trainer-lives", "ckd-trainer-lives.lock"]
    assert (tmp_path / "made.txt").read_text() == "made\n"


def test_questions_in_two_processes(tmp_path):
    """Several features a question, 23 questions, grouped by length: one student, and every answer is found once."""
    teacher = save_base(tmp_path / "teacher")
    qa_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(teacher)
    train = write_questions(tmp_path / "train.json", 96)
    validation = write_questions(tmp_path / "validation.json", 23, seed=1, unanswerable=5)
    options = ["--teacher_model_name_or_path", str(teacher), *STUDENT, *QUICK, "--task_name", "squad_v2"]
    options += ["--train_file", str(train), "--validation_file", str(validation), "--max_seq_length", "14"]
    options += ["--doc_stride", "3", "--max_question_length", "4", "--train_sampling_strategy", "group_by_length"]
    trained, alone = tmp_path / "trained", tmp_path / "alone"
    training = ["--do_train", "--max_steps", "6", "--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0"]
    training += ["--per_device_train_batch_size"]
    launch("run_squad_ckd.py", *options, *training, "4", "--output_dir", str(trained))
    run_squad_ckd.main([*options, *training, "8", "--output_dir", str(alone)])
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (trained, alone))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)

    again = ["--student_init", "pretrained", "--student_num_layers", "none", "--model_name_or_path", str(trained)]
    again += ["--do_eval", "--do_predict", "--per_device_eval_batch_size", "3"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_squad_ckd.main([*options, *again, "--output_dir", str(one)])
    launch("run_squad_ckd.py", *options, *again, "--output_dir", str(two))
    assert results(two) == pytest.approx(results(one), rel=1e-5)
    files = [
        {path.name: json.loads(path.read_text()) for path in (folder / "predictions").iterdir()}
        for folder in (one, two)
    ]
    assert files[0]["predictions.json"] == files[1]["predictions.json"] and len(files[0]["predictions.json"]) == 23
    assert files[0]["null_odds.json"] == pytest.approx(files[1]["null_odds.json"], rel=1e-4, abs=1e-5)


def test_entities_in_two_processes(tmp_path):
    """Several windows a sentence, 23 sentences, grouped by length: one student, and every word is found once."""
    teacher = save_base(tmp_path / "teacher")
    labels = ("O", "B-bad", "I-bad", "B-good", "I-good")
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertForTokenClassification(tiny_config(labels=labels, **plain)).save_pretrained(teacher)
    train, test = write_tagged(tmp_path / "train.conll", 96), write_tagged(tmp_path / "test.conll", 23, seed=1)
    options = ["--teacher_model_name_or_path", str(teacher), *STUDENT, *QUICK, "--train_file", str(train)]
    options += ["--validation_file", str(test), "--test_file", str(test), "--max_seq_length", "8", "--doc_stride", "2"]
    options += ["--do_train", "--do_eval", "--do_predict", "--max_steps", "6", "--optim", "sgd"]
    options += ["--learning_rate", "0.1", "--max_grad_norm", "0", "--train_sampling_strategy", "group_by_length"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_ner_ckd.main([*options, "--per_device_train_batch_size", "8", "--output_dir", str(one)])
    batches = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    launch("run_ner_ckd.py", *options, *batches, "--per_device_eval_batch_size", "3", "--output_dir", str(two))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    found = [results(folder) for folder in (one, two)]
    # The windows of an epoch are no multiple of a batch, which each process rounds up for itself.
    assert all(0.25 < left.pop("epoch") < 0.3 for left in found)
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    said = [(folder / "predictions" / "predictions.conll").read_text() for folder in (one, two)]
    assert said[0] == said[1] and said[0].count("\n\n") == 23


def test_several_labels_in_two_processes(tmp_path):
    """One student, with the same thresholds and predictions."""
    teacher = save_base(tmp_path / "teacher")
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = tiny_config(labels=LABELS, problem_type="multi_label_classification", **plain)
    BertForSequenceClassification(config).save_pretrained(teacher)
    train, test = write_label_sets(tmp_path / "train.tsv", 96), write_label_sets(tmp_path / "test.tsv", 23, seed=1)
    options = ["--teacher_model_name_or_path", str(teacher), *STUDENT, *QUICK, "--train_file", str(train)]
    options += ["--validation_file", str(test), "--test_file", str(test), "--multi_label", "--max_seq_length", "32"]
    options += ["--do_train", "--do_eval", "--do_predict", "--max_steps", "6", "--optim", "sgd"]
    options += ["--learning_rate", "0.1", "--max_grad_norm", "0", "--train_sampling_strategy", "group_by_length"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_glue_ckd.main([*options, "--per_device_train_batch_size", "8", "--output_dir", str(one)])
    batches = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    launch("run_glue_ckd.py", *options, *batches, "--per_device_eval_batch_size", "3", "--output_dir", str(two))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    assert results(two) == pytest.approx(results(one), rel=1e-5)
    thresholds = [json.loads((folder / "config.json").read_text())["label_thresholds"] for folder in (one, two)]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-4) and list(thresholds[0]) == list(LABELS)
    said = [(folder / "predictions" / "predictions.jsonl").read_text().splitlines() for folder in (one, two)]
    labels = [[json.loads(line)["label"] for line in lines] for lines in said]
    assert labels[0] == labels[1] and len(labels[0]) == 23


def test_rankings_in_two_processes(tmp_path):
    """One student, with the same ranking: both processes draw the same groups, and neither gets a part of one."""
    teacher = save_base(tmp_path / "teacher")
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertForSequenceClassification(tiny_config(labels=("0", "1"), **plain)).save_pretrained(teacher)
    train, test = (write_rankings(tmp_path / f"{name}.tsv", *sizes) for name, sizes in
                   (("train", (24, 5)), ("test", (7, 3, 1))))  # fmt: skip
    options = ["--teacher_model_name_or_path", str(teacher), *STUDENT, *QUICK, "--train_file", str(train)]
    options += ["--validation_file", str(test), "--text_column", "query", "--text_pair_column", "candidate"]
    options += ["--group_column", "query_id", "--group_size", "4", "--max_seq_length", "32", "--do_train", "--do_eval"]
    options += ["--listwise_weight", "0.5", "--margin_mse_weight", "0.5", "--max_steps", "10", "--optim", "sgd"]
    options += ["--learning_rate", "0.1", "--max_grad_norm", "0", *SHORT_RUN]  # an epoch has 6 steps
    one, two = tmp_path / "one", tmp_path / "two"
    run_glue_ckd.main([*options, "--per_device_train_batch_size", "16", "--output_dir", str(one)])
    batches = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    launch("run_glue_ckd.py", *options, *batches, "--per_device_eval_batch_size", "2", "--output_dir", str(two))
    terms = [[entry.get("loss_listwise") for entry in logged(folder)] for folder in (one, two)]
    # They are about 1e-4, the small difference of scores that are a thousand times as large.
    assert len(terms[0]) == 5 and terms[1] == pytest.approx(terms[0], rel=1e-4, abs=1e-6)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)
    assert results(two) == pytest.approx(results(one), rel=1e-4)


EMBEDDED = {
    "": (run_glue_ckd, agreement, ".tsv", {"train": 320, "validation": 22}),
    "qa_": (run_squad_ckd, reading, ".json", {"train": 24, "validation": 3}),
}


@pytest.mark.parametrize("task", ["", pytest.param("qa_", marks=pytest.mark.slow)])
def test_recipe_of_a_demo_task_in_two_processes(task, tmp_path):
    """Teacher, student, and the student's scores once more in one process: the same, over all of an odd set."""
    script, data, ending, sizes = EMBEDDED[task]
    data.write_task(tmp_path, **sizes, test=2)
    options = ["--train_file", str(tmp_path / f"train{ending}"), "--max_steps", "4", "--save_strategy", "no"]
    options += ["--validation_file", str(tmp_path / f"validation{ending}"), "--eval_strategy", "no"]
    options += ["--max_eval_samples", "21", "--per_device_eval_batch_size", "4", "--disable_tqdm", "true"]
    start = ["--model_name_or_path", str(tmp_path / "base"), "--output_dir"]
    recipes = [str(PROJECT / "recipes" / f"quickstart_{task}{role}.yaml") for role in ("teacher", "ckd")]
    run_teacher.main([recipes[0], *options, *start, str(tmp_path / "teacher")])
    options += ["--teacher_model_name_or_path", str(tmp_path / "teacher"), *start, str(tmp_path / "student")]
    if task == "":
        options += ["--unlabeled_file", str(tmp_path / "train.tsv")]
    launch(f"{script.__name__}.py", recipes[1], *options, "--per_device_train_batch_size", "16")
    two = results(tmp_path / "student")
    script.main([recipes[1], *options, "--per_device_train_batch_size", "16"])
    assert two == pytest.approx(results(tmp_path / "student"), rel=1e-5)
    record = json.loads((tmp_path / "student" / "run.json").read_text())
    assert record["processes"] == 2 and two["eval_samples"] == 21


@pytest.fixture
def training(tiny_teacher, tmp_path):
    """Options of one that is long enough for a signal to come in time."""
    train = write_tsv(tmp_path / "train.tsv", sentences(96))
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *SHORT_RUN, "--train_file", str(train)]
    options += [*QUICK, "--max_seq_length", "32", "--do_train", "--max_steps", "80", "--save_steps", "1000"]
    return [*options, "--logging_steps", "1", "--output_dir", str(tmp_path / "out")]


def workers(launcher):
    number = launcher.pid
    return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def to_all(launcher, number):
    """As Slurm does: each process gets the signal, and the workers again the one that the launcher passes on."""
    for worker in workers(launcher):
        os.kill(worker, number)
    time.sleep(0.2)
    launcher.send_signal(number)


def to_launcher(launcher, number):
    """As a terminal does at Ctrl-C: the workers have sessions of their own."""
    launcher.send_signal(number)


def to_one(launcher, number):
    """By hand."""
    os.kill(workers(launcher)[1], number)


@resumes
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks Linux for the processes")
@pytest.mark.parametrize(
    ("send", "number"),
    [
        (to_all, signal.SIGTERM),
        pytest.param(to_all, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(to_launcher, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(to_launcher, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(to_one, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_signal_saves_once_and_stops_both(training, tmp_path, send, number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command("run_glue_ckd.py", *training), env=ENVIRONMENT, **pipes) as launcher:
        try:
            next(line for line in launcher.stdout if "'loss'" in line)
            send(launcher, number)
            said = launcher.communicate(timeout=60)[0]
        except BaseException:
            launcher.terminate()
            raise
    assert launcher.returncode == 1, said[-3000:]  # its own, whatever the workers end with
    assert said.count(f"stopped by {number.name}; the same command resumes from the last checkpoint.") == 2
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert last_checkpoint(tmp_path / "out", ARGUMENTS) == str(checkpoint)
    assert len(list(checkpoint.glob("rng_state_*.pth"))) == 2

    said = launch("run_glue_ckd.py", *training)
    assert f"Resuming the run in {tmp_path / 'out'} from {checkpoint.name}." in said
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 80


def test_signal_that_others_may_not_know_of_stops_nothing():
    """As it comes while a checkpoint is saved: one process would stop, and the others wait for it."""
    stop, control = StopOnSignal(SimpleNamespace(num_processes=2)), TrainerControl()
    with pytest.raises(Interrupted), stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        stop.on_save(None, None, control)
        assert not control.should_training_stop


SPOILED = """
from ckd_trainer.trainer import DistillationTrainer
from run_glue_ckd import main

compute_loss = DistillationTrainer.compute_loss


def spoiled(self, *args, **kwargs):
    loss = compute_loss(self, *args, **kwargs)
    return loss * float("nan") if self.args.process_index == 1 and self.state.global_step == 12 else loss


DistillationTrainer.compute_loss = spoiled
main()
"""


def test_loss_without_a_value_in_one_process_stops_both(training, tmp_path):
    ranks = in_two_processes(SPOILED, *training, "--save_steps", "10")
    assert [rank.returncode for rank in ranks] == [2, 2]
    said = "".join(rank.stderr for rank in ranks)
    assert "error: training has diverged: at step 20 the weights are no longer finite." in said
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert last_checkpoint(tmp_path / "out", ARGUMENTS) == str(checkpoint) and checkpoint.name == "checkpoint-10"
