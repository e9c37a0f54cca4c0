"""The small tools: demo tasks, the submission, the report."""

import json

import pytest
from helpers.hostile_input import AGREEMENT, ENTITIES, NOISE, READING, REPORT, SUBMISSION, Row, folder


def command(name, main, options, files, words):
    return Row(f"command: {main.__module__.split('.')[-1]}, {name}", main, words, options, files, alone=True)


RESULTS = {"eval_accuracy": 0.5, "latency_ms": 1.0}
REPORTED = {"run/all_results.json": json.dumps(RESULTS)}


def reported(name, content, file, words="", options=""):
    return command(name, REPORT, f"run --metric accuracy {options}", REPORTED | {f"run/{file}": content}, words)


ROWS = [
    command("no folder", AGREEMENT, "", {}, "folder | required"),
    command("a seed that is none", AGREEMENT, "data --seed x", {}, "--seed | invalid int value | 'x'"),
    command("a file for a folder", AGREEMENT, "data", {"data": "mine"}, "data | folder"),
    command(
        "other content",
        AGREEMENT,
        "data",
        {"data/train.tsv": "mine"},
        "train.tsv already exists | other content | give another folder",
    ),
    command("a folder for a file", AGREEMENT, "data", {"data/train.tsv": folder}, "train.tsv | folder"),
    command("unknown option", READING, "data --sead 1", {}, "--sead"),
    command("under a file", READING, "file/data", {"file": "mine"}, "file"),
    command(
        "other content",
        READING,
        "data",
        {"data/base/config.json": "{}"},
        "config.json already exists | other content | give another folder",
    ),
    command("no folder", ENTITIES, "", {}, "folder | required"),
    command(
        "other content",
        ENTITIES,
        "data",
        {"data/train.jsonl": "{}"},
        "train.jsonl already exists | other content | give another folder",
    ),
    command("no folder", SUBMISSION, "", {}, "DIR | required"),
    command("unknown option", SUBMISSION, "run --ouput a.zip", {}, "--ouput"),
    command("no such folder", SUBMISSION, "none", {}, "none is not a folder | give run folders"),
    command("no predictions", SUBMISSION, "run", {"run": folder}, "no prediction file | --do_predict"),
    command(
        "one file twice",
        SUBMISSION,
        "a b",
        {"a/CoLA.tsv": "", "b/predictions/CoLA.tsv": ""},
        "CoLA.tsv is there twice | leave one out",
    ),
    command(
        "a zip that is there",
        SUBMISSION,
        "a --output a.zip",
        {"a/CoLA.tsv": "", "a.zip": "mine"},
        "a.zip exists | --overwrite to replace it",
    ),
    command(
        "a folder for a zip",
        SUBMISSION,
        "a --output zip --overwrite",
        {"a/CoLA.tsv": "", "zip": folder},
        "zip | folder",
    ),
    command(
        "a zip under a file",
        SUBMISSION,
        "a --output file/a.zip",
        {"a/CoLA.tsv": "", "file": "mine"},
        "file",
    ),
    command("no run", REPORT, "--metric accuracy", {}, "RUN_DIR | required"),
    command(
        "no such folder",
        REPORT,
        "none --metric accuracy",
        {},
        "none cannot be reported | no such folder | Give the output_dir",
    ),
    command("a file for a folder", REPORT, "run --metric accuracy", {"run": "mine"}, "run | output_dir"),
    command(
        "no results",
        REPORT,
        "run --metric accuracy",
        {"run": folder},
        "run cannot be reported | no run has finished there | Give the output_dir",
    ),
    command("no such metric", REPORT, "run --metric bleu", REPORTED, "no metric bleu | its metrics: accuracy"),
    reported("results cut off", '{"eval_acc', "all_results.json", "all_results.json is not JSON | Run it again"),
    reported("results binary", NOISE, "all_results.json", "all_results.json is not JSON"),
    reported("results a list", '["eval_accuracy"]', "all_results.json", "all_results.json"),
    reported("results in words", '{"eval_accuracy": "high"}', "all_results.json", "accuracy | high"),
    reported("a broken recipe", "a: [", "recipe.yaml", "recipe.yaml is not YAML"),
    reported("a recipe that is a list", "- a\n", "recipe.yaml", "recipe.yaml"),
    reported("a state that is a list", "[1]", "trainer_state.json", "trainer_state.json"),
    reported(
        "an unknown kind of picture",
        "{}",
        "trainer_state.json",
        "a.docx cannot be drawn | ending in .png",
        options="--output a.docx",
    ),
    reported(
        "a picture in no folder",
        "{}",
        "trainer_state.json",
        "none/a.png: No such file or directory | give another path",
        options="--output none/a.png",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
