"""Reading questions: both layouts give the same data, and what cannot be right is refused with its place."""

import json
import logging

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from ckd_trainer.data.squad_files import check_questions, read_questions
from ckd_trainer.utils.errors import InputError

CONTEXT = "The cat — \U0001f408 — sleeps in the tree."  # the dashes and the cat are several bytes each
COLUMNS = ["id", "context", "question", "answers"]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def row(name="q1", texts=("cat",), starts=(4,), context=CONTEXT, question="Who sleeps?"):
    answers = {"text": list(texts), "answer_start": list(starts)}
    return {"id": name, "context": context, "question": question, "answers": answers}


ROWS = [row(), row("q2", ("in the tree", "tree"), (21, 28), question=" Where? "), row("q3", (), ())]


def official(rows, **more):
    """The rows in the official layout, one paragraph each."""
    paragraphs = []
    for item in rows:
        pairs = zip(item["answers"]["text"], item["answers"]["answer_start"], strict=True)
        answers = [{"answer_start": start, "text": text} for text, start in pairs]
        question = {"id": item["id"], "question": item["question"], "answers": answers, **more}
        paragraphs.append({"context": item["context"], "qas": [question]})
    return {"version": "v2.0", "data": [{"title": "Cats", "paragraphs": paragraphs}]}


def json_lines(rows):
    return "\n".join(map(json.dumps, rows))


