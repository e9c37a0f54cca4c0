"""The GLUE metrics, against values worked out by hand."""

import errno
import math
import warnings

import pytest

from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.metrics.glue import GlueMetric
from ckd_trainer.metrics.squad import SquadMetric
from ckd_trainer.utils.errors import about_file


def score(config_name, predictions, references):
    return GlueMetric(config_name=config_name, keep_in_memory=True).compute(
        predictions=predictions, references=references
    )


# Of class 1: 2 true positives, 1 false positive, 1 false negative, 2 true negatives.
PREDICTIONS, REFERENCES = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]


def test_matthews_by_hand():
    # (2 * 2 - 1 * 1) / sqrt((2 + 1) (2 + 1) (2 + 1) (2 + 1)) = 3 / 9
    assert score("cola", PREDICTIONS, REFERENCES) == {"matthews_correlation": pytest.approx(1 / 3)}


@pytest.mark.parametrize("name", ["sst2", "mnli", "qnli", "rte", "wnli"])
def test_accuracy_by_hand(name):
    assert score(name, [2, 0, 1, 1], [2, 0, 1, 0]) == {"accuracy": 0.75}


@pytest.mark.parametrize("name", ["mrpc", "qqp"])
def test_f1_is_of_class_1(name):
    # precision 2/3, recall 2/2: F1 = 2 * 2/3 / (5/3) = 0.8; of class 0 it would be 2/3.
    assert score(name, [1, 1, 1, 0], [1, 1, 0, 0]) == {"accuracy": 0.75, "f1": pytest.approx(0.8)}


def test_macro_f1_by_hand():
    # class 0: precision 1, recall 1/2, F1 2/3; class 1: 1/2, 1, 2/3; class 2: 1. Mean (2/3 + 2/3 + 1) / 3 = 7/9.
    assert score("classification", [0, 1, 1, 2], [0, 0, 1, 2]) == {"accuracy": 0.75, "f1": pytest.approx(7 / 9)}


@pytest.mark.parametrize("name", ["stsb", "regression"])
def test_correlations_by_hand(name):
    # Deviations (-2, -1, 3) and (-1, 0, 1): (2 + 0 + 3) / sqrt(14 * 2). The order is the same: rank correlation 1.
    assert score(name, [0.0, 1.0, 5.0], [1.0, 2.0, 3.0]) == {
        "pearson": pytest.approx(5 / math.sqrt(28)),
        "spearmanr": pytest.approx(1.0),
        "rmse": pytest.approx(math.sqrt((1 + 1 + 4) / 3)),  # differences -1, -1, 2
    }


def test_spearman_counts_ranks_with_ties():
    # Ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4): deviations (-1.5, 0, 0, 1.5), (-1.5, -.5, .5, 1.5): 4.5 / sqrt(4.5 * 5)
    assert score("stsb", [0.0, 2.0, 2.0, 9.0], [1.0, 2.0, 3.0, 4.0])["spearmanr"] == pytest.approx(
        4.5 / math.sqrt(22.5)
    )


@pytest.mark.parametrize(
    ("name", "predictions", "references", "expected"),
    [
        ("cola", [1, 1, 1], [0, 1, 1], {"matthews_correlation": 0.0}),
        ("mrpc", [0, 0], [0, 1], {"accuracy": 0.5, "f1": 0.0}),
        ("mrpc", [0, 0], [0, 0], {"accuracy": 1.0, "f1": 0.0}),
        ("classification", [0, 0], [0, 1], {"accuracy": 0.5, "f1": pytest.approx(1 / 3)}),
        ("stsb", [2.0, 2.0], [0.0, 4.0], {"pearson": 0.0, "spearmanr": 0.0, "rmse": 2.0}),
        ("stsb", [0.0, 4.0], [2.0, 2.0], {"pearson": 0.0, "spearmanr": 0.0, "rmse": 2.0}),
        ("regression", [1.0], [2.0], {"pearson": 0.0, "spearmanr": 0.0, "rmse": 1.0}),
    ],
)
def test_constants_give_zero_without_a_warning(name, predictions, references, expected):
    metric = GlueMetric(config_name=name, keep_in_memory=True)  # evaluate itself may warn when it is made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metric.compute(predictions=predictions, references=references) == expected


def test_scores_are_floats_and_a_metric_can_be_used_again():
    metric = GlueMetric(config_name="mrpc", keep_in_memory=True)
    first = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert {type(value) for value in first.values()} == {float}
    assert metric.compute(predictions=[0], references=[1])["accuracy"] == 0.0
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == first


def test_every_task_reports_the_metrics_of_its_row():
    assert len(GLUE_TASKS) == 9
    for task in GLUE_TASKS.values():
        assert tuple(score(task.name, [0, 1, 1], [0, 1, 0])) == task.metrics
        assert task.best_metric in task.metrics


def test_unknown_configuration_is_refused():
    with pytest.raises(ValueError, match="no config_name 'cool': give one of cola, sst2"):
        GlueMetric(config_name="cool")


@pytest.mark.parametrize(("metric", "name"), [(GlueMetric, "cola"), (SquadMetric, "squad")])
def test_nothing_is_written_where_scores_are_kept_in_memory(metric, name, tmp_path):
    """Also where HOME, and with it the cache of evaluate, cannot be written."""
    (tmp_path / "file").write_text("")
    scores = metric(config_name=name, keep_in_memory=True, cache_dir=str(tmp_path / "file" / "cache"))
    predictions, references = [1, 0], [1, 0]
    if metric is SquadMetric:
        predictions = [{"id": "1", "prediction_text": "a cat"}]
        references = [{"id": "1", "answers": {"text": ["cat"], "answer_start": [0]}}]
    assert scores.compute(predictions=predictions, references=references)
    assert metric(config_name=name, cache_dir=str(tmp_path / "cache")).compute(
        predictions=predictions, references=references
    )


@pytest.mark.parametrize(
    ("path", "variable"),
    [
        ("home", "HF_HOME"),  # what cannot be made on the way to the cache
        ("home/.cache/huggingface/hub/models--a", "HF_HOME"),
        ("data/x.lock", "HF_DATASETS_CACHE"),
        ("elsewhere/out", None),
    ],
)
def test_an_error_in_the_cache_names_the_variable(path, variable, tmp_path, monkeypatch):
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "data"))
    message = about_file(OSError(errno.EROFS, "Read-only file system", str(tmp_path / path)))
    assert message.startswith(f"{tmp_path / path}: Read-only file system: give another path")
    assert ("Hugging Face" in message) == (variable is not None) and (variable or "") in message
