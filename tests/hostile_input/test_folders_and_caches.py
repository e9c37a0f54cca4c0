"""Output folders that are not free, and teacher caches that are damaged or not ours."""

import json

import pytest
from helpers.hostile_input import GLUE, NOISE, Row, copied, cut, folder, holding, without


def output(name, files, words, options=""):
    return Row(f"output: {name}", GLUE, words, options, files)


def cache(name, make, words):
    return Row(f"cache: {name}", GLUE, words, "--teacher_cache_dir HERE/cache", {"cache": make})


def one_bit(pattern):
    def change(path):
        (file,) = path.glob(pattern)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return change


def unfinished(path, good):
    """A file where an unfinished cache would go on."""
    (key,) = (folder.name for folder in (good / "cache").iterdir() if folder.is_dir())
    path.mkdir()
    (path / f"{key}.building").write_text("mine")


def manifest(changes):
    """Changes entries of a cache's manifest, or replaces it."""

    def change(path):
        (file,) = path.glob("*/manifest.json")
        content = json.loads(file.read_text())
        if isinstance(changes, list):
            content = changes
        else:
            for key, value in changes.items():
                content[key] = content[key] | value if isinstance(value, dict) else value
        file.write_text(json.dumps(content))

    return change


FOLDERS = [
    output("a file", {"out": "mine"}, "output_dir | out is a file | give a folder"),
    output("under a file", {"file": "mine"}, "output_dir | file", options="--output_dir HERE/file/out"),
    output(
        "another run's",
        {"out": copied("run")},
        "holds another run | temperature 3.0 there, 2.0 here | give another output_dir | overwrite_output_dir",
        options="--temperature 2",
    ),
    output(
        "foreign, with results",
        {"out/all_results.json": "{}"},
        "already holds all_results.json | no run of ckd-trainer | give another folder",
    ),
    output(
        "foreign, and to be overwritten",
        {"out": copied("teacher")},
        "already holds config.json | no run of ckd-trainer | give another folder",
        options="--overwrite_output_dir",
    ),
    output(
        "foreign, with a checkpoint",
        {"out/checkpoint-3/model.safetensors": "x"},
        "checkpoint-3 | no run of ckd-trainer",
    ),
    output(
        "the teacher's own",
        {"out": copied("run")},
        "holds a model that this run reads | give another output_dir",
        options="--teacher_model_name_or_path HERE/out --temperature 2 --overwrite_output_dir",
    ),
    output(
        "another run's, with a mistake",
        {"out": copied("run")},
        "none.tsv is missing | give an existing",
        options="--train_file HERE/none.tsv --overwrite_output_dir",
    ),
    output(
        "a run with a broken recipe", {"out": copied("run", holding("recipe.yaml", NOISE))}, "recipe.yaml is not YAML"
    ),
    output(
        "a trained run without its weights",
        {"out": copied("run", without("model.safetensors"))},
        "cannot load | model.safetensors",
        options="--do_eval --teacher_cache_dir GOOD/cache",
    ),
    output(
        "to resume where there is none",
        {"out": folder},
        "resume_from_checkpoint is true | no complete checkpoint | leave the option out",
        options="--resume_from_checkpoint true",
    ),
    output(
        "to resume from a cut checkpoint",
        {"old/trainer_state.json": '{"epoch": 1'},
        "resume_from_checkpoint is | no complete checkpoint | leave the option out",
        options="--resume_from_checkpoint HERE/old",
    ),
    output(
        "to resume from a checkpoint without weights",
        {"old/trainer_state.json": "{}"},
        "resume_from_checkpoint is | HERE/old",
        options="--resume_from_checkpoint HERE/old",
    ),
    output(
        "a trained run with results cut off",
        {"out": copied("run", holding("all_results.json", "{"))},
        "all_results.json",
        options="--teacher_cache_dir GOOD/cache --do_eval",
    ),
    output("no name", {}, "output_dir", options="--output_dir="),
]


CACHES = [
    cache("a file", "mine", "teacher_cache_dir | cache is a file | give a folder"),
    Row(
        "cache: under a file",
        GLUE,
        "teacher_cache_dir | cannot be written",
        "--teacher_cache_dir HERE/file/cache",
        {"file": "mine"},
    ),
    cache("a part cut off", copied("cache", cut("*/*.arrow")), "is damaged | bytes instead of | delete the folder"),
    cache(
        "a part of other bytes",
        copied("cache", one_bit("*/*.arrow")),
        "is damaged | the content of | has changed | delete the folder",
    ),
    cache("a part missing", copied("cache", without("*/*.arrow")), "is damaged | No such file | delete the folder"),
    cache("manifest missing", copied("cache", without("*/manifest.json")), "is damaged | manifest.json | delete the"),
    cache(
        "manifest not JSON",
        copied("cache", cut("*/manifest.json", 9)),
        "or was not written | delete the folder",
    ),
    cache("manifest a list", copied("cache", manifest([])), "or was not written | delete the folder"),
    cache(
        "another cache's manifest",
        copied("cache", manifest({"contents": {"teacher": "0"}, "parts": []})),
        "is damaged or was not written | its manifest belongs to another cache | delete the folder",
    ),
    cache(
        "a manifest with fewer rows",
        copied("cache", manifest({"parts": []})),
        "does not list the rows of all | delete the folder",
    ),
    cache("a file for an unfinished one", unfinished, ".building is a file | delete it"),
    cache(
        "manifest empty",
        copied("cache", cut("*/manifest.json", 0)),
        "or was not written | delete the folder",
    ),
]


ROWS = [*FOLDERS, *CACHES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
