"""What is odd but legal works, and runs no code."""

import pytest
from helpers.hostile_input import (
    ALONE,
    CODE,
    FINE,
    TEACHER,
    coded,
    copied,
    lines,
    parquet,
    questions,
    recipe,
    saying,
    squad,
    teacher,
    text_lines,
    texts,
)

ROWS = [
    texts(
        "JSON deep beside the text",
        lines({"text": "a", "label": "good"}, {"text": "b", "label": "bad"})[:-2]
        + f', "x": {"[" * 400}{"]" * 400}}}\n',
        file="a.jsonl",
    ),
    texts(
        "JSON mixed beside the text",
        lines({"text": "a", "label": "good", "x": 1}, {"text": "b", "label": "bad", "x": ["x"]}),
        file="a.jsonl",
    ),
    texts("a spreadsheet's delimiter", "sep=;\ntext;label;;\na, b;good;;\nc;bad;;\n", file="a.csv"),
    texts("quotes that are text", 'text,label\n"a" b,good\nc,bad\n', file="a.csv", options="--quoting none"),
    texts("tsv in quotes", text_lines(('"a\tb ""c"""', "good"), ("d", "bad")), options="--quoting csv"),
    texts("CRLF", FINE.replace("\n", "\r\n")),
    texts("CRLF and a mark in csv", "\ufeff" + FINE.replace("\t", ",").replace("\n", "\r\n"), file="a.csv"),
    texts("a mark", "\ufeff" + FINE),
    texts("a word of more than 1 MB", FINE + f"{'x' * 1_200_000}\tgood\n"),
    texts(
        "JSON lines with a mark and CRLF",
        "\ufeff" + lines({"text": "a", "label": "good"}, {"text": "b\u2028c", "label": "bad"}).replace("\n", "\r\n"),
        file="a.jsonl",
    ),
    texts("parquet", parquet(), file="a.parquet"),
    texts(
        "formulas and markup", text_lines(("=cmd|' /C calc'!A0", "good"), ("<script>{{1+1}}%s$(touch marker)", "bad"))
    ),
    questions("a mark and CRLF", "\ufeff" + squad().replace("[{", "[\r\n{")),
    questions("a title of 3 MB", squad().replace("words", "words" * 600_000)),
    recipe("a mark and CRLF", "\ufeffseed: 1\r\nalpha: 0.5\r\n"),
    recipe(
        "shell in output_dir",
        ALONE + "output_dir: out;$(touch marker)`touch marker`|touch marker\n",
        main=TEACHER,
        alone=True,
    ),
    teacher("code that is not needed", copied("teacher", coded, saying("config.json", auto_map=CODE))),
    teacher(
        "code of its own for the tokenizer",
        copied(
            "teacher",
            coded,
            saying(
                "tokenizer_config.json",
                tokenizer_class="EvilTokenizer",
                auto_map={"AutoTokenizer": ["evil.EvilConfig", None]},
            ),
        ),
        main=TEACHER,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_odd_input_works_and_runs_no_code(row, works):
    works(row)
