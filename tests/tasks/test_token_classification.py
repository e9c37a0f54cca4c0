"""Named entities: tokens in the trainer, live and from the cache, and the scripts through their `main`."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import PROJECT, sentences, tagged_sentences, write_tagged
from helpers.tiny import save_base, save_tokenizer, tiny_config
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForTokenClassification, BertForTokenClassification, pipeline

import run_glue_ckd
import run_ner_ckd
import run_teacher
from ckd_trainer.data.conll import read_conll
from ckd_trainer.data.demo import entities
from ckd_trainer.metrics.entities import EntityMetric, entities_of

QUICK = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "3e-3"]
QUICK += ["--report_to", "none", "--logging_steps", "4", "--disable_tqdm", "true"]
LENGTHS = ["--max_seq_length", "10", "--doc_stride", "3"]  # sentences of up to 13 words: many make two windows
EPOCHS = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end"]


def own_files(folder):
    train, validation = write_tagged(folder / "train.conll", 96), write_tagged(folder / "validation.conll", 23, seed=1)
    return ["--train_file", str(train), "--validation_file", str(validation), *LENGTHS]


@pytest.fixture
def files(tmp_path):
    return own_files(tmp_path)


def fine_tune(base, output, *options):
    return run_teacher.main(
        ["--task_name", "ner", "--model_name_or_path", str(base), "--output_dir", str(output), *QUICK, *options]
    )


def distill(teacher, output, *options):
    return run_ner_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), "--output_dir", str(output), *STUDENT, *QUICK, *options]
    )


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A teacher that run_teacher.py has fine-tuned to find the entities of `tagged_sentences`."""
    folder = tmp_path_factory.mktemp("teacher")
    base = save_base(folder / "base")
    options = [*own_files(folder), "--do_train", "--do_eval", *EPOCHS, "--num_train_epochs", "8"]
    metrics = fine_tune(base, folder / "trained", *options, "--train_sampling_strategy", "group_by_length")
    assert metrics["eval_f1"] > 0.95
    return folder / "trained"


@pytest.fixture
def teacher(trained_once, tmp_path):
    return shutil.copytree(trained_once, tmp_path / "trained")


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------- whole runs


def test_teacher_then_student_end_to_end(teacher, files, tmp_path, caplog):
    output, test = tmp_path / "student", write_tagged(tmp_path / "test.conll", 17, seed=2)
    options = [*files, "--test_file", str(test), "--do_train", "--do_eval", "--do_predict", *EPOCHS]
    metrics = distill(teacher, output, *options, "--num_train_epochs", "4")
    assert "AT CHANCE" not in caplog.text and "The teacher on" in caplog.text
    left = json.loads((output / "all_results.json").read_text())
    assert left["eval_f1"] == metrics["eval_f1"] > 0.8 and left["eval_good_number"] == 11 and left["latency_ms"] > 0
    state = json.loads((output / "trainer_state.json").read_text())
    log = [entry for entry in state["log_history"] if "loss" in entry]
    terms = {f"loss_{term}" for term in ("task", "logits", "wr_distance")}
    assert log and all(terms | {"nonfinite_steps"} <= set(entry) for entry in log)
    assert state["best_metric"] == max(entry["eval_f1"] for entry in state["log_history"] if "eval_f1" in entry)

    # The two files of predictions say the same, in order, and their scores are those of an evaluation.
    said = read_conll(output / "predictions" / "predictions.conll", labeled=True)
    gold = tagged_sentences(17, seed=2)
    assert said.tokens == [words for words, _ in gold]
    scores = EntityMetric(keep_in_memory=True).compute(predictions=said.tags, references=[tags for _, tags in gold])
    again = fine_tune(output, tmp_path / "again", *files, "--validation_file", str(test), "--do_eval")
    assert scores["f1"] == pytest.approx(again["eval_f1"])
    rows = json_lines(output / "predictions" / "predictions.jsonl")
    for row, words, tags in zip(rows, said.tokens, said.tags, strict=True):
        assert row["text"] == " ".join(words)
        assert [span["label"] for span in row["spans"]] == [entity.type for entity in entities_of(tags)]
        for span in row["spans"]:
            assert row["text"][span["start"] : span["end"]] == span["text"] and 0 < span["score"] <= 1

    card = (output / "README.md").read_text()
    assert 'model = pipeline("token-classification", model=' in card and 'aggregation_strategy="first")' in card
    assert f"| f1 | {left['eval_f1']:.4f} |" in card
    assert str(tmp_path) not in card


