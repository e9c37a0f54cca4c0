"""`ckd-trainer compare` through its main: whole comparisons of tiny models."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, DatasetDict
from helpers.files import PROJECT, sentences, write_questions, write_tagged, write_tsv
from helpers.label_sets import LABELS, write_label_sets
from helpers.rankings import write_rankings
from helpers.tiny import save_base, tiny_config
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

import run_glue_ckd
import run_teacher
from ckd_trainer.commands import compare
from ckd_trainer.comparison import schedule
from ckd_trainer.comparison.setup import Setup
from ckd_trainer.comparison.variants import Variant
from ckd_trainer.data.demo import agreement
from ckd_trainer.metrics.multi_label import SCORES
from ckd_trainer.utils.errors import InputError


def own_method():
    """The user's file of docs/extending.md: a term, and its options."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "extending.md").read_text(), re.DOTALL)
    term = blocks[0][: blocks[0].index("trainer = ")]
    return term + next(block for block in blocks if "class PatientArguments" in block)


def run(recipe, output, *words, methods=("fine_tuned", "ckd"), seeds=(1, 2)):
    words = ["--methods", *methods, "--seeds", *map(str, seeds), "--output", str(output), *words]
    compare.main([str(recipe), *words])
    return json.loads((output / "compare.json").read_text())


def refused(capsys, recipe, output, *words, **kwargs):
    with pytest.raises(SystemExit) as stopped:
        run(recipe, output, *words, **kwargs)
    assert stopped.value.code == 2 and not output.exists()
    return capsys.readouterr().err


def test_from_a_recipe_to_a_table(in_process, recipe, tmp_path, capsys):
    """All runs draw the same rows, read one cache where they can, and train with the options of the recipe."""
    (tmp_path / "mine.py").write_text(own_method())
    output, methods = tmp_path / "out", ("fine_tuned", "logits", "ckd", "tinybert", "patient")
    options = ["--method_file", str(tmp_path / "mine.py"), "--max_train_samples", "24"]
    found = run(recipe, output, *options, methods=methods)
    said = capsys.readouterr().out
    assert [row["method"] for row in found["methods"]] == list(methods) and found["failed"] == {}
    assert found["metric"] == "accuracy" and found["baseline"] == "fine_tuned"
    assert all(row["scores"].keys() == {"1", "2"} and row["examples"] == 22 for row in found["methods"])
    assert said.count(": finished in") == 11 and (output / "compare.md").read_text().strip() in said
    assert (output / "compare.png").stat().st_size > 1000
    lines = [line for line in said.splitlines() if ": started" in line]
    assert lines[0].startswith("_teacher_cache_")  # a step with the terms of all that can read one cache

    records = {}
    for method in methods:
        folder = output / "runs" / method / "seed_1"
        records[method] = yaml.safe_load((folder / "recipe.yaml").read_text())
        terms = {name for name in json.loads((folder / "trainer_state.json").read_text())["log_history"][0]}
        assert ("loss_patient" in terms) == (method == "patient")
        assert ("loss_wr_angle" in terms) == (method == "ckd")
        assert ("loss_logits" in terms) == (method != "fine_tuned")
    assert {record["sample_seed"] for record in records.values()} == {7}
    assert {record["seed"] for record in records.values()} == {1}
    assert {name for name, record in records.items() if record["teacher_cache_dir"] is None} == {"tinybert"}
    (cache,) = (output / "teacher_cache").glob("*/*.json")
    assert len(json.loads(cache.read_text())["contents"]["signals"]) == 4  # logits, two of CKD's, first tokens

    # The recipe that was written trains the same student by itself.
    again = tmp_path / "again"
    run_glue_ckd.main([str(output / "recipes" / "ckd.yaml"), "--seed", "2", "--output_dir", str(again)])
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (again, output / "runs" / "ckd" / "seed_2"))
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_scores_are_means_of_what_examples_contribute(in_process, recipe, tmp_path):
    run(recipe, tmp_path / "out", "--metric", "f1", seeds=[1])
    for folder in (tmp_path / "out" / "runs").glob("*/seed_1"):
        results = json.loads((folder / "eval_results.json").read_text())
        values = load_arrays(folder / "eval_contributions.safetensors")
        assert values.keys() == {"eval_accuracy", "eval_f1"}
        for name, value in values.items():
            assert value.shape == (22,) and value.mean() == pytest.approx(results[name], abs=1e-12)