def save(rows, path):
    """Writes rows as the suffix says; cells that are no text become JSON text in csv and tsv files."""
    if path.suffix in (".json", ".jsonl"):
        path.write_text(json_lines(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [list(rows[0])] + [[v if isinstance(v, str) else json.dumps(v) for v in r.values()] for r in rows]
        if path.suffix == ".csv":
            lines = [['"' + value.replace('"', '""') + '"' for value in line] for line in lines]
        separator = "," if path.suffix == ".csv" else "\t"
        path.write_text("\n".join(separator.join(line) for line in lines), encoding="utf-8")
    return path


def read(path, *, answerable=False, labeled=True, **kwargs):
    return read_questions(path, answerable=answerable, labeled=labeled, **kwargs)


def check(rows, *, answerable=False, labeled=True, drop_misplaced=False):
    data = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    return check_questions(data, "the hub", answerable=answerable, labeled=labeled, drop_misplaced=drop_misplaced)


@pytest.mark.parametrize(("name", "count"), [("dev-v1.1.json", 10570), ("train-v1.1-slice.json", 11877)])
def test_real_files_are_read_whole(shared_data, name, count):
    path = shared_data / "squad" / name
    data = read(path, answerable=True)
    expected = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"]
                texts, starts = ([answer[key] for answer in answers] for key in ("text", "answer_start"))
                expected.append(row(question["id"], texts, starts, paragraph["context"], question["question"]))
    assert len(data) == len(expected) == count
    assert data.to_list() == expected
    # A second check changes nothing, and the Hub's extra column goes.
    again = check(data.add_column("title", ["T"] * count), answerable=True)
    assert again.column_names == COLUMNS and again.features == data.features
    assert again.data.table.equals(data.data.table)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a.csv", "a.tsv"])
def test_tables_and_the_official_layout_give_the_same(tmp_path, write, name):
    expected = read(write("official.json", json.dumps(official(ROWS, plausible_answers=[{}]), indent=1)))
    assert expected.to_list() == ROWS
    rows = [{"title": "Cats", "is_impossible": "no", **item} for item in ROWS]
    data = read(save(rows, tmp_path / name))
    assert data.to_list() == ROWS
    assert data.features == expected.features == check(rows).features
    assert str(data.features["answers"]) == "{'text': List(Value('string')), 'answer_start': List(Value('int32'))}"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a.csv", "a.tsv"])
def test_answers_are_not_needed_where_unlabeled(tmp_path, name):
    rows = [{key: item[key] for key in COLUMNS[:3]} for item in ROWS]
    path = save(rows, tmp_path / name)
    assert read(path, labeled=False).to_list() == rows
    assert check(rows, labeled=False).to_list() == rows
    with pytest.raises(InputError, match=r"has no column 'answers': it has 'id', 'context', 'question': give the off"):
        read(path)


def test_official_files_need_no_answers_where_unlabeled(write):
    content = official(ROWS)
    for paragraph in content["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"]
    path = write("a.json", json.dumps(content))
    assert read(path, labeled=False, answerable=True)["question"][:] == [item["question"] for item in ROWS]
    with pytest.raises(InputError, match=r"paragraphs\[0\]\.qas\[0\]: there is no 'answers': add it, a list"):
        read(path)


def test_wrong_answers_do_not_matter_where_unlabeled(write):
    rows = [row(texts=["dog"], starts=[-1]), row("q2", (), (), context=" ")]
    path = write("a.json", json.dumps(official(rows)))
    assert read(path, labeled=False, answerable=True)["id"][:] == ["q1", "q2"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_byte_order_mark_and_space_around_are_ignored(write, name):
    content = json.dumps(official(ROWS[:1])) if name == "a.json" else json_lines(ROWS[:1])
    assert read(write(name, "\ufeff" + content + "\n\n")).to_list() == ROWS[:1]
    if name == "a.json":
        assert read(write(name, "\ufeff\r\n " + content + " \r\n")).to_list() == ROWS[:1]


def test_a_table_may_be_one_line_of_json_and_have_a_data_column(write):
    assert read(write("a.json", json.dumps({**ROWS[0], "data": "x"}))).to_list() == ROWS[:1]


def test_the_home_folder_may_be_a_tilde(write, monkeypatch):
    path = write("a.json", json.dumps(official(ROWS)))
    monkeypatch.setenv("HOME", str(path.parent))
    assert len(read("~/a.json")) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"a\.txt has the suffix '\.txt'"),
        ("a.json", "", r"a\.json has no rows"),
        ("a.json", " \n", r"a\.json has no rows"),
        ("a.json", b'{"data": [\n"\xe9"]}', r"a\.json, line 2: not UTF-8"),
        ("a.json", '{"data": []}'.encode("utf-16"), r"a\.json, line 1: not UTF-8"),
        ("a.json", '{"data":\n\n[]\0}', r"a\.json, line 3: there is a NUL"),
        (
            "a.json",
            '{"data": [\n  {"title": }]}',
            r"a\.json, line 2, column 13: this is not JSON \(Expecting value\):",
        ),
        ("a.json", '\n\n {"data": [', r"a\.json, line 3, column 12: this is not JSON .*give the official SQuAD JSON"),
        ("a.json", '{"data": []}\n }', r"a\.json, line 2, column 2: this is not JSON \(something follows the object"),
        (
            "a.json",
            '[{"id": "q1"}]',
            r"a\.json holds a list, which is neither layout: give .* one object per line",
        ),
        (
            "a.json",
            '[\n{"id": "q1"}\n]',
            r"a\.json holds a list, which is neither layout: give .* one object per line",
        ),
        ("a.json", "3", r"a\.json holds 3, which is neither layout"),
        (
            "a.json",
            '{"version": "1.1",\n "data": {}}',
            r"a\.json holds an object with 'version', 'data', which is neither layout: give the off",
        ),
        ("a.json", '{"data": {}, "n": 1}', r"a\.json has no column 'id': it has 'data', 'n': give the official SQuAD"),
        ("a.json", '{"data": []}', r"a\.json has no questions: give some"),
        ("a.json", '{"data": [{"paragraphs": []}]}', r"a\.json has no questions"),
        ("a.json", json_lines(ROWS[:1]) + "\n{", r"a\.json, line 2: this is not JSON .*: give one object per line"),
        ("a.jsonl", json.dumps(official(ROWS)), r"a\.jsonl has no column 'id'.*official SQuAD JSON .*suffix \.json\)"),
        ("a.csv", "id,context\n1,2\n", r"a\.csv has no column 'question': it has 'id', 'context': give the official"),
    ],
)
def test_files_of_no_known_layout_are_refused(write, name, content, message):
    with pytest.raises(InputError, match=message):
        read(write(name, content))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"b\.json is missing: give an existing \.json file"):
        read(tmp_path / "b.json")
    (tmp_path / "c.json").mkdir()
    with pytest.raises(InputError, match=r"c\.json is a folder"):
        read(tmp_path / "c.json")


