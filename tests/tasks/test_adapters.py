"""Students with LoRA adapters through the scripts: what is trained and saved, resumed, merged and refused."""

import json
import re
import shutil

import pytest
import torch
from helpers.commands import SHORT_RUN
from helpers.families import FAMILIES, family_model
from helpers.files import sentences, write_questions, write_tagged, write_tsv
from helpers.label_sets import write_label_sets
from helpers.launching import launch
from helpers.tiny import save_tokenizer, tiny_model
from helpers.training import examples, pad, trainer
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import run_glue_ckd
import run_mlm_ckd
import run_ner_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer import DistillationTrainer, ModelArguments
from ckd_trainer.models.adapters import add_adapter
from ckd_trainer.utils.errors import InputError

pytest.importorskip("peft")

LORA = ["--lora_rank", "4", "--learning_rate", "1e-2"]


@pytest.fixture
def base(tmp_path):
    """A pre-trained encoder, whose labels are other ones."""
    tiny_model(layers=2, seed=3, labels=("x", "y", "z")).save_pretrained(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def distill(tiny_teacher, base, text_files, tmp_path):
    """Runs run_glue_ckd.py with adapters; returns what it returns."""

    def run(name, *options):
        models = ["--teacher_model_name_or_path", str(tiny_teacher), "--model_name_or_path", str(base)]
        command = [*models, *text_files, *SHORT_RUN, *LORA, "--output_dir", str(tmp_path / name), *options]
        return run_glue_ckd.main(command)

    return run


def batch_of():
    return pad(list(examples(8).remove_columns("labels")))


def logits(model):
    with torch.no_grad():
        return model.eval()(**batch_of()).logits


def as_the_card_says(folder, base):
    """Runs the code of a model card."""
    card = (folder / "README.md").read_text()
    code = re.search(r"## Use.*?```python\n(.*?)```", card, re.DOTALL).group(1)
    names = {}
    exec(code.replace('"base"', f'"{base}"').replace(f'"{folder.name}"', f'"{folder}"'), names)
    return card, names["model"]


def test_an_adapter_is_saved_and_loaded_as_the_card_says(distill, base, tmp_path):
    metrics = distill("student", "--do_train", "--do_eval", "--do_predict", "--max_steps", "4")
    folder = tmp_path / "student"
    assert not (folder / "model.safetensors").exists()
    saved = load_file(folder / "adapter_model.safetensors")
    assert any("lora_A" in name for name in saved) and any("classifier" in name for name in saved)
    count = sum(tensor.numel() for tensor in saved.values())
    assert metrics["trained_parameters"] == count < metrics["parameters"] / 2
    assert metrics["adapter_size_mb"] == round(4 * count / 1e6, 3)
    card, model = as_the_card_says(folder, base)
    assert f"The files hold an adapter for `base`, not a whole model: {count:,} trained parameters" in card
    assert model.config.id2label == {0: "bad", 1: "good"}
    # The next call finds the trained adapter, and measures and predicts the same.
    first = (folder / "predictions").glob("*").__next__().read_text()
    shutil.rmtree(folder / "predictions")
    again = distill("student", "--do_eval", "--do_predict", "--max_steps", "4")
    assert again["eval_loss"] == metrics["eval_loss"]
    assert (folder / "predictions").glob("*").__next__().read_text() == first
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(as_the_card_says(folder, base)[1]), rtol=1e-4, atol=1e-5)


