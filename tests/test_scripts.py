"""The scripts through their `main`: whole runs on tiny models, and the files they leave."""

import json
import logging
import shutil
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import sentences, write_tsv
from helpers.tiny import ARGUMENTS, save_tokenizer, tiny_model
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run_glue_ckd
import run_teacher
from ckd_trainer.models import stored_teacher
from ckd_trainer.runs.checkpoints import last_checkpoint

QUICK = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "3e-3"]
QUICK += ["--report_to", "none", "--logging_steps", "2", "--disable_tqdm", "true"]
EPOCHS = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end"]


def distill(teacher, output, *options):
    return run_glue_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), "--output_dir", str(output), *STUDENT, *QUICK, *options]
    )


def results(folder):
    return json.loads((folder / "all_results.json").read_text())


def logged(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A teacher that run_teacher.py has fine-tuned to tell good from bad sentences."""
    folder = tmp_path_factory.mktemp("teacher")
    tiny_model().save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    train = write_tsv(folder / "train.tsv", sentences(96))
    validation = write_tsv(folder / "validation.tsv", sentences(22, seed=1))
    metrics = run_teacher.main(
        ["--model_name_or_path", str(folder / "base"), "--output_dir", str(folder / "trained"), "--do_train"]
        + ["--train_file", str(train), "--validation_file", str(validation), "--max_seq_length", "32", "--do_eval"]
        + [*QUICK, *EPOCHS, "--num_train_epochs", "6", "--train_sampling_strategy", "group_by_length"]
    )
    assert metrics["eval_accuracy"] > 0.9
    return folder / "trained"


@pytest.fixture
def trained_teacher(trained_once, tmp_path):
    return shutil.copytree(trained_once, tmp_path / "trained")


def test_teacher_then_student_end_to_end(trained_teacher, text_files, tmp_path, caplog):
    output = tmp_path / "student"
    options = ["--do_train", "--do_eval", "--do_predict", "--train_sampling_strategy", "group_by_length", *EPOCHS]
    options += ["--alpha", "0.7", "--term_balance", "none", "--relation_normalization", "pairs"]
    options += [f"--{term}_{kind}_weight=1" for term in ("wr", "ltr") for kind in ("distance", "angle")]
    metrics = distill(trained_teacher, output, *text_files, *options)
    assert "AT CHANCE" not in caplog.text and "The teacher on 22 validation examples: accuracy 1.000" in caplog.text

    left = results(output)
    assert left["eval_accuracy"] == metrics["eval_accuracy"] > 0.8
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert left["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert left["model_size_mb"] == round(4 * left["parameters"] / 1e6, 3) and left["latency_ms"] > 0
    assert (left["train_samples"], left["eval_samples"]) == (96, 22)

    log = [entry for entry in logged(output) if "loss" in entry]
    assert len(log) == 12  # 2 epochs of 12 steps, every second
    terms = {f"loss_{term}" for term in ("task", "logits", "wr_distance", "wr_angle", "ltr_distance", "ltr_angle")}
    assert all(terms | {"nonfinite_steps"} <= set(entry) for entry in log)

    recipe = yaml.safe_load((output / "recipe.yaml").read_text())
    assert recipe["student_num_layers"] == 2 and recipe["alpha"] == 0.7 and recipe["learning_rate"] == 3e-3
    record = json.loads((output / "run.json").read_text())
    assert record["versions"]["torch"] == version("torch") and record["processes"] == 1

    card = (output / "README.md").read_text()
    assert "Distilled from `trained`" in card and f"| accuracy | {left['eval_accuracy']:.4f} |" in card
    assert "0.3 task + 0.7 logits + 1 wr_distance" in card and str(tmp_path) not in card

    classify = pipeline("text-classification", model=str(output))
    texts = [text for text, _ in sentences(13, seed=2)]
    said = [answer["label"] for answer in classify(texts)]
    assert set(said) == {"bad", "good"}
    # The prediction file has the test set's order, though batches are grouped by length.
    lines = (output / "predictions" / "predictions.tsv").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{index}\t{label}" for index, label in enumerate(said))]


def test_contributions_are_in_the_order_of_the_file(trained_teacher, text_files, tmp_path):
    """Not in that of lengths, which differs between tokenizers: a comparison pairs them example by example."""
    options = ["--student_init", "random", "--do_train", "--do_eval", "--max_steps", "3"]
    distill(trained_teacher, tmp_path / "out", *text_files, *options)
    classify = pipeline("text-classification", model=str(tmp_path / "out"))
    rows = sentences(22, seed=1)
    right = [classify(text)[0]["label"] == label for text, label in rows]
    values = load_arrays(tmp_path / "out" / "eval_contributions.safetensors")
    assert 0 < sum(right) < 22 and values["eval_accuracy"] == pytest.approx(np.array(right, float))


def test_best_checkpoint_by_the_tasks_metric_and_early_stopping(trained_teacher, text_files, tmp_path):
    output = tmp_path / "student"
    options = ["--do_train", *text_files, *EPOCHS, "--num_train_epochs", "30", "--early_stopping_patience", "2"]
    options += SHORT_RUN
    distill(trained_teacher, output, *options)
    state = json.loads((output / "trainer_state.json").read_text())
    scores = [entry["eval_accuracy"] for entry in state["log_history"] if "eval_accuracy" in entry]
    assert state["best_metric"] == max(scores)
    assert len(scores) == scores.index(max(scores)) + 1 + 2  # the best, then two that are no better
    best = load_file(f"{state['best_model_checkpoint']}/model.safetensors")
    final = load_file(output / "model.safetensors")
    assert all(torch.equal(best[name], final[name]) for name in best)


@pytest.mark.parametrize("strategy", [pytest.param("random", marks=pytest.mark.slow), "group_by_length"])
def test_interrupted_run_resumes_and_ends_as_if_it_had_not_been(trained_teacher, text_files, tmp_path, strategy):
    """In the first epoch, of 12 steps, and in the second."""
    options = ["--do_train", *text_files, "--save_strategy", "steps", "--save_steps", "3"]
    options += ["--train_sampling_strategy", strategy]
    whole = tmp_path / "whole"
    distill(trained_teacher, whole, *options)
    for kept in (6, 15):
        cut = shutil.copytree(whole, tmp_path / f"cut{kept}")
        for path in cut.iterdir():  # as a run killed a step later leaves its folder
            if path.name.startswith("checkpoint-"):
                if int(path.name.split("-")[1]) > kept:
                    shutil.rmtree(path)
            elif path.name != "recipe.yaml":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert last_checkpoint(cut, ARGUMENTS).endswith(f"checkpoint-{kept}")
        distill(trained_teacher, cut, *options)
        ours, theirs = load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert [entry["step"] for entry in logged(cut)] == [entry["step"] for entry in logged(whole)]


def test_half_written_checkpoint_is_passed_over(tmp_path):
    for step in (4, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": 4}')
    save_file({"weight": torch.zeros(1)}, tmp_path / "checkpoint-4" / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, tmp_path / "checkpoint-4" / name)
    (tmp_path / "checkpoint-8" / "trainer_state.json").write_text('{"epoch": 1')
    assert last_checkpoint(tmp_path, ARGUMENTS).endswith("checkpoint-4")


def test_finished_run_is_not_trained_again_but_can_predict(trained_teacher, text_files, tmp_path):
    output = tmp_path / "student"
    options = [*text_files, "--do_train", "--do_eval", "--max_steps", "2"]
    distill(trained_teacher, output, *options)
    before = results(output)
    weights = (output / "model.safetensors").read_bytes()
    again = distill(trained_teacher, output, *options, "--do_predict")
    assert again["eval_accuracy"] == before["eval_accuracy"] and "train_loss" not in again
    assert results(output)["train_runtime"] == before["train_runtime"]
    assert (output / "model.safetensors").read_bytes() == weights
    assert len((output / "predictions" / "predictions.tsv").read_text().splitlines()) == 14
    assert "Distilled from `trained`" in (output / "README.md").read_text()


def test_evaluating_later_completes_the_card(trained_teacher, text_files, tmp_path):
    output = tmp_path / "student"
    options = [*text_files, "--do_train", "--max_steps", "2"]
    distill(trained_teacher, output, *options)
    assert "The model was not evaluated." in (output / "README.md").read_text()
    metrics = distill(trained_teacher, output, *options, "--do_eval", "--logging_steps", "5")
    card = (output / "README.md").read_text()
    assert f"| accuracy | {metrics['eval_accuracy']:.4f} |" in card and "Distilled from `trained`" in card
    assert "not evaluated" not in card and "## Training" in card


def test_teacher_cache_stands_in_for_the_teacher(trained_teacher, text_files, tmp_path, monkeypatch, caplog):
    """From the second run on the teacher's weights are not loaded; the card tells of it all the same."""
    student = ["--student_init", "random", "--student_config", '{"hidden_size": 16}', "--student_num_layers", "2"]
    student += ["--model_name_or_path", str(trained_teacher)]
    common = ["--teacher_model_name_or_path", str(trained_teacher), *text_files, "--do_train", "--do_eval", *QUICK]
    common += ["--max_steps", "8"]
    cache = ["--teacher_cache_dir", str(tmp_path / "cache")]
    live = run_glue_ckd.main([*common, *student, "--output_dir", str(tmp_path / "live")])
    built = run_glue_ckd.main([*common, *student, *cache, "--output_dir", str(tmp_path / "1")])
    assert "The teacher reads 96 examples once" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(stored_teacher, "load_teacher", None)
        caplog.clear()
        cached = run_glue_ckd.main([*common, *student, *cache, "--output_dir", str(tmp_path / "2")])
    assert "The teacher on 96 training examples: accuracy" in caplog.text
    assert cached["eval_loss"] == built["eval_loss"] == pytest.approx(live["eval_loss"], rel=0.01)
    cards = [(tmp_path / name / "README.md").read_text() for name in ("live", "2")]
    rows = [[line for line in card.splitlines() if line.startswith("| teacher |")] for card in cards]
    assert rows[0] == rows[1] != []
    other = ["--teacher_cache_dir", str(tmp_path / "other"), "--output_dir", str(tmp_path / "3")]
    metrics = run_glue_ckd.main([*common, *STUDENT, *other])  # a student made of teacher layers
    assert metrics["eval_accuracy"] > 0.5


def test_teacher_cache_that_is_a_file_is_refused(trained_teacher, text_files, tmp_path, capsys):
    (tmp_path / "cache").write_text("")
    options = ["--teacher_model_name_or_path", str(trained_teacher), *STUDENT, *text_files, "--do_train"]
    message = refused(
        capsys, *options, "--output_dir", str(tmp_path / "out"), "--teacher_cache_dir", str(tmp_path / "cache")
    )
    assert "teacher_cache_dir" in message and "is a file" in message
    assert not (tmp_path / "out").exists()


def test_overwriting_deletes_nothing_before_the_rest_is_right(trained_teacher, text_files, tmp_path, capsys):
    output = tmp_path / "student"
    distill(trained_teacher, output, *text_files, "--do_train", "--max_steps", "2")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    common = ["--teacher_model_name_or_path", str(trained_teacher), *STUDENT, *text_files, "--do_train", *QUICK]
    refused(capsys, *common, "--output_dir", str(output), "--overwrite_output_dir", "--train_file", "typo.tsv")
    inside = ["--output_dir", str(trained_teacher), "--overwrite_output_dir"]
    assert "holds a model that this run reads" in refused(capsys, *common, *inside)
    checkpoint = next(output.glob("checkpoint-*"))
    onto = ["--output_dir", str(output), "--overwrite_output_dir"]
    teaches = [*common, "--teacher_model_name_or_path", str(checkpoint), *onto]
    assert "holds a model that this run reads" in refused(capsys, *teaches)
    predicted = output / "predictions" / "predictions.tsv"
    predicted.parent.mkdir()
    for option in ("train_file", "validation_file", "test_file", "unlabeled_file"):
        shutil.copy(text_files[1], predicted)
        reads = [*common, f"--{option}", str(predicted), *onto]
        assert f"this run reads {predicted} in it: give another output_dir" in refused(capsys, *reads)
    shutil.rmtree(predicted.parent)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert (trained_teacher / "model.safetensors").is_file()


def test_a_folder_where_nothing_was_trained_yet_is_free(trained_teacher, text_files, tmp_path):
    output = tmp_path / "student"
    output.mkdir()
    (output / "recipe.yaml").write_text("learning_rate: 7\n")  # what a run that failed at its first step leaves
    distill(trained_teacher, output, *text_files, "--do_train", "--max_steps", "1")
    assert (output / "model.safetensors").is_file()


def test_explicit_resume_trains_on(trained_teacher, text_files, tmp_path):
    output = tmp_path / "student"
    options = [*text_files, *SHORT_RUN, "--do_train", "--save_strategy", "steps", "--save_steps", "2"]
    distill(trained_teacher, output, *options, "--max_steps", "4")
    distill(trained_teacher, output, *options, "--max_steps", "6", "--resume_from_checkpoint", "true")
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 6


@pytest.mark.parametrize("main", [run_teacher.main, run_glue_ckd.main])
def test_resolved_recipe_runs_again(trained_teacher, text_files, tmp_path, main):
    output = tmp_path / "out"
    teacher = [] if main is run_teacher.main else ["--teacher_model_name_or_path", str(trained_teacher)]
    common = ["--model_name_or_path", str(trained_teacher), *teacher, *text_files, *QUICK, "--max_steps", "2"]
    main([*common, "--output_dir", str(output), "--do_train"])
    main([str(output / "recipe.yaml"), "--output_dir", str(tmp_path / "again")])
    first, again = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_runs_folder_is_refused_unless_overwriting(trained_teacher, text_files, tmp_path, capsys):
    output = tmp_path / "student"
    options = [*text_files, "--do_train", "--max_steps", "2"]
    distill(trained_teacher, output, *options)
    (output / "notes.txt").write_text("mine")
    other = [*options, "--temperature", "2"]
    with pytest.raises(SystemExit) as stopped:
        distill(trained_teacher, output, *other)
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "temperature 3.0 there, 2.0 here" in message
    assert "overwrite_output_dir" in message
    distill(trained_teacher, output, *other, "--overwrite_output_dir")
    assert yaml.safe_load((output / "recipe.yaml").read_text())["temperature"] == 2.0
    assert (output / "notes.txt").read_text() == "mine"


def test_control_run_needs_no_teacher(tiny_teacher, text_files, tmp_path):
    zeros = [f"--{term}_{kind}_weight=0" for term in ("wr", "ltr") for kind in ("distance", "angle")]
    run_glue_ckd.main(
        ["--model_name_or_path", str(tiny_teacher), "--output_dir", str(tmp_path / "out"), "--alpha", "0", *zeros]
        + [*text_files, *QUICK, "--do_train"]
    )
    assert {"loss", "loss_task"} <= set(logged(tmp_path / "out")[0])
    assert "without a teacher" in (tmp_path / "out" / "README.md").read_text()


def test_regression_on_own_json_lines(tmp_path, tiny_teacher):
    rows = [{"first": text, "second": text, "score": float(label == "good")} for text, label in sentences(40)]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    columns = ["--text_column", "first", "--text_pair_column", "second", "--label_column", "score", "--regression"]
    files = [
        word for name in ("train", "validation", "test") for word in (f"--{name}_file", f"{tmp_path / name}.jsonl")
    ]
    common = [*files, *columns, *QUICK, "--max_seq_length", "32", "--do_train", "--do_eval", "--do_predict"]
    teacher = ["--model_name_or_path", str(tiny_teacher), "--output_dir", str(tmp_path / "t")]
    metrics = run_teacher.main([*teacher, *common, "--num_train_epochs", "8"])
    assert metrics["eval_pearson"] > 0.8
    metrics = distill(tmp_path / "t", tmp_path / "s", *common, *SHORT_RUN)
    assert {"eval_pearson", "eval_spearmanr"} <= set(metrics)
    lines = (tmp_path / "s" / "predictions" / "predictions.tsv").read_text().splitlines()
    assert len(lines) == 41 and all(-1 < float(line.split("\t")[1]) < 2 for line in lines[1:])
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s").config
    assert config.num_labels == 1 and config.problem_type == "regression"


def test_mnli_reports_both_sets_and_writes_both_files(tmp_path, tiny_teacher):
    """The classic layout: 3 classes, two validation and two test sets."""
    folder = tmp_path / "glue" / "MNLI"
    folder.mkdir(parents=True)
    names = ("entailment", "neutral", "contradiction")
    texts = [text for text, _ in sentences(30)]
    for name, count in (("train", 30), ("dev_matched", 9), ("dev_mismatched", 12)):
        rows = [(str(index), texts[index], texts[-index], names[index % 3]) for index in range(count)]
        write_tsv(folder / f"{name}.tsv", rows, header=("index", "sentence1", "sentence2", "gold_label"))
    for name, count in (("test_matched", 5), ("test_mismatched", 7)):
        rows = [(str(index), texts[index], texts[-index]) for index in range(count)]
        write_tsv(folder / f"{name}.tsv", rows, header=("index", "sentence1", "sentence2"))
    output = tmp_path / "out"
    options = ["--task_name", "mnli", "--data_dir", str(tmp_path / "glue"), "--max_seq_length", "32"]
    run_teacher.main(
        ["--model_name_or_path", str(tiny_teacher), "--output_dir", str(output), *options, *QUICK, *EPOCHS]
        + ["--do_train", "--do_eval", "--do_predict"]
    )
    left = results(output)
    assert (left["eval_samples"], left["eval_mismatched_samples"]) == (9, 12)
    assert 0 <= left["eval_mismatched_accuracy"] <= 1
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["best_metric"] == left["eval_accuracy"]  # matched accuracy picks the checkpoint
    for name, count in (("MNLI-m.tsv", 5), ("MNLI-mm.tsv", 7)):
        lines = (output / "predictions" / name).read_text().splitlines()
        assert len(lines) == count + 1 and lines[1].split("\t")[1] in names


def test_teacher_at_chance_is_warned_of_with_the_number(tiny_teacher, text_files, tmp_path, caplog):
    distill(tiny_teacher, tmp_path / "out", *text_files, "--do_train", "--do_eval", "--max_steps", "1")
    warning = next(record.message for record in caplog.records if "AT CHANCE" in record.message)
    assert "accuracy 0.500" in warning and "22 validation examples" in warning


@pytest.fixture
def swapped_teacher(trained_teacher, tmp_path):
    """The same function as the trained teacher, its head and its label names in the other order."""
    model = AutoModelForSequenceClassification.from_pretrained(trained_teacher)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    model.config.id2label, model.config.label2id = {0: "good", 1: "bad"}, {"good": 0, "bad": 1}
    model.save_pretrained(tmp_path / "swapped")
    AutoTokenizer.from_pretrained(trained_teacher).save_pretrained(tmp_path / "swapped")
    return tmp_path / "swapped"


@pytest.mark.parametrize("start", ["teacher_layers", "pretrained"])
def test_labels_in_another_order_give_the_same_student(
    trained_teacher, swapped_teacher, text_files, tmp_path, caplog, start
):
    """As a teacher, and as the head that a student starts with."""
    weights = {}
    for teacher in (trained_teacher, swapped_teacher):
        output = tmp_path / f"from_{teacher.name}"
        options = ["--do_train", "--do_eval", "--max_steps", "4", *SHORT_RUN]
        if start == "pretrained":
            options += ["--student_init", start, "--student_num_layers", "none", "--model_name_or_path", str(teacher)]
        distill(teacher, output, *text_files, *options)
        weights[teacher] = load_file(output / "model.safetensors")
    assert "matched by name" in caplog.text and "AT CHANCE" not in caplog.text
    for name, tensor in weights[trained_teacher].items():
        torch.testing.assert_close(tensor, weights[swapped_teacher][name])


def test_evaluation_and_prediction_go_by_label_names(trained_teacher, swapped_teacher, text_files, tmp_path):
    said = []
    for name, model in (("straight", trained_teacher), ("swapped", swapped_teacher)):
        common = ["--model_name_or_path", str(model), "--output_dir", str(tmp_path / f"by_{name}")]
        common += ["--do_eval", "--do_predict"]
        metrics = run_teacher.main([*common, *text_files, *QUICK])
        assert metrics["eval_accuracy"] > 0.9
        said.append((tmp_path / f"by_{name}" / "predictions" / "predictions.tsv").read_text())
    assert said[0] == said[1]


def test_evaluating_a_model_without_these_labels_is_refused(tiny_teacher, text_files, tmp_path, capsys):
    tiny_model(labels=("a", "b", "c")).save_pretrained(tiny_teacher)
    capsys.readouterr()
    common = ["--model_name_or_path", str(tiny_teacher), "--output_dir", str(tmp_path / "out"), "--do_eval"]
    assert "cannot be evaluated on this data" in refused(capsys, *common, *text_files, main=run_teacher.main)


def test_evaluation_alone_writes_no_card(trained_teacher, text_files, tmp_path):
    """It does not know how that model was trained."""
    folder = tmp_path / "out"
    common = ["--model_name_or_path", str(trained_teacher), *text_files, "--output_dir", str(folder)]
    run_teacher.main([*common, "--do_eval"])
    assert (folder / "eval_results.json").is_file() and not (folder / "README.md").exists()


@pytest.fixture
def hub(monkeypatch):
    """A Hub whose two calls are replaced; everything up to them is `Trainer.push_to_hub`.

    It has the options of the last upload in `sent`; the errors of `failing`, by call, are raised instead.
    """
    from huggingface_hub import HfApi, RepoUrl

    found = SimpleNamespace(sent={}, failing={})

    def create_repo(repo_id, **kwargs):
        if error := found.failing.get("create_repo"):
            raise error
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(**kwargs):
        if error := found.failing.get("upload_folder"):
            raise error
        found.sent.update(kwargs)

    for call in (create_repo, upload_folder):  # the first transformers 5 have names of their own for them
        monkeypatch.setattr(HfApi, call.__name__, staticmethod(call))
        monkeypatch.setattr(f"transformers.trainer.{call.__name__}", call, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return found


def answer_of_hub(status):
    """The error with which huggingface_hub reports the status of an answer."""
    error = HTTPError(f"status {status}")
    error.response = SimpleNamespace(status_code=status)
    return error


def of_a_large_file(cause):
    """The error with which huggingface_hub reports that a large file is not uploaded."""
    error = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ("create_repo", answer_of_hub(403), 2),
        ("create_repo", answer_of_hub(502), 75),
        ("upload_folder", answer_of_hub(403), 2),
        ("upload_folder", answer_of_hub(502), 75),
        ("upload_folder", ConnectionError("status 502"), 75),
        ("upload_folder", of_a_large_file(ConnectionError("status 502")), 75),
    ],
)
def test_a_hub_that_does_not_take_the_model(call, error, code, hub, trained_teacher, text_files, tmp_path, capsys):
    """It is one message. The model of a finished training is uploaded by the same command, without training again."""
    hub.failing[call] = error
    push = ["--push_to_hub", "--hub_model_id", "me/my-student", "--hub_strategy", "end"]
    command = [*text_files, "--do_train", "--max_steps", "2", *push]
    with pytest.raises(SystemExit) as stopped:
        distill(trained_teacher, tmp_path / "student", *command)
    printed = capsys.readouterr().err
    status = 403 if code == 2 else 502
    assert stopped.value.code == code and f"status {status}): check the network" in printed
    assert (tmp_path / "student" / "model.safetensors").exists() == (call == "upload_folder")
    hub.failing.clear()
    trained = (tmp_path / "student" / "train_results.json").read_bytes() if call == "upload_folder" else None
    distill(trained_teacher, tmp_path / "student", *command)
    assert hub.sent["repo_id"] == "me/my-student"
    assert trained in (None, (tmp_path / "student" / "train_results.json").read_bytes())


