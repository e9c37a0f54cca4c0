"""Writes the predicted labels of texts that can have several."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from scipy.special import expit

from ckd_trainer.utils.files import write_atomically


def write_label_sets(
    texts: Dataset, names: Sequence[str], logits: np.ndarray, thresholds: np.ndarray, folder: Path
) -> Path:
    """Writes predictions.jsonl, one line for each text: its columns, `label` and `scores`.

    `label` lists the names whose probability reaches their threshold, and `scores` maps all names to probabilities.
    The lines have the form of training data for multi_label.

    Args:
        texts: of which each row becomes a line.
        names: of the labels.
        logits: (texts, labels).
        thresholds: of the probabilities, (labels,).

    Returns:
        The path of the file. It is written whole or not at all.
    """
    lines = []
    for row, probabilities in zip(texts, expit(np.asarray(logits, float)), strict=True):
        found = [name for name, applies in zip(names, probabilities >= thresholds, strict=True) if applies]
        scores = {name: round(float(value), 6) for name, value in zip(names, probabilities, strict=True)}
        lines.append(json.dumps({**row, "label": found, "scores": scores}, ensure_ascii=False))
    path = Path(folder) / "predictions.jsonl"
    write_atomically(path, "\n".join(lines) + "\n")
    return path