def check_pipeline(folder, strategy):
    """Asserts that a pipeline finds the spans of predictions.jsonl, with their scores; returns their number."""
    model = pipeline("token-classification", model=str(folder), aggregation_strategy=strategy)
    rows = json_lines(folder / "predictions" / "predictions.jsonl")
    for row in rows:
        found = model(row["text"])
        said = [(one["start"], one["end"], one["entity_group"]) for one in found]
        assert said == [(span["start"], span["end"], span["label"]) for span in row["spans"]]
        assert [one["score"] for one in found] == pytest.approx([span["score"] for span in row["spans"]], abs=1e-5)
    return sum(len(row["spans"]) for row in rows)


def test_a_pipeline_finds_what_is_predicted(teacher, files, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in sentences(12, seed=3)))
    options = [*files, "--max_seq_length", "32", "--test_file", str(test), "--do_train", "--do_predict", *SHORT_RUN]
    distill(teacher, tmp_path / "student", *options, "--num_train_epochs", "4")
    assert check_pipeline(tmp_path / "student", "simple") >= 12
    config = AutoModelForTokenClassification.from_pretrained(tmp_path / "student").config
    assert config.id2label == {0: "O", 1: "B-bad", 2: "I-bad", 3: "B-good", 4: "I-good"}


def test_in_a_pipeline_the_first_pieces_decide_too(tmp_path):
    """Names of several pieces, by a model that was not trained and contradicts itself."""
    entities.write_task(tmp_path, train=60, validation=1, test=30)
    config = AutoConfig.from_pretrained(tmp_path / "base", num_labels=9, initializer_range=0.3)
    names = ["O", *(f"{prefix}-{kind}" for kind in sorted(entities.TYPES) for prefix in "BI")]
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "base")
    files = [f"--{name}_file={tmp_path / name}.jsonl" for name in ("train", "test")]
    fine_tune(tmp_path / "base", tmp_path / "out", *files, "--do_predict")
    shutil.copytree(tmp_path / "out" / "predictions", tmp_path / "base" / "predictions")
    assert check_pipeline(tmp_path / "base", "first") >= 30


