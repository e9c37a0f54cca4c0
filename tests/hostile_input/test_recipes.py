"""Recipes that are no recipes, or say something that no option can be."""

import pytest
from helpers.hostile_input import ALONE, DEEP, GLUE, NOISE, SQUAD, TEACHER, Row, folder, recipe

CACHED = "{distilbert_cosine_weight: 1}\nteacher_cache_dir: HERE/cache"
NO_LOSS = "{labels_and_logits: false, wr_distance_weight: 0, wr_angle_weight: 0, ltr_distance_weight: 0, "
NO_LOSS += "ltr_angle_weight: 0}"
NO_STEP = "{per_device_train_batch_size: 99}\ndataloader_drop_last: true"


def stages(name, second, words, main=GLUE):
    """A recipe whose second stage is wrong."""
    return recipe(f"second stage: {name}", f"stages:\n- {{}}\n- {second}\n", words, main=main)


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
    recipe("stages that are a word", "stages: soon\n", "stages is 'soon' | not JSON"),
    recipe("stages that are a mapping", "stages: {alpha: 0}\n", "stages is {'alpha': 0} | give a list with"),
    recipe("no stages", "stages: []\n", "stages is [] | give a list with the options of each stage"),
    recipe("a stage that is a word", "stages: [alpha]\n", "stage 1 is 'alpha' | give a mapping of options"),
    recipe("a stage that is nothing", "stages:\n- alpha: 0\n-\n", "stage 2 is None | give a mapping of options"),
    recipe("stages that hold themselves", "stages: &a [*a]\n", "recipe.yaml: stages is a list that JSON cannot"),
    recipe("a date in a stage", "stages: [{alpha: 2024-01-01}]\n", "recipe.yaml: stages is a list that JSON cannot"),
    recipe("an option twice in a stage", "stages: [{alpha: 0, alpha: 1}]\n", "recipe.yaml gives alpha twice"),
    stages("unknown option", "{alph: 0}", "stage 2: alph is not a known option | did you mean alpha?"),
    stages("another script's option", "{alpha: 0}", "stage 2: alpha is not a known option", main=TEACHER),
    stages("output_dir", "{output_dir: b}", "stage 2 sets output_dir, which holds for the whole run | learning_rate"),
    stages("cache", "{teacher_cache_dir: b}", "stage 2 sets teacher_cache_dir, which holds for the whole run"),
    stages("stages in a stage", "{stages: [{}]}", "stage 2 sets stages, which holds for the whole run"),
    stages("data", "{train_file: b}", "stage 2 sets train_file, which holds for the whole run", main=SQUAD),
    stages("wrong type", "{learning_rate: fast}", "stage 2: | learning_rate | 'fast'"),
    stages("no value", "{alpha: null}", "stage 2: alpha has no value"),
    stages("a refused value of the loss", "{temperature: 0}", "stage 2: temperature is 0.0 | give a number above 0"),
    stages("a refused value of a method", "{gram_weight: -1}", "stage 2: gram_weight is -1.0", main=SQUAD),
    stages("a refused value", "{learning_rate: -1}", "stage 2: learning_rate is -1.0 | not negative", main=TEACHER),
    stages("a combination", "{distance: l2}", "stage 2: distance_loss kl does not compare distance l2"),
    stages("a best model of none", "{load_best_model_at_end: true}", "stage 2: | needs evaluations during training"),
    stages("patience without a best", "{early_stopping_patience: 2}", "stage 2: early_stopping_patience is set, but"),
    stages("layers", "{wr_layer_mapping: '0:9'}", "stage 2: wr_layer_mapping | 9"),
    stages("no projection", "{projection_learning_rate: 1e-3}", "stage 2: projection_learning_rate is set"),
    stages("a schedule", "{lr_scheduler_kwargs: {a: 1}}", "stage 2: the optimizer or the learning rate schedule"),
    stages("a term that is not cached", CACHED, "stage 2: teacher_cache_dir is set, but | for distilbert_cosine"),
    stages("no loss", NO_LOSS, "stage 2: labels_and_logits is off and no term of the loss has a weight"),
    stages("no step", NO_STEP, "stage 2: dataloader_drop_last leaves nothing to train on", main=SQUAD),
    stages("resume", "{}\nresume_from_checkpoint: true", "resume_from_checkpoint is yes | resumes by itself"),
    Row("stages: not JSON", GLUE, "stages is '[{' | not JSON", "--stages [{"),
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
