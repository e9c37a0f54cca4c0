"""Writes input files for runs, and reads back what runs leave."""

import json
import random
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
WORDS = "the a cat dog bird tree house runs sleeps sings grows good bad fine ugly very not".split()


def sentences(count, seed=0):
    """Returns sentences whose label is one of their words, good or bad."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        words = draw.choices([word for word in WORDS if word not in ("good", "bad")], k=draw.randint(2, 12))
        label = ("bad", "good")[index % 2]
        words.insert(draw.randint(0, len(words)), label)
        rows.append((" ".join(words), label))
    return rows


def write_tsv(path, rows, header=("text", "label")):
    path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n", encoding="utf-8")
    return path


def write_questions(path, count, seed=0, unanswerable=0):
    """Writes official SQuAD JSON: is good or bad in the text? The last questions have no answer."""
    qas = []
    for index, (text, label) in enumerate(sentences(count, seed)):
        answered = index < count - unanswerable
        if answered:
            context = text
        else:  # also without articles, as an answer of articles alone counts as none
            context = " ".join(word for word in text.split() if word not in (label, "a", "the")) or "dog"
        answers = [{"text": label, "answer_start": context.index(label)}] if answered else []
        question = {"id": f"{path.stem}{index}", "question": "very not", "answers": answers}
        if unanswerable:
            question["is_impossible"] = not answered
        qas.append({"context": context, "qas": [question]})
    random.Random(seed).shuffle(qas)
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "words", "paragraphs": qas}]}))
    return path


def tagged_sentences(count, seed=0):
    """Returns (words, tags): "good" or "good fine" is an entity of the type good, "bad" or "bad ugly" one of bad."""
    rows = []
    for index, (text, label) in enumerate(sentences(count, seed)):
        words = [word for word in text.split() if word not in ("fine", "ugly")]
        tags, first = ["O"] * len(words), words.index(label)
        tags[first] = f"B-{label}"
        if index % 3:
            words.insert(first + 1, {"good": "fine", "bad": "ugly"}[label])
            tags.insert(first + 1, f"I-{label}")
        rows.append((words, tags))
    return rows


def write_tagged(path, count, seed=0):
    """Writes `tagged_sentences` as a CoNLL file."""
    blocks = [
        "".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in tagged_sentences(count, seed)
    ]
    path.write_text("\n".join(blocks))
    return path


def question_file(path):
    """Writes twelve questions about a context that is far longer than a model supports."""
    answers = [{"text": "good", "answer_start": 11}]
    questions = [{"id": str(number), "question": "very not", "answers": answers} for number in range(12)]
    paragraph = {"context": "the cat is good " + "and the dog " * 20, "qas": questions}
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": [paragraph]}]}))
    return path


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def snapshot(folder):
    """Returns the content of a folder: the bytes of files, None for folders."""
    paths = folder.rglob("*")
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}