ARTICLE, PARAGRAPH = ["data", 0], ["data", 0, "paragraphs", 1]
QUESTION = [*PARAGRAPH, "qas", 0]
ANSWER = [*QUESTION, "answers", 1]
MISSING = object()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (ARTICLE, "x", r"data\[0\] is 'x': give an object with 'paragraphs'"),
        ([*ARTICLE, "paragraphs"], MISSING, r"data\[0\]: there is no 'paragraphs': add it, a list"),
        ([*ARTICLE, "paragraphs"], {}, r"data\[0\]: 'paragraphs' is \{\}: give a list"),
        (PARAGRAPH, [1], r"data\[0\]\.paragraphs\[1\] is \[1\]: give an object with 'context'"),
        ([*PARAGRAPH, "context"], None, r"data\[0\]\.paragraphs\[1\]: 'context' is None: give a text in quotes"),
        ([*PARAGRAPH, "qas"], MISSING, r"data\[0\]\.paragraphs\[1\]: there is no 'qas': add it, a list"),
        (QUESTION, None, r"paragraphs\[1\]\.qas\[0\] is None: give an object with 'id'"),
        ([*QUESTION, "id"], 7, r"qas\[0\]: 'id' is 7: give a text in quotes"),
        (
            [*QUESTION, "question"],
            MISSING,
            r"data\[0\]\.paragraphs\[1\]\.qas\[0\]: there is no 'question': add it, a t",
        ),
        ([*QUESTION, "question"], ["?"], r"qas\[0\]: 'question' is \['\?'\]: give a text"),
        ([*QUESTION, "answers"], {"text": ["a"]}, r"qas\[0\]: 'answers' is \{'text': \['a'\]\}: give a list"),
        (ANSWER, "tree", r"qas\[0\]\.answers\[1\] is 'tree': give an object with 'text'"),
        ([*ANSWER, "text"], 3, r"qas\[0\]\.answers\[1\]: 'text' is 3: give a text in quotes"),
        ([*ANSWER, "answer_start"], MISSING, r"answers\[1\]: there is no 'answer_start': add it, a whole number"),
        ([*ANSWER, "answer_start"], "28", r"answers\[1\]: 'answer_start' is '28': give a whole number"),
        ([*ANSWER, "answer_start"], 28.0, r"answers\[1\]: 'answer_start' is 28\.0: give a whole number"),
        ([*ANSWER, "answer_start"], True, r"answers\[1\]: 'answer_start' is True: give a whole number"),
        ([*QUESTION, "is_impossible"], True, r"qas\[0\]: 'is_impossible' is True, but there are answers: empty 'ans"),
        ([*QUESTION, "is_impossible"], "false", r"qas\[0\]: 'is_impossible' is 'false', but there are answers"),
        (
            [*PARAGRAPH, "context"],
            "word " * 9 + "\ud83d",
            r"'word word word word \\ud83d' is not text .*: write the wh",
        ),
        ([*ANSWER, "answer_start"], 10**30, r"the context of 'q2' has '' at 10{30}, not 'tree'"),
    ],
)
def test_the_official_layout_is_checked_with_the_place(write, place, value, message):
    content = official(ROWS)
    if "\ud83d" in str(value):  # the answers must fit for the text to matter
        content["data"][0]["paragraphs"][1]["qas"][0]["answers"] = []
    item = content
    for key in place[:-1]:
        item = item[key]
    if value is MISSING:
        del item[place[-1]]
    else:
        item[place[-1]] = value
    with pytest.raises(InputError, match=r"a\.json: .*" + message):
        read(write("a.json", json.dumps(content)))


def test_impossible_questions_have_no_answers(write):
    rows = [row("q1", (), ()), row("q2", (), ())]
    assert read(write("a.json", json.dumps(official(rows, is_impossible=True)))).to_list() == rows


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "",
            r"'answers' is '', which is not JSON \(Expecting value: .*column 1.*\): give {.text.: .*empty lists",
        ),
        ("cat", r"'answers' is 'cat', which is not JSON"),
        ("{'text': []}", r"'answers' is .*, which is not JSON \(Expecting property name .*column 2.*\): give"),
        ("3", r"'answers' is 3, without a list 'text': give"),
        ('[{"text": "cat", "answer_start": 4}]', r"'answers' is \[.*\], without a list 'text': give"),
        ('{"text": "cat", "answer_start": 4}', r"'answers' is \{.*\}, without a list 'text': give"),
        ('{"text": ["cat"]}', r"'answers' is \{'text': \['cat'\]\}, without a list 'answer_start': give"),
        ('{"text": ["cat", 1], "answer_start": [4, 5]}', r"'text' of 'answers' holds 1: give a text in quotes"),
        ('{"text": ["cat"], "answer_start": ["4"]}', r"'answer_start' of 'answers' holds '4': give a whole number"),
        ('{"text": ["cat"], "answer_start": [false]}', r"'answer_start' of 'answers' holds False: give a whole"),
        ('{"text": ["cat"], "answer_start": []}', r"'answers' has 1 in 'text' and 0 in 'answer_start': give each"),
    ],
)
def test_answers_of_tables_are_checked_with_the_line(write, cell, message):
    path = write("a.tsv", "\t".join(COLUMNS) + f"\nq1\tc\tq\t{cell}\n")
    with pytest.raises(InputError, match=r"a\.tsv, line 2: " + message):
        read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, r"line 2: there is no 'id' \(null or missing\): give a text"),
        ({"question": None}, r"line 2: there is no 'question'"),
        ({"answers": None}, r"line 2: 'answers' is None, without a list 'text': give"),
        ({"answers": {"text": ["cat"]}}, r"line 2: 'answers' is .*, without a list 'answer_start': give"),
        ({"answers": {"text": ["cat", None], "answer_start": [4, 5]}}, r"line 2: 'text' of 'answers' holds None"),
        ({"answers": {"text": ["cat"], "answer_start": [4, 5]}}, r"line 2: 'answers' has 1 in 'text' and 2 in"),
    ],
)
def test_values_of_json_lines_are_checked_with_the_line(write, change, message):
    with pytest.raises(InputError, match=r"a\.jsonl, " + message):
        read(write("a.jsonl", json_lines([ROWS[0], {**ROWS[1], **change}])))


