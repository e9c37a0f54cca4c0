"""The agreement demo task: is this English sentence grammatical? Generated locally, nothing to download.

A sentence is grammatical when its main verb agrees with its subject in number, and ungrammatical when it does not.
Nested phrases separate the two. They contain other nouns, some with a verb that agrees with them::

    grammatical      The nurse that the drivers near the lawyer follow surely complains.
    ungrammatical    Beside our twin, my aunts that obey the clerks often and surely sneezes.

Counting words does not help, by construction. Each sentence has a partner with the other label and the same kinds of
words (two singular nouns, one plural verb, ...) in another order. The words of each kind are drawn at random. So any
bag of words is equally likely with either label, and only a model that finds the main verb and its subject solves the
task.

Run as ``ckd-trainer demo agreement FOLDER [--seed 0]``: see `write_task`.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ckd_trainer.utils.errors import ArgumentParser, InputError, command_line
from ckd_trainer.utils.files import input_errors_about, write_atomically

Item = TypeVar("Item")

LABELS = ("ungrammatical", "grammatical")
NUMBERS = ("singular", "plural")
MAX_DEPTH = 2  # phrases in phrases: my poet | near the nurse | that your boys greet
MAX_WORDS = 24
MODIFIERS = ("none",) * 3 + ("preposition",) * 2 + ("subject relative", "object relative")

# Plural nouns and singular verbs end in s, which is a separate token: a small model learns one mark of number instead
# of two forms of each word. No verb takes a clause or a bare infinitive, and none is also a noun, because a wrong verb
# could then be read as correct ("the girls know the boy sings", "my uncle that the dog walks").
NOUNS = (
    "actor aunt baker boy clerk dancer doctor driver farmer girl lawyer nurse painter pilot poet singer teacher twin "
    "uncle waiter writer"
).split()
TRANSITIVE_VERBS = "accuse admire adore amuse annoy avoid encourage follow forgive greet ignore obey".split()
INTRANSITIVE_VERBS = "appear arrive complain disappear exist hesitate listen relax sing succeed".split()
WORDS = {
    "determiner": "my our the your".split(),
    "preposition": "behind beside near opposite".split(),
    "adverb": "clearly now often really still surely truly usually".split(),
    "singular noun": NOUNS,
    "plural noun": [f"{noun}s" for noun in NOUNS],
    "singular transitive": [f"{verb}s" for verb in TRANSITIVE_VERBS],
    "plural transitive": TRANSITIVE_VERBS,
    "singular intransitive": [f"{verb}s" for verb in INTRANSITIVE_VERBS],
    "plural intransitive": INTRANSITIVE_VERBS,
}
OTHER_TOKENS = ["that", "and", ",", ".", "##s"]
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "model_max_length": 64,
    "model_input_names": ["input_ids", "attention_mask"],
}
BASE_CONFIG = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
    "type_vocab_size": 1,
    "pad_token_id": 0,
    # 1 / sqrt(width), so that a layer preserves the scale of its inputs. With BERT's 0.02, chosen for width 768, so
    # narrow a model stays at chance for several epochs.
    "initializer_range": 0.125,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


class Example(NamedTuple):
    """A sentence and its label, one of `LABELS`."""

    text: str
    label: str


class Draw:
    """Random numbers that are the same for a seed on every machine."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def chance(self) -> float:
        return self._random.random()  # the only method whose numbers Python guarantees for a seed

    def pick(self, options: Sequence[Item]) -> Item:
        return options[int(self.chance() * len(options))]


class _Writer(Draw):
    """Draws a sentence as a list of kinds (keys of `WORDS`, or literal words), then turns it into text."""

    def noun_phrase(self, number: str, depth: int) -> list[str]:
        phrase = ["determiner", f"{number} noun"]
        if depth == 0:
            return phrase
        modifier = self.pick(MODIFIERS)
        other = self.pick(NUMBERS)
        if modifier == "preposition":  # the nurse | near the drivers
            phrase += ["preposition", *self.noun_phrase(other, depth - 1)]
        elif modifier == "subject relative":  # the nurse | that greets the drivers
            phrase += ["that", f"{number} transitive", *self.noun_phrase(other, depth - 1)]
        elif modifier == "object relative":  # the nurse | that the drivers greet
            phrase += ["that", *self.noun_phrase(other, depth - 1), f"{other} transitive"]
        return phrase

    def adverbs(self) -> list[str]:
        return self.pick([[], [], ["adverb"], ["adverb", "and", "adverb"]])

    def kinds(self, label: str) -> list[str]:
        subject = self.pick(NUMBERS)
        verb = subject if label == "grammatical" else _other(subject, NUMBERS)
        sentence = []
        if self.chance() < 0.3:  # the subject is then not the first noun
            sentence += ["preposition", *self.noun_phrase(self.pick(NUMBERS), depth=0), ","]
        sentence += self.noun_phrase(subject, MAX_DEPTH) + self.adverbs()
        if self.chance() < 0.5:
            return [*sentence, f"{verb} intransitive", "."]
        # The object may have phrases too, so that the main verb is not always the last one.
        return [*sentence, f"{verb} transitive", *self.noun_phrase(self.pick(NUMBERS), depth=1), "."]

    def text(self, kinds: list[str]) -> str:
        words = [self.pick(WORDS[kind]) if kind in WORDS else kind for kind in kinds]
        text = " ".join(words).replace(" ,", ",").replace(" .", ".")
        return text[0].upper() + text[1:]