def test_questions(in_process, tmp_path):
    base = save_base(tmp_path / "teacher")
    files = [write_questions(tmp_path / f"{split}.json", 12) for split in ("train", "validation")]
    recipe = tmp_path / "recipe.yaml"
    options = {"task_name": "squad", "train_file": str(files[0]), "validation_file": str(files[1])}
    options |= {"teacher_model_name_or_path": str(base), "student_init": "teacher_layers", "student_num_layers": 2}
    options |= {"max_seq_length": 32, "doc_stride": 8, "max_question_length": 8, "max_steps": 2, "report_to": "none"}
    recipe.write_text(yaml.safe_dump(options | {"disable_tqdm": True, "save_strategy": "no"}))
    found = run(recipe, tmp_path / "out", seeds=[1])
    assert found["metric"] == "f1" and [row["method"] for row in found["methods"]] == ["fine_tuned", "ckd"]
    for folder in (tmp_path / "out" / "runs").glob("*/seed_1"):
        results = json.loads((folder / "eval_results.json").read_text())
        values = load_arrays(folder / "eval_contributions.safetensors")
        assert values.keys() == {"eval_exact_match", "eval_f1"}
        assert all(value.mean() == pytest.approx(results[name]) for name, value in values.items())


def test_entities(in_process, tmp_path):
    """F1 is not a mean over sentences, but what they contribute has that mean."""
    labels = ("O", "B-bad", "I-bad", "B-good", "I-good")
    BertForTokenClassification(tiny_config(labels=labels)).save_pretrained(save_base(tmp_path / "teacher"))
    files = [write_tagged(tmp_path / f"{split}.conll", 12) for split in ("train", "validation")]
    recipe = tmp_path / "recipe.yaml"
    options = {"task_name": "ner", "train_file": str(files[0]), "validation_file": str(files[1])}
    options |= {"teacher_model_name_or_path": str(tmp_path / "teacher"), "student_init": "teacher_layers"}
    options |= {"student_num_layers": 2, "max_seq_length": 12, "doc_stride": 4, "max_steps": 8, "report_to": "none"}
    recipe.write_text(yaml.safe_dump(options | {"disable_tqdm": True, "save_strategy": "no", "learning_rate": 3e-3}))
    found = run(recipe, tmp_path / "out", seeds=[1])
    assert found["metric"] == "f1" and [row["method"] for row in found["methods"]] == ["fine_tuned", "ckd"]
    for folder in (tmp_path / "out" / "runs").glob("*/seed_1"):
        results = json.loads((folder / "eval_results.json").read_text())
        values = load_arrays(folder / "eval_contributions.safetensors")
        assert values.keys() == {"eval_accuracy", "eval_f1", "eval_precision", "eval_recall"}
        assert all(value.mean() == pytest.approx(results[name]) for name, value in values.items())


