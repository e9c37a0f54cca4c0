"""Splits csv and tsv files into rows, by the file's delimiter and its rule for quotes.

There are two rules for quotes. By the rule of csv (RFC 4180), a field that contains a delimiter, a line break or a
quote is put in quotes, and the quotes inside it are doubled. By the other rule, as in most of GLUE's files, quotes are
text. A file does not say which rule it follows: the suffix decides, unless the user does. If the content seems to
follow the other rule, a warning says so.
"""

import csv
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ckd_trainer.utils.errors import InputError, agreeing, first_of, short

Rows = list[list[str]]
Mistake = tuple[int, str, str]  # line, what, remedy

logger = logging.getLogger(__name__)

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_OTHER = {"csv": "none", "none": "csv"}
_SEP_LINE = re.compile(r'"?sep=([,;\t|])"?(?:\r\n|\n|\r)', re.IGNORECASE)  # how spreadsheets name the delimiter
_HEADER = re.compile(r'(?:"[^"]*"|[^"\r\n]+)*')


def split_rows(
    path: Path,
    text: str,
    *,
    header: Sequence[str] | None,
    quoting: str,
    skip_short: bool = False,
    delimiter: str | None = None,
    first_line: int = 1,
) -> tuple[Sequence[str], Rows, list[int]]:
    """Splits the text of a .csv or .tsv file into rows with the same number of fields.

    The delimiter of a .tsv file is the tab. That of a .csv file is the comma, unless a first line such as `sep=;` or
    a header without commas shows another.

    Args:
        path: The file of the text; its suffix decides how to read it.
        text: The content, as `read_text` returns it.
        header: The column names of a file without a header line, or None: the first row is the header.
        quoting: "csv" or "none", the rule for quotes; "auto" for "none" in .tsv and "csv" in .csv files, with a
            warning if the quotes in the file contradict that.
        skip_short: Leave out rows with fewer fields than the others, with a warning, instead of refusing them.
        delimiter: That of the file; None to find it as above.
        first_line: The number of the text's first line in the file.

    Returns:
        The column names, the rows (a list of lists of str) and the line on which each row starts.

    Raises:
        InputError: a row with another number of fields, a blank line, an unclosed quote, a row that repeats the
            header.
    """
    rule = rule_of(path, quoting)
    delimiter, start = (delimiter, 0) if delimiter else delimiter_of(path, text, rule, header)
    text = text[start:]
    skipped: list[int] | None = [] if skip_short else None
    rows, lines, mistake = _parse(
        text, delimiter, rule, header, line=first_line + (1 if start else 0), skipped=skipped
    )
    if skipped:
        logger.warning(
            "%s: %d %s left out, as fields are missing, such as in a row that a line break divides; the first is that "
            "of line %d.",
            path,
            len(skipped),
            agreeing(len(skipped), "row is", "rows are"),
            skipped[0],
        )
    if mistake:
        line, what, remedy = mistake
        if header is not None and first_line == 1 and lines[:1] == [line] and len(rows[0]) not in (0, len(header)):
            remedy = f"name all columns with column_names, or {remedy}"
        other = _OTHER[rule]
        if '"' in text and not _parse(text, delimiter, other, header)[2]:
            remedy += f", or set quoting to {other}, with which every row can be read"
        raise InputError(f"{path}, line {line}: {what}: {remedy}.")
    names = rows[0] if header is None else list(header)
    if header is not None and first_line == 1 and rows and rows[0] == names:
        raise InputError(
            f"{path}, line {lines[0]} is a header line ({first_of(names)}), but column_names says that no file has "
            "one: delete that line, or leave column_names out if every file has a header."
        )
    if (header is None or first_line > 1) and len(names) > 1:
        first = 1 if header is None else 0
        for row, line in zip(rows[first:], lines[first:], strict=True):
            if [row[0].removeprefix("\ufeff"), *row[1:]] == names:
                raise InputError(
                    f"{path}, line {line}: the row repeats the header ({first_of(row)}), as in concatenated files: "
                    "delete it."
                )
    if quoting == "auto" and '"' in text:
        warn = _warn_of_quotes if rule == "none" else _warn_of_text_in_quotes
        warn(path, text, delimiter, header, rows, lines)
    return (rows[0], rows[1:], lines[1:]) if header is None else (header, rows, lines)


def rule_of(path: Path, quoting: str) -> str:
    """Returns the rule for quotes of a file: "csv" or "none"."""
    return ("none" if path.suffix.lower() == ".tsv" else "csv") if quoting == "auto" else quoting


def delimiter_of(path: Path, text: str, rule: str, header: Sequence[str] | None) -> tuple[str, int]:
    """Returns the delimiter of a file, and the position in its text at which the first row starts."""
    if path.suffix.lower() == ".tsv":
        return "\t", 0
    named = _SEP_LINE.match(text)
    if named and text[named.end() :].strip():
        return named[1], named.end()
    if header is None:
        first = re.match(r"[^\r\n]*", text)[0] if rule == "none" else re.sub('"[^"]*"', "", _HEADER.match(text)[0])
        likely = max(";\t|", key=first.count)
        if "," not in first and likely in first:
            return likely, 0
    return ",", 0


