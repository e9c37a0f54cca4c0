"""Candidates of queries: the scripts through their `main`, from a teacher to a student's scores of unseen ones."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import write_tsv
from helpers.rankings import HEADER, rankings, write_rankings
from helpers.tiny import save_base
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from transformers import pipeline

import run_glue_ckd
import run_teacher
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.metrics.ranking import scores_of_groups
from ckd_trainer.tasks.texts import text_task

QUICK = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "3e-3"]
QUICK += ["--report_to", "none", "--logging_steps", "4", "--disable_tqdm", "true", "--max_seq_length", "32"]
COLUMNS = ["--text_column", "query", "--text_pair_column", "candidate", "--group_column", "query_id"]
EPOCHS = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end"]
BOTH = ["--do_train", "--do_eval", "--group_size", "4"]
RANKING = ["--listwise_weight", "0.5", "--margin_mse_weight", "0.5", *SHORT_RUN]


def own_files(folder):
    train, validation = (
        write_rankings(folder / f"{name}.tsv", *sizes)
        for name, sizes in (("train", (48, 5, 0)), ("validation", (12, 4, 1)))
    )
    return ["--train_file", str(train), "--validation_file", str(validation), *COLUMNS]


def fine_tune(base, output, *options):
    return run_teacher.main(["--model_name_or_path", str(base), "--output_dir", str(output), *QUICK, *options])


def distill(teacher, output, *options):
    return run_glue_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), "--output_dir", str(output), *STUDENT, *QUICK, *options]
    )


def read(path):
    return json.loads(path.read_text())


def refused(capsys, run, *words):
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def files(tmp_path):
    return own_files(tmp_path)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A teacher that run_teacher.py has fine-tuned on `rankings`."""
    folder = tmp_path_factory.mktemp("teacher")
    base = save_base(folder / "base")
    options = ["--num_train_epochs", "12", "--learning_rate", "5e-3"]
    metrics = fine_tune(base, folder / "trained", *own_files(folder), *BOTH, *options)
    assert metrics["eval_mrr_at_10"] > 0.8
    return folder / "trained"


@pytest.fixture
def teacher(trained_once, tmp_path):
    return shutil.copytree(trained_once, tmp_path / "trained")


# ----------------------------------------------------------------------------------------------------- whole runs


def test_teacher_then_student_end_to_end(teacher, files, tmp_path):
    output, test = tmp_path / "student", write_rankings(tmp_path / "test.tsv", 6, 3, seed=2)
    options = [*files, "--test_file", str(test), *BOTH, "--do_predict", *EPOCHS, *RANKING]
    metrics = distill(teacher, output, *options, "--num_train_epochs", "6")
    left = read(output / "all_results.json")
    scores = ("accuracy", "f1", "ndcg_at_10", "mrr_at_10")
    assert all(left[f"eval_{score}"] == metrics[f"eval_{score}"] for score in scores)
    assert left["eval_mrr_at_10"] > 0.6 and left["train_samples"] == 240
    state = read(output / "trainer_state.json")
    log = [entry for entry in state["log_history"] if "loss" in entry]
    assert log and all({"loss_listwise", "loss_margin_mse", "loss_task", "loss_logits"} <= set(entry) for entry in log)
    # The first score of rankings chooses the best checkpoint. An epoch draws 4 of each group's 5 candidates.
    found = [entry["eval_ndcg_at_10"] for entry in state["log_history"] if "eval_ndcg_at_10" in entry]
    assert state["best_metric"] == max(found) and state["max_steps"] == 6 * 48 * 4 / 8

    # The scores of the test set are those of the saved model: the log odds of 1.
    lines = (output / "predictions" / "predictions.tsv").read_text().splitlines()
    assert lines[0] == "index\tscore" and len(lines) == 1 + 18
    model = pipeline("text-classification", model=str(output), top_k=None)
    for line, (query, candidate, _, _) in zip(lines[1:], rankings(6, 3, seed=2), strict=True):
        shares = {one["label"]: one["score"] for one in model({"text": query, "text_pair": candidate})}
        assert float(line.split("\t")[1]) == pytest.approx(np.log(shares["1"] / shares["0"]), abs=1e-3)
    card = (output / "README.md").read_text()
    assert f"| mrr_at_10 | {left['eval_mrr_at_10']:.4f} |" in card and "0.5 x" in card


def test_contributions_are_those_of_groups(teacher, files, tmp_path):
    """Their mean is the score, and runs are compared by queries, whose candidates are not independent."""
    metrics = distill(teacher, tmp_path / "student", *files, *BOTH, *RANKING, "--max_steps", "4")
    values = load_arrays(tmp_path / "student" / "eval_contributions.safetensors")
    assert values["eval_mrr_at_10"].shape == values["eval_accuracy"].shape == (12,)
    for name in ("mrr_at_10", "ndcg_at_10", "accuracy"):
        assert values[f"eval_{name}"].mean() == pytest.approx(metrics[f"eval_{name}"])
    # The scores again, from predictions for the same candidates without labels.
    rows = rankings(12, 4, seed=1)
    again = ["--test_file", str(tmp_path / "validation.tsv"), "--do_predict"]
    fine_tune(tmp_path / "student", tmp_path / "again", *files, *again)
    lines = (tmp_path / "again" / "predictions" / "predictions.tsv").read_text().splitlines()[1:]
    scores = np.array([float(line.split("\t")[1]) for line in lines])
    labels = np.array([float(row[2]) for row in rows])
    found = scores_of_groups(labels, scores, np.array([row[3] for row in rows]))
    for name, each in found.items():
        assert sorted(each) == pytest.approx(sorted(values[f"eval_{name}"].tolist())), name