def test_push_to_hub_sends_model_and_card(hub, trained_teacher, text_files, tmp_path, monkeypatch):
    sent = hub.sent
    output = tmp_path / "student"
    monkeypatch.delenv("HF_TOKEN", raising=False)
    push = ["--push_to_hub", "--hub_model_id", "me/my-student", "--hub_strategy", "end", "--hub_token", "hf_secret"]
    distill(trained_teacher, output, *text_files, "--do_train", "--do_eval", "--max_steps", "2", *push)
    assert sent["repo_id"] == "me/my-student" and sent["folder_path"] == str(output)
    card = (output / "README.md").read_text()
    assert 'model="me/my-student"' in card and "# my-student" in card and "Distilled from `trained`" in card
    assert "student_num_layers: 2" in card and "| accuracy |" in card
    for path in output.rglob("*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes(), path


@pytest.mark.usefixtures("unmeasured")
def test_bf16_and_padding_to_one_length(trained_teacher, text_files, tmp_path):
    distill(trained_teacher, tmp_path / "out", *text_files, "--do_train", "--do_eval", "--bf16", "--pad_to_max_length")
    assert results(tmp_path / "out")["eval_accuracy"] > 0.6
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "out" / "model.safetensors").values())


def test_real_glue_files_through_the_command_line(shared_data, trained_teacher, tmp_path):
    """CoLA in the classic layout: a few rows of each set, and the file that the GLUE server takes."""
    output = tmp_path / "cola"
    options = ["--task_name", "cola", "--data_dir", str(shared_data / "glue"), "--max_seq_length", "16"]
    options += ["--max_train_samples", "24", "--max_eval_samples", "20", "--max_predict_samples", "6"]
    run_teacher.main(
        ["--model_name_or_path", str(trained_teacher), "--output_dir", str(output), *options, *QUICK]
        + ["--do_train", "--do_eval", "--do_predict"]
    )
    assert "eval_matthews_correlation" in results(output)
    lines = (output / "predictions" / "CoLA.tsv").read_text().splitlines()
    assert len(lines) == 7 and all(line.split("\t")[1] in "01" for line in lines[1:])
    config = AutoModelForSequenceClassification.from_pretrained(output).config
    assert config.id2label == {0: "unacceptable", 1: "acceptable"}


