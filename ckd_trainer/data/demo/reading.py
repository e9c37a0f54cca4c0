"""The reading demo task: what does a text call a person? Generated locally, nothing to download.

The counterpart of `ckd_trainer.data.demo.agreement` for question answering. A text tells who does what to whom. A
question names one of these people, and the answer is the whole phrase for this person in the text::

    My kind nurse near Anna greets our baker. The clerk follows your old quiet twin.
    Which twin is in the text?      your old quiet twin
    Which nurse is in the text?     My kind nurse near Anna

Nobody occurs twice in a text, so there is one answer. Its position and length are random: only a model that finds the
word of the question in the text, and both ends of the phrase around it, solves the task.

Run as ``ckd-trainer demo reading FOLDER [--seed 0]``: see `write_task`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from ckd_trainer.data.demo.agreement import (
    BASE_CONFIG,
    NOUNS,
    TOKENIZER_CONFIG,
    TRANSITIVE_VERBS,
    WORDS,
    Draw,
    as_json,
    word_tokenizer,
    write_by_command,
    write_new_files,
)
from ckd_trainer.utils.errors import InputError, command_line

ADJECTIVES = "kind old quiet tall young".split()
NAMES = "Anna Bruno Clara David Emma Felix Greta Hugo".split()
SENTENCES = 4  # of a text, with two people each
QUESTION = "Which {} is in the text?"
# [PAD] has to be 1 for MPNet, see below.
TOKENS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", ".", "?", "##s", "which", "is", "in", "text"]
# MPNet has relative positions: a small model learns to look at neighboring words in a few hundred steps. With BERT's
# absolute positions it takes more than a thousand.
READING_CONFIG = BASE_CONFIG | {
    "model_type": "mpnet",
    "architectures": ["MPNetForQuestionAnswering"],
    "max_position_embeddings": 130,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
del READING_CONFIG["type_vocab_size"]


class Text(NamedTuple):
    """A text, and for each noun in it the phrase for this person and the phrase's position."""

    context: str
    people: dict[str, tuple[str, int]]


class _Writer(Draw):
    def draw(self, options: Sequence[str], count: int) -> list[str]:
        return sorted(options, key=lambda _: self.chance())[:count]

    def person(self, noun: str) -> str:
        adjectives = self.draw(ADJECTIVES, int(self.chance() * 3))
        place = [self.pick(WORDS["preposition"]), self.pick(NAMES)] if self.chance() < 0.4 else []
        return " ".join([self.pick(WORDS["determiner"]), *adjectives, noun, *place])

    def text(self) -> Text:
        nouns = iter(self.draw(NOUNS, 2 * SENTENCES))
        context, people = "", {}
        for subject, object_ in zip(nouns, nouns, strict=True):
            parts = [self.person(subject), f"{self.pick(TRANSITIVE_VERBS)}s", self.person(object_)]
            sentence = " ".join(parts)
            sentence = f"{sentence[0].upper()}{sentence[1:]}."
            context += f"{' ' if context else ''}{sentence}"
            start = len(context) - len(sentence)
            for noun, part in ((subject, parts[0]), (object_, parts[2])):
                place = start + (0 if noun == subject else len(sentence) - 1 - len(part))
                people[noun] = context[place : place + len(part)], place
        return Text(context, people)


def make_texts(n: int, seed: int) -> list[Text]:
    """Returns `n` different texts, the same for a seed on every machine.

    Example::

        text = make_texts(1, seed=0)[0]
        for noun, (answer, start) in text.people.items():
            assert text.context[start:].startswith(answer) and noun in answer
    """
    writer, texts = _Writer(seed), dict[str, Text]()
    while len(texts) < n:
        text = writer.text()
        texts.setdefault(text.context, text)
    return list(texts.values())


def make_tokenizer() -> Tokenizer:
    """Returns the `tokenizers.Tokenizer` of the task: lower case, with the s of verbs as a token."""
    words = [*WORDS["determiner"], *WORDS["preposition"], *ADJECTIVES, *(name.lower() for name in NAMES)]
    return word_tokenizer([*TOKENS, *words, *NOUNS, *TRANSITIVE_VERBS])


def write_task(folder: str | Path, *, seed: int = 0, train: int = 400, validation: int = 60, test: int = 60) -> None:
    """Writes the data of the task in SQuAD's JSON format, and a base for models, as files that the commands read.

    - ``train.json``, ``validation.json``, ``test.json``: texts with a question about each of the eight people in them.
    - ``base/``: the tokenizer and the configuration of a small MPNet, without weights, for ``student_init: random``.

    Existing files with the same content are left unchanged.

    Args:
        folder: created if missing.
        seed: seed of the texts.
        train, validation, test: number of texts.

    Raises:
        InputError: no texts, or an existing file with other content. Nothing is written then.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}: give 1 or more.")
    texts = iter(make_texts(sum(sizes.values()), seed))
    files = {}
    for name, size in sizes.items():
        paragraphs = [_paragraph(next(texts), f"{name}-{index}") for index in range(size)]
        files[f"{name}.json"] = as_json({"version": "1.1", "data": [{"title": name, "paragraphs": paragraphs}]})
    tokenizer = make_tokenizer()
    files["base/tokenizer.json"] = tokenizer.to_str(pretty=True) + "\n"
    files["base/tokenizer_config.json"] = as_json(TOKENIZER_CONFIG | {"model_max_length": 128})
    files["base/config.json"] = as_json(READING_CONFIG | {"vocab_size": tokenizer.get_vocab_size()})
    write_new_files(folder, files)


def _paragraph(text: Text, name: str) -> dict[str, Any]:
    questions = [
        {
            "id": f"{name}-{noun}",
            "question": QUESTION.format(noun),
            "answers": [{"text": answer, "answer_start": start}],
        }
        for noun, (answer, start) in text.people.items()
    ]
    return {"context": text.context, "qas": questions}


@command_line
def main(argv: list[str]) -> None:
    write_by_command(
        argv,
        write_task,
        prog="ckd-trainer demo reading",
        description="Generates the reading demo task: what does a text call a person?",
        files="train.json, validation.json, test.json",
    )


if __name__ == "__main__":
    main()
