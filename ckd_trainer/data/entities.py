"""Loads sentences with named entities: CoNLL files, tables of tokens and tags, tables of texts with spans.

All become texts with the places of their words. The tokens of a sentence are joined by spaces, so that a model reads
them as it reads any text in production.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets import ClassLabel, Dataset, Features, List, Value

from ckd_trainer.data.classes import advice_for
from ckd_trainer.data.conll import Sentences, read_conll
from ckd_trainer.data.hub import NamedDataset
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.table import Table
from ckd_trainer.data.table_files import open_table
from ckd_trainer.data.tags import check_tag, label_names, read_tags
from ckd_trainer.data.texts_with_spans import SPANS, spans_of, tags_of_spans, words_of
from ckd_trainer.utils.errors import InputError, first_of, short
from ckd_trainer.utils.files import user_path

_TABLES = (".json", ".jsonl", ".parquet")
_ADVICE = "name the columns with tokens_column and tags_column, or with text_column and spans_column"


@dataclass
class EntityTask:
    """Sentences to train and evaluate on.

    Each set has the columns `text`, `starts` and `ends` (the characters of its words) and, except test sets, `tags`
    (an index into `label_names` for each word). `validation` and `test` hold their only set under the key "".
    """

    train: Dataset | None
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    label_names: list[str]
    text_columns: tuple[str, ...] = ("text",)


class _Set(NamedTuple):
    """Sentences as they are read. `types` holds the types that the source names, whether they occur or not."""

    texts: list[str]
    words: list[list[tuple[int, int]]]
    tags: list[list[str]] | None
    types: set[str]
    place: Callable[[int, int], str]


def files_of(arguments: NerArguments, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the files of labeled sets by the option that names them; empty for a data set by name."""
    files = {f"{split}_file": getattr(arguments, f"{split}_file") for split in splits}
    return {option: [user_path(path)] for option, path in files.items() if path}


def load_entities(
    arguments: NerArguments, *, seed: int, splits: Sequence[str] = ("train", "validation", "test")
) -> EntityTask:
    """Loads a data set by name or the user's files.

    Args:
        arguments: A `NerArguments`; its `max_*_samples` limit the sizes of the sets.
        seed: Draws the training sentences if `max_train_samples` is set and `sample_seed` is not.
        splits: The splits to load; the other sets stay None or empty. The types of entities are those of the training
            set, which is read for them even if "train" is not requested.

    Returns:
        An `EntityTask`.

    Raises:
        InputError: a missing or malformed file, data set, split or column; a word that is not a tag, an unknown type,
            spans that overlap; training data without entities.

    Example::

        task = load_entities(NerArguments(train_file="eng.train", validation_file="eng.testa"), seed=0)
        task.validation[""][0]["text"]  # "CRICKET - LEICESTERSHIRE TAKE OVER AT TOP AFTER INNINGS VICTORY ."
    """
    named = NamedDataset(arguments, quoting=arguments.quoting) if arguments.dataset_name else None
    # Unlabeled texts can be all that there is to train on.
    is_unlabeled = arguments.has_unlabeled and not arguments.has_labeled
    known = "validation" if is_unlabeled else "train"

    def read(split: str) -> _Set:
        why = f"the {split} set is needed" if split in splits else "its tags define the types of entities"
        return _read(split, arguments, named, why, labeled=split != "test")

    sets = {split: read(split) for split in dict.fromkeys([known, *splits]) if not (split == "train" and is_unlabeled)}
    source = sets[known]
    names = label_names(source.types)
    if len(names) == 1:
        raise InputError(
            f"{source.place(0, 0)}: there is no entity from here to the end, so there is nothing to learn: give "
            "sentences with entities."
        )
    limits = {"validation": arguments.max_eval_samples, "test": arguments.max_predict_samples}
    data = {split: _dataset(one, names) for split, one in sets.items() if split in splits}
    for split, limit in limits.items():
        if split in data:
            data[split] = data[split].select(range(min(limit or len(data[split]), len(data[split]))))
    return EntityTask(
        train=arguments.sample(data["train"], seed) if "train" in data else None,
        validation={"": data["validation"]} if "validation" in data else {},
        test={"": data["test"]} if "test" in data else {},
        label_names=names,
    )