def test_values_of_a_dataset_are_checked_with_the_row():
    with pytest.raises(InputError, match=r"the hub, row 1: 'id' is 1, which is not text"):
        check([{**ROWS[0], "id": 1}])
    with pytest.raises(InputError, match=r"the hub has no column 'id': it has 'context', 'question', 'answers'"):
        check(Dataset.from_list(ROWS).remove_columns("id"))
    with pytest.raises(InputError, match="the hub has no questions"):
        check(Dataset.from_list(ROWS).select([]))
    assert check(Dataset.from_list(ROWS).select([2, 0])).to_list() == [ROWS[2], ROWS[0]]


SEVEN = [row(f"q{number}") for number in range(7)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(), row(""), row(" ")],
            r"2 of 3 questions have an empty id \(the first is question 2\): give each an id",
        ),
        (
            [row(), row("b"), row(), row("b"), row("b")],
            r"2 ids occur more than once \('q1', 'b'\): give each question",
        ),
        (SEVEN * 2, r"7 ids occur more than once \('q0', 'q1', 'q2', 'q3', 'q4', \.\.\.\): give"),
        ([row(context="  ")], r"1 of 1 questions has answers, but a blank context \('q1'\): give the text"),
        ([row(), row("b", ["cat"] * 2, [4, -1])], r"1 of 2 questions has a negative answer_start \('b'\): count"),
        (
            [row(), row("b", ["cat", ""], [4, 0])],
            r"1 of 2 questions has a blank answer \('b'\): write it; .*squad_v2",
        ),
        ([row("b", [" "], [3])], r"1 of 1 questions has a blank answer \('b'\): write it"),
    ],
)
def test_content_that_cannot_be_right_is_refused(write, rows, message):
    path = write("a.json", json.dumps(official(rows)))
    for answerable in (True, False):
        with pytest.raises(InputError, match=r"a\.json: " + message):
            read(path, answerable=answerable)
        with pytest.raises(InputError, match=r"the hub: " + message):
            check(rows, answerable=answerable)


def test_every_question_of_version_1_has_an_answer(write):
    rows = [row(), row("b", (), ()), row("c", (), ())]
    path = write("a.json", json.dumps(official(rows)))
    message = (
        r"a\.json: 2 of 3 questions have no answer \('b', 'c'\): give each one; --task_name squad_v2 is for unansw"
    )
    with pytest.raises(InputError, match=message):
        read(path, answerable=True)
    assert read(path, answerable=False).to_list() == rows


def test_blank_questions_are_warned_of(caplog):
    assert len(check([row(), row("b", question=" \n")])) == 2
    assert "1 of 2 questions is blank ('b')" in caplog.text


def test_a_blank_context_may_have_no_answer():
    rows = [row(texts=(), starts=(), context="")]
    assert check(rows).to_list() == rows


def test_offsets_count_characters_not_bytes():
    # "The cat — 🐈 — sleeps": sleeps is the 15th character from 0, but the bytes before it are 3 + 2 + 3 - 3 more.
    right, wrong = CONTEXT.index("sleeps"), CONTEXT.encode().index(b"sleeps")
    assert (right, wrong) == (14, 21)
    assert len(check([row(texts=["sleeps"], starts=[right])])) == 1
    with pytest.raises(
        InputError, match=r"has 'in the' at 21, not 'sleeps': fix the offsets, which count characters \("
    ):
        check([row(texts=["sleeps"], starts=[wrong])])


