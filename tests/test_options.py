"""Recipes and options: conversions, precedence, round trips, and every refusal that needs no data or model."""

import dataclasses

import pytest
import yaml
from transformers import TrainingArguments

from ckd_trainer import CKDArguments, GlueArguments, ModelArguments, RunArguments, SquadArguments
from ckd_trainer.arguments import LanguageModelCKDArguments
from ckd_trainer.runs.recipe import mapping_of, parse_recipe, resolved_recipe, value_of
from ckd_trainer.utils.errors import InputError

ALL = (ModelArguments, GlueArguments, CKDArguments, RunArguments, TrainingArguments)
DATA = ["--task_name", "rte", "--output_dir", "out"]


def parse(tmp_path, text="", *command_line, kinds=ALL):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task_name: rte\noutput_dir: out\n" + text, encoding="utf-8")
    return parse_recipe(kinds, [str(recipe), *command_line])


def test_yaml_values_take_the_type_of_their_field(tmp_path):
    model, glue, ckd, run, args = parse(
        tmp_path,
        "learning_rate: 2e-5\nwarmup_steps: 0.1\neval_strategy: no\nwindow_size: null\nalpha: 1\n"
        "student_init: random\nstudent_config: {hidden_size: 64}\nscale_by_temperature: no\nmax_train_samples: 10\n",
    )
    assert args.learning_rate == 2e-5 and args.warmup_steps == 0.1
    assert args.eval_strategy == "no"
    assert ckd.window_size is None and ckd.alpha == 1.0 and ckd.scale_by_temperature is False
    assert model.student_config == {"hidden_size": 64} and glue.max_train_samples == 10


def test_command_line_wins(tmp_path):
    recipe = "learning_rate: 2e-5\nwindow_size: null\nmax_train_samples: 5\noverwrite_output_dir: true\n"
    *_, glue, ckd, run, args = parse(
        tmp_path,
        recipe,
        "--learning-rate=3e-5",
        "--window_size",
        "7",
        "--max_train_samples",
        "none",
        "--overwrite_output_dir",
        "false",
    )
    assert args.learning_rate == 3e-5 and ckd.window_size == 7
    assert glue.max_train_samples is None and run.overwrite_output_dir is False


def test_none_on_the_command_line_wins_over_a_word(tmp_path):
    assert parse(tmp_path, "teacher_cache_dir: cache\n", "--teacher_cache_dir", "None")[2].teacher_cache_dir is None


def test_numbers_with_exponents_are_numbers_within_mappings(tmp_path):
    """For YAML 1.1, they are text. Options themselves have a type, and so are converted."""
    *_, args = parse(tmp_path, "lr_scheduler_kwargs: {min_lr_rate: 1e-1, b: [2E5, -.5e+3], c: 1e-5x, d: {e: 7}}\n")
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1, "b": [2e5, -500.0], "c": "1e-5x", "d": {"e": 7}}


@pytest.mark.parametrize(
    ("written", "read"), [("3:6", "3:6"), ("[0:0, 1:2]", "0:0,1:2"), ("[[0, 0], [1, 2]]", "0:0,1:2")]
)
def test_pairs_of_layers_are_no_numbers_of_base_60(tmp_path, written, read):
    ckd = parse(tmp_path, f"wr_layer_mapping: {written}\n")[2]
    assert ckd.wr_layer_mapping == parse(tmp_path, f"wr_layer_mapping: '{read}'\n")[2].wr_layer_mapping


@pytest.mark.parametrize(
    ("text", "words", "names"),
    [
        ("report_to: [tensorboard, mlflow]\n", [], ["tensorboard", "mlflow"]),
        ("", ["--report_to", "tensorboard,mlflow"], ["tensorboard", "mlflow"]),
        ("report_to: []\n", [], []),
        ("report_to: [tensorboard]\n", [], ["tensorboard"]),
        ("report_to: tensorboard\n", ["--report_to", "none"], []),
    ],
)
def test_any_number_of_trackers(tmp_path, text, words, names):
    assert parse(tmp_path, text, *words)[-1].report_to == names


def test_what_yaml_takes_for_something_else(tmp_path):
    """Words for booleans, and numbers for others of base 8."""
    *_, args = parse(tmp_path, "run_name: [no, yes, 2]\nseed: 010\nlearning_rate: 0.5\nweight_decay: 0\n")
    assert (args.run_name, args.seed, args.learning_rate, args.weight_decay) == ("no,yes,2", 10, 0.5, 0)


@pytest.mark.parametrize("text", ["[loss, inputs]", "loss,inputs"])
def test_lists_of_words(tmp_path, text):
    assert parse(tmp_path, f"include_for_metrics: {text}\n")[-1].include_for_metrics == ["loss", "inputs"]


def test_lists_of_numbers_stay_lists_of_numbers(tmp_path):
    @dataclasses.dataclass
    class Own:
        own_layers: list[int] = dataclasses.field(default_factory=lambda: [1, 2])

    assert parse(tmp_path, kinds=(*ALL, Own))[-1].own_layers == [1, 2]
    assert parse(tmp_path, "", "--own_layers", "3", "4", kinds=(*ALL, Own))[-1].own_layers == [3, 4]