def load_validation_texts(arguments: NerArguments) -> EntityTask:
    """Loads the validation set for its texts, without tags and without the training set that defines their types.

    Raises:
        InputError: as `load_entities`, about the validation set.
    """
    named = NamedDataset(arguments, quoting=arguments.quoting) if arguments.dataset_name else None
    data = _dataset(_read("validation", arguments, named, "the validation set is needed", labeled=False), [])
    data = data.select(range(min(arguments.max_eval_samples or len(data), len(data))))
    return EntityTask(train=None, validation={"": data}, test={}, label_names=[])


def _read(split: str, arguments: NerArguments, named: NamedDataset | None, why: str, *, labeled: bool) -> _Set:
    """Reads a split of a data set by name, or of the user's files if `named` is None.

    Args:
        why: the reason why the split is needed, for a message.
    """
    if named is not None:
        return _of_table(_named_table(named, split, arguments, labeled), arguments, labeled)
    path = getattr(arguments, f"{split}_file")
    if not path:
        raise InputError(f"{split}_file is not set, but {why}: give a CoNLL, .json, .jsonl or .parquet file.")
    return _of_file(path, arguments, labeled)


def _of_file(path: str, arguments: NerArguments, labeled: bool) -> _Set:
    if user_path(path).suffix.lower() not in _TABLES:
        sentences = read_conll(
            path,
            labeled=labeled,
            token_column=arguments.token_column_number,
            tag_column=arguments.tag_column_number,
        )
        return _of_tokens(sentences)
    columns = (arguments.tokens_column, arguments.tags_column, arguments.text_column, arguments.spans_column)
    table = open_table(path, usecols=columns, forms={arguments.spans_column: SPANS})
    return _of_table(table, arguments, labeled)


def _named_table(named: NamedDataset, split: str, arguments: NerArguments, labeled: bool) -> Table:
    if _has_tokens(arguments, named.columns(split)):
        label = arguments.tags_column if labeled else None
        return named.table(split, texts=[], label=label, others=[arguments.tokens_column], advice=_ADVICE)
    label = arguments.spans_column if labeled else None
    return named.table(split, texts=[arguments.text_column], label=label, advice=_ADVICE)


def _has_tokens(arguments: NerArguments, names: Collection[str]) -> bool:
    """Returns whether a table is read as tokens and tags; if it has texts with spans too, the columns named decide."""
    if arguments.tokens_column not in names:
        return False
    if arguments.text_column not in names or arguments.spans_column not in names:
        return True
    named = {field.name for field in dataclasses.fields(arguments) if getattr(arguments, field.name) != field.default}
    if named & {"tokens_column", "tags_column"}:
        return True
    return arguments.tags_column in names and not named & {"text_column", "spans_column"}


def _of_table(table: Table, arguments: NerArguments, labeled: bool) -> _Set:
    names = table.data.column_names if table.names is None else table.names
    tokens, tags, text, spans = (getattr(arguments, f"{name}_column") for name in ("tokens", "tags", "text", "spans"))
    if _has_tokens(arguments, names):
        if labeled:
            table.require(tags, f"; {_ADVICE}")
        return _of_tokens(_tokens_of(table, tokens, tags if labeled else None), _types_of(table, tags))
    table.require(text, f"; {_ADVICE}")
    if labeled:
        table.require(spans, f"; {_ADVICE}")
    texts = table.texts(text)
    words = [words_of(one) for one in texts]

    def place(row: int, word: int) -> str:
        return table.place(row)

    if not labeled:
        return _Set(texts, words, None, set(), place)
    given = spans_of(table, spans, texts)
    types = {span.label for row in given for span in row}
    return _Set(texts, words, tags_of_spans(table, texts, words, given), types, place)