def make_examples(n: int, seed: int) -> list[Example]:
    """Returns `n` different examples, the same for a seed on every machine. `n` must be even.

    Examples 2i and 2i+1 are partners: the same kinds of words, and different labels, in either order.

    Example::

        for text, label in make_examples(10, seed=0):
            print(label, text)
    """
    if n < 0 or n % 2:
        raise InputError(f"n is {n}, but examples come in pairs: give an even number, 0 or more.")
    writer = _Writer(seed)
    unmatched: dict[tuple, list[str]] = defaultdict(list)  # (kinds of words in alphabetical order, label) -> texts
    seen = set()
    examples: list[Example] = []
    while len(examples) < n:
        label = writer.pick(LABELS)
        kinds = writer.kinds(label)
        text = writer.text(kinds)
        if len(kinds) > MAX_WORDS or text in seen:
            continue
        seen.add(text)
        bag, other = tuple(sorted(kinds)), _other(label, LABELS)
        if unmatched[bag, other]:
            examples += [Example(unmatched[bag, other].pop(), other), Example(text, label)]
        else:
            unmatched[bag, label].append(text)
    return examples


def _other(value: str, pair: tuple[str, str]) -> str:
    return pair[1 - pair.index(value)]


def make_tokenizer() -> Tokenizer:
    """Returns the `tokenizers.Tokenizer` of the task: lower case, the words of `WORDS`, the ending s as a token."""
    stems = [word for kind in ("determiner", "preposition", "adverb") for word in WORDS[kind]]
    return word_tokenizer([*SPECIAL_TOKENS, *OTHER_TOKENS, *stems, *NOUNS, *TRANSITIVE_VERBS, *INTRANSITIVE_VERBS])


def word_tokenizer(tokens: list[str]) -> Tokenizer:
    """Returns a `tokenizers.Tokenizer` with these lower-case words and pieces (##s), including `SPECIAL_TOKENS`."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def write_task(
    folder: str | Path,
    *,
    seed: int = 0,
    train: int = 20_000,
    validation: int = 2_000,
    test: int = 2_000,
    text: int = 30_000,
) -> None:
    """Writes the data of the task, and a base for models, as files that the commands read.

    - ``train.tsv``, ``validation.tsv``, ``test.tsv``: columns text and label; no sentence occurs twice.
    - ``text.txt``: other sentences, all grammatical, one a line: running text for a language model.
    - ``base/``: the tokenizer and the configuration of a small BERT, without weights, for ``student_init: random``.

    Existing files with the same content are left unchanged.

    Args:
        folder: created if missing.
        seed: seed of the sentences.
        train, validation, test: number of sentences, even.
        text: number of sentences in text.txt.

    Raises:
        InputError: an odd number, or an existing file with other content. Nothing is written then.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for name, size in sizes.items():
        if size < 2 or size % 2:
            raise InputError(f"{name} is {size}, but sentences come in pairs: give an even number, 2 or more.")
    order = Random(seed)
    examples = iter(make_examples(sum(sizes.values()) + 2 * text, seed))
    files = {}
    for name, size in sizes.items():
        rows = sorted(itertools.islice(examples, size), key=lambda row: order.random())  # partners apart
        files[f"{name}.tsv"] = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    files["text.txt"] = "".join(f"{text}\n" for text, label in examples if label == "grammatical")
    tokenizer = make_tokenizer()
    files["base/tokenizer.json"] = tokenizer.to_str(pretty=True) + "\n"
    files["base/tokenizer_config.json"] = as_json(TOKENIZER_CONFIG)
    files["base/config.json"] = as_json(BASE_CONFIG | {"vocab_size": tokenizer.get_vocab_size()})

    write_new_files(folder, files)


def write_new_files(folder: str | Path, files: Mapping[str, str]) -> None:
    """Writes files in a folder. Existing files with the same content are left unchanged.

    Args:
        files: contents by name.

    Raises:
        InputError: an existing file with other content (nothing is written then), no access, or a full disk.

    Example::

        write_new_files("runs/quickstart/data", {"train.tsv": "text\\tlabel\\n", "base/config.json": "{}\\n"})
    """
    contents = {Path(folder) / name: content.encode() for name, content in files.items()}
    with input_errors_about(folder):
        for path, content in contents.items():
            if path.is_dir():
                raise InputError(f"{path} is a folder, not a file: give another folder.")
            for parent in path.parents:
                if parent.is_file():
                    raise InputError(f"{parent} is a file: give another folder.")
            if path.exists() and path.read_bytes() != content:
                raise InputError(
                    f"{path} already exists with other content: give another folder, or delete the file first."
                )
        for path, content in contents.items():
            if not path.exists():
                write_atomically(path, content)


def as_json(value: Any) -> str:
    """Returns the text of a JSON file."""
    return json.dumps(value, indent=2) + "\n"


def write_by_command(
    argv: list[str], write_task: Callable[..., None], *, prog: str, description: str, files: str
) -> None:
    """Runs the command line of a demo task: `FOLDER [--seed N]`."""
    parser = ArgumentParser(prog=prog, description=description)
    parser.add_argument("folder", help=f"folder for {files} and base/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the texts (default: 0)")
    arguments = parser.parse_args(argv)
    write_task(arguments.folder, seed=arguments.seed)
    print(f"The task is in {arguments.folder}: {files} and base/")


@command_line
def main(argv: list[str]) -> None:
    write_by_command(
        argv,
        write_task,
        prog="ckd-trainer demo agreement",
        description="Generates the agreement demo task: is a sentence grammatical?",
        files="train.tsv, validation.tsv, test.tsv, text.txt",
    )


if __name__ == "__main__":
    main()
