"""Reads and writes CoNLL files: a token and its tags on each line, and empty lines between sentences."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ckd_trainer.data.tags import check_tag, is_tag
from ckd_trainer.data.text_files import read_text
from ckd_trainer.utils.errors import InputError, agreeing, short
from ckd_trainer.utils.files import input_errors_about, user_path, write_atomically

logger = logging.getLogger(__name__)

_LONG = 500  # the tokens of a sentence that is more likely a file without empty lines


class Sentences(NamedTuple):
    """Tokens of sentences, and their tags as they are in the source.

    Attributes:
        tokens, tags: a list for each sentence; `tags` is None if they were not read.
        place: returns the place of a token of a sentence, both from 0, such as "eng.train, line 7".
    """

    tokens: list[list[str]]
    tags: list[list[str]] | None
    place: Callable[[int, int], str]


def read_conll(path: str | Path, *, labeled: bool, token_column: int = 1, tag_column: int | None = None) -> Sentences:
    """Reads the sentences of a CoNLL file.

    Tabs separate the columns of a line that has a tab, and spaces those of other lines. All lines have the same number
    of columns. Sentences end at lines that are empty or hold only tabs and spaces, and at lines that begin with
    -DOCSTART-, which are left out. A long file that is one sentence is warned of. Comments are left out, too: lines
    before the first token of a sentence that begin with #, and have more than one column but no tag. Where tags are
    not read, a token such as #tag may have no tag either: it is kept if its line has as many columns as the others.

    Args:
        path: The file.
        labeled: Whether the tags are read.
        token_column, tag_column: The numbers of the columns, from 1; None for the last one.

    Raises:
        InputError: no such file, not UTF-8, no sentences, a line with another number of columns than the first one, no
            such column, one column for tokens and tags, an empty token, a word that is not a tag. The message names
            the line.

    Example::

        read_conll("eng.testa", labeled=True).tokens[0][:2]  # ["CRICKET", "-"]
    """
    path = user_path(path)
    with input_errors_about(path):
        if not path.is_file():
            what = "a folder" if path.is_dir() else "missing"
            raise InputError(f"{path} is {what}: give an existing file.")
    tokens: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    lines: list[list[int]] = [[]]
    first: tuple[int, int] | None = None  # the line of the first token, and its number of columns
    tagged = 0  # lines with a tag, where tags are not read
    # Not splitlines: a token may be another line separator of Unicode.
    contents = [content.rstrip("\r") for content in read_text(path).split("\n")]
    width = next((len(_columns(one)) for one in contents if not _ends_sentence(one) and one[0] != "#"), 0)
    for line, content in enumerate(contents, 1):
        if _ends_sentence(content):
            if tokens[-1]:
                for part in (tokens, tags, lines):
                    part.append([])
            continue
        columns = _columns(content)
        tag = columns[min(tag_column or len(columns), len(columns)) - 1].strip(" ")
        may_be_token = not labeled and columns[0] != "#" and len(columns) == width
        if content[0] == "#" and not tokens[-1] and len(columns) > 1 and not is_tag(tag) and not may_be_token:
            continue
        tagged += not labeled and is_tag(tag)
        first = first or (line, len(columns))
        _check_columns(f"{path}, line {line}", columns, first, labeled, token_column, tag_column)
        tokens[-1].append(columns[token_column - 1])
        lines[-1].append(line)
        if labeled:
            check_tag(tag, f"{path}, line {line}", "if another column holds the tags, set tag_column_number")
            tags[-1].append(tag)
    if not tokens[-1]:
        for part in (tokens, tags, lines):
            part.pop()
    if not tokens:
        raise InputError(f"{path} has no sentences: give a file with a token and its tag on each line.")
    if not labeled and width > 1 and 2 * tagged < sum(map(len, tokens)):
        logger.warning(
            "%s is read as CoNLL, with a token on each line. Only column %d of %d is read, such as %s; few lines end "
            "in a tag. Give whole texts as .jsonl or .parquet.",
            *(path, token_column, width, short(tokens[0][0])),
        )
    if len(tokens) == 1 and len(tokens[0]) > _LONG:
        logger.warning(
            "%s is read as one sentence of %d tokens: put an empty line after each sentence.", path, len(tokens[0])
        )
    return Sentences(tokens, tags if labeled else None, lambda row, word: f"{path}, line {lines[row][word]}")


def _ends_sentence(content: str) -> bool:
    return not content.strip(" \t") or content.startswith("-DOCSTART-")


def _columns(content: str) -> list[str]:
    return content.split("\t") if "\t" in content else re.split(" +", content.strip(" "))


def _check_columns(
    place: str,
    columns: Sequence[str],
    first: tuple[int, int],
    labeled: bool,
    token_column: int,
    tag_column: int | None,
) -> None:
    if len(columns) != first[1]:
        raise InputError(
            f"{place}: the line has {_count(columns)}, but line {first[0]} has {first[1]}: separate all by tabs, "
            "or all by spaces, with an empty line after each sentence. (A CoNLL file has a token on each line; give "
            "whole texts as .jsonl or .parquet.)"
        )
    if labeled and tag_column is None and len(columns) == 1:
        has_comma = "," in columns[0].strip(",")
        way_out = "separate token and tag by a tab or a space, not by a comma" if has_comma else "add the tags"
        raise InputError(f"{place}: the line {short(columns[0])} has one column: {way_out}.")
    if labeled and token_column == (tag_column or len(columns)) <= len(columns) > 1:
        raise InputError(
            f"{place}: column {token_column} of {len(columns)} would hold both the tokens and the tags: give another "
            "token_column_number, or tag_column_number."
        )
    wanted = {"token_column_number": token_column} | ({"tag_column_number": tag_column} if labeled else {})
    for option, number in wanted.items():
        if number is not None and number > len(columns):
            raise InputError(f"{place}: {option} is {number}, but the line has {_count(columns)}: give another.")
    if not columns[token_column - 1].strip(" "):
        raise InputError(f"{place}: the token is empty: give one, or an empty line between sentences.")


def _count(columns: Sequence[str]) -> str:
    return f"{len(columns)} {agreeing(len(columns), 'column', 'columns')}"


def write_conll(path: Path, sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Writes sentences of tokens and tags, with a tab between them.

    White space in a token becomes _, and an empty token too, as CoNLL cannot hold them.
    """
    lines = []
    for tokens, tags in sentences:
        lines += [f"{'_'.join(token.split()) or '_'}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True)]
        lines.append("\n")
    write_atomically(path, "".join(lines))