def _types_of(table: Table, column: str) -> set[str]:
    """Returns the types that a `ClassLabel` column names."""
    return {name.partition("-")[2] for name in _names_of(table, column) or ()} - {""}


def _names_of(table: Table, column: str) -> list[str] | None:
    """Returns the names of a column of lists of `ClassLabel`."""
    feature = getattr(table.data.features.get(column), "feature", None)  # of a List or a LargeList
    return feature.names if isinstance(feature, ClassLabel) else None


def _tokens_of(table: Table, tokens: str, tags: str | None) -> Sentences:
    """Returns the tokens and tags in columns of lists."""

    def place(row: int, word: int) -> str:
        return f"{table.place(row)}, token {word + 1}"

    words = _lists(table, tokens, "a list of texts")
    for row, sentence in enumerate(words):
        for word, token in enumerate(sentence):
            if not isinstance(token, str):
                raise InputError(f"{place(row, word)}: {tokens!r} holds {short(token)}: give a text in quotes.")
    if tags is None:
        return Sentences(words, None, place)
    labels = _lists(table, tags, "a list of tags")
    names = _names_of(table, tags)
    for row, (sentence, given) in enumerate(zip(words, labels, strict=True)):
        if len(sentence) != len(given):
            raise InputError(
                f"{table.place(row)}: there are {len(sentence)} tokens ({tokens!r}), but {len(given)} tags "
                f"({tags!r}): give one tag for each token."
            )
        for word, tag in enumerate(given):
            if names is not None and isinstance(tag, int) and 0 <= tag < len(names):
                given[word] = tag = names[tag]
            advice = "numbers need the names of a ClassLabel" if not isinstance(tag, str) else "check the column"
            check_tag(str(tag), place(row, word), advice)
    return Sentences(words, labels, place)


def _lists(table: Table, column: str, what: str) -> list[list]:
    values = table.data[column][:]
    for row, value in enumerate(values):
        if not isinstance(value, list):
            raise InputError(f"{table.place(row)}: {column!r} is {short(value)}: give {what}.")
    return values


def _of_tokens(sentences: Sentences, types: Sequence[str] | set[str] = ()) -> _Set:
    texts = [" ".join(tokens) for tokens in sentences.tokens]
    words = [list(_joined(tokens)) for tokens in sentences.tokens]
    tags = None if sentences.tags is None else read_tags(sentences.tags, sentences.place)
    found = {tag[2:] for row in tags or () for tag in row if tag != "O"}
    return _Set(texts, words, tags, {*types} | found, sentences.place)


def _joined(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yields the start and end of each token in the text that joins them by spaces."""
    start = 0
    for token in tokens:
        yield start, start + len(token)
        start += len(token) + 1


def _dataset(sentences: _Set, names: Sequence[str]) -> Dataset:
    columns: dict[str, list] = {
        "text": sentences.texts,
        "starts": [[start for start, _ in words] for words in sentences.words],
        "ends": [[end for _, end in words] for words in sentences.words],
    }
    features: dict[str, object] = {
        "text": Value("string"),
        "starts": List(Value("int32")),
        "ends": List(Value("int32")),
    }
    if sentences.tags is not None:
        numbers = {name: number for number, name in enumerate(names)}
        for row, tags in enumerate(sentences.tags):
            for word, tag in enumerate(tags):
                if tag not in numbers:
                    types = [name[2:] for name in names[1::2]]
                    raise InputError(
                        f"{sentences.place(row, word)}: {short(tag[2:])} is not an entity type of the training data "
                        f"({first_of(types, 20)}): correct it, or add it to them.{advice_for(tag[2:], types)}"
                    )
        columns["tags"] = [[numbers[tag] for tag in tags] for tags in sentences.tags]
        features["tags"] = List(Value("int64"))
    return Dataset.from_dict(columns, features=Features(features))
