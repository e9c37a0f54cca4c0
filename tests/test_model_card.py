"""What the model card says of students and teachers from Python, by name, in memory and wrapped."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers.tiny import tiny_model
from helpers.training import trainer
from helpers.wrapping import PassesOn, compiled, lora

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.methods import GramArguments
from ckd_trainer.models.stored_teacher import StoredTeacher


def named(name, model=None):
    model = model or tiny_model(seed=1)
    model.name_or_path = model.config._name_or_path = name
    return model


def card(folder, student=None, teacher=None, **kwargs):
    """Returns the card's metadata and text."""
    run = trainer(DistillationTrainer, folder, student or tiny_model(layers=2), teacher_model=teacher, **kwargs)
    run.create_model_card()
    _, data, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(data), text


@pytest.mark.parametrize(
    ("teacher", "words", "base"),
    [
        (lambda: tiny_model(seed=1), "Distilled from a `BertForSequenceClassification` with ckd-trainer", None),
        (
            lambda: compiled(tiny_model(seed=1)),
            "Distilled from a `BertForSequenceClassification` with ckd-trainer",
            None,
        ),
        (lambda: named("org/teacher"), "Distilled from `org/teacher` with ckd-trainer", "org/teacher"),
        (lambda: compiled(named("org/teacher")), "Distilled from `org/teacher` with ckd-trainer", "org/teacher"),
        (lambda: named("/home/me/teacher"), "Distilled from `teacher` with ckd-trainer", None),
        (
            lambda: PassesOn(named("org/teacher")),
            "Distilled from a `PassesOn` around `org/teacher` with ckd-trainer",
            None,
        ),
        (
            lambda: PassesOn(tiny_model(seed=1)),
            "Distilled from a `PassesOn` around a `BertForSequenceClassification` with ckd-trainer",
            None,
        ),
    ],
)
def test_the_teacher(tmp_path, teacher, words, base):
    data, text = card(tmp_path, teacher=teacher())
    assert words in text and "without a teacher" not in text
    assert "| teacher | 37,154 | 4 | 32 |" in text
    assert data.get("base_model") == base
    assert data["tags"] == ["ckd-trainer", "knowledge-distillation"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ckd_args": CKDArguments()}, True),
        ({"ckd_args": CKDArguments(term_balance="none")}, True),
        ({"ckd_args": CKDArguments.without_relations()}, False),
        ({"ckd_args": CKDArguments.without_relations(), "methods": [GramArguments(gram_weight=0.3)]}, False),
        ({"ckd_args": CKDArguments(), "methods": [GramArguments(gram_weight=0.3)]}, True),
    ],
)
def test_the_paper_is_named_where_its_relations_train_the_student(tmp_path, options, named):
    _, text = card(tmp_path, teacher=tiny_model(seed=1), **options)
    assert ("Contextual Knowledge Distillation" in text) == named


def test_the_name_of_the_folder_that_one_works_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, text = card(Path("."), teacher=tiny_model(seed=1))
    assert f"# {tmp_path.name}\n" in text and f'model="{tmp_path.name}"' in text


def test_a_stored_teacher(tmp_path):
    tiny_model(seed=1).save_pretrained(tmp_path / "teacher")
    teacher = StoredTeacher(tmp_path / "teacher", tiny_model().config)
    _, text = card(tmp_path / "out", teacher=teacher)
    assert "Distilled from `teacher` with ckd-trainer" in text and "| teacher | 37,154 | 4 | 32 |" in text


def test_a_control_run(tmp_path):
    student = named("org/base", tiny_model(layers=2))
    data, text = card(tmp_path, student, named("org/teacher"), ckd_args=CKDArguments.fine_tuning())
    assert "without a teacher" in text and "| teacher |" not in text
    assert data["base_model"] == "org/base" and data["tags"] == ["ckd-trainer"]


def test_a_wrapped_student(tmp_path):
    student = PassesOn(tiny_model(layers=2))
    student.more = torch.nn.Linear(10, 10, bias=False)
    _, text = card(tmp_path, student, tiny_model(seed=1))
    assert "| this model | 20,166 | 2 | 32 |" in text
    assert "the weights of a `PassesOn`" in text and "pipeline" not in text


@pytest.mark.parametrize("task_type", ["SEQ_CLS", None])
def test_adapters(tmp_path, task_type):
    """On the Hub an adapter's base_model is what it is loaded into."""
    student = lora(task_type)(named("org/base", tiny_model(layers=2)))
    data, text = card(tmp_path / "student", student, named("org/teacher"))
    assert data["base_model"] == "org/base" and data["library_name"] == "peft"
    assert "Distilled from `org/teacher`" in text and 'from_pretrained("org/base", config=config' in text
    data, text = card(tmp_path / "teacher", teacher=lora(task_type)(named("org/base")))
    assert f"Distilled from a `{type(student).__name__}` around `org/base` with ckd-trainer" in text


def test_metrics_that_are_not_numbers_are_left_out(tmp_path):
    scores = {"accuracy": 0.5, "report": "good", "none": None}
    run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=tiny_model(seed=1))
    run.compute_metrics = lambda prediction: scores
    run.evaluate()
    run.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert "| accuracy | 0.5000 |" in text and "| report |" not in text and "| none |" not in text