def test_a_word_that_belongs_to_no_option(tmp_path):
    with pytest.raises(InputError, match=r"'wandb' belongs to no option: options are written --name value\."):
        parse(tmp_path, "", "--report_to", "tensorboard", "wandb")


def test_the_help_of_a_negated_option(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(ALL, ["--help"])
    assert "--no-log-on-each-node The same as --log_on_each_node false." in " ".join(capsys.readouterr().out.split())


def test_options_of_a_command_line_as_a_mapping():
    words = "--alpha 0.3 --bf16 --no_scale_by_temperature --no-labels-and-logits --label-names=a --window_size none"
    assert mapping_of(words.split()) == {
        "alpha": "0.3",
        "bf16": True,
        "scale_by_temperature": False,
        "labels_and_logits": False,
        "label_names": "a",
        "window_size": "none",
    }


def test_none_stays_a_word_where_the_field_wants_one(tmp_path):
    assert parse(tmp_path, "report_to: none\n")[-1].report_to == []
    assert parse(tmp_path, "", "--report_to", "none")[-1].report_to == []
    assert parse(tmp_path, "report_to: null\n")[-1].report_to == []


def test_resolved_recipe_gives_the_same_options_again(tmp_path):
    text = "learning_rate: 3e-5\nwindow_size: null\nbf16: true\neval_strategy: epoch\nsave_strategy: epoch\n"
    text += "load_best_model_at_end: true\nstudent_init: random\nstudent_config: {hidden_size: 64}\nseed: 3\n"
    text += "train_sampling_strategy: group_by_length\nreport_to: tensorboard\nwarmup_steps: 0.06\nhub_token: secret\n"
    first = parse(tmp_path, text)
    recipe = resolved_recipe(*first)
    assert "secret" not in str(recipe) and recipe["learning_rate"] == 3e-5
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    second = parse_recipe(ALL, [str(tmp_path / "again.yaml")])
    assert resolved_recipe(*second) == recipe
    assert second[:4] == first[:4]
    differing = {
        key for key, value in first[4].to_dict().items() if value != second[4].to_dict()[key] and key != "hub_token"
    }
    assert differing == set()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 1e-5\n", "learning_rat is not a known option: did you mean learning_rate?"),
        ("qqqqqq: 1\n", "qqqqqq is not a known option: see --help"),
        ("learning_rate: fast\n", "learning_rate.*'fast'"),
        ("num_train_epochs: [1, 2]\n", "num_train_epochs.*'1,2'"),
        ("temperature: 1\ntemperature: 2\n", "gives temperature twice"),
        ("per_device_train_batch_size: 3.5\n", "per_device_train_batch_size.*'3.5'"),
        ("text_column: null\n", "text_column has no value"),
        ("do_train: perhaps\n", "do_train"),
        ("eval_strategy: epochs\n", "eval_strategy.*'epochs'"),
        ("student_init: layers\n", "student_init.*'layers'"),
        ("window_size: 20\n", "window_size is 20.*odd number"),
        ("window_size: -1\n", "window_size is -1"),
        ("wr_distance_weight: -1\n", "wr_distance_weight is -1.0"),
        ("ltr_angle_weight: .nan\n", "ltr_angle_weight is nan"),
        ("temperature: 0\n", "temperature is 0.0.*above 0"),
        ("relation_temperature: 0\n", "relation_temperature is 0.0"),
        ("alpha: 1.5\n", "alpha is 1.5.*from 0 to 1"),
        ("distance: l2\n", "distance_loss kl does not compare distance l2: give l1 or mse or smooth_l1"),
        ("distance_loss: mse\n", "distance_loss mse does not compare distance cosine: give kl"),
        ("wr_layer_mapping: skipping\n", "wr_layer_mapping: 'skipping' is not a layer mapping"),
        ("ltr_layer_mapping: 1:2,1:2\n", "ltr_layer_mapping: .*twice"),
        ("train_file: a.csv\n", "task_name is rte, but train_file is set as well"),
        ("max_seq_length: 0\n", "max_seq_length is 0"),
        ("student_num_layers: 3\n", "student_num_layers is set, but student_init pretrained"),
        ("student_init: teacher_layers\nstudent_num_layers: 0\n", "student_num_layers is 0"),
        ("student_init: random\nstudent_config: '[1]'\n", "student_config is .*give a mapping"),
        ("student_init: random\nstudent_config: '{'\n", "student_config is .*not JSON"),
        ("student_init: random\nstudent_layers: 1,2\n", "only student_init teacher_layers reads it"),
        (
            "student_init: teacher_layers\nstudent_layers: a,b\n",
            "give first, first_and_last, last, skip, uniform or teacher layers such as 2,4,6",
        ),
        ("student_init: teacher_layers\nstudent_layers: 2,4\nstudent_num_layers: 3\n", "names 2 layers"),
        ("load_best_model_at_end: true\neval_strategy: epoch\nsave_strategy: steps\n", "load_best_model_at_end"),
        ("a: [\n", "is not YAML"),
        ("do_train: !!bool maybe\n", "is not YAML: 'maybe' is not of type bool"),
        ("seed: !!int ''\n", "is not YAML: '' is not of type int"),
        ("run_name: !!timestamp soon\n", "is not YAML: 'soon' is not of type timestamp"),
        ("seed: 0x" + 4000 * "f", "is not YAML: Exceeds the limit"),
        ("student_config: {day: 2026-11-30}\n", "student_config is a mapping that JSON cannot represent .*date"),
        ("student_config: &a {b: *a}\n", "student_config is a mapping that JSON cannot represent .*Circular"),
        (f"student_init: random\nstudent_config: '{10**5 * '['}'\n", "student_config is .*not JSON"),
    ],
)
def test_refused_with_the_value_and_the_reason(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        parse(tmp_path, text)


@pytest.mark.parametrize(
    ("command_line", "words"),
    [
        (["nothing.yaml"], "cannot read the recipe nothing.yaml: No such file"),
        ([*DATA, "--learning_rat", "1"], "learning_rat is not a known option: did you mean learning_rate?"),
        ([*DATA, "--window", "5"], "window is not a known option: did you mean window_size?"),  # no abbreviations
        ([*DATA, "--alpha", "x"], "alpha.*'x'"),
        ([*DATA, "stray"], "'stray' belongs to no option"),
        (["--output_dir", "out"], "there is no data to use"),
        (["--output_dir", "out", "--data_dir", "x", "--train_file", "y"], "data_dir is set without task_name"),
    ],
)
def test_command_line_refusals(command_line, words):
    with pytest.raises(InputError, match=words):
        parse_recipe(ALL, command_line)


def test_a_list_is_no_recipe(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(InputError, match="list.yaml is not a recipe"):
        parse_recipe(ALL, [str(tmp_path / "list.yaml")])


def test_the_recipe_comes_first(tmp_path):
    with pytest.raises(InputError, match="recipe.yaml comes after other options"):
        parse_recipe(ALL, [*DATA, "recipe.yaml"])


def test_lists_and_words_of_none(tmp_path):
    model, *_, ckd, run, args = parse(
        tmp_path,
        "student_init: teacher_layers\nstudent_layers: [2, 4]\nwr_layer_mapping: [[0, 0], [1, 2]]\n"
        "window_size: none\n",
        "--label_column=-label",
    )
    assert model.student_layers == "2,4" and ckd.wr_layer_mapping == "0:0,1:2" and ckd.window_size is None
    ckd = parse(tmp_path, "", "--window_size=none")[2]
    assert ckd.window_size is None
    assert parse(tmp_path, "", "--window_size", "none", "--window_size", "7")[2].window_size == 7


def test_wrong_type_in_a_recipe_names_the_recipe(tmp_path):
    with pytest.raises(InputError, match="recipe.yaml: .*learning_rate"):
        parse(tmp_path, "learning_rate: fast\n")


@pytest.mark.parametrize("kind", ALL[:-1])
def test_every_option_is_documented(kind):
    assert len(dataclasses.fields(kind)) >= 2
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith((".", "command line).")), field.name


def test_squared_distances_are_means_over_pairs(tmp_path):
    recipe = "distance: l2\ndistance_loss: l1\nrelation_normalization: items\n"
    assert parse(tmp_path, recipe)[2].relation_normalization == "pairs"
    assert CKDArguments(distance="l2", distance_loss="mse").relation_normalization == "pairs"


def test_control_run_has_no_weights():
    assert CKDArguments.fine_tuning().weights == {}
    assert CKDArguments().weights == {"logits": 0.7, "wr_distance": 0.3}
    relations = ("wr_distance", "wr_angle", "ltr_distance", "ltr_angle")
    assert LanguageModelCKDArguments().weights == dict.fromkeys(relations, 0.3)


def test_negative_numbers_with_exponents(tmp_path):
    squad = parse_recipe((SquadArguments,), ["--null_score_diff_threshold", "-1e-05", "--task_name", "squad_v2"])[0]
    assert (squad.null_score_diff_threshold, squad.task_name) == (-1e-5, "squad_v2")


def test_one_option_is_read_before_the_others(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task_name: squad\nno_such_option: 1\n")
    assert value_of("task_name", [str(recipe), "--other", "1"]) == "squad"
    assert value_of("task_name", [str(recipe), "--task-name", "rte"]) == "rte"
    assert value_of("task_name", ["--task_name=cola"]) == "cola"
    assert value_of("task_name", ["--do_train"]) is None
    assert value_of("task_name", [str(recipe), "--task_name", "None"]) is None


@pytest.mark.parametrize("source", [{"dataset_name": "me/data"}, {"train_file": "train.jsonl"}])
def test_only_delimited_files_have_no_header(source):
    with pytest.raises(InputError, match="column_names is set, but no csv or tsv file is given"):
        GlueArguments(column_names="text,label", **source)
    assert GlueArguments(column_names="text, label", train_file="a.TSV").header == ["text", "label"]
