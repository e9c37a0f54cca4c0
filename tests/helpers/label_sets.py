"""Texts with several labels or none: each label is a word that the text holds."""

import random

from helpers.files import WORDS, write_tsv

LABELS = ("bad", "fine", "good")


def label_sets(count, seed=0):
    """Returns (text, labels): every eighth text has none, and others up to three."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        words = draw.choices([word for word in WORDS if word not in LABELS], k=draw.randint(2, 9))
        labels = [label for place, label in enumerate(LABELS) if index >> place & 1]
        for label in labels:
            words.insert(draw.randint(0, len(words)), label)
        rows.append((" ".join(words), labels))
    draw.shuffle(rows)
    return rows


def write_label_sets(path, count, seed=0, separator=","):
    """Writes `label_sets` as a tsv file with names and a separator."""
    return write_tsv(path, [(text, separator.join(labels)) for text, labels in label_sets(count, seed)])
