"""Commands with exactly one fault, and makers of faulty files; see tests/hostile_input.

`HERE` is the row's own folder, `GOOD` the folder of models and files that all rows share.
"""

import json
import shutil
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

import ckd_trainer.commands.report
import ckd_trainer.data.demo.agreement
import ckd_trainer.data.demo.entities
import ckd_trainer.data.demo.reading
import ckd_trainer.data.submission
import run_glue_ckd
import run_ner_ckd
import run_squad_ckd
import run_teacher
from helpers.tiny import WORDS, save_tokenizer, tiny_config, tiny_model

TEACHER, GLUE, SQUAD, NER = run_teacher.main, run_glue_ckd.main, run_squad_ckd.main, run_ner_ckd.main
AGREEMENT, READING = ckd_trainer.data.demo.agreement.main, ckd_trainer.data.demo.reading.main
ENTITIES = ckd_trainer.data.demo.entities.main
SUBMISSION, REPORT = ckd_trainer.data.submission.main, ckd_trainer.commands.report.main

QUICK = "--do_train --max_steps 1 --report_to none --disable_tqdm true --output_dir HERE/out"
STUDENT = "--student_init teacher_layers --student_num_layers 2"
TEXTS = "--train_file GOOD/train.tsv --validation_file GOOD/validation.tsv --max_seq_length 32"
QUESTIONS = "--train_file GOOD/train.json --max_seq_length 14 --doc_stride 3 --max_question_length 4"
TAGGED = "--train_file GOOD/train.conll --max_seq_length 32"
COMMANDS = {
    TEACHER: f"--model_name_or_path GOOD/teacher {TEXTS} {QUICK}",
    GLUE: f"--teacher_model_name_or_path GOOD/teacher {STUDENT} {TEXTS} {QUICK}",
    NER: f"--teacher_model_name_or_path GOOD/entities {STUDENT} {TAGGED} {QUICK}",
    SQUAD: f"--teacher_model_name_or_path GOOD/answers {STUDENT} {QUESTIONS} {QUICK}",
}
ALONE = "model_name_or_path: GOOD/teacher\ntrain_file: GOOD/train.tsv\nmax_seq_length: 32\n"
ALONE += "do_train: true\nmax_steps: 1\nreport_to: none\ndisable_tqdm: true\n"


class Row(NamedTuple):
    """A command that must be refused.

    `files` are written to HERE first. They map names to contents, or to functions of the path and GOOD. `words`,
    separated by " | ", must be in the message: the value, the reason and the remedy. With `alone`, a row has only its
    own options.
    """

    name: str
    main: Callable
    words: str = ""
    options: str = ""
    files: dict = {}
    alone: bool = False

    def start(self, here, good):
        """Writes the files and returns the command line."""
        for name, content in self.files.items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path, good)
            else:
                path.write_bytes(content if isinstance(content, bytes) else named(content, here, good).encode())
        recipe = "HERE/recipe.yaml" if "recipe.yaml" in self.files else ""
        words = f"{recipe} {'' if self.alone else COMMANDS[self.main]} {self.options}".split()
        return [named(word, here, good) for word in words]


def named(text, here, good):
    return text.replace("HERE", str(here)).replace("GOOD", str(good))


# ------------------------------------------------------------------------------------------------------ kinds of rows


def recipe(name, content, words="", main=GLUE, alone=False):
    return Row(f"recipe: {name}", main, words, files={"recipe.yaml": content}, alone=alone)


def texts(name, content, words="", file="bad.tsv", options=""):
    return Row(f"texts: {name}", GLUE, words, f"--train_file HERE/{file} {options}", {file: content})


def questions(name, content, words="", file="bad.json", options=""):
    return Row(f"questions: {name}", SQUAD, words, f"--train_file HERE/{file} {options}", {file: content})


def entities(name, content, words="", file="bad.conll", options=""):
    return Row(f"entities: {name}", NER, words, f"--train_file HERE/{file} {options}", {file: content})


def label_sets(name, content, words="", file="bad.tsv", options="", names=None):
    files = {file: content} | ({} if names is None else {"names.txt": names})
    return Row(f"label sets: {name}", GLUE, words, f"--train_file HERE/{file} --multi_label {options}", files)


def teacher(name, make, words="", main=GLUE, options="", kind="model"):
    which = "model_name_or_path" if main is TEACHER else "teacher_model_name_or_path"
    return Row(f"{kind}: {name}", main, words, f"--{which} HERE/model {options}", {"model": make})


# ------------------------------------------------------------------------------------------------------ making files


def folder(path, good):
    path.mkdir()


def copied(name, *changes):
    """Copies something from GOOD, with changes."""

    def make(path, good):
        (shutil.copytree if (good / name).is_dir() else shutil.copyfile)(good / name, path)
        for change in changes:
            change(path)

    return make


def without(pattern):
    def change(path):
        for file in path.glob(pattern):
            file.unlink()

    return change


def holding(name, content):
    def change(path):
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def saying(name, **values):
    """Changes entries of a JSON file."""

    def change(path):
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(content | values))

    return change


def cut(pattern, size=-100):
    def change(path):
        (file,) = path.glob(pattern)
        file.write_bytes(file.read_bytes()[:size])

    return change


def modelled(words=WORDS, kind=None, tokenizer=None, **config):
    """Saves a model built for this row."""

    def make(path, good):
        model = tiny_model(**config) if kind is None else kind(tiny_config(**config))
        model.save_pretrained(path)
        save_tokenizer(path, words=words, **tokenizer or {})

    return make


def coded(path):
    """Adds code to a model that would create a file."""
    (path / "evil.py").write_text(f"open({str(path.parent / 'marker')!r}, 'w')\nEvilConfig = EvilModel = object\n")


def parquet(change=None, **columns):
    def make(path, good):
        columns_of = columns or {"text": ["the cat", "a dog"] * 500, "label": ["good", "bad"] * 500}
        table = pa.table(columns_of)
        pq.write_table(change(table) if change else table, path)

    return make


def spans(*rows, text="the cat is good"):
    """Returns a line of JSON with a text and spans."""
    named = [dict(zip(("start", "end", "label"), row, strict=True)) for row in rows]
    return json.dumps({"text": text, "spans": named}) + "\n"


def question(id="1", text="good", start=11, **more):
    return {"id": id, "question": "very not", "answers": [{"text": text, "answer_start": start}]} | more


def squad(*questions, context="the cat is good", **more):
    """Returns official SQuAD JSON."""
    paragraph = {"context": context, "qas": list(questions or [question()])} | more
    return json.dumps({"version": "1.1", "data": [{"title": "words", "paragraphs": [paragraph]}]})


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def text_lines(*rows):
    return "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)


FINE = text_lines(("the cat", "good"), ("a dog", "bad"))
CODE = {"AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.EvilModel"}
NOISE = bytes(range(256)) * 8
DEEP = "[" * 100_000