def test_several_labels(in_process, tmp_path):
    """No score is a mean over texts, but what they contribute has it; the teacher is scored on the same texts."""
    config = tiny_config(labels=LABELS, problem_type="multi_label_classification")
    BertForSequenceClassification(config).save_pretrained(save_base(tmp_path / "base"))
    files = [write_label_sets(tmp_path / f"{name}.tsv", 24, seed) for seed, name in enumerate(("train", "validation"))]
    data = {"train_file": str(files[0]), "validation_file": str(files[1]), "multi_label": True, "max_seq_length": 32}
    data |= {"max_steps": 8, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "learning_rate": 3e-3}
    words = [f"--{name}={value}" for name, value in data.items()]
    teacher = ["--model_name_or_path", str(tmp_path / "base"), "--output_dir", str(tmp_path / "teacher")]
    run_teacher.main([*words, *teacher, "--do_train", "--do_eval"])
    student = {"student_init": "teacher_layers", "student_num_layers": 2}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data | student | {"teacher_model_name_or_path": str(tmp_path / "teacher")}))
    found = run(recipe, tmp_path / "out")
    assert found["metric"] == "average_precision" and found["teacher"]["score"] > 0
    assert found["methods"][1]["difference"]["counted"] == "seeds and examples"
    for folder in (tmp_path / "out" / "runs").glob("*/seed_[12]"):
        results = json.loads((folder / "eval_results.json").read_text())
        values = load_arrays(folder / "eval_contributions.safetensors")
        assert values.keys() == {f"eval_{score}" for score in SCORES}
        assert all(value.mean() == pytest.approx(results[name]) for name, value in values.items())
    found = run(recipe, tmp_path / "out", "--metric", "f1_micro_tuned")
    assert found["metric"] == "f1_micro_tuned"


def test_students_from_scratch(in_process, recipe, tmp_path):
    """One that does not distill reads less of the teacher. Each student has a baseline of its own."""
    options = yaml.safe_load(recipe.read_text()) | {"student_init": "random", "student_config": {"hidden_size": 16}}
    recipe.write_text(yaml.safe_dump(options))
    found = run(recipe, tmp_path / "out", "--students", "2x32", "4x16", seeds=[1])
    names = [f"{row['student']} {row['method']}" for row in found["methods"]]
    assert names == ["2x32 fine_tuned", "2x32 ckd", "4x16 fine_tuned", "4x16 ckd"]
    assert len({row["parameters"] for row in found["methods"]}) == 2
    assert [row["difference"] is None for row in found["methods"]] == [True, False, True, False]


def test_the_share_of_the_teacher_that_is_kept(in_process, recipe, tmp_path, tiny_teacher):
    """If it was evaluated on the same examples."""
    options = yaml.safe_load(recipe.read_text())
    files = [f"--{name}={options[name]}" for name in ("train_file", "validation_file")]
    teacher = tmp_path / "trained"
    words = [
        "--model_name_or_path",
        str(tiny_teacher),
        "--do_train",
        "--do_eval",
        "--output_dir",
        str(teacher),
        *files,
    ]
    run_teacher.main([*words, "--max_steps", "1", "--report_to", "none", "--disable_tqdm", "true"])
    found = run(recipe, tmp_path / "out", "--teacher_model_name_or_path", str(teacher), seeds=[1])
    score = json.loads((teacher / "eval_results.json").read_text())["eval_accuracy"]
    assert found["teacher"]["score"] == score
    assert found["methods"][0]["kept"] == pytest.approx(found["methods"][0]["mean"] / score)


def test_seeds_and_methods_can_be_added(in_process, recipe, tmp_path, capsys):
    output = tmp_path / "out"
    first = run(recipe, output, seeds=[1])
    capsys.readouterr()
    second = run(recipe, output, "--max_steps", "2", seeds=[1, 2], methods=["fine_tuned", "ckd", "logits"])
    assert "2 of 6 runs had already finished." in capsys.readouterr().out
    for before, after in zip(first["methods"], second["methods"], strict=False):
        assert after["scores"]["1"] == before["scores"]["1"] and after["scores"].keys() == {"1", "2"}
    third = run(recipe, output, methods=["fine_tuned", "logits"], seeds=[1, 2])
    assert len(third["methods"]) == 2
    assert "also holds ckd, which this table leaves out." in (output / "compare.md").read_text()