def test_interrupted_run_resumes_and_ends_as_if_it_had_not_been(teacher, files, tmp_path):
    options = ["--do_train", *files, "--save_strategy", "steps", "--save_steps", "3", "--max_steps", "12"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(teacher, whole, *options)
    shutil.copytree(whole, cut)
    for path in cut.iterdir():  # as a run killed after step 7 leaves its folder
        if path.name.startswith("checkpoint-"):
            if int(path.name.split("-")[1]) > 6:
                shutil.rmtree(path)
        elif path.name != "recipe.yaml":
            path.unlink()
    distill(teacher, cut, *options)
    ours, theirs = load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("more", [[], ["--label_all_pieces", "false"]])
def test_cached_is_live(teacher, files, tmp_path, caplog, more):
    options = [*files, "--do_train", "--do_eval", "--max_steps", "6", "--logging_steps", "1", *more]
    options += ["--ltr_angle_weight", "0.3"]
    logs = {}
    for name in ("live", "built", "read"):
        caplog.clear()
        cache = [] if name == "live" else ["--teacher_cache_dir", str(tmp_path / "cache")]
        distill(teacher, tmp_path / name, *options, *cache)
        # The teacher is asked before the cache is built, and the cache that is there in its place.
        split = "training" if name == "read" else "validation"
        assert f"{split} examples: accuracy" in caplog.text
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        logs[name] = [entry for entry in state["log_history"] if "loss" in entry]
    for ours, theirs in zip(logs["live"], logs["read"], strict=True):
        for name in ("loss", "loss_task", "loss_logits", "loss_wr_distance", "loss_ltr_angle"):
            assert ours[name] == pytest.approx(theirs[name], rel=0.02), name
    assert logs["built"][0]["loss"] == logs["read"][0]["loss"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_predictions_do_not_depend_on_padding(teacher, files, tmp_path, side):
    """By a model that counts no positions, which on the left would differ between batches."""
    model = AutoModelForTokenClassification.from_pretrained(teacher)
    model.bert.embeddings.position_embeddings.weight.data.zero_()
    model.save_pretrained(teacher)
    save_tokenizer(teacher, padding_side=side)
    found = []
    for options in ("--per_device_eval_batch_size 1", "--per_device_eval_batch_size 7", "--pad_to_max_length"):
        output = tmp_path / str(len(found))
        test = ["--test_file", str(tmp_path / "validation.conll")]
        metrics = fine_tune(teacher, output, *files, *test, "--do_eval", "--do_predict", *options.split())
        said = read_conll(output / "predictions" / "predictions.conll", labeled=True)
        found.append((metrics["eval_f1"], metrics["eval_accuracy"], said.tags))
    assert found[0] == found[1] == found[2]


def test_label_smoothing_and_other_methods(teacher, files, tmp_path):
    options = [*files, "--do_train", "--do_eval", "--max_steps", "4", *SHORT_RUN]
    more = ["--label_smoothing_factor", "0.1", "--pkd_weight", "0.3", "--gram_weight", "0.3"]
    metrics = distill(teacher, tmp_path / "out", *options, *more)
    assert np.isfinite(metrics["eval_loss"])
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert {"loss_pkd", "loss_gram"} <= set(state["log_history"][0])


def test_stages(teacher, files, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stages:\n- {max_steps: 2, alpha: 1.0}\n- {max_steps: 3, alpha: 0.0}\n")
    command = [str(recipe), "--teacher_model_name_or_path", str(teacher), *STUDENT, *QUICK, *SHORT_RUN, *files]
    metrics = run_ner_ckd.main([*command, "--output_dir", str(tmp_path / "out"), "--do_train", "--do_eval"])
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["stages"]) == 2 and "eval_f1" in metrics


def test_texts_without_labels(teacher, files, tmp_path):
    texts = tmp_path / "more.jsonl"
    texts.write_text("".join(json.dumps({"letter": text}) + "\n" for text, _ in sentences(40, seed=4)))
    more = ["--unlabeled_file", str(texts), "--text_column", "letter", "--max_steps", "4", *SHORT_RUN]
    results = distill(teacher, tmp_path / "out", *files, *more, "--do_train", "--do_eval")
    assert results["unlabeled_samples"] >= 40 and results["train_samples"] >= 96
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert all(entry["loss_task"] > 0 and entry["loss_logits"] > 0 for entry in log if "loss_task" in entry)
    alone = [word for word in files if not word.endswith("train.conll") and word != "--train_file"]
    results = distill(teacher, tmp_path / "alone", *alone, *more, "--do_train", "--do_eval", "--alpha", "1")
    assert results["train_samples"] >= 40 and "eval_f1" in results


def test_contributions_are_those_of_f1(teacher, files, tmp_path):
    distill(teacher, tmp_path / "out", *files, "--do_train", "--do_eval", "--max_steps", "4", *SHORT_RUN)
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    values = load_arrays(tmp_path / "out" / "eval_contributions.safetensors")
    assert set(values) == {"eval_f1", "eval_precision", "eval_recall", "eval_accuracy"}
    for name, value in values.items():
        assert value.shape == (23,) and value.mean() == pytest.approx(results[name], abs=1e-12)


def test_a_dynamic_student(tmp_path, teacher, files):
    options = [*files, "--do_train", "--do_eval", "--max_steps", "3", "--student_init", "teacher_layers", *SHORT_RUN]
    options += ["--student_num_layers", "4", "--student_widths", "1.0,0.5", "--student_depths", "1.0,0.5"]
    found = distill(teacher, tmp_path / "out", *options)
    parts = ["w1_d0.5", "w0.5_d1", "w0.5_d0.5"]
    mean = (found["eval_f1"] + sum(found[f"eval_f1_{part}"] for part in parts)) / 4
    assert found["eval_mean_f1"] == pytest.approx(mean)


@pytest.mark.parametrize("role", ["teacher", "ckd"])
def test_demo_task_by_its_recipes(tmp_path, monkeypatch, role):
    data = tmp_path / "runs" / "quickstart_ner" / "data"
    entities.write_task(data, train=60, validation=12, test=4)
    monkeypatch.chdir(tmp_path)
    quick = ["--max_steps", "3", "--disable_tqdm", "true", "--max_seq_length", "24", "--doc_stride", "8"]
    recipe = str(PROJECT / "recipes" / f"quickstart_ner_{role}.yaml")
    if role == "ckd":
        fine_tune(
            data / "base",
            tmp_path / "runs/quickstart_ner/teacher",
            "--student_init",
            "random",
            *quick,
            "--train_file",
            str(data / "train.jsonl"),
            "--do_train",
        )
        metrics = run_ner_ckd.main([recipe, *quick])
    else:
        metrics = run_teacher.main([recipe, *quick])
    assert 0 <= metrics["eval_f1"] <= 1 and metrics["eval_samples"] > 12


def test_real_files_through_the_command_line(shared_data, teacher, tmp_path):
    folder = shared_data / "ner" / "wnut17"
    options = ["--train_file", str(folder / "train.conll"), "--validation_file", str(folder / "dev.conll")]
    options += ["--test_file", str(folder / "test.conll"), "--max_seq_length", "20", "--doc_stride", "5"]
    limits = ["--max_train_samples", "40", "--max_eval_samples", "30", "--max_predict_samples", "20"]
    metrics = fine_tune(
        teacher, tmp_path / "out", *options, *limits, "--do_train", "--do_eval", "--do_predict", "--max_steps", "2"
    )
    assert 0 <= metrics["eval_f1"] <= metrics["eval_accuracy"] <= 1
    said = read_conll(tmp_path / "out" / "predictions" / "predictions.conll", labeled=True)
    assert said.tokens == read_conll(folder / "test.conll", labeled=False).tokens[:20]


# --------------------------------------------------------------------------------------------------------- refused


def refused(capsys, *options, main=run_ner_ckd.main):
    with pytest.raises(SystemExit) as stopped:
        main(list(options))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error and error.count("error: ") == 1
    return error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task_name", "squad"], "task_name is 'squad': give ner, or leave it out"),
        (["--doc_stride", "8"], "leaves 8 tokens for the text beside the special ones"),
        (["--doc_stride", "0"], "doc_stride is 0: give 1 or more"),
        (["--max_seq_length", "64"], "reads at most 32 tokens"),
        (["--tag_column_number", "0"], "tag_column_number is 0"),
        (["--token_column_number", "3"], "line 1: token_column_number is 3, but the line has 2 columns"),
        (["--metric_for_best_model", "rouge", *EPOCHS], "the evaluation reports f1, precision, recall"),
        (["--validation_file", "missing.conll", "--do_eval"], "missing.conll is missing"),
        (["--do_predict"], "test_file is not set, but the test set is needed"),
        (["--label_column", "a"], "label_column is not a known option"),
        (["--unlabeled_file", "HERE/train.conll"], "has the suffix '.conll': give a .csv"),
        (["--dataset_name", "a"], "dataset_name is a, but train_file is set as well"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(teacher, files, tmp_path, capsys, options, words):
    common = ["--teacher_model_name_or_path", str(teacher), *STUDENT, *files, "--do_train"]
    options = [word.replace("HERE", str(tmp_path)) for word in options]
    assert words in refused(capsys, *common, "--output_dir", str(tmp_path / "out"), *options)
    assert not (tmp_path / "out").exists()


def test_scripts_and_tasks_that_do_not_go_together(tmp_path, capsys):
    output = ["--output_dir", str(tmp_path / "out"), "--do_train"]
    other = refused(capsys, "--task_name", "ner", *output, main=run_glue_ckd.main)
    assert "task_name is ner, which is named entities: use ckd-trainer ner" in other
    misspelt = refused(capsys, "--task_name", "NER", *output, main=run_teacher.main)
    assert "task_name is 'NER', which is not a task; the nearest is ner" in misspelt
    assert "there is no data to use: give dataset_name, or train_file" in refused(capsys, *output)


def test_teachers_and_their_labels(teacher, files, tmp_path, capsys, caplog):
    """In another order they are matched by name, and other labels are refused."""
    config = AutoModelForTokenClassification.from_pretrained(teacher).config
    model = AutoModelForTokenClassification.from_pretrained(teacher)
    order = [4, 3, 2, 1, 0]
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    names = [config.id2label[place] for place in order]
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: n for n, name in enumerate(names)}
    model.save_pretrained(tmp_path / "turned")
    save_tokenizer(tmp_path / "turned")
    results = []
    for name in (teacher, tmp_path / "turned"):
        out = tmp_path / f"out_{name.name}"
        results.append(distill(name, out, *files, "--do_train", "--do_eval", "--max_steps", "4", *SHORT_RUN))
    assert "labels in another order than the data. They are matched by name" in caplog.text
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], rel=1e-4)

    BertForTokenClassification(tiny_config(labels=("O", "B-x", "I-x"))).save_pretrained(tmp_path / "other")
    save_tokenizer(tmp_path / "other")
    error = refused(
        capsys, "--teacher_model_name_or_path", str(tmp_path / "other"), *STUDENT, *files, "--do_train",
        "--output_dir", str(tmp_path / "out"),
    )  # fmt: skip
    assert "the teacher has 3 labels, but the data has 5" in error


def test_a_teacher_that_guesses_is_warned_of(teacher, files, tmp_path, caplog):
    model = AutoModelForTokenClassification.from_pretrained(teacher)
    model.classifier.weight.data.zero_()
    model.save_pretrained(teacher)
    distill(teacher, tmp_path / "out", *files, "--do_train", "--do_eval", "--max_steps", "1", *SHORT_RUN)
    assert "THE TEACHER SCORES AT CHANCE" in caplog.text