def test_numbers_instead_of_classes(tmp_path):
    base = save_base(tmp_path / "base")
    for name, sizes in (("train", (24, 5, 0)), ("validation", (12, 4, 1))):
        rows = [(*row[:2], str(2.5 * float(row[2])), row[3]) for row in rankings(*sizes)]
        write_tsv(tmp_path / f"{name}.tsv", rows, HEADER)
    options = ["--train_file", str(tmp_path / "train.tsv"), "--validation_file", str(tmp_path / "validation.tsv")]
    options += [*COLUMNS, "--regression", *BOTH]
    metrics = fine_tune(base, tmp_path / "teacher", *options)
    assert {"eval_pearson", "eval_rmse", "eval_ndcg_at_10", "eval_mrr_at_10"} <= metrics.keys()
    metrics = distill(tmp_path / "teacher", tmp_path / "student", *options, *RANKING, "--max_steps", "2")
    assert metrics["eval_mrr_at_10"] > 0
    values = load_arrays(tmp_path / "student" / "eval_contributions.safetensors")
    assert values["eval_pearson"].shape == (12,)
    assert values["eval_pearson"].mean() == pytest.approx(metrics["eval_pearson"], abs=0.1)


def test_a_teacher_whose_scores_have_another_scale(tmp_path, capsys):
    """As those of rerankers on the Hub: refused with labels and logits, but its ranking alone can be learned."""
    base = save_base(tmp_path / "base")
    files = [*own_files(tmp_path), "--regression", *BOTH]
    fine_tune(base, tmp_path / "teacher", *files, "--num_train_epochs", "12", "--learning_rate", "5e-3")
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    weights["classifier.weight"] *= 20
    weights["classifier.bias"] -= 9
    save_file(weights, tmp_path / "teacher" / "model.safetensors", {"format": "pt"})
    error = refused(capsys, distill, tmp_path / "teacher", tmp_path / "out", *files, *RANKING)
    assert "the teacher's scores are on another scale than the labels" in error
    alone = ["--labels_and_logits", "false", *RANKING, "--num_train_epochs", "6"]
    metrics = distill(tmp_path / "teacher", tmp_path / "student", *files, *alone)
    assert metrics["eval_mrr_at_10"] > 0.7  # at random about 0.52


def test_interrupted_run_resumes_and_ends_as_if_it_had_not_been(teacher, files, tmp_path):
    """In the second epoch, which draws other candidates than the first."""
    options = [*files, *BOTH, *RANKING, "--save_strategy", "steps", "--save_steps", "13", "--max_steps", "27"]
    options += ["--max_train_samples", "90"]  # 18 groups, and 9 steps an epoch
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(teacher, whole, *options)
    shutil.copytree(whole, cut)
    for path in cut.iterdir():  # as a run killed after step 20 leaves its folder
        if path.name.startswith("checkpoint-"):
            if int(path.name.split("-")[1]) > 20:
                shutil.rmtree(path)
        elif path.name != "recipe.yaml":
            path.unlink()
    assert (cut / "checkpoint-13").is_dir()
    distill(teacher, cut, *options)
    ours, theirs = load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_small_groups_are_left_out_and_samples_are_whole_groups(teacher, tmp_path, caplog):
    rows = [*rankings(9, 4), *rankings(3, 3, seed=3)]
    rows = [(*row[:3], f"{row[3]} {index // 36}") for index, row in enumerate(rows)]
    train = write_tsv(tmp_path / "train.tsv", rows, HEADER)
    one_label = [("good", "the cat", "0", "other"), ("good", "a dog", "0", "other")]
    validation = write_tsv(tmp_path / "validation.tsv", [*rankings(5, 4, seed=1), *one_label], HEADER)
    options = ["--train_file", str(train), "--validation_file", str(validation), *COLUMNS, *BOTH]
    metrics = fine_tune(teacher, tmp_path / "all", *options, "--max_steps", "1")
    assert (
        "3 of 12 groups have fewer than 4 candidates (group_size), and are left out of training: 9 of 45"
        in caplog.text
    )
    assert "5 of 6 groups of the validation set have candidates with different labels" in caplog.text
    assert metrics["train_samples"] == 36 and metrics["eval_samples"] == 22
    limits = ["--max_train_samples", "18", "--max_eval_samples", "11"]
    metrics = fine_tune(teacher, tmp_path / "some", *options, *limits, "--max_steps", "1")
    assert metrics["train_samples"] == 16 and metrics["eval_samples"] == 8


