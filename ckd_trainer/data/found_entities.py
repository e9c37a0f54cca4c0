"""Writes the entities that a model finds: as CoNLL, and as spans with scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ckd_trainer.data.conll import write_conll
from ckd_trainer.data.windows import Decisions
from ckd_trainer.metrics.entities import entities_of
from ckd_trainer.utils.files import write_atomically


def write_entities(
    sentences: Dataset, decisions: Sequence[Decisions], label_names: Sequence[str], folder: str | Path
) -> Path:
    """Writes `predictions.conll`, with the words and their tags, and `predictions.jsonl`, with texts and spans.

    A line of `predictions.jsonl` holds `text` and `spans`, as training data do: a list of `start`, `end` (in
    characters) and `label`, and beside these `text` and `score`, the mean probability of the tags of the span's words.

    Args:
        sentences: With the columns text, starts and ends of an `EntityTask`.
        decisions: Those of `ckd_trainer.data.windows.read_decisions`.

    Returns:
        The path of `predictions.jsonl`.
    """
    tagged, lines = [], []
    for row, one in zip(sentences, decisions, strict=True):
        tags = [label_names[tag] for tag in one.tags]
        words = [row["text"][start:end] for start, end in zip(row["starts"], row["ends"], strict=True)]
        tagged.append((words, tags))
        lines.append(json.dumps({"text": row["text"], "spans": _spans(row, tags, one.scores)}, ensure_ascii=False))
    write_conll(Path(folder) / "predictions.conll", tagged)
    path = Path(folder) / "predictions.jsonl"
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    return path


def _spans(row: Mapping[str, Any], tags: Sequence[str], scores: np.ndarray) -> list[dict[str, Any]]:
    spans = []
    for first, stop, label in entities_of(tags):
        start, end = row["starts"][first], row["ends"][stop - 1]
        score = round(float(scores[first:stop].mean()), 6)
        spans.append({"start": start, "end": end, "label": label, "text": row["text"][start:end], "score": score})
    return spans
