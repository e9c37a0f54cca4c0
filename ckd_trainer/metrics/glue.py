"""The GLUE metrics as an `evaluate.Metric` that is constructed directly and downloads nothing.

`evaluate.load("glue", "cola")` downloads code at run time; `GlueMetric("cola")` gives the same keys and values
offline.
"""

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ckd_trainer.metrics.in_memory import InMemoryMetric


def _matthews(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


def _accuracy(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    return {"accuracy": float(accuracy_score(references, predictions))}


def _accuracy_and_f1(references: np.ndarray, predictions: np.ndarray, average: str = "binary") -> dict[str, float]:
    # zero_division: F1 is 0 without predicted positives, and there is no warning at every evaluation.
    f1 = f1_score(references, predictions, average=average, zero_division=0)
    return {**_accuracy(references, predictions), "f1": float(f1)}


def _accuracy_and_macro_f1(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    return _accuracy_and_f1(references, predictions, average="macro")


def _correlations(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    # Correlations ignore the scale: scores of -10 to 10 would fit labels of 0 to 1. RMSE shows the difference.
    rmse = {"rmse": float(np.sqrt(np.mean((predictions - references) ** 2)))}
    # A constant has no correlation. 0 means "no relation" and can be compared, whereas scipy warns and returns nan.
    if np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return {"pearson": 0.0, "spearmanr": 0.0} | rmse
    return {
        "pearson": float(pearsonr(predictions, references).statistic),
        "spearmanr": float(spearmanr(predictions, references).statistic),
    } | rmse


_SCORES = {
    "cola": _matthews,
    "sst2": _accuracy,
    "mrpc": _accuracy_and_f1,
    "qqp": _accuracy_and_f1,
    "stsb": _correlations,
    "mnli": _accuracy,
    "qnli": _accuracy,
    "rte": _accuracy,
    "wnli": _accuracy,
    "classification": _accuracy_and_macro_f1,
    "regression": _correlations,
}


def glue_scores(config_name: str, references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Returns the scores of `GlueMetric`, whose `compute` copies everything into an Arrow table first."""
    return _SCORES[config_name](references, predictions)


class GlueMetric(InMemoryMetric):
    """Scores predictions as the GLUE benchmark does.

    `config_name` is a GLUE task or, for other data, `classification` or `regression`:

    - `cola`: `matthews_correlation`
    - `mrpc`, `qqp`: `accuracy` and `f1` (of class 1)
    - `stsb`, `regression`: `pearson` and `spearmanr`, 0.0 if predictions or references are all equal; `rmse`
    - `sst2`, `mnli`, `qnli`, `rte`, `wnli`: `accuracy`
    - `classification`: `accuracy` and `f1` (mean over the classes that occur)

    `compute(predictions=..., references=...)` takes one class index (or number, for correlations) per
    example, and returns the scores by name, as floats.

    Raises:
        ValueError: an unknown `config_name`.

    Example::

        GlueMetric(config_name="cola", keep_in_memory=True).compute(predictions=[0, 1], references=[0, 1])
        # {"matthews_correlation": 1.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _SCORES:
            raise ValueError(f"GlueMetric has no config_name {self.config_name!r}: give one of {', '.join(_SCORES)}.")
        value = datasets.Value("float64" if _SCORES[self.config_name] is _correlations else "int64")
        return evaluate.MetricInfo(
            description="Accuracy, F1 and correlations as GLUE (Wang et al. 2018) uses them.",
            citation="",
            inputs_description="predictions, references: class indices, or numbers for the correlations.",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
        return glue_scores(self.config_name, np.asarray(references), np.asarray(predictions))