def test_data_set_by_name(teacher, tmp_path):
    """With whole numbers as queries, and a column of classes 0 and 1."""
    parts = {}
    for name, queries in (("train", 12), ("validation", 6)):
        columns = dict(zip(HEADER, zip(*rankings(queries), strict=True), strict=True))
        columns["label"] = [int(label) for label in columns["label"]]
        columns["query_id"] = [int(word[1:]) for word in columns["query_id"]]
        parts[name] = Dataset.from_dict(columns).cast_column("label", ClassLabel(names=["0", "1"]))
    DatasetDict(parts).save_to_disk(tmp_path / "data")
    options = ["--dataset_name", str(tmp_path / "data"), *COLUMNS, *BOTH, *RANKING, "--max_steps", "2"]
    assert distill(teacher, tmp_path / "student", *options)["eval_mrr_at_10"] > 0.3


# -------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ["--group_size", "3"],
            "per_device_train_batch_size is 8, but batches hold whole groups of 3 texts: give 6 or 9",
        ),
        (
            ["--group_size", "6", "--per_device_train_batch_size", "6"],
            "the largest of the 48 groups to train on has 5",
        ),
        (["--group_column", "topic"], "has no column 'topic': it has 'query', 'candidate', 'label', 'query_id'"),
        (["--group_column", ""], "group_size is 4, but group_column is not set"),
        (
            ["--group_column", "", "--group_size", "8", *RANKING],
            "listwise_weight is set, which compares the candidates",
        ),
        (
            ["--group_column", "", "--group_size", "8", "--multi_label", *RANKING],
            "but group_column is not set: set the weight to 0.",
        ),
        (["--text_pair_column", ""], "group_column is query_id, but text_pair_column is not set"),
        (["--group_column", "candidate"], "the largest of the 24"),
        (["--unlabeled_file", "more.tsv"], "group_column is query_id, but unlabeled_file is set as well"),
        (["--multi_label"], "multi_label and group_column are both set"),
        (["--train_sampling_strategy", "group_by_length"], "train_sampling_strategy is group_by_length"),
        (["--max_train_samples", "3"], "max_train_samples is 3, but a group has 5 candidates: give a higher number"),
        (["--metric_for_best_model", "mrr", *EPOCHS], "the evaluation reports ndcg_at_10, mrr_at_10, accuracy, f1"),
        (
            ["--group_size", "1"],
            "group_size is 1, but a group holds texts to compare: give 2 or more",
        ),
    ],
)
def test_mistakes_in_options(teacher, files, tmp_path, capsys, options, words):
    assert words in refused(capsys, distill, teacher, tmp_path / "out", *files, *BOTH, *options)


def test_a_new_head_starts_at_the_frequencies_of_an_epoch(files):
    """One of five candidates is relevant in the data, and one of two in an epoch."""
    values = dict(zip(files[::2], files[1::2], strict=True))
    task = text_task(GlueArguments(**{name[2:]: value for name, value in values.items()}, group_size=2), seed=0)
    task.load(["train"])
    assert np.mean(task.data.train["label"][:]) == 0.2 and np.mean(task._train_labels) == 0.5


def test_a_group_column_is_not_for_glue(teacher, tmp_path, capsys):
    options = ["--task_name", "qnli", "--group_column", "question", "--do_train"]
    assert "group_column is for your own data, but" in refused(capsys, distill, teacher, tmp_path / "out", *options)


@pytest.mark.parametrize(
    "change, words",
    [
        ({3: ""}, "train.tsv, line 2: the group ('query_id') is empty: name the query of the row"),
        ({2: "yes"}, "the labels are '0', '1', 'yes', and it is unknown which of them a relevant candidate has"),
    ],
)
def test_mistakes_in_data(teacher, files, tmp_path, capsys, change, words):
    rows = rankings(48, 5)
    rows[0] = tuple(change.get(place, word) for place, word in enumerate(rows[0]))
    write_tsv(tmp_path / "train.tsv", rows, HEADER)
    assert words in refused(capsys, distill, teacher, tmp_path / "out", *files, *BOTH)


def test_labels_below_zero(teacher, files, tmp_path, capsys):
    rows = rankings(48, 5)
    write_tsv(tmp_path / "train.tsv", [(*rows[0][:2], "-1.5", rows[0][3]), *rows[1:]], HEADER)
    error = refused(capsys, fine_tune, teacher, tmp_path / "out", *files, *BOTH, "--regression")
    assert "train.tsv, line 2: the label ('label') is -1.5, but with group_column it says how relevant" in error


def test_nothing_to_rank(teacher, files, tmp_path, capsys):
    rows = [(*row[:3], f"q{index}") for index, row in enumerate(rankings(6, 4, seed=1))]
    write_tsv(tmp_path / "validation.tsv", rows, HEADER)
    error = refused(capsys, distill, teacher, tmp_path / "out", *files, *BOTH)
    assert "in none of the 24 groups of the validation set do candidates differ in their labels" in error
