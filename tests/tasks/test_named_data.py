"""Runs on data sets by name, through the scripts: folders of `save_to_disk`, folders of files, and the Hub."""

import json
import shutil

import datasets
import pytest
import yaml
from datasets import DatasetDict
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import snapshot, write_tsv
from helpers.named_data import Hub, questions, saved, split_questions, split_texts, texts
from helpers.tiny import save_base, tiny_model

import run_glue_ckd
import run_squad_ckd
import run_teacher

QUICK = ["--max_steps", "4", "--save_steps", "2", "--report_to", "none", "--disable_tqdm", "true"]
TRAIN = ["--do_train", *QUICK]
TEXTS = ["--text_column", "review"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def named(folder, name, *options):
    return ["--dataset_name", str(name), *options, "--output_dir", str(folder)]


def distills(teacher, folder, name, *options):
    models = ["--teacher_model_name_or_path", str(teacher), *STUDENT, *SHORT_RUN]
    return [*models, *TEXTS, *named(folder, name, *TRAIN, *options)]


def record(folder):
    return json.loads((folder / "run.json").read_text())


def card(folder):
    _, data, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(data), text


def cut_back(folder):
    """Leaves of a run what it had when it was killed after the first checkpoint."""
    for path in folder.iterdir():
        if path.name not in ("recipe.yaml", "run.json", "checkpoint-2"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def refused(capsys, main, command, folder):
    before = snapshot(folder) if folder.exists() else None
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(command)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("error: ") == 1
    assert (snapshot(folder) if folder.exists() else None) == before
    return error


@pytest.mark.parametrize("form", ["save_to_disk", pytest.param("parquet", marks=pytest.mark.slow)])
def test_teacher_and_student_on_a_folder(tiny_teacher, tmp_path, form):
    """The teacher's labels are in another order than those of the data, which are not in alphabetical order."""
    data, teacher, output = saved(tmp_path / "data", split_texts(), form), tmp_path / "trained", tmp_path / "out"
    run_teacher.main(["--model_name_or_path", str(tiny_teacher), *TEXTS, *named(teacher, data, *TRAIN)])
    assert json.loads((teacher / "config.json").read_text())["id2label"] == {"0": "good", "1": "bad"}
    metrics = run_glue_ckd.main(distills(teacher, output, data, "--do_eval", "--do_predict"))
    assert metrics["eval_samples"] == 22 and metrics["train_samples"] == 96
    lines = (output / "predictions" / "predictions.tsv").read_text().splitlines()
    assert len(lines) == 14 and {line.split("\t")[1] for line in lines[1:]} <= {"good", "bad"}
    assert "datasets" not in card(output)[0] and str(tmp_path) not in card(output)[1]
    assert record(output)["dataset"]["dataset_name"] == "data"
    assert record(output)["inputs"]["dataset_name"].keys() == {"train"}


def test_one_set_to_evaluate_and_a_recipe(tiny_teacher, tmp_path):
    data = saved(tmp_path / "data", texts(9))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {tiny_teacher}\ndataset_name: {data}\nvalidation_split_name: train\ndo_eval: true\n"
        "text_column: review\nreport_to: none\n"
    )
    metrics = run_teacher.main([str(recipe), "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true"])
    assert metrics["eval_samples"] == 9


def test_questions_in_a_folder(tmp_path):
    base, data = save_base(tmp_path / "base"), saved(tmp_path / "data", split_questions(test=questions(5, prefix="t")))
    options = ["--max_question_length", "8", "--doc_stride", "4", "--do_eval", *TRAIN]
    command = ["--task_name", "squad", "--model_name_or_path", str(base), *named(tmp_path / "teacher", data, *options)]
    run_teacher.main(command)
    command = ["--teacher_model_name_or_path", str(tmp_path / "teacher"), *STUDENT, *SHORT_RUN]
    metrics = run_squad_ckd.main([*command, *named(tmp_path / "out", data, *options, "--do_predict")])
    assert metrics["eval_samples"] >= 8
    predictions = json.loads((tmp_path / "out" / "predictions" / "predictions.json").read_text())
    assert predictions.keys() == {f"t{row}" for row in range(5)}


def test_the_hub(tiny_teacher, tmp_path, monkeypatch):
    hub, output = Hub(monkeypatch, split_texts()), tmp_path / "out"
    options = ["--dataset_config_name", "small", "--dataset_revision", "v1.0", "--eval_strategy", "steps"]
    run_glue_ckd.main(distills(tiny_teacher, output, "me/data", *options, "--eval_steps", "2"))
    assert set(map(str, hub.asked)) == {str(("me/data", "small", {"revision": "v1.0"}))}
    assert card(output)[0]["datasets"] == ["me/data"]
    assert record(output)["dataset"] == {
        "task_name": None,
        "dataset_name": "me/data",
        "dataset_config_name": "small",
        "dataset_revision": "v1.0",
    }
    assert record(output)["inputs"]["dataset_name"].keys() == {"train", "validation"}


def test_the_hub_is_asked_after_the_models(tmp_path, monkeypatch, capsys):
    """No mistake costs a download."""
    hub = Hub(monkeypatch, split_texts())
    command = distills(tmp_path / "nowhere", tmp_path / "out", "me/data")
    assert "nowhere" in refused(capsys, run_glue_ckd.main, command, tmp_path / "out") and not hub.asked


@pytest.mark.parametrize(
    ("task", "name"), [("cola", "nyu-mll/glue"), ("squad", "rajpurkar/squad")], ids=lambda value: value
)
def test_cards_name_the_data_of_glue_and_squad(tmp_path, monkeypatch, task, name):
    base = save_base(tmp_path / "base")
    if task == "squad":
        monkeypatch.setattr(datasets, "load_dataset", lambda name, split: split_questions()[split])
        options = ["--max_question_length", "8", "--doc_stride", "4"]
    else:
        tiny_model().save_pretrained(base)
        cola = texts(24, names=["bad", "good"]).rename_column("review", "sentence")
        names = datasets.ClassLabel(names=["unacceptable", "acceptable"])
        Hub(monkeypatch, DatasetDict(train=cola.cast_column("label", names)))
        options = []
    command = ["--task_name", task, "--model_name_or_path", str(base), *TRAIN, *options]
    run_teacher.main([*command, "--output_dir", str(tmp_path / "out")])
    assert card(tmp_path / "out")[0]["datasets"] == [name]


@pytest.mark.parametrize("source", ["folder", "hub"])
def test_other_rows_under_the_same_name_are_refused(tiny_teacher, tmp_path, monkeypatch, capsys, source):
    data, output, name = split_texts(), tmp_path / "out", "me/data"
    if source == "folder":
        name = saved(tmp_path / "data", data)
    else:
        hub = Hub(monkeypatch, data)
    command = distills(tiny_teacher, output, name)
    run_glue_ckd.main(command)
    cut_back(output)
    run_glue_ckd.main(command)  # goes on
    cut_back(output)
    data["train"] = texts(96, names=["bad", "good"]).cast_column("label", data["train"].features["label"])
    if source == "folder":
        shutil.rmtree(name)
        saved(name, data)
    else:
        hub.data = data
    error = refused(capsys, run_glue_ckd.main, command, output)
    assert "dataset_name (train) has changed since the run in output_dir" in error


def test_a_named_checkpoint_goes_on_with_the_same_rows_elsewhere(tiny_teacher, tmp_path, monkeypatch, capsys):
    """Of another folder, another configuration or files in its place: what cannot be compared is refused."""
    data = split_texts()
    here, moved = saved(tmp_path / "data", data), saved(tmp_path / "moved", data)
    run_glue_ckd.main(distills(tiny_teacher, tmp_path / "out", here))
    resume = ["--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-2")]
    run_glue_ckd.main(distills(tiny_teacher, tmp_path / "new", moved, *resume))
    other = saved(tmp_path / "other", DatasetDict(train=texts(96, seed=7)))
    command = distills(tiny_teacher, tmp_path / "third", other, *resume)
    assert "dataset_name (train) has changed" in refused(capsys, run_glue_ckd.main, command, tmp_path / "third")
    rows = [(row["review"], ("good", "bad")[row["label"]]) for row in data["train"]]
    file = write_tsv(tmp_path / "train.tsv", rows, header=("review", "label"))
    command = [*distills(tiny_teacher, tmp_path / "third", here, *resume), "--train_file", str(file)]
    del command[command.index("--dataset_name") : command.index("--dataset_name") + 2]
    error = refused(capsys, run_glue_ckd.main, command, tmp_path / "third")
    assert "from a run with other options (" in error and "dataset_name" in error and "train_file" in error


def test_the_teachers_cache(tiny_teacher, tmp_path, monkeypatch):
    Hub(monkeypatch, split_texts())
    cache = ["--teacher_cache_dir", str(tmp_path / "teacher-cache")]
    run_glue_ckd.main(distills(tiny_teacher, tmp_path / "first", "me/data", *cache))
    before = snapshot(tmp_path / "teacher-cache")
    here = saved(tmp_path / "data", split_texts())
    run_glue_ckd.main(distills(tiny_teacher, tmp_path / "second", here, *cache))  # the same rows
    assert snapshot(tmp_path / "teacher-cache") == before
