"""Reads and checks SQuAD 1.1 and 2.0 files, and the user's own questions with answers marked in the text.

Two layouts are read: the official SQuAD JSON, and tables with the columns of `rajpurkar/squad` on the Hub.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from ckd_trainer.data.table import Table
from ckd_trainer.data.table_files import open_table, unique_keys
from ckd_trainer.data.text_files import read_text
from ckd_trainer.utils.errors import InputError, agreeing, first_of, short
from ckd_trainer.utils.files import input_errors_about, user_path

Columns = dict[str, list]  # by name: id, context, question, and where labeled text and answer_start

logger = logging.getLogger(__name__)

_ANSWERS = '{"text": ["..."], "answer_start": [0]}, with empty lists where there is no answer'
_LAYOUTS = (
    "give the official SQuAD JSON (one object with a 'data' list, suffix .json), or a table with the columns id, "
    "context, question and answers, as JSON one object per line"
)
_KINDS = {str: "a text in quotes", int: "a whole number", list: "a list"}


def read_questions(
    path: str | Path, *, answerable: bool, labeled: bool, drop_misplaced: bool = False, quoting: str = "auto"
) -> Dataset:
    """Reads a file of questions: the official SQuAD JSON (.json), or a table as `read_table` reads it.

    The table has the columns `id`, `context`, `question` and, if labeled, `answers`, which in csv and tsv files is
    JSON text: `{"text": ["Denver Broncos"], "answer_start": [177]}`. Other content (titles, plausible answers) is
    ignored.

    Args:
        path: The file.
        answerable: Whether every question must have an answer (SQuAD 1.1). If not (SQuAD 2.0), a question without
            answers is an unanswerable one.
        labeled: Whether the answers are read.
        drop_misplaced: Leave out, with a warning, the questions with an answer that is not at its `answer_start`.
        quoting: How a csv or tsv file is quoted, see `ckd_trainer.data.delimited.split_rows`.

    Returns:
        A `datasets.Dataset` in memory with `id`, `context`, `question` and, if labeled, `answers`:
        {"text": list of string, "answer_start": list of int32}, a character offset into the context.

    Raises:
        InputError: whatever `read_table` refuses; JSON that is malformed (with line and column) or has another
            structure (with the place, such as `data[3].paragraphs[2].qas[0]`); whatever `check_questions` refuses.

    Example::

        read_questions("dev-v1.1.json", answerable=True, labeled=True)[0]["answers"]["text"][0]  # "Denver Broncos"
    """
    path = user_path(path)
    with input_errors_about(path):
        is_json = path.suffix.lower() == ".json" and path.is_file()
    articles = _articles(path) if is_json else None
    if articles is None:
        columns = _table_columns(open_table(path, usecols=_names(labeled), quoting=quoting), labeled)
    else:
        columns = _article_columns(path, articles, labeled)
    return _checked(columns, str(path), answerable, labeled, drop_misplaced)


def check_questions(
    questions: Dataset, source: str, *, answerable: bool, labeled: bool, drop_misplaced: bool
) -> Dataset:
    """Checks questions from elsewhere (the Hub, for instance) as `read_questions` checks those of a file.

    Args:
        questions: A `datasets.Dataset` with the columns that `read_questions` wants; others are left out.
        source: What an error message calls it.
        answerable: As for `read_questions`, like the rest.

    Returns:
        A `datasets.Dataset` as `read_questions` returns it.

    Raises:
        InputError: a missing column, a value of another type, no questions, an id that is blank or occurs twice,
            questions that are all blank, a blank answer, answers without a context, no answer where all must have one,
            an answer that is not at its `answer_start`, or nothing left when those are dropped.

    Example::

        data = datasets.load_dataset("rajpurkar/squad", split="validation")
        check_questions(data, "rajpurkar/squad", answerable=True, labeled=True, drop_misplaced=False)
    """
    table = Table(questions, source, range(1, len(questions) + 1), unit="row")
    return _checked(_table_columns(table, labeled), source, answerable, labeled, drop_misplaced)


def _articles(path: Path) -> list | None:
    """Returns the "data" list of an official SQuAD file, or None if the file is a table."""
    text = read_text(path)
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode(text, start)
        is_official = isinstance(value, dict) and isinstance(value.get("data"), list)
        if is_official and text[end:].strip():
            raise json.JSONDecodeError("something follows the object", text, len(text) - len(text[end:].lstrip()))
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}, column {error.colno}"
        raise InputError(f"{place}: this is not JSON ({error.msg}): {_LAYOUTS}.") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets in brackets
        raise InputError(f"{path} cannot be read as JSON ({error}): {_LAYOUTS}.") from None
    if is_official:
        return value["data"]
    if not isinstance(value, dict) or "\n" in text[start:end]:
        what = "a list" if isinstance(value, list) else short(value)
        if isinstance(value, dict):
            what = f"an object with {first_of(list(value))}"
        raise InputError(f"{path} holds {what}, which is neither layout: {_LAYOUTS}.")
    return None


def _article_columns(path: Path, articles: list, labeled: bool) -> Columns:
    columns: Columns = {name: [] for name in ("id", "context", "question", "text", "answer_start")}
    for i, article in enumerate(articles):
        for j, paragraph in enumerate(_member(f"{path}: data[{i}]", article, "paragraphs", list)):
            place = f"{path}: data[{i}].paragraphs[{j}]"
            context = _member(place, paragraph, "context", str)
            for k, question in enumerate(_member(place, paragraph, "qas", list)):
                question_place = f"{place}.qas[{k}]"
                columns["id"].append(_member(question_place, question, "id", str))
                columns["context"].append(context)
                columns["question"].append(_member(question_place, question, "question", str))
                if labeled:
                    texts, starts = _official_answers(question_place, question)
                    columns["text"].append(texts)
                    columns["answer_start"].append(starts)
    return columns


def _official_answers(place: str, question: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    answers = _member(place, question, "answers", list)
    if answers and question.get("is_impossible"):
        raise InputError(
            f"{place}: 'is_impossible' is {short(question['is_impossible'])}, but there are answers: empty 'answers', "
            "or make it false."
        )
    places = [f"{place}.answers[{number}]" for number in range(len(answers))]
    texts = [_member(where, answer, "text", str) for where, answer in zip(places, answers, strict=True)]
    starts = [_member(where, answer, "answer_start", int) for where, answer in zip(places, answers, strict=True)]
    return texts, starts


def _member(place: str, item: Any, key: str, kind: type) -> Any:
    """Returns `item[key]` if `item` is a mapping that has the key with a value of that type."""
    if not isinstance(item, dict):
        raise InputError(f"{place} is {short(item)}: give an object with {key!r}.")
    if key not in item:
        raise InputError(f"{place}: there is no {key!r}: add it, {_KINDS[kind]}.")
    if type(item[key]) is not kind:  # not isinstance: True is an int
        raise InputError(f"{place}: {key!r} is {short(item[key])}: give {_KINDS[kind]}.")
    return item[key]


def _names(labeled: bool) -> list[str]:
    return ["id", "context", "question"] + ["answers"] * labeled


def _table_columns(table: Table, labeled: bool) -> Columns:
    for name in _names(labeled):
        table.require(name, f": {_LAYOUTS}")
    columns: Columns = {name: table.texts(name) for name in ("id", "context", "question")}
    if labeled:
        answers = [_mapped_answers(table.place(row), value) for row, value in enumerate(table.data["answers"][:])]
        columns["text"] = [texts for texts, _ in answers]
        columns["answer_start"] = [starts for _, starts in answers]
    return columns


def _mapped_answers(place: str, value: Any) -> tuple[list[str], list[int]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{place}: 'answers' is {short(value)}, which is not JSON ({error}): give {_ANSWERS}."
            ) from None
    lists = []
    for key, kind in (("text", str), ("answer_start", int)):
        values = value.get(key) if isinstance(value, dict) else None
        if not isinstance(values, list):
            raise InputError(f"{place}: 'answers' is {short(value)}, without a list {key!r}: give {_ANSWERS}.")
        for item in values:
            if type(item) is not kind:
                raise InputError(f"{place}: {key!r} of 'answers' holds {short(item)}: give {_KINDS[kind]}.")
        lists.append(values)
    texts, starts = lists
    if len(texts) != len(starts):
        counts = f"{len(texts)} in 'text' and {len(starts)} in 'answer_start'"
        raise InputError(f"{place}: 'answers' has {counts}: give each answer one of both.")
    return texts, starts


def _checked(columns: Columns, source: str, answerable: bool, labeled: bool, drop_misplaced: bool) -> Dataset:
    """Checks the values of lists by name and returns them as a Dataset."""
    ids = columns["id"]
    if not ids:
        raise InputError(f"{source} has no questions: give some.")
    blank = [number for number, name in enumerate(ids, 1) if not name.strip()]
    if blank:
        have = agreeing(len(blank), "has", "have")
        what = f"{len(blank)} of {len(ids)} questions {have} an empty id (the first is question {blank[0]})"
        raise InputError(f"{source}: {what}: give each an id of its own.")
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        what = f"{len(twice)} {agreeing(len(twice), 'id occurs', 'ids occur')} more than once ({first_of(twice)})"
        raise InputError(f"{source}: {what}: give each question an id of its own, by which its prediction is found.")
    blank = [name for name, question in zip(ids, columns["question"], strict=True) if not question.strip()]
    if len(blank) == len(ids):
        raise InputError(f"{source}: all questions are blank: write them.")
    if blank:
        are = agreeing(len(blank), "is", "are")
        logger.warning("%s: %d of %d questions %s blank (%s).", source, len(blank), len(ids), are, first_of(blank))
    if labeled:
        _check_answers(columns, source, answerable)
        columns = _check_places(columns, source, drop_misplaced)
    return _dataset(columns, source, labeled)


def _refuse(source: str, ids: Sequence[str], wrong: Sequence[str], what: str, remedy: str) -> None:
    """Raises an InputError that names the questions `wrong` (ids), if there are any."""
    if wrong:
        have = agreeing(len(wrong), "has", "have")
        raise InputError(
            f"{source}: {len(wrong)} of {len(ids)} questions {have} {what} ({first_of(wrong)}): {remedy}."
        )


def _check_answers(columns: Columns, source: str, answerable: bool) -> None:
    ids = columns["id"]
    rows = list(zip(ids, columns["context"], columns["text"], columns["answer_start"], strict=True))
    wrong = [name for name, context, texts, _ in rows if texts and not context.strip()]
    _refuse(source, ids, wrong, "answers, but a blank context", "give the text that the answers are taken from")
    wrong = [name for name, _, _, starts in rows if any(start < 0 for start in starts)]
    _refuse(source, ids, wrong, "a negative answer_start", "count the characters of the context from 0")
    wrong = [name for name, _, texts, _ in rows if not all(text.strip() for text in texts)]
    remedy = "write it; an unanswerable question has no answers at all, and --task_name squad_v2 is for those"
    _refuse(source, ids, wrong, "a blank answer", remedy)
    if answerable:
        wrong = [name for name, _, texts, _ in rows if not texts]
        remedy = "give each one; --task_name squad_v2 is for unanswerable questions"
        _refuse(source, ids, wrong, "no answer", remedy)


def _check_places(columns: Columns, source: str, drop_misplaced: bool) -> Columns:
    """Returns the columns without the questions whose answers are misplaced, or refuses those."""
    # row -> (what stands there, what should, where), of the first such answer
    misplaced: dict[int, tuple[str, str, int]] = {}
    answers = zip(columns["context"], columns["text"], columns["answer_start"], strict=True)
    for row, (context, texts, starts) in enumerate(answers):
        for text, start in zip(texts, starts, strict=True):
            there = context[start : start + len(text)]
            if there != text:
                misplaced.setdefault(row, (there, text, start))
    if not misplaced:
        return columns
    ids = columns["id"]
    names = [ids[row] for row in misplaced]
    have = agreeing(len(names), "has", "have")
    what = f"{source}: {len(names)} of {len(ids)} questions {have} an answer that is not at its answer_start"
    there, text, start = next(iter(misplaced.values()))
    example = f"the context of {short(names[0])} has {short(there)} at {start}, not {short(text)}"
    advice = "fix the offsets, which count characters (Python code points, not bytes)"
    if not drop_misplaced:
        raise InputError(
            f"{what} ({first_of(names)}); {example}: {advice}, or leave those questions out with "
            "--drop_misplaced_answers."
        )
    if len(names) == len(ids):
        raise InputError(f"{what} and would be left out, which leaves nothing; {example}: {advice}.")
    logger.warning("%s and %s left out (%s).", what, agreeing(len(names), "is", "are"), first_of(names))
    return {
        name: [value for row, value in enumerate(values) if row not in misplaced] for name, values in columns.items()
    }


def _dataset(columns: Columns, source: str, labeled: bool) -> Dataset:
    try:
        arrays = {name: pa.array(columns[name], pa.string()) for name in ("id", "context", "question")}
        if labeled:
            texts = pa.array(columns["text"], pa.list_(pa.string()))
            starts = pa.array(columns["answer_start"], pa.list_(pa.int32()))
            arrays["answers"] = pa.StructArray.from_arrays([texts, starts], names=["text", "answer_start"])
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which is not a character.
        near = error.object[max(error.start - 20, 0) : error.end + 20]
        raise InputError(
            f"{source}: {near!r} is not text ({error.reason}): write the whole character there."
        ) from None
    return Dataset(pa.table(arrays))