def test_changed_data_is_noticed_before_more_is_trained(in_process, recipe, tmp_path, capsys):
    output = tmp_path / "out"
    run(recipe, output, seeds=[1])
    write_tsv(tmp_path / "train.tsv", sentences(40, seed=9))
    with pytest.raises(SystemExit) as stopped:
        run(recipe, output, seeds=[1, 2, 3])
    assert stopped.value.code == 2
    assert "were trained with different contents of train_file" in capsys.readouterr().err
    assert len(list(output.glob("runs/[!_]*/*/eval_results.json"))) == 3  # one of the four new ones


def test_changed_validation_examples_are_noticed_before_more_is_trained(in_process, recipe, tmp_path, capsys):
    """And only the runs that were evaluated on others are named: once they are deleted, the same command succeeds."""
    output = tmp_path / "out"
    run(recipe, output, methods=["fine_tuned", "logits"], seeds=[1])
    write_tsv(tmp_path / "validation.tsv", sentences(22, seed=5))
    again = {"methods": ["fine_tuned", "logits", "ckd"], "seeds": [1]}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(recipe, output, **again)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and ": started" not in said.out
    old = [output / "runs" / method / "seed_1" for method in ("fine_tuned", "logits")]
    assert "different validation examples" in said.err and all(str(folder) in said.err for folder in old)
    for folder in old:
        shutil.rmtree(folder)
    assert run(recipe, output, **again)["failed"] == {}


def test_variants_with_other_validation_examples_are_refused(in_process, recipe, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("less: {max_eval_samples: 9}\n")
    said = refused(capsys, recipe, tmp_path / "out", methods=["fine_tuned", str(tmp_path / "more.yaml")])
    assert "fine_tuned and less are evaluated on different validation examples" in said


@pytest.mark.parametrize(
    "options",
    [
        {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 2}},
        {"eval_on_start": True},
    ],
)
def test_one_step_fills_the_cache_whatever_the_evaluation_is(in_process, recipe, tmp_path, caplog, options):
    """The teacher runs once, and once more if its cache is gone when runs are added."""
    changes = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "accuracy"} | options
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | changes))
    output = tmp_path / "out"
    for seeds in ([1], [1, 2]):
        shutil.rmtree(output / "teacher_cache", ignore_errors=True)
        assert run(recipe, output, methods=["logits", "ckd", "gram"], seeds=seeds)["failed"] == {}
        assert caplog.text.count("The teacher reads 40 examples") == 1
        caplog.clear()


def test_a_cache_that_could_not_be_filled_first_is_told(in_process, recipe, tmp_path, monkeypatch, capsys):
    def start(run, *others, start=schedule._start):
        process = start(run, *others)
        if run.variant.startswith("_teacher_cache_"):
            (run.folder / "train_results.json").unlink()
            process.returncode = 1
        return process

    monkeypatch.setattr(schedule, "_start", start)
    found = run(recipe, tmp_path / "out", methods=["logits", "ckd"], seeds=[1])
    assert found["failed"] == {}
    note = "The teacher's cache was not filled first, so training times may include that of the teacher ("
    assert note in capsys.readouterr().out and note in (tmp_path / "out" / "compare.md").read_text()


def test_another_comparison_in_the_same_folder_is_refused(in_process, recipe, tmp_path, capsys):
    run(recipe, tmp_path / "out", seeds=[1])
    with pytest.raises(SystemExit):
        run(recipe, tmp_path / "out", "--learning_rate", "1e-3", seeds=[1])
    assert "fine_tuned.yaml has other options for fine_tuned ('learning_rate')" in capsys.readouterr().err