def refused(capsys, *options, main=run_glue_ckd.main):
    with pytest.raises(SystemExit) as stopped:
        main(list(options))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error
    assert error.count("error: ") == 1  # behind it, progress bars at most
    return error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning_rat", "1"], "did you mean learning_rate?"),
        (["--window_size", "4"], "odd number"),
        (["--validation_file", "missing.tsv", "--do_eval"], "missing.tsv"),
        (["--label_column", "labels"], "'labels'"),
        (["--text_column", "sentence"], "it has 'text', 'label'"),
        (["--max_seq_length", "100"], "reads at most 32 tokens"),
        (["--student_num_layers", "9"], "student_num_layers is 9, but the teacher has only 4"),
        (
            ["--student_num_layers", "3", "--ltr_layer_mapping", "skip", "--ltr_angle_weight", "1"],
            "ltr_layer_mapping skip matches 1 layers",
        ),
        (["--metric_for_best_model", "bleu", *EPOCHS], "metric_for_best_model is bleu"),
        (["--early_stopping_patience", "2"], "load_best_model_at_end"),
        (["--resume_from_checkpoint", "true"], "no complete checkpoint"),
        (["--do_train", "false"], "nothing to do"),
        (["--do_train", "false", "--do_eval"], "never trained"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size is 0"),
        (["--learning_rate", "nan"], "learning_rate is nan"),
        (["--seed", "-1"], "seed is -1"),
        (["--report_to", "nonesuch"], "nonesuch, which transformers does not know"),
        (["--do_predict", "--prediction_loss_only"], "prediction_loss_only"),
    ],
)
def test_bad_options_leave_nothing(tiny_teacher, text_files, tmp_path, capsys, options, words):
    output = tmp_path / "out"
    common = ["--teacher_model_name_or_path", str(tiny_teacher), "--output_dir", str(output), *STUDENT, *QUICK]
    error = refused(capsys, *common, *text_files, "--do_train", *options)
    assert words in error
    assert not output.exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([("a cat", "fine"), ("a dog", "good")], "'fine'"),
        ([("a cat", "good"), ("a dog",)], "line 3"),
        ([("a cat", "good", "x")], "line 2"),
    ],
)
def test_bad_validation_files(tiny_teacher, text_files, tmp_path, capsys, rows, words):
    bad = write_tsv(tmp_path / "bad.tsv", rows)
    common = ["--teacher_model_name_or_path", str(tiny_teacher), "--output_dir", str(tmp_path / "out"), *STUDENT]
    error = refused(capsys, *common, *text_files, "--validation_file", str(bad), "--do_train", "--do_eval")
    assert words in error and "bad.tsv" in error


def test_teacher_of_another_task(text_files, tmp_path, capsys, tiny_teacher):
    tiny_model(labels=("a", "b", "c")).save_pretrained(tiny_teacher)
    capsys.readouterr()
    common = ["--teacher_model_name_or_path", str(tiny_teacher), "--output_dir", str(tmp_path / "out"), *STUDENT]
    assert "the teacher has 3 labels, but the data has 2" in refused(capsys, *common, *text_files, "--do_train")


def test_foreign_folder_is_refused(tiny_teacher, text_files, capsys):
    common = ["--teacher_model_name_or_path", str(tiny_teacher), "--output_dir", str(tiny_teacher), *STUDENT]
    for option in ([], ["--overwrite_output_dir"]):
        assert "but no run of ckd-trainer" in refused(capsys, *common, *text_files, "--do_train", *option)
    assert (tiny_teacher / "model.safetensors").is_file()


def test_warnings_of_the_hub_are_printed_once(monkeypatch, capsys, text_files):
    """By its own handler, and not by that of the run."""
    hub = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(hub, "propagate", True)
    refused(capsys, "--do_train", *text_files, "--output_dir", "out", "--report_to", "none")
    assert hub.handlers and not hub.propagate
