"""Recipes that are no recipes, or say something that no option can be."""

import pytest
from helpers.hostile_input import ALONE, DEEP, GLUE, NOISE, SQUAD, TEACHER, Row, folder, recipe

ROWS = [
    Row("recipe: missing", GLUE, "cannot read the recipe nonesuch.yaml | No such file", "nonesuch.yaml", alone=True),
    Row("recipe: missing for a teacher", TEACHER, "cannot read | No such file", "nonesuch.yaml", alone=True),
    recipe("a folder", folder, "cannot read the recipe | Is a directory"),
    recipe("binary", NOISE, "recipe.yaml is not YAML"),
    recipe("UTF-16", "seed: 1\n".encode("utf-16"), "recipe.yaml is not YAML | utf-8"),
    recipe("not YAML", "seed: [1\n", "recipe.yaml is not YAML | line 2"),
    recipe("tabs", "a:\n\tseed: 1\n", "recipe.yaml is not YAML | line 2 | \\t"),
    recipe("empty", "", "recipe.yaml is not a recipe | `key: value` per line"),
    recipe("a list", "- seed: 1\n", "recipe.yaml is not a recipe | `key: value` per line"),
    recipe("a word", "seed\n", "recipe.yaml is not a recipe | `key: value` per line", main=TEACHER),
    recipe("keys that are no words", "1: 2\n", "recipe.yaml is not a recipe | `key: value` per line"),
    recipe("two documents", "seed: 1\n---\nseed: 2\n", "recipe.yaml is not YAML | line 2"),
    recipe("a key twice", "seed: 1\nalpha: 0.5\nseed: 2\n", "recipe.yaml gives seed twice | leave one out"),
    recipe("a key twice, in quotes", '"seed": 1\n"seed": 2\n', "recipe.yaml gives seed twice | leave one out"),
    recipe("a key twice, in braces", "{seed: 1, seed: 2}\n", "recipe.yaml gives seed twice | leave one out"),
    recipe("unknown key", "learning_rat: 1\n", "recipe.yaml: learning_rat | did you mean learning_rate?"),
    recipe("unknown key of SQuAD", "doc_strid: 1\n", "recipe.yaml: doc_strid | did you mean doc_stride?", main=SQUAD),
    recipe("another script's key", "alpha: 1\n", "recipe.yaml: alpha is not a known option", main=TEACHER),
    recipe("wrong type", "seed: soon\n", "recipe.yaml | seed | 'soon' | int"),
    recipe("a mapping for a number", "seed: {a: 1}\n", "recipe.yaml | seed | int"),
    recipe("no value", "text_column:\n", "recipe.yaml: text_column has no value"),
    recipe("a list that holds itself", "seed: &a [*a]\n", "recipe.yaml | seed"),
    recipe("deep nesting", f"seed: {DEEP[:2000]}\n", "recipe.yaml is not YAML"),
    recipe("a date that is none", "run_name: 2024-13-45\n", "recipe.yaml is not YAML | month"),
    recipe("a number of 5000 digits", f"seed: {'1' * 5000}\n", "recipe.yaml | digits"),
    recipe("Python's os.system", "seed: !!python/object/apply:os.system ['touch marker']\n", "not YAML | os.system"),
    recipe("a Python module", "seed: !!python/module:antigravity\n", "recipe.yaml is not YAML | antigravity"),
    recipe("a Python object", "!!python/object:ckd_trainer.utils.errors.InputError {}\n", "recipe.yaml is not YAML"),
    recipe(
        "shell in train_file",
        ALONE.replace("GOOD/train.tsv", "'; touch marker; `touch marker`.tsv'") + "output_dir: $(touch marker)\n",
        "; touch marker; `touch marker`.tsv is missing | give an existing .tsv",
        main=TEACHER,
        alone=True,
    ),
    recipe(
        "shell in a model's name",
        ALONE.replace("GOOD/teacher", "$(touch marker);touch marker") + "output_dir: out\n",
        "cannot load $(touch marker);touch marker | alphanumeric",
        main=TEACHER,
        alone=True,
    ),
    recipe("NUL in output_dir", ALONE + 'output_dir: "a\\0b"\n', "output_dir", main=TEACHER, alone=True),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