def test_a_variant_that_never_started_may_change(in_process, recipe, tmp_path, capsys):
    """One that trained may not, even if it did not finish."""
    output, more = tmp_path / "out", tmp_path / "more.yaml"
    more.write_text("other: {optim: adamw_bnb_8bit}\n")
    with pytest.raises(SystemExit) as stopped:
        run(recipe, output, methods=["fine_tuned", str(more)], seeds=[1])
    assert stopped.value.code == 1 and (output / "runs" / "other" / "seed_1.log").is_file()
    more.write_text("other: {optim: adamw_torch}\n")
    found = run(recipe, output, methods=["fine_tuned", str(more)], seeds=[1])
    assert found["failed"] == {} and [row["method"] for row in found["methods"]] == ["fine_tuned", "other"]
    (output / "runs" / "other" / "seed_1" / "train_results.json").unlink()
    more.write_text("other: {optim: sgd}\n")
    with pytest.raises(SystemExit):
        run(recipe, output, methods=["fine_tuned", str(more)], seeds=[1])
    assert "other.yaml has other options for other ('optim')" in capsys.readouterr().err
    assert yaml.safe_load((output / "recipes" / "other.yaml").read_text())["optim"] == "adamw_torch"


@pytest.mark.parametrize("searches", [False, True])
def test_a_token_is_in_no_file_and_reaches_the_runs(in_process, recipe, tmp_path, monkeypatch, searches):
    """The recipes of a comparison are made to be given away."""
    monkeypatch.setenv("HF_TOKEN", "hf_fromtheenvironment")
    found = []

    def start(run, *others, start=schedule._start):
        found.append(os.environ["HF_TOKEN"])
        return start(run, *others)

    monkeypatch.setattr(schedule, "_start", start)
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"hub_token": "hf_fromarecipe"}))
    output = tmp_path / "out"
    if searches:
        (tmp_path / "ranges.yaml").write_text("temperature: [1, 2]\n")
        words = ["--search", "2", "--ranges", str(tmp_path / "ranges.yaml"), "--max_steps", "4"]
        compare.main([str(recipe), "--methods", "ckd", "--output", str(output), *words])
        assert (output / "best.yaml").is_file()
    else:
        run(recipe, output, seeds=[1])
    assert len(found) == 2 and set(found) == {"hf_fromarecipe"}
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) > 10 and [path for path in files if b"hf_from" in path.read_bytes()] == []


def test_without_a_cache_nothing_fills_one(in_process, recipe, tmp_path, capsys):
    run(recipe, tmp_path / "out", "--teacher_cache_dir", "None", methods=["logits", "ckd"], seeds=[1])
    assert "_teacher_cache_" not in capsys.readouterr().out and not list(tmp_path.rglob("teacher_cache"))


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({"text_column": "Text"}, {"text_column": "text"}, True),
        ({"bf16": True}, {"bf16": "true"}, False),  # as a recipe and a command line give it
        ({"max_steps": 2}, {"max_steps": "2"}, False),
        ({"student_layers": None}, {"student_layers": "none"}, False),
        ({"teacher_cache_dir": "a"}, {"teacher_cache_dir": "b"}, False),
        ({"hub_token": "hf_old"}, {}, False),  # as earlier versions wrote
    ],
)
def test_what_counts_as_another_option(tmp_path, before, now, changed):
    """Names of files and columns differ where upper and lower case do."""
    setup = Setup("glue", tmp_path, "accuracy", [], 1, 1, [])
    setup.write_recipes([Variant("one", None, before)])
    (tmp_path / "runs" / "one" / "seed_1").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "seed_1" / "recipe.yaml").touch()
    with pytest.raises(InputError, match="other options for one") if changed else contextlib.nullcontext():
        setup.write_recipes([Variant("one", None, now)])


def test_the_starts_of_the_quickstart_of_language_models(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agreement.write_task("runs/quickstart_mlm/data", train=1000, validation=20, test=2, text=2)
    base = Path("runs/quickstart_mlm/data/base")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 128}
    model = BertForMaskedLM(BertConfig(**json.loads((base / "config.json").read_text()) | sizes))
    for name in ("logits", "ckd"):
        shutil.copytree(base, base.parents[1] / name)
        model.save_pretrained(base.parents[1] / name)
    recipes, short = PROJECT / "recipes", ["--max_steps", "2", "--disable_tqdm", "true"]
    starts = [str(recipes / "quickstart_mlm_starts.yaml"), "--baseline", "from_scratch"]
    found = run(recipes / "quickstart_mlm_task.yaml", tmp_path / "out", *short, methods=starts, seeds=(1,))
    assert [row["method"] for row in found["methods"]] == ["from_scratch", "distilled_logits", "distilled_ckd"]
    assert len({row["parameters"] for row in found["methods"]}) == 1 and not found["failed"]


