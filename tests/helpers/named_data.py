"""Data sets by name, in each form in which one lies on the disk, and a stand-in for the Hub."""

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from helpers.files import sentences


def texts(count, seed=0, names=("good", "bad")):
    """Good and bad sentences, with a `ClassLabel` whose names are not in the order of the alphabet."""
    rows = sentences(count, seed)
    features = Features({"review": Value("string"), "label": ClassLabel(names=list(names)), "row": Value("int32")})
    columns = {"review": [text for text, _ in rows], "label": [label for _, label in rows], "row": range(count)}
    return Dataset.from_dict(columns, features=features)


def questions(count, seed=0, prefix="q"):
    """Which of the words good and bad is in the text?"""
    rows = sentences(count, seed)
    answers = [{"text": [label], "answer_start": [text.index(label)]} for text, label in rows]
    features = Features(
        {
            "id": Value("string"),
            "title": Value("string"),
            "context": Value("string"),
            "question": Value("string"),
            "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
        }
    )
    columns = {
        "id": [f"{prefix}{row}" for row in range(count)],
        "title": ["words"] * count,
        "context": [text for text, _ in rows],
        "question": ["very not"] * count,
        "answers": answers,
    }
    return Dataset.from_dict(columns, features=features)


def split_texts(**more):
    return DatasetDict(train=texts(96), validation=texts(22, seed=1), test=texts(13, seed=2), **more)


def split_questions(**more):
    return DatasetDict(train=questions(24), validation=questions(8, seed=1, prefix="v"), **more)


def saved(folder, data, form="save_to_disk"):
    """Returns the folder, in which the data lie as `save_to_disk` leaves them, or as files of the form's suffix."""
    if form == "save_to_disk":
        data.save_to_disk(folder)
        return folder
    folder.mkdir()
    for name, part in data.items():
        getattr(part, f"to_{form}")(folder / f"{name}.{form}")
    return folder


class Hub:
    """Stands in for `datasets.load_dataset`, where "me/data" is known."""

    def __init__(self, monkeypatch, data):
        self.data, self.asked = data, []
        monkeypatch.setattr(datasets, "load_dataset", self)

    def __call__(self, name, config=None, **options):
        self.asked.append((name, config, options))
        if isinstance(self.data, Exception):
            raise self.data
        return DatasetDict(self.data)
