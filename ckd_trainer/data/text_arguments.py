"""The data options of language models: running text."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ckd_trainer.arguments import option, parsed_json
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.utils.errors import InputError, first_of, short
from ckd_trainer.utils.files import expanded, user_path

TEXT_SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")


def _not_for_text() -> Any:
    """Returns a field in the place of an inherited option, which text without labels does not have."""
    return field(default=None, init=False)


@dataclass
class TextArguments(DataArguments):
    """The running text to train on, and how it is cut into blocks and masked.

    Example::

        TextArguments(train_file="wiki.txt", validation_share=0.01)
        TextArguments(sources=[{"train_file": "wiki.txt"}, {"train_file": "reports.jsonl", "weight": 3}])
        TextArguments(dataset_name="wikimedia/wikipedia", dataset_config_name="20231101.en", validation_share=0.001)
    """

    train_file: str | None = option(
        None, "Text to train on: .txt, or .jsonl, .json, .parquet, .csv or .tsv with a column of texts."
    )
    validation_file: str | None = option(None, "Text to evaluate on, in the same formats.")
    validation_split_name: str | None = option(None, "The split of dataset_name to evaluate on. By default none.")
    sources: list | str | None = option(
        None,
        'Several texts to train on: a list such as [{"train_file": "wiki.txt"}, {"dataset_name": "me/reports", '
        '"weight": 3}] (a list in a recipe, JSON on the command line). Each may set train_file, dataset_name, '
        "dataset_config_name, dataset_revision, train_split_name, text_column, lines and weight, which is how often "
        "an epoch reads its blocks (1 by default; a fraction draws some of them, the same ones for each epoch). With "
        "streaming it is the share of blocks that are drawn from this text, in relation to the other weights.",
    )
    text_column: str = option(
        "text", "The column that holds the texts; each row is a document, except those of a folder of .txt files."
    )
    lines: Literal["paragraphs", "documents"] = option(
        "paragraphs",
        "What a line of a .txt file is, also in a folder given as dataset_name: a paragraph, where blank lines "
        "separate documents, or a document.",
    )
    validation_share: float | None = option(
        None,
        "Hold this share of the training blocks out, drawn at random, and evaluate on them; between 0 and 1. "
        "sample_seed draws others.",
    )
    streaming: bool = option(
        False,
        "Read the training text while training, in an endless pass, for sets that do not fit the disk: nothing is "
        "copied or kept. It needs max_steps, and a text of its own to evaluate on (validation_file or "
        "validation_split_name).",
    )
    keep_sentences: bool = option(
        False,
        "Keep sentences whole: a block ends before a sentence that does not fit, so that blocks have different "
        "lengths. By default every block is full.",
    )
    mlm_probability: float = option(
        0.0,
        "The share of tokens to mask, for teacher and student alike, between 0 and 1: eight of ten become the mask "
        "token, one a random token, and one stays. By default nothing is masked, as in MiniLM and TinyBERT.",
    )
    max_train_samples: int | None = option(None, "Use only this many training blocks, drawn at random.")
    max_eval_samples: int | None = option(None, "Use only this many blocks to evaluate on, drawn at random.")
    sample_seed: int | None = option(
        None,
        "The seed that draws held-out blocks, max_eval_samples and the blocks of a fractional weight (0 by default), "
        "and max_train_samples (the run's seed by default).",
    )
    max_seq_length: int | None = option(
        None, "The length of a block in tokens. By default 128, or fewer if the models read fewer."
    )

    test_file: None = _not_for_text()
    test_split_name: None = _not_for_text()
    max_predict_samples: None = _not_for_text()
    unlabeled_file: None = _not_for_text()
    unlabeled_dataset_name: None = _not_for_text()
    unlabeled_dataset_config_name: None = _not_for_text()
    unlabeled_dataset_revision: None = _not_for_text()
    unlabeled_split_name: None = _not_for_text()
    unlabeled_share: None = _not_for_text()
    unlabeled_min_confidence: None = _not_for_text()

    def __post_init__(self) -> None:
        named = self.given("train_file", "dataset_name")
        if self.sources is not None and named:
            raise InputError(
                f"sources is set, but {named[0]} is {getattr(self, named[0])}: give all texts as sources, or leave "
                "sources out."
            )
        if not (self.sources or named or self.validation_file):
            raise InputError("there is no text to use: give train_file, dataset_name or sources.")
        self.fill_in(max_seq_length=128)
        super().__post_init__()
        self.sources = _list("sources", self.sources)
        for source in (*self.training_sources, self.validation_source):
            if source is not None:
                source.check()
        held_out = ("validation_file", "validation_split_name", "validation_share")
        if len(given := self.given(*held_out)) > 1:
            raise InputError(
                f"{given[0]} is {getattr(self, given[0])}, but {given[1]} is set as well: give one or the other."
            )
        for name in ("validation_share", "mlm_probability"):
            value = getattr(self, name)
            allowed = value is None or 0 < value < 1 or (name == "mlm_probability" and value == 0)
            if not allowed:
                raise InputError(f"{name} is {value:g}: give a number between 0 and 1.")

        if self.streaming:
            self._check_streaming()

    def _check_streaming(self) -> None:
        """Raises InputError for an option that counts or draws from all blocks, which a stream does not know."""
        instead = {
            "validation_share": "give a validation_file or a validation_split_name",
            "max_train_samples": "limit the training with max_steps",
        }
        for name in self.given(*instead):
            raise InputError(
                f"{name} is {getattr(self, name)}, but with streaming the number of blocks is not known: leave it "
                f"out, and {instead[name]}."
            )

    def files_instead_of_dataset(self) -> list[str]:
        return self.given("train_file")

    @property
    def training_sources(self) -> list["TextSource"]:
        """The texts to train on."""
        if self.sources:
            return [_source(number, entry, self) for number, entry in enumerate(self.sources, start=1)]
        return [self._own("train_file", "dataset_name")] if self.given("train_file", "dataset_name") else []

    @property
    def validation_source(self) -> "TextSource | None":
        """The text to evaluate on; None if there is none, or if it is held out of the training text."""
        if self.validation_file:
            return dataclasses.replace(self._own(), train_file=self.validation_file)
        if self.validation_split_name:
            return dataclasses.replace(self._own("dataset_name"), train_split_name=self.validation_split_name)
        return None

    def _own(self, *names: str) -> "TextSource":
        more = ("dataset_config_name", "dataset_revision", "train_split_name") if "dataset_name" in names else ()
        values = {name: getattr(self, name) for name in (*names, *more, "text_column", "lines")}
        return TextSource(**values)


@dataclass(frozen=True)
class TextSource:
    """A file, or a split of a data set, that holds documents.

    Attributes: the options of `TextArguments` with these names; `train_` also where the text is for validation.
    """

    train_file: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    dataset_revision: str | None = None
    train_split_name: str | None = None
    text_column: str = "text"
    lines: str = "paragraphs"
    weight: float = 1.0

    def __str__(self) -> str:
        parts = (self.train_file, self.dataset_name, self.dataset_config_name, self.train_split_name)
        return ", ".join(part for part in parts if part)

    @property
    def path(self) -> Path | None:
        """The file; None for a data set by name."""
        return None if self.train_file is None else user_path(self.train_file)

    def check(self) -> None:
        """Raises InputError for a file whose suffix is not that of a text."""
        path = self.path
        if path is not None and path.suffix.lower() not in TEXT_SUFFIXES:
            raise InputError(f"{path} has the suffix {path.suffix!r}: give a {', '.join(TEXT_SUFFIXES)} file.")


def _source(number: int, entry: Any, defaults: TextArguments) -> TextSource:
    """Returns one of `sources`; raises InputError, with its number, if it is malformed."""
    what = f"sources, entry {number},"
    if not isinstance(entry, dict):
        raise InputError(f'{what} is {short(entry)}: give a mapping such as {{"train_file": "wiki.txt"}}.')
    known = [option.name for option in dataclasses.fields(TextSource)]
    for name, value in entry.items():
        if name not in known:
            raise InputError(f"{what} sets {short(name)}, which is not one of {first_of(known, 20)}.")
        wanted = (int, float) if name == "weight" else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            kind = "a number" if name == "weight" else "a string"
            raise InputError(f"{what} sets {name} to {short(value)}: give {kind}.")
    if bool(entry.get("train_file")) == bool(entry.get("dataset_name")):
        raise InputError(f"{what} is {short(entry)}: give train_file or dataset_name, and not both.")
    of_dataset = [name for name in ("dataset_config_name", "dataset_revision", "train_split_name") if name in entry]
    if of_dataset and not entry.get("dataset_name"):
        raise InputError(f"{what} sets {of_dataset[0]}, but no dataset_name: set it, or leave {of_dataset[0]} out.")
    source = TextSource(**{"text_column": defaults.text_column, "lines": defaults.lines, **entry})
    source = dataclasses.replace(source, dataset_name=expanded(source.dataset_name))
    if source.lines not in ("paragraphs", "documents"):
        raise InputError(f"{what} sets lines to {short(source.lines)}: give paragraphs or documents.")
    if not (source.weight > 0 and math.isfinite(source.weight)):
        raise InputError(f"{what} has the weight {source.weight:g}: give a number above 0.")
    return source


def _list(name: str, value: list | str | None) -> list | None:
    """Returns the list that an option holds, parsed if it is JSON text."""
    value = parsed_json(name, value)
    if value is not None and not (isinstance(value, list) and value):
        raise InputError(f'{name} is {short(value)}: give a list such as [{{"train_file": "wiki.txt"}}].')
    return value
