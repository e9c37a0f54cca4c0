"""Questions, contexts and answers that cannot be read or cannot be meant."""

import pytest
from helpers.hostile_input import DEEP, FINE, QUICK, SQUAD, STUDENT, Row, folder, lines, question, questions, squad

ROWS = [
    questions("empty", b"", "bad.json has no rows | give a file with data"),
    questions("malformed", squad()[:-3] + "}", "bad.json, line 1, column | not JSON | official SQuAD JSON"),
    questions(
        "malformed on a line",
        squad().replace("[{", "[\n{").replace('"qas":', '"qas"'),
        "line 3, column 38 | Expecting ':' | official SQuAD JSON",
    ),
    questions("cut off", squad()[:70], "bad.json, line 1, column | not JSON"),
    questions("something behind", squad() + "\n{}", "line 2, column 1 | something follows"),
    questions("UTF-16", squad().encode("utf-16"), "line 1: not UTF-8 | save the file as UTF-8"),
    questions("deep nesting", DEEP, "bad.json cannot be read as JSON | recursion | official SQuAD JSON"),
    questions("deep nesting in data", '{"data": ' + DEEP, "cannot be read as JSON | recursion"),
    questions("a list", "[1, 2]", "bad.json holds a list | neither layout | official SQuAD JSON"),
    questions("no questions", '{"data": []}', "bad.json has no questions | give some"),
    questions("data of numbers", '{"data": [1]}', "data[0] is 1 | 'paragraphs'"),
    questions("no answers", squad({"id": "1", "question": "a"}), "qas[0]: there is no 'answers' | add it, a list"),
    questions("id of a number", squad(question(id=7)), "qas[0]: 'id' is 7 | give a text in quotes"),
    questions("start in quotes", squad(question(start="11")), "'answer_start' is '11' | give a whole number"),
    questions("start of truth", squad(question(start=True)), "'answer_start' is True | give a whole number"),
    questions("context of a list", squad(context=["a"]), "'context' is ['a'] | give a text in quotes"),
    questions("blank id", squad(question(id=" ")), "1 of 1 questions has an empty id | an id of its own"),
    questions("blank questions", squad(question(question=" ")), "bad.json: all questions are blank | write them"),
    questions("id twice", squad(question(), question()), "1 id occurs more than once ('1') | an id of its own"),
    questions(
        "misplaced",
        squad(question(start=10)),
        "not at its answer_start ('1') | ' goo' at 10, not 'good' | --drop_misplaced_answers",
    ),
    questions("far away", squad(question(start=2**70)), "not at its answer_start | fix the offsets"),
    questions("negative start", squad(question(start=-4)), "negative answer_start | count the characters"),
    questions(
        "all misplaced",
        squad(question(start=0)),
        "leaves nothing | fix the offsets",
        options="--drop_misplaced_answers",
    ),
    questions("blank answer", squad(question(text=" ", start=3)), "blank answer | squad_v2"),
    questions("no answer in v1.1", squad(question(answers=[])), "1 of 1 questions has no answer | squad_v2"),
    questions(
        "impossible with answers",
        squad(question(is_impossible=True)),
        "'is_impossible' is True | make it false",
        options="--task_name squad_v2",
    ),
    questions("half a character", squad(question(start=6), context="\ud800 the good"), "not text | whole character"),
    questions("key twice", squad().replace('"context"', '"context": "a", "context"'), "'context' | twice"),
    questions(
        "lines without context",
        lines({"id": "1", "question": "a"}),
        "no column 'context' | it has 'id'",
        file="bad.jsonl",
    ),
    questions(
        "lines with other answers",
        lines({"id": "1", "question": "a", "context": "b", "answers": ["b"]}),
        "line 1: 'answers' is ['b'] | without a list 'text'",
        file="bad.jsonl",
    ),
    questions(
        "csv with answers in words",
        "id,context,question,answers\n1,a,b,c\n",
        "line 2: 'answers' is 'c' | not JSON | answer_start",
        file="bad.csv",
    ),
    questions(
        "csv in quotes as tsv",
        'id\tcontext\tquestion\tanswers\n1\t"a\tb"\tc\t"{""text"": [""b""], ""answer_start"": [2]}"\n',
        "line 2 | 5 fields, not 4 | set quoting to csv",
        file="bad.tsv",
    ),
    questions("texts of another task", FINE, "no column 'id' | it has 'text', 'label'", file="bad.tsv"),
    Row(
        "questions: a folder without the files",
        SQUAD,
        "train-v1.1.json is missing | give an existing",
        f"--teacher_model_name_or_path GOOD/answers --data_dir HERE/data {STUDENT} {QUICK}",
        {"data": folder},
        True,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