def test_a_recipe_of_a_language_model_is_refused(tmp_path, capsys):
    said = refused(capsys, PROJECT / "recipes" / "mlm_ckd.yaml", tmp_path / "out")
    assert "is an option of language models" in said and "recipes/quickstart_mlm_task.yaml" in said


def test_a_run_that_fails_does_not_stop_the_others(in_process, recipe, tmp_path, capsys):
    """A batch that does not fit: shown with its reason, and tried again by the same command."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("broken: {max_steps: 2, optim: adamw_bnb_8bit}\n")
    with pytest.raises(SystemExit) as stopped:
        run(recipe, tmp_path / "out", methods=["fine_tuned", str(bad), "ckd"], seeds=[1])
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert (
        "broken, seed 1: FAILED" in said.out and "Failed: 1 of 3 runs" in said.err and "broken, seed 1: " in said.err
    )
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["method"] for row in found["methods"]] == ["fine_tuned", "ckd"]
    assert found["failed"].keys() == {"broken, seed 1"}


@pytest.mark.parametrize(
    ("words", "methods", "message"),
    [
        ([], ["ckd"], "only ckd is given, so there is nothing to compare"),
        (["--baseline", "pkd"], ["ckd", "logits"], "baseline is pkd, which is not one of the methods"),
        (["--metric", "bleu"], ["ckd", "logits"], "metric is bleu, which cannot be compared: give accuracy or f1"),
        (["--seed", "3"], ["ckd", "logits"], "the command line sets 'seed', which the comparison sets: use --seeds."),
        (
            ["--output_dir", "x"],
            ["ckd", "logits"],
            "the command line sets 'output_dir', which the comparison sets: use --output.",
        ),
        (
            ["--do_eval"],
            ["ckd", "logits"],
            "the command line sets 'do_eval', which the comparison sets: leave it out.",
        ),
        (
            ["--learning_rat", "3"],
            ["ckd", "logits"],
            "error: learning_rat is not a known option: did you mean learning_rate",
        ),
        (["--no_such"], ["ckd", "logits"], "error: no_such is not a known option"),
        (["--learning_rate", "big"], ["ckd", "logits"], "learning_rate"),
        (["--push_to_hub"], ["ckd", "logits"], "push_to_hub is set, but compare does not upload models"),
        (["--search", "0"], ["ckd"], "'0' is not a whole number of at least 1"),
        (["--jobs", "0"], ["ckd", "logits"], "'0' is not a whole number of at least 1"),
        (["--students", "9x32"], ["ckd", "logits"], "9x32 ckd: student_num_layers is 9, but the teacher has only 4"),
        (["--teacher_model_name_or_path", "none/such"], ["ckd", "logits"], "ckd: "),
        (["--minilmv2_heads", "5"], ["ckd", "minilmv2"], "minilmv2: minilmv2_heads is 5, which does not divide"),
        (["--train_file", "none.tsv"], ["ckd", "logits"], "none.tsv is missing"),
        (["--unlabeled_file", "none.tsv"], ["ckd", "logits"], "none.tsv is missing"),
        (["--do_predict"], ["ckd", "logits"], "test_file is not set, but the test set is needed"),
        (["--do_predict", "--test_file", "none.tsv"], ["ckd", "logits"], "none.tsv is missing"),
        (["--unlabeled_file", "x.tsv", "--max_steps", "-1"], ["ckd", "fine_tuned"], "have different numbers of steps"),
        (["--max_eval_samples", "1"], ["ckd", "logits"], "there is one validation example"),
        (["--text_column", "review"], ["ckd", "logits"], "review"),
        (["--method_file", "mine.txt"], ["ckd", "logits"], "method_file is mine.txt, which does not exist"),
        (["--early_stopping_patience", "3"], ["ckd", "logits"], "ckd: early_stopping_patience is set, but load_best"),
        (["--prediction_loss_only", "true"], ["ckd", "logits"], "ckd: prediction_loss_only leaves no scores to"),
        (["--max_seq_length", "900"], ["ckd", "logits"], "ckd: max_seq_length is 900"),
        (
            ["--lora_rank", "2", "--lora_merge", "true", "--student_depths", "1,0.5"],
            ["ckd", "logits"],
            "ckd: lora_rank is set, but a student of several widths",
        ),
        (
            ["--student_depths", "1,0.5,0.51"],
            ["ckd", "logits"],
            "ckd: student_depths has 0.51 and 0.5, which are the same",
        ),
        ([], ["fine_tuned", "ranking"], "ranking: listwise_weight is set, which compares the candidates of a query"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(in_process, recipe, tmp_path, capsys, words, methods, message):
    assert message in refused(capsys, recipe, tmp_path / "out", *words, methods=methods)


def test_local_texts_without_labels_are_looked_at_first(in_process, recipe, tmp_path, capsys):
    DatasetDict(train=Dataset.from_dict({"text": ["the cat"] * 9})).save_to_disk(tmp_path / "texts")
    words = ["--unlabeled_dataset_name", str(tmp_path / "texts"), "--unlabeled_split_name", "trian"]
    assert "trian" in refused(capsys, recipe, tmp_path / "out", *words)


BEST = "load_best_model_at_end: true, eval_strategy: steps, save_strategy: steps"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("early_stopping_patience: 3", "early_stopping_patience is set, but load_best_model_at_end is not"),
        ("label_smoothing_factor: 1.5", "label_smoothing_factor is 1.5"),
        (f"{BEST}, metric_for_best_model: f2", "metric_for_best_model is f2, but the evaluation reports accuracy"),
        ("prediction_loss_only: true", "prediction_loss_only leaves no scores to compare"),
        ("method: fine_tuned, max_grad_norm: -1", "max_grad_norm is -1"),
        ("labels_and_logits: false, wr_distance_weight: 0", "no loss to train with"),
        ("stages: [{}, {labels_and_logits: false, wr_distance_weight: 0}]", "stage 2: labels_and_logits is off"),
        ("stages: [{}, {early_stopping_patience: 1}]", "stage 2: early_stopping_patience is set"),
        ("per_device_train_batch_size: 64, dataloader_drop_last: true", "there are 40 training examples, but a batch"),
    ],
)
def test_mistakes_of_a_later_variant_are_told_before_anything_is_trained(
    in_process, recipe, tmp_path, capsys, options, message
):
    changes = yaml.safe_load(recipe.read_text()) | {"wr_angle_weight": 0, "ltr_distance_weight": 0}
    recipe.write_text(yaml.safe_dump(changes | {"ltr_angle_weight": 0}))
    (tmp_path / "more.yaml").write_text(f"other: {{{options}}}\n")
    said = refused(capsys, recipe, tmp_path / "out", methods=["fine_tuned", str(tmp_path / "more.yaml")])
    assert "error: other: " in said and message in said


def test_a_teacher_with_other_labels_is_refused_before_anything_is_trained(in_process, recipe, tmp_path, capsys):
    BertForSequenceClassification(tiny_config(labels=("x", "y", "z"))).save_pretrained(save_base(tmp_path / "three"))
    words = ["--teacher_model_name_or_path", str(tmp_path / "three")]
    assert "error: ckd: " in refused(capsys, recipe, tmp_path / "out", *words)


def test_a_recipe_of_relations_alone_leaves_the_controls_their_labels(in_process, recipe, tmp_path):
    """As that of a first stage; one cache serves all."""
    output = tmp_path / "out"
    found = run(
        recipe, output, "--labels_and_logits", "no", methods=["fine_tuned", "ckd", "logits", "gram"], seeds=[1]
    )
    assert found["failed"] == {} and len(found["methods"]) == 4
    terms = {"fine_tuned": {"task"}, "logits": {"task", "logits"}, "gram": {"gram"}}
    for method, wanted in terms.items():
        log = json.loads((output / "runs" / method / "seed_1" / "trainer_state.json").read_text())["log_history"][0]
        assert {name.removeprefix("loss_") for name in log if name.startswith("loss_")} == wanted
    (cache,) = (output / "teacher_cache").glob("*/*.json")
    assert "Logits(2)" in json.loads(cache.read_text())["contents"]["signals"]


def test_the_recipe_comes_first(capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(["--methods", "ckd"])
    assert stopped.value.code == 2 and "give the recipe first" in capsys.readouterr().err


def test_it_starts_its_runs_itself(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without accelerate launch" in refused(capsys, recipe, tmp_path / "out")


def test_seeds_are_given_once(recipe, tmp_path, capsys):
    assert "seed 1 is given twice" in refused(capsys, recipe, tmp_path / "out", seeds=[1, 1])


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_result(recipe, tmp_path):
    """Killed outright in the first run, and by a signal in a later one: every student is the same to the last bit."""
    words = ["--methods", "fine_tuned", "ckd", "--seeds", "1", "--max_steps", "30", "--save_strategy", "steps"]
    words += ["--save_steps", "5"]
    program = [sys.executable, "-m", "ckd_trainer", "compare", str(recipe), *words, "--output"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*program, str(whole)], cwd=PROJECT, env=environment, check=True)
    for method, number in (("fine_tuned", signal.SIGKILL), ("ckd", signal.SIGTERM)):
        process = subprocess.Popen([*program, str(broken)], cwd=PROJECT, env=environment)
        folder = broken / "runs" / method / "seed_1"
        while not list(folder.glob("checkpoint-*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
    subprocess.run([*program, str(broken)], cwd=PROJECT, env=environment, check=True)
    for path in whole.glob("runs/*/*/model.safetensors"):
        assert path.read_bytes() == (broken / path.relative_to(whole)).read_bytes()
    results = [json.loads((folder / "compare.json").read_text())["methods"] for folder in (whole, broken)]
    assert [row["scores"] for row in results[0]] == [row["scores"] for row in results[1]]
    assert Path(broken / "compare.md").is_file()


def test_rankings(in_process, tmp_path):
    """Queries take the place of examples, and the ranking terms are a method like any other."""
    BertForSequenceClassification(tiny_config(labels=("0", "1"))).save_pretrained(save_base(tmp_path / "teacher"))
    files = [write_rankings(tmp_path / f"{name}.tsv", 9, 4, seed) for seed, name in enumerate(("train", "validation"))]
    data = {"train_file": str(files[0]), "validation_file": str(files[1]), "group_column": "query_id", "group_size": 4}
    data |= {"text_column": "query", "text_pair_column": "candidate", "max_seq_length": 32, "max_steps": 2}
    data |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "learning_rate": 3e-3}
    student = {"student_init": "teacher_layers", "student_num_layers": 2}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data | student | {"teacher_model_name_or_path": str(tmp_path / "teacher")}))
    found = run(recipe, tmp_path / "out", methods=("logits", "ranking"))
    assert found["metric"] == "ndcg_at_10"
    assert found["methods"][1]["difference"]["counted"] == "seeds and examples"
    options = yaml.safe_load((tmp_path / "out" / "recipes" / "ranking.yaml").read_text())
    assert options["listwise_weight"] == options["margin_mse_weight"] > 0
    for folder in (tmp_path / "out" / "runs").glob("*/seed_[12]"):
        values = load_arrays(folder / "eval_contributions.safetensors")
        assert {len(value) for value in values.values()} == {9}
