"""Feeds damaged files to the readers of tables and questions: each must be read, or refused with an `InputError`.

    python tests/helpers/fuzz.py --seconds 60
    python tests/helpers/fuzz.py --seed 7 --case 1234    # repeats one case of a seed

Any other outcome is a failure, which is printed with the seed, the case and the content of the file. An answer that
was read but is not in its context is a failure, too. `test_properties` runs this briefly.
"""

import argparse
import faulthandler
import io
import json
import logging
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ckd_trainer.data.squad_files import read_questions
from ckd_trainer.data.table_files import open_table
from ckd_trainer.utils.errors import InputError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
CHARACTERS = "ab é日\U0001f408 \"',.0\u2028\x85"
BYTES = [b"\0", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n", b"\n", b"\t", b",", b'"', b'""', b"\xff", b"\xed\xa0\x80"]
BYTES += [b"\xe2\x80\xa8", b"\x1a", b"\\ud800", b"\\u0000", b"[" * 9, b"{" * 9, b"}", b"]", b":", b"\\", b"null", b"-"]
LITERALS = ["NaN", "-Infinity", "1e999", "-0.0", "2147483648", "9223372036854775808", "9" * 5000, '"\\ud800"']
LITERALS += ['"\\udc08\\ud83d"', '"\\u0000"', '""', '" "', "null", "true", "[]", "{}", "[null]", "[[]]", "1.0", "-1"]
LITERALS += ["[" * depth + "]" * depth for depth in (9, 500, 10**5)]
LITERALS += ['{"a":' * depth + "1" + "}" * depth for depth in (9, 500, 10**5)]
TWIN = "@twin"  # suffix of a key that will be a duplicate of the key before it


def text(draw, most):
    return "".join(draw.choices(CHARACTERS, k=draw.randint(1, most)))


def labeled_texts(draw):
    return [{"text": text(draw, 9), "label": str(draw.randint(0, 2))} for _ in range(draw.randint(1, 5))]


def questions(draw):
    rows = []
    for number in range(draw.randint(1, 3)):
        starts = [draw.choice([0, 4]) for _ in range(draw.randint(0, 2))]
        answers = {"text": [("The", "cat")[start // 4] for start in starts], "answer_start": starts}
        row = {"id": f"q{number}", "context": "The cat " + text(draw, 20), "question": text(draw, 9)}
        rows.append({**row, "answers": answers})
    return rows


def as_official(draw, rows, suffix):
    """Returns the bytes of questions in the layout of SQuAD."""
    paragraphs = []
    for row in rows:
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        found = [{"text": answer, "answer_start": start} for answer, start in pairs]
        question = {"id": row["id"], "question": row["question"], "answers": found, "is_impossible": not found}
        paragraphs.append({"context": row["context"], "qas": [question]})
    return as_json(draw, {"version": "1", "data": [{"title": "Cats", "paragraphs": paragraphs}]}).encode()


def as_table(draw, rows, suffix):
    if suffix == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink, compression=draw.choice(["none", "snappy", "gzip"]))
        return sink.getvalue()
    if suffix == ".jsonl":
        return "\n".join(as_json(draw, row) for row in rows).encode()
    lines = [list(rows[0])] + [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
    if suffix == ".csv":
        lines = [['"' + cell.replace('"', '""') + '"' for cell in line] for line in lines]
    separator = "," if suffix == ".csv" else "\t"
    return draw.choice(["\n", "\r\n", "\r"]).join(separator.join(line) for line in lines).encode()


def as_json(draw, value):
    """Returns the JSON of a value; half of the time, a few parts of it are changed."""
    whole = {"": value}
    for _ in range(draw.choice([0, 0, 0, 1, 2, 3])):
        owner, key = draw.choice(list(places(whole)))
        change = draw.choice(["replace", "wrap"] + ["drop"] * (key != "") + ["twin"] * isinstance(key, str))
        if change == "drop":
            del owner[key]
        elif change == "twin":
            owner[key + TWIN] = owner[key]
        else:
            literal = f"@{draw.randrange(len(LITERALS))}"
            owner[key] = literal if change == "replace" else draw.choice([[owner[key]], {"a": owner[key]}])
    result = json.dumps(whole[""], ensure_ascii=draw.random() < 0.5).replace(TWIN + '"', '"')
    for number, literal in enumerate(LITERALS):
        result = result.replace(f'"@{number}"', literal)
    return result


def places(value):
    """Yields (dict or list, key or index) of everything in a value."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield value, key
        yield from places(part)


def damaged(draw, content):
    """Returns content with a few bytes changed, doubled, added or removed, or sometimes in another encoding."""
    if draw.random() < 0.02:
        return content.decode("utf-8", "replace").encode(draw.choice(["utf-16", "utf-32", "cp1252"]), "replace")
    for _ in range(draw.choice([0, 1, 1, 2, 8])):
        first = draw.randrange(len(content) + 1)
        last = draw.choice([first, first + 1, first + draw.randint(0, 40), len(content)])
        middle, odd = content[first:last], draw.choice(BYTES)
        flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in middle[:1]) + middle[1:]
        middle = draw.choice([b"", flipped, flipped, 2 * middle, odd, odd + middle])
        content = content[:first] + middle + content[last:]
    return content


def use_table(path, draw):
    table = open_table(path, columns=draw.choice([None, None, None, ["text", "label"]]))
    assert len(table.lines) == len(table.data) > 0
    for column in table.data.column_names:
        for values_of in (table.texts, table.words, table.numbers):
            try:
                assert len(values_of(column)) == len(table.data)
            except InputError:
                pass


def use_questions(path, draw):
    options = {name: draw.random() < 0.5 for name in ("answerable", "labeled", "drop_misplaced")}
    data = read_questions(path, **options).to_list()
    assert data
    for row in data if options["labeled"] else ():
        for answer, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start:].startswith(answer) and answer.strip()


KINDS = [(labeled_texts, as_table, use_table), (questions, as_table, use_questions)]
KINDS += [(questions, as_official, use_questions)]


def run_case(seed, case, folder):
    """Returns the outcome for a file, "read", "refused" or "failed", and its suffix."""
    draw = random.Random(f"{seed} {case}")
    rows_of, layout, use = draw.choice(KINDS)
    suffix = ".json" if layout is as_official else draw.choice(SUFFIXES)
    path = Path(folder) / f"file{suffix}"
    path.write_bytes(damaged(draw, layout(draw, rows_of(draw), suffix)))
    try:
        use(path, draw)
    except InputError:
        return "refused", suffix
    except Exception:
        traceback.print_exc()
        print(f"--seed {seed} --case {case}: {suffix} with {path.read_bytes()!r}", file=sys.stderr)
        return "failed", suffix
    return "read", suffix


def main(argv=None):
    """Returns the exit code: 1 if a case failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--case", type=int, help="run only this case")
    args = parser.parse_args(argv)
    print(f"--seed {args.seed}", flush=True)  # before a possible crash of the interpreter
    counts, end = Counter(), time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory() as folder:
        if args.case is not None:
            counts[run_case(args.seed, args.case, folder)] += 1
        while args.case is None and time.monotonic() < end:
            counts[run_case(args.seed, counts.total(), folder)] += 1
    for (what, suffix), count in sorted(counts.items()):
        print(f"{what:8}{suffix:9}{count:8}")
    return int(any(what == "failed" for what, _ in counts))


if __name__ == "__main__":
    faulthandler.enable()
    logging.disable(logging.WARNING)  # there is one for each dropped question
    sys.exit(main())
