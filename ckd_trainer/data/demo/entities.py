"""The entities demo task: who, where, when and to which address? Generated locally, nothing to download.

The counterpart of `ckd_trainer.data.demo.agreement` for named entities. Sentences name people, places, dates and email
addresses::

    Dosiva and Lameko Pasi, two friends from Nalefo, met on 3 May 2021.
    Dosiva and Lameko Pasi, two towns near Nalefo, grew before May 2021.
    Write to lameko.pasi@mail.org, or ask May in room 3.

People and places have names of the same syllables, and some people are called like a month. So a name alone says
nothing: only a model that reads the words around it, some of them far away, solves the task.

Run as ``ckd-trainer demo entities FOLDER [--seed 0]``: see `write_task`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from ckd_trainer.data.demo.agreement import (
    TOKENIZER_CONFIG,
    Draw,
    as_json,
    word_tokenizer,
    write_by_command,
    write_new_files,
)
from ckd_trainer.data.demo.reading import READING_CONFIG
from ckd_trainer.utils.errors import InputError, command_line

# No other word of the vocabulary begins a name of these syllables, so a tokenizer cuts names into syllables.
SYLLABLES = [first + second for first in "dfklmnpsvz" for second in "aeio"]
MONTHS = "January February March April May June July August September October November December".split()
NAMES_TOO = ["April", "May", "June", "August"]  # people are called so, too
DOMAINS = "mail post letter web".split()
ENDINGS = "org net com".split()
JOBS = "baker doctor driver nurse painter teacher".split()
KINDS = "city harbor island town valley village".split()
TEMPLATES = """
PERSON and PERSON, two friends from PLACE, met on DATE.
PLACE and PLACE, two towns near PLACE, grew before DATE.
PERSON, a JOB, called PERSON NUMBER times.
PLACE, a KIND, has NUMBER houses.
Write to EMAIL, or ask PERSON in room NUMBER.
On DATE PERSON left PLACE for PLACE.
The KIND of PLACE sent the JOB PERSON to PERSON.
PERSON writes to EMAIL about PLACE.
Since DATE EMAIL belongs to PERSON.
PERSON and the JOB of PLACE read NUMBER letters from EMAIL.
After DATE the road to PLACE was closed, as PERSON told PERSON.
Is PLACE or PLACE the KIND that PERSON saw in room NUMBER?
""".strip().splitlines()
TYPES = ("PERSON", "PLACE", "DATE", "EMAIL")
# [PAD] has to be 1 for MPNet, as in the reading task.
TOKENS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *".,?@"]


class Example(NamedTuple):
    """A sentence and its entities: the first and last character (exclusive) and the type of each."""

    text: str
    spans: list[tuple[int, int, str]]


class _Writer(Draw):
    def number(self, first: int, last: int) -> str:
        return str(first + int(self.chance() * (last - first + 1)))

    def name(self) -> str:
        return "".join(self.pick(SYLLABLES) for _ in range(2 + int(self.chance() * 2))).capitalize()

    def names(self) -> str:
        return f"{self.name()} {self.name()}" if self.chance() < 0.4 else self.name()

    def person(self) -> str:
        return self.pick(NAMES_TOO) if self.chance() < 0.15 else self.names()

    def date(self) -> str:
        month, year = self.pick(MONTHS), self.number(1990, 2029)
        return self.pick([f"{self.number(1, 31)} {month} {year}", f"{month} {self.number(1, 31)}", f"{month} {year}"])

    def email(self) -> str:
        return f"{self.name().lower()}.{self.name().lower()}@{self.pick(DOMAINS)}.{self.pick(ENDINGS)}"

    def example(self) -> Example:
        draws: dict[str, Callable[[], str]] = {
            "PERSON": self.person,
            "PLACE": self.names,
            "DATE": self.date,
            "EMAIL": self.email,
            "JOB": lambda: self.pick(JOBS),
            "KIND": lambda: self.pick(KINDS),
            "NUMBER": lambda: self.number(2, 31),
        }
        text, spans = "", []
        for part in re.split(rf"({'|'.join(draws)})", self.pick(TEMPLATES)):
            word = draws[part]() if part in draws else part
            if part in TYPES:
                spans.append((len(text), len(text) + len(word), part))
            text += word
        return Example(text, spans)


def make_examples(n: int, seed: int) -> list[Example]:
    """Returns `n` different examples, the same for a seed on every machine.

    Example::

        text, spans = make_examples(1, seed=0)[0]
        [(text[start:end], label) for start, end, label in spans]
    """
    writer, examples = _Writer(seed), dict[str, Example]()
    while len(examples) < n:
        example = writer.example()
        examples.setdefault(example.text, example)
    return list(examples.values())


def make_tokenizer() -> Tokenizer:
    """Returns the `tokenizers.Tokenizer` of the task: lower case, names in syllables, numbers and words as a whole."""
    plain = re.sub(rf"{'|'.join([*TYPES, 'JOB', 'KIND', 'NUMBER'])}|[.,?]", " ", " ".join(TEMPLATES)).lower().split()
    words = [*plain, *(month.lower() for month in MONTHS), *JOBS, *KINDS, *DOMAINS, *ENDINGS]
    numbers = [str(number) for number in (*range(1, 32), *range(1990, 2030))]
    return word_tokenizer(
        list(dict.fromkeys([*TOKENS, *words, *numbers, *SYLLABLES, *(f"##{syllable}" for syllable in SYLLABLES)]))
    )


def write_task(
    folder: str | Path, *, seed: int = 0, train: int = 4_000, validation: int = 500, test: int = 500
) -> None:
    """Writes the data of the task, and a base for models, as files that the commands read.

    - ``train.jsonl``, ``validation.jsonl``, ``test.jsonl``: texts with spans; no sentence occurs twice.
    - ``base/``: the tokenizer and the configuration of a small MPNet, without weights, for ``student_init: random``.

    Existing files with the same content are left unchanged.

    Args:
        folder: created if missing.
        seed: seed of the sentences.
        train, validation, test: number of sentences.

    Raises:
        InputError: no sentences, or an existing file with other content. Nothing is written then.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}: give 1 or more.")
    examples = iter(make_examples(sum(sizes.values()), seed))
    files = {f"{name}.jsonl": "".join(_line(next(examples)) for _ in range(size)) for name, size in sizes.items()}
    tokenizer = make_tokenizer()
    config: dict[str, Any] = READING_CONFIG | {"architectures": ["MPNetForTokenClassification"]}
    files["base/tokenizer.json"] = tokenizer.to_str(pretty=True) + "\n"
    files["base/tokenizer_config.json"] = as_json(TOKENIZER_CONFIG)
    files["base/config.json"] = as_json(config | {"vocab_size": tokenizer.get_vocab_size()})
    write_new_files(folder, files)


def _line(example: Example) -> str:
    spans = [{"start": start, "end": end, "label": label} for start, end, label in example.spans]
    return json.dumps({"text": example.text, "spans": spans}) + "\n"


@command_line
def main(argv: list[str]) -> None:
    write_by_command(
        argv,
        write_task,
        prog="ckd-trainer demo entities",
        description="Generates the entities demo task: who, where, when and to which address?",
        files="train.jsonl, validation.jsonl, test.jsonl",
    )


if __name__ == "__main__":
    main()