def _parse(
    text: str,
    delimiter: str,
    rule: str,
    header: Sequence[str] | None,
    line: int = 1,
    skipped: list[int] | None = None,
) -> tuple[Rows, list[int], Mistake | None]:
    """Returns the rows, the line on which each starts, and the first mistake as (line, what, remedy), or None.

    Args:
        line: the number of the text's first line.
        skipped: a list that takes the lines of rows with too few fields, which are then left out.
    """
    # The module's limit of 131,072 characters guards against unclosed quotes, which strict reading reports anyway.
    # Long texts are legitimate.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    options = {"quoting": csv.QUOTE_NONE} if rule == "none" else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **options)
    rows, lines, before = [], [], line
    try:
        for row in reader:
            rows.append(row)
            lines.append(line)
            line = before + reader.line_num  # a quoted field may have spanned several
    except csv.Error as error:
        remedy = "put a field that contains a quote in quotes, and double the quote"
        return rows, lines, (line, f"the row that starts here cannot be read ({error})", remedy)
    while rows and not rows[-1]:
        rows.pop()
        lines.pop()
    names = header or rows[0]
    if skipped is not None:
        whole = [place for place, row in enumerate(rows) if len(row) >= len(names)]
        skipped += sorted(set(lines) - {lines[place] for place in whole})
        rows, lines = [rows[place] for place in whole], [lines[place] for place in whole]
    for row, line in zip(rows, lines, strict=True):
        if not row:
            return rows, lines, (line, "the line is blank", "delete it")
        if len(row) != len(names):
            kind = _DELIMITERS[delimiter]
            remedy = f"{kind} separate fields, even inside quotes"
            if rule == "csv":
                remedy = f"quote a field with {kind}"
            what = f"the row has {len(row)} fields, not {len(names)} ({first_of(names, 20)})"
            return rows, lines, (line, what, remedy)
    return rows, lines, None


def _follows_csv(text: str, delimiter: str) -> bool:
    """Returns whether each quote encloses a whole field or is doubled inside such a field, as in csv."""
    around = text.split('"')  # alternately outside and inside quotes; between doubled quotes is the empty text
    ends = delimiter + "\r\n"
    return (
        len(around) % 2 == 1
        and (not around[0] or around[0][-1] in ends)
        and (not around[-1] or around[-1][0] in ends)
        and all(not part or (part[0] in ends and part[-1] in ends) for part in around[2:-1:2])
    )


def _warn_of_quotes(
    path: Path, text: str, delimiter: str, header: Sequence[str] | None, rows: Rows, lines: list[int]
) -> None:
    """Warns if a file was read with quotes as text, but seems to follow the rule of csv."""
    if not _follows_csv(text, delimiter):
        return
    as_csv, _, mistake = _parse(text, delimiter, "csv", header)
    if mistake:
        return
    spans_lines = len(as_csv) < len(rows)
    if spans_lines and len(rows[0]) > 1:
        return  # each line is already a row: one text opens a quote and another one closes it
    quoted = [field for row in rows for field in row if field.startswith('"')]
    if not (
        spans_lines
        or any('""' in field[1:-1] for field in quoted)
        or any(_has_quoted_column(part) for part in (rows, rows[1:]))  # with or without the header
        # Spreadsheets also put a field with a comma in quotes.
        or (len(quoted) > 1 and all((("," in field) == field.startswith('"')) for row in rows for field in row))
    ):
        return  # some texts are in quotes that csv would not have added
    places = [place for place, row in enumerate(rows) if any(field.startswith('"') for field in row)]
    example = next(field for field in rows[places[0]] if field.startswith('"'))
    logger.warning(
        "%s LOOKS QUOTED: %d of %d lines have a field in quotes, as csv would write it (line %d: %s), but quotes in "
        ".tsv files are read as text. Set quoting to csv if pandas or a spreadsheet wrote the file, or to none if the "
        "quotes belong to the texts.",
        path,
        len(places),
        len(rows),
        lines[places[0]],
        short(example),
    )


def _has_quoted_column(rows: Rows) -> bool:
    return len(rows) > 1 and any(all(field.startswith('"') for field in column) for column in zip(*rows, strict=True))


def _warn_of_text_in_quotes(
    path: Path, text: str, delimiter: str, header: Sequence[str] | None, rows: Rows, lines: list[int]
) -> None:
    """Warns if a file was read by the rule of csv, but its quotes seem to be text."""
    if _follows_csv(text, delimiter):
        fields = [field for row in rows for field in row]
        spans_lines = any("\n" in field or "\r" in field for field in fields)
        if len(rows[0]) == 1 or not spans_lines or any('"' in field for field in fields):  # a doubled quote
            return
        reason = "and a field in quotes spans lines that are whole rows without the quotes"
    else:
        reason = "though not all quotes in the file enclose a field or are doubled"
    as_text, places, mistake = _parse(text, delimiter, "none", header, lines[0])
    if mistake or as_text == rows:
        return
    place, example = next(
        (place, field) for place, row in zip(places, as_text, strict=True) for field in row if field.startswith('"')
    )
    logger.warning(
        "%s MAY HAVE QUOTES THAT ARE TEXT: as in csv, they are removed from a field that begins with one (line %d: "
        "%s), %s. Set quoting to none if quotes are text, or to csv if the file was read correctly.",
        path,
        place,
        short(example),
        reason,
    )