def test_merged_adapters_are_an_ordinary_model(distill, base, tmp_path):
    metrics = distill("adapter", "--do_train", "--do_eval", "--max_steps", "4")
    merged = distill("merged", "--do_train", "--do_eval", "--max_steps", "4", "--lora_merge")
    assert merged["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-4)
    assert merged["trained_parameters"] == metrics["trained_parameters"]
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not list((tmp_path / "merged").glob("adapter_*"))
    expected = logits(as_the_card_says(tmp_path / "adapter", base)[1])
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert distill("merged", "--do_eval", "--max_steps", "4", "--lora_merge")["eval_loss"] == merged["eval_loss"]


def test_an_adapter_is_refused_on_another_base(distill, base, tmp_path, capsys):
    """It would be evaluated with weights that it was not trained on."""
    options = ["--do_eval", "--max_steps", "2"]
    distill("student", "--do_train", *options)
    tiny_model(layers=2, seed=4, labels=("x", "y", "z")).save_pretrained(base)
    for more in ([], ["--do_train"]):
        with pytest.raises(SystemExit):
            distill("student", *options, *more)
        error = capsys.readouterr().err
        assert "model_name_or_path" in error and "has changed since the run" in error and "leave do_train" not in error


@pytest.mark.parametrize("merge", [False, True])
def test_a_resumed_run_is_the_same_bit_for_bit(distill, tmp_path, merge):
    options = ["--do_train", "--do_eval", "--max_steps", "6", "--save_steps", "3"] + ["--lora_merge"] * merge
    distill("whole", *options)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shutil.copytree(whole, killed)
    for path in killed.iterdir():
        if path.name != "checkpoint-3" and path.name not in ("recipe.yaml", "run.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    distill("killed", *options)
    name = "model.safetensors" if merge else "adapter_model.safetensors"
    ours, theirs = load_file(killed / name), load_file(whole / name)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    # Killed after the last checkpoint: the end of training alone is missing.
    for name in ("train_results.json", "all_results.json", "trainer_state.json"):
        (killed / name).unlink()
    assert (
        distill("killed", *options)["eval_loss"] == json.loads((whole / "all_results.json").read_text())["eval_loss"]
    )


def test_the_best_adapter_is_kept(distill, base, tmp_path):
    best = ["--eval_strategy", "steps", "--eval_steps", "1", "--load_best_model_at_end", "--save_strategy", "steps"]
    best += ["--save_steps", "1", "--metric_for_best_model", "eval_loss"]
    metrics = distill("student", "--do_train", "--do_eval", "--max_steps", "4", *best)
    log = json.loads((tmp_path / "student" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert metrics["eval_loss"] == min(losses)


def test_only_adapters_and_the_head_are_trained(base, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(base)
    student = add_adapter(model, ModelArguments(str(base), lora_rank=2), AutoModelForSequenceClassification)
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    assert {name.split(".modules_to_save")[0].removeprefix("base_model.model.") for name in trained - adapters} == {
        "bert.pooler",
        "classifier",
    }
    assert len(adapters) == 2 * 2 * 6  # two matrices for each of 6 linear layers in 2 layers


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_adapters(family, tmp_path):
    """The relations' gradient reaches them, and what is saved is all that was trained."""
    arguments = ModelArguments("it", lora_rank=2)
    student = add_adapter(family_model(family, layers=2), arguments, AutoModelForSequenceClassification)
    frozen = {name: weight.clone() for name, weight in student.named_parameters() if not weight.requires_grad}
    run = trainer(DistillationTrainer, tmp_path, student, steps=2, teacher_model=family_model("BERT", seed=1))
    run.train()
    relations = ("wr_distance", "wr_angle", "ltr_distance", "ltr_angle")
    assert all(run.balance.norms[term] > 1e-6 for term in relations)
    weights = dict(student.named_parameters())
    assert frozen and all(torch.equal(weights[name], value) for name, value in frozen.items())
    run.save_model(tmp_path / "saved")

    from peft import PeftModel

    fresh = family_model(family, layers=2)
    for name, module in fresh.named_children():
        if name != fresh.base_model_prefix:
            for weight in module.parameters():
                torch.nn.init.normal_(weight)  # as when a base model is loaded without a head
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "saved")
    torch.testing.assert_close(logits(loaded), logits(student))


OTHERS = {  # the script, how its files are written, and its options
    "ner": (run_ner_ckd, write_tagged, ["--doc_stride", "3"]),
    "squad": (run_squad_ckd, write_questions, ["--doc_stride", "8", "--max_question_length", "4"]),
    "teacher": (run_teacher, lambda path, *rows: write_tsv(path, sentences(*rows)), []),
}


@pytest.mark.parametrize("task", OTHERS)
def test_other_scripts(task, base, tmp_path):
    script, write, options = OTHERS[task]
    suffix = {"ner": "conll", "squad": "json"}.get(task, "tsv")
    files = [write(tmp_path / f"{name}.{suffix}", 24, seed) for seed, name in enumerate(("train", "validation"))]
    command = ["--train_file", str(files[0]), "--validation_file", str(files[1]), "--max_seq_length", "32", *LORA]
    command += ["--model_name_or_path", str(base), "--do_train", "--do_eval", "--max_steps", "2", *options]
    command += ["--output_dir", str(tmp_path / "student")]
    if task != "teacher":
        command += [*SHORT_RUN, "--alpha", "0"]
    metrics = script.main(command)
    _, model = as_the_card_says(tmp_path / "student", base)
    assert metrics["trained_parameters"] > 0 and model.peft_config["default"].r == 4
    assert script.main(command)["eval_loss"] == metrics["eval_loss"]


def test_thresholds_of_several_labels_are_those_of_the_training(base, tmp_path):
    files = [write_label_sets(tmp_path / f"{name}.tsv", 48, seed) for seed, name in enumerate(("train", "validation"))]
    command = ["--train_file", str(files[0]), "--validation_file", str(files[1]), "--test_file", str(files[1])]
    command += ["--multi_label", "--max_seq_length", "32", "--model_name_or_path", str(base), *LORA, *SHORT_RUN]
    command += ["--alpha", "0", "--max_steps", "4", "--output_dir", str(tmp_path / "student")]
    run_glue_ckd.main([*command, "--do_train", "--do_eval", "--do_predict"])
    folder = tmp_path / "student" / "predictions"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    shutil.rmtree(folder)
    run_glue_ckd.main([*command, "--do_predict"])
    assert before and {path.name: path.read_text() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_rank": 0}, "lora_rank is 0: give 1 or more"),
        ({"lora_merge": True}, "lora_merge is set, but lora_rank is not"),
        ({"lora_target_modules": "query"}, "lora_target_modules is set, but lora_rank is not"),
        (
            {"lora_rank": 2, "student_init": "random"},
            "student_init random makes a model that is not saved anywhere, .* set lora_merge",
        ),
    ],
)
def test_options_that_contradict_each_other(options, words):
    with pytest.raises(InputError, match=words):
        ModelArguments("it", **options)


def test_peft_is_not_installed(monkeypatch):
    monkeypatch.setattr("ckd_trainer.arguments.is_peft_available", lambda: False)
    with pytest.raises(InputError, match=r"peft is not installed: pip install 'ckd-trainer\[lora\]'"):
        ModelArguments("it", lora_rank=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lora_target_modules", "querry"], "lora_target_modules is querry, .* key, query, value"),
        (["--lora_target_modules", "query,foo"], "lora_target_modules is query,foo, .* give some of dense, key"),
        (["--lora_target_modules", "classifier"], "classifier, but bert models have no such linear layers"),
        (["--stages", '[{"alpha": 0.5}, {"alpha": 0}]'], "each of the stages starts from a whole model"),
        (["--student_widths", "1.0,0.5"], "a student of several widths or depths has plain layers"),
        (["--fsdp", "full_shard"], "adapters are not supported with FSDP and DeepSpeed"),
    ],
)
def test_runs_that_cannot_have_adapters(distill, capsys, options, words):
    with pytest.raises(SystemExit):
        distill("student", "--do_train", "--max_steps", "2", *options)
    assert re.search(words, capsys.readouterr().err)


def test_language_models_have_no_adapters(tiny_teacher, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the cat runs\n" * 50)
    command = ["--teacher_model_name_or_path", str(tiny_teacher), "--model_name_or_path", str(tiny_teacher), *LORA]
    with pytest.raises(SystemExit):
        run_mlm_ckd.main(
            [*command, "--train_file", str(tmp_path / "text.txt"), "--do_train", "--output_dir", str(tmp_path / "out")]
        )
    assert "lora_rank is set, but a language model is saved whole" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
def test_two_processes_train_like_one(distill, tiny_teacher, base, text_files, tmp_path, merge):
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tiny_model(layers=2, seed=3, **no_dropout).save_pretrained(base)
    options = ["--do_train", "--do_eval", "--max_steps", "3", "--logging_steps", "1", *["--lora_merge"] * merge]
    # Plain descent, by which weights differ as much as gradients do.
    options += ["--per_device_eval_batch_size", "11", "--wr_angle_weight", "0.3"]
    options += ["--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0"]
    one = distill("one", *options, "--per_device_train_batch_size", "8")
    models = ["--teacher_model_name_or_path", str(tiny_teacher), "--model_name_or_path", str(base)]
    command = [*models, *text_files, *SHORT_RUN, *LORA, *options, "--per_device_train_batch_size", "4"]
    launch("run_glue_ckd.py", *command, "--output_dir", str(tmp_path / "two"))
    two = json.loads((tmp_path / "two" / "all_results.json").read_text())
    for name in ("train_loss", "eval_loss", "trained_parameters", "scale_wr_angle"):
        assert two[name] == pytest.approx(one[name], rel=1e-3)