MISPLACED = [
    row(),
    row("b", ["cat", "tree", "cat"], [4, 27, 5]),  # two of three
    row("c", ["tree."], [29]),  # over the end
    row("d", (), ()),
    *(row(f"e{number}", ["cat"], [3]) for number in range(5)),
]


def test_misplaced_answers_are_refused(write):
    message = (
        r"a\.json: 7 of 9 questions have an answer that is not at its answer_start "
        r"\('b', 'c', 'e0', 'e1', 'e2', \.\.\.\); the context of 'b' has ' tre' at 27, not 'tree': fix the offsets, "
        r"which count characters \(Python code points, not bytes\), or leave those questions out with "
        r"--drop_misplaced_answers\.$"
    )
    with pytest.raises(InputError, match=message):
        read(write("a.json", json.dumps(official(MISPLACED))))


def test_misplaced_answers_can_be_dropped(write, caplog):
    path = write("a.json", json.dumps(official(MISPLACED)))
    with caplog.at_level(logging.WARNING):
        assert read(path, drop_misplaced=True).to_list() == [MISPLACED[0], MISPLACED[3]]
        assert check(MISPLACED, drop_misplaced=True).to_list() == [MISPLACED[0], MISPLACED[3]]
    ending = (
        ": 7 of 9 questions have an answer that is not at its answer_start and are left out "
        "('b', 'c', 'e0', 'e1', 'e2', ...)."
    )
    assert [record.getMessage() for record in caplog.records] == [f"{path}{ending}", f"the hub{ending}"]


def test_nothing_is_said_where_nothing_is_misplaced(caplog):
    assert check(ROWS, drop_misplaced=True).to_list() == ROWS
    assert not caplog.records


def test_dropping_everything_is_refused():
    rows = MISPLACED[1:3]
    message = (
        r"the hub: 2 of 2 questions have an answer that is not at its answer_start and would be left out, which "
        r"leaves nothing; the context of 'b' has ' tre' at 27, not 'tree': fix the offsets"
    )
    with pytest.raises(InputError, match=message):
        check(rows, drop_misplaced=True)


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5_000, '{"data": ' + "[" * 100_000])
def test_json_that_is_too_much_for_the_parser(write, content):
    with pytest.raises(InputError, match=r"a\.json(, line 1, column \d+: this is not JSON| cannot be read as JSON)"):
        read(write("a.json", content))
    with pytest.raises(InputError, match=r"line 1: this is not JSON"):
        read(write("a.jsonl", content))


def test_tables_in_quotes(tmp_path, caplog):
    """As pandas writes them: the JSON of the answers is in quotes, its own quotes are doubled."""
    answers = {"text": ["cat"], "answer_start": [4]}
    row = {"id": "1", "context": 'The cat "Tom"\tis here.', "question": "Who?", "answers": json.dumps(answers)}
    for name in ("a.csv", "a.tsv"):
        frame = pandas.DataFrame([row])
        frame.to_csv(tmp_path / name, sep="\t" if name == "a.tsv" else ",", index=False)
        if name == "a.tsv":
            with pytest.raises(InputError, match=r"a\.tsv, line 2: the row has 5 fields, not 4 .* set quoting to csv"):
                read(tmp_path / name)
        data = read(tmp_path / name, quoting="csv")
        assert data[0] == row | {"answers": answers}
    frame.assign(context="The cat").to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="'answers' is .* which is not JSON"):
        read(tmp_path / "a.tsv")
    assert "LOOKS QUOTED" in caplog.text


def test_columns_that_are_not_read_may_hold_anything(tmp_path):
    rows = [
        {"id": name, "context": "The cat", "question": "Who?", "more": more} for name, more in (("1", 1), ("2", "x"))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row | {"answers": row["more"]}) + "\n" for row in rows))
    assert read(tmp_path / "a.jsonl", labeled=False)["id"][:] == ["1", "2"]
    with pytest.raises(InputError, match="line 2: 'answers' is 'x'"):
        read(tmp_path / "a.jsonl")


def test_messages_have_an_end():
    long = "word " * 20_000
    with pytest.raises(InputError) as error:
        check([{"id": long, "context": long, "question": "?", "answers": {"text": [long[1:]], "answer_start": [0]}}])
    assert "not at its answer_start" in str(error.value) and len(str(error.value)) < 1000
