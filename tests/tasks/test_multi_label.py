"""Several labels per text: the scripts through their `main`, from a teacher to predictions by tuned thresholds."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import sentences, write_tsv
from helpers.label_sets import LABELS, label_sets, write_label_sets
from helpers.tiny import save_base, save_tokenizer, tiny_config
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification, pipeline

import run_glue_ckd
import run_teacher
from ckd_trainer.cli import main
from ckd_trainer.metrics.multi_label import SCORES, best_thresholds
from ckd_trainer.teacher.fingerprint import model_fingerprint

QUICK = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "3e-3"]
QUICK += ["--report_to", "none", "--logging_steps", "4", "--disable_tqdm", "true", "--max_seq_length", "32"]
EPOCHS = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end"]
BOTH = ["--do_train", "--do_eval"]
RELATIONS = [f"--{relation}_{kind}_weight=0.3" for relation in ("wr", "ltr") for kind in ("distance", "angle")]


def own_files(folder):
    train, validation = (
        write_label_sets(folder / f"{name}.tsv", count, seed)
        for seed, (name, count) in enumerate((("train", 96), ("validation", 24)))
    )
    return ["--train_file", str(train), "--validation_file", str(validation), "--multi_label"]


@pytest.fixture
def files(tmp_path):
    return own_files(tmp_path)


def fine_tune(base, output, *options):
    return run_teacher.main(["--model_name_or_path", str(base), "--output_dir", str(output), *QUICK, *options])


def distill(teacher, output, *options):
    return run_glue_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), "--output_dir", str(output), *STUDENT, *QUICK, *options]
    )


def refused(capsys, run, *words):
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A teacher that run_teacher.py has fine-tuned on `label_sets`."""
    folder = tmp_path_factory.mktemp("teacher")
    base = save_base(folder / "base")
    options = ["--num_train_epochs", "16", "--learning_rate", "5e-3", "--train_sampling_strategy", "group_by_length"]
    metrics = fine_tune(base, folder / "trained", *own_files(folder), *BOTH, *options, *EPOCHS)
    assert metrics["eval_f1_micro"] > 0.9
    return folder / "trained"


@pytest.fixture
def teacher(trained_once, tmp_path):
    return shutil.copytree(trained_once, tmp_path / "trained")


def read(path):
    return json.loads(path.read_text())


def predictions(folder):
    return [json.loads(line) for line in (folder / "predictions" / "predictions.jsonl").read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------- whole runs


def test_teacher_then_student_end_to_end(teacher, files, tmp_path, caplog):
    output, test = tmp_path / "student", write_label_sets(tmp_path / "test.tsv", 17, seed=2)
    options = [*files, "--test_file", str(test), *BOTH, "--do_predict", *EPOCHS, "--num_train_epochs", "6", *RELATIONS]
    metrics = distill(teacher, output, *options)
    assert "AT CHANCE" not in caplog.text and "The teacher on 24 validation examples: correlation" in caplog.text
    left = read(output / "all_results.json")
    assert left["eval_f1_micro"] == metrics["eval_f1_micro"] > 0.7 and left["eval_good_number"] == 12
    assert {f"eval_{score}" for score in SCORES} <= left.keys() and left["latency_ms"] > 0
    state = read(output / "trainer_state.json")
    log = [entry for entry in state["log_history"] if "loss" in entry]
    terms = {f"loss_{term}" for term in ("task", "logits", "wr_distance", "wr_angle", "ltr_distance", "ltr_angle")}
    assert log and all(terms | {"nonfinite_steps"} <= set(entry) for entry in log)
    # The score without thresholds chooses the best checkpoint.
    found = [entry["eval_average_precision"] for entry in state["log_history"] if "eval_average_precision" in entry]
    assert state["best_metric"] == max(found)

    # The thresholds in the configuration are those of the predictions, and a pipeline follows the card to the same.
    config = AutoConfig.from_pretrained(output)
    assert config.problem_type == "multi_label_classification" and list(config.label_thresholds) == list(LABELS)
    rows = predictions(output)
    assert [row["text"] for row in rows] == [text for text, _ in label_sets(17, seed=2)]
    for row in rows:
        assert row["label"] == [name for name in LABELS if row["scores"][name] >= config.label_thresholds[name]]
    card = (output / "README.md").read_text()
    assert f"| f1_micro | {left['eval_f1_micro']:.4f} |" in card and str(tmp_path) not in card
    model = pipeline("text-classification", model=str(output), top_k=None)
    code = card.split("\n# Each label has")[1].split("\n", 1)[1].split("\n```")[0].split("\n")
    for row in rows:
        space = {"model": model, "text": row["text"]}
        exec(code[0], space)
        found = eval(code[1].replace('"Thank you!"', "text"), space)
        assert sorted(one["label"] for one in found) == row["label"]
        assert all(one["score"] == pytest.approx(row["scores"][one["label"]], abs=1e-5) for one in found)

    # Predictions have the form of training data.
    again = ["--train_file", str(output / "predictions" / "predictions.jsonl"), *files[2:]]
    assert fine_tune(teacher, tmp_path / "again", *again, "--do_train", "--max_steps", "1")["train_samples"] == 17


def test_thresholds_are_the_best_on_the_validation_set(teacher, files, tmp_path):
    config = AutoConfig.from_pretrained(teacher)
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    scores = pipeline("text-classification", model=model, tokenizer=str(teacher), top_k=None)
    rows = label_sets(24, seed=1)
    found = [{one["label"]: one["score"] for one in scores([text])[0]} for text, _ in rows]
    probabilities = np.array([[row[name] for name in LABELS] for row in found])
    references = np.array([[name in labels for name in LABELS] for _, labels in rows]).astype(int)
    expected = best_thresholds(references, probabilities)
    assert [config.label_thresholds[name] for name in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_thresholds_of_a_finished_model_score_other_texts(teacher, files, tmp_path):
    """They were tuned elsewhere, so they need no halves, and stay as they are."""
    before = (teacher / "config.json").read_bytes()
    other = write_label_sets(tmp_path / "other.tsv", 31, seed=5)
    options = [*files, "--validation_file", str(other), "--test_file", str(other), "--do_eval", "--do_predict"]
    metrics = fine_tune(teacher, tmp_path / "out", *options)
    said = [[name in row["label"] for name in LABELS] for row in predictions(tmp_path / "out")]
    actual = np.array([[name in labels for name in LABELS] for _, labels in label_sets(31, seed=5)])
    f1 = 2 * (actual & said).sum() / (actual.sum() + np.sum(said))
    assert metrics["eval_f1_micro_tuned"] == pytest.approx(f1)
    assert (teacher / "config.json").read_bytes() == before and not (tmp_path / "out" / "config.json").exists()


def test_the_same_command_again_changes_nothing(teacher, files, tmp_path):
    """A run that was killed before its evaluation tunes in the call that finishes it."""
    once, later = tmp_path / "once", tmp_path / "later"
    options = [*files, "--max_steps", "3", *SHORT_RUN]
    distill(teacher, once, *options, *BOTH)
    distill(teacher, later, *options, "--do_train")
    assert not hasattr(AutoConfig.from_pretrained(later), "label_thresholds")  # those of the teacher are gone
    distill(teacher, later, *options, *BOTH)
    assert (once / "config.json").read_bytes() == (later / "config.json").read_bytes()
    scores = [name for name in read(once / "eval_results.json") if name.startswith("eval_") and "_per_" not in name]
    ours, theirs = (read(folder / "eval_results.json") for folder in (once, later))
    assert all(ours[name] == theirs[name] for name in scores if not name.endswith("runtime"))
    card = (later / "README.md").read_text()
    assert 'getattr(model.model.config, "label_thresholds", {})' in card
    assert f"| f1_macro | {theirs['eval_f1_macro']:.4f} |" in card


def test_interrupted_run_resumes_and_ends_as_if_it_had_not_been(teacher, files, tmp_path):
    options = [*files, *BOTH, "--save_strategy", "steps", "--save_steps", "3", "--max_steps", "12"]
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
    assert (cut / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def test_cached_is_live(teacher, files, tmp_path):
    options = [*files, *BOTH, *RELATIONS, "--max_steps", "6", "--logging_steps", "1"]
    logs = {}
    for name in ("live", "built", "read"):
        cache = [] if name == "live" else ["--teacher_cache_dir", str(tmp_path / "cache")]
        distill(teacher, tmp_path / name, *options, *cache)
        logs[name] = [
            entry for entry in read(tmp_path / name / "trainer_state.json")["log_history"] if "loss" in entry
        ]
    for ours, theirs in zip(logs["live"], logs["read"], strict=True):
        for name in ("loss", "loss_task", "loss_logits", "loss_wr_distance", "loss_ltr_angle"):
            assert ours[name] == pytest.approx(theirs[name], rel=0.02), name
    assert logs["built"][0]["loss"] == logs["read"][0]["loss"]


def test_other_thresholds_make_no_other_cache(teacher):
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    before = model_fingerprint(model)
    model.config.label_thresholds = dict.fromkeys(LABELS, 0.25)
    assert model_fingerprint(model) == before


@pytest.mark.parametrize("cut", [["1", "8"], ["4", "2"]])
def test_a_step_does_not_depend_on_how_it_is_cut(teacher, files, tmp_path, cut):
    """1 x 8 = 4 x 2 = 8 x 1, with texts of different lengths."""
    config = read(teacher / "config.json") | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (teacher / "config.json").write_text(json.dumps(config))
    options = [*files, *BOTH, "--max_steps", "3", "--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0"]
    distill(teacher, tmp_path / "whole", *options)
    size, steps = cut
    batches = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", steps]
    distill(teacher, tmp_path / "cut", *options, *batches, "--per_device_eval_batch_size", "5", "--pad_to_max_length")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-6)
    scores = [read(tmp_path / name / "eval_results.json")["eval_average_precision"] for name in ("cut", "whole")]
    assert scores[0] == pytest.approx(scores[1])


def test_stages_and_other_methods(teacher, files, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stages:\n- {max_steps: 2, alpha: 1.0}\n- {max_steps: 3, alpha: 0.0}\n")
    command = [str(recipe), "--teacher_model_name_or_path", str(teacher), *STUDENT, *QUICK, *SHORT_RUN, *files]
    command += ["--pkd_weight", "0.3", "--gram_weight", "0.3", "--attribution_weight", "0.3", "--logging_steps", "1"]
    metrics = run_glue_ckd.main([*command, "--output_dir", str(tmp_path / "out"), *BOTH])
    assert len(read(tmp_path / "out" / "run.json")["stages"]) == 2 and "eval_f1_micro" in metrics
    log = read(tmp_path / "out" / "trainer_state.json")["log_history"]
    assert {"loss_pkd", "loss_gram", "loss_attribution"} <= set(log[0])
    assert hasattr(AutoConfig.from_pretrained(tmp_path / "out"), "label_thresholds")


def test_texts_without_labels_are_not_texts_to_which_none_applies(teacher, files, tmp_path, capsys):
    """They count in the loss on the logits alone; a blank cell counts in the loss on the labels too."""
    texts = write_tsv(tmp_path / "more.tsv", [[text] for text, _ in label_sets(40, seed=4)], header=("text",))
    more = ["--unlabeled_file", str(texts), "--max_steps", "4", "--logging_steps", "1", *SHORT_RUN]
    results = distill(teacher, tmp_path / "out", *files, *more, *BOTH)
    assert results["unlabeled_samples"] == 40 and results["train_samples"] == 96
    log = read(tmp_path / "out" / "trainer_state.json")["log_history"]
    log = [entry for entry in log if "loss_task" in entry]
    assert log and all(entry["loss_task"] > 0 and entry["loss_logits"] > 0 for entry in log)

    # A student that gives every label the logit 0: the loss on the labels is log 2 for any text that counts, and the
    # mean is over labeled texts alone.
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    student.classifier.weight.data.zero_()
    student.classifier.bias.data.zero_()
    student.save_pretrained(tmp_path / "zero")
    shutil.copy(tmp_path / "out" / "tokenizer.json", tmp_path / "zero")
    shutil.copy(tmp_path / "out" / "tokenizer_config.json", tmp_path / "zero")
    start = ["--student_init", "pretrained", "--student_num_layers", "none", "--model_name_or_path"]
    run_glue_ckd.main(
        [*["--teacher_model_name_or_path", str(teacher), "--output_dir", str(tmp_path / "zeros")]]
        + [*QUICK, *files, *more, *start, str(tmp_path / "zero"), "--do_train"]
    )
    first = read(tmp_path / "zeros" / "trainer_state.json")["log_history"][0]
    assert first["loss_task"] == pytest.approx(np.log(2), abs=1e-4)

    alone = [*files[2:], *more, *BOTH, "--alpha", "1"]
    results = distill(teacher, tmp_path / "alone", *alone)
    assert results["train_samples"] == 40 and "eval_f1_macro_tuned" in results
    sure = ["--unlabeled_min_confidence", "0.9", "--teacher_cache_dir", str(tmp_path / "cache")]
    error = refused(capsys, distill, teacher, tmp_path / "sure", *files, *more, *BOTH, *sure)
    assert "the task has no classes to be confident of" in error


def test_unlabeled_texts_without_a_header(teacher, tmp_path):
    rows = [(text, ",".join(labels), "x") for text, labels in label_sets(32)]
    write_tsv(tmp_path / "all.tsv", rows[1:], header=rows[0])
    options = [f"--{name}_file={tmp_path / 'all.tsv'}" for name in ("train", "validation", "unlabeled")]
    options += ["--multi_label", "--column_names", "text,label,id", "--max_steps", "2", *SHORT_RUN, *BOTH]
    results = distill(teacher, tmp_path / "out", *options)
    assert (results["train_samples"], results["unlabeled_samples"], results["eval_samples"]) == (32, 32, 32)


def test_contributions_are_those_of_the_scores(teacher, files, tmp_path):
    distill(teacher, tmp_path / "out", *files, *BOTH, "--max_steps", "4", *SHORT_RUN)
    results = read(tmp_path / "out" / "eval_results.json")
    values = load_arrays(tmp_path / "out" / "eval_contributions.safetensors")
    assert set(values) == {f"eval_{score}" for score in SCORES}
    for name, value in values.items():
        assert value.shape == (24,) and value.mean() == pytest.approx(results[name], abs=1e-12)


@pytest.mark.parametrize("metric", ["f1_micro", "f1_macro_tuned"])
def test_another_score_chooses_the_checkpoint(teacher, files, tmp_path, metric):
    options = [*files, *BOTH, *EPOCHS, "--metric_for_best_model", metric, "--num_train_epochs", "3", *SHORT_RUN]
    distill(teacher, tmp_path / "out", *options)
    state = read(tmp_path / "out" / "trainer_state.json")
    found = [entry[f"eval_{metric}"] for entry in state["log_history"] if f"eval_{metric}" in entry]
    assert len(found) >= 3 and state["best_metric"] == max(found)


def test_a_dynamic_student(teacher, files, tmp_path, capsys):
    options = [*files, *BOTH, "--max_steps", "3", *SHORT_RUN]
    options += ["--student_num_layers", "4", "--student_widths", "1.0,0.5", "--student_depths", "1.0,0.5"]
    found = distill(teacher, tmp_path / "out", *options)
    parts = ["w1_d0.5", "w0.5_d1", "w0.5_d0.5"]
    mean = (found["eval_f1_micro"] + sum(found[f"eval_f1_micro_{part}"] for part in parts)) / 4
    assert found["eval_mean_f1_micro"] == pytest.approx(mean)
    assert "eval_good_number_w1_d0.5" not in found
    whole = AutoConfig.from_pretrained(tmp_path / "out").label_thresholds

    # A sub-network has other probabilities: its plain model has no thresholds, until it is evaluated.
    folders = {"1.0": tmp_path / "whole", "0.5": tmp_path / "half"}
    for width, folder in folders.items():
        main(["export-subnets", str(tmp_path / "out"), "--widths", width, "--depths", width, "--output", str(folder)])
    assert AutoConfig.from_pretrained(tmp_path / "whole").label_thresholds == whole
    assert not hasattr(AutoConfig.from_pretrained(tmp_path / "half"), "label_thresholds")
    test = ["--test_file", str(tmp_path / "validation.tsv"), "--do_predict"]
    error = refused(
        capsys, fine_tune, tmp_path / "half", tmp_path / "said", "--train_file", files[1], *files[4:], *test
    )
    assert "do_predict needs a threshold for each label, but the model has none: add --do_eval" in error
    fine_tune(tmp_path / "half", tmp_path / "said", *files, *test, "--do_eval")
    assert len(predictions(tmp_path / "said")) == 24

    words = ["--metric", "average_precision", "--output", str(tmp_path / "found"), "--max_parameters", "10000000"]
    main(["search", str(tmp_path / "out"), *words])
    assert len(read(tmp_path / "found" / "search.json")["students"]) == 4


# ----------------------------------------------------------------------------------------------------------- teachers


def turned(teacher, folder, order):
    """Saves the teacher with its labels, and the thresholds, in another order."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    names = [LABELS[place] for place in order]
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: n for n, name in enumerate(names)}
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def test_a_teacher_with_another_order_of_labels(teacher, files, tmp_path, caplog):
    other = turned(teacher, tmp_path / "turned", [2, 0, 1])
    results = [
        distill(name, tmp_path / f"out_{name.name}", *files, *BOTH, "--max_steps", "4", *SHORT_RUN)
        for name in (teacher, other)
    ]
    assert "labels in another order than the data. They are matched by name" in caplog.text
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], rel=1e-4)
    assert results[0]["eval_f1_micro_tuned"] == pytest.approx(results[1]["eval_f1_micro_tuned"])

    # A model that is evaluated keeps the threshold of each label.
    options = [*files, "--test_file", str(tmp_path / "validation.tsv"), "--do_predict", "--do_eval"]
    scores = [fine_tune(name, tmp_path / f"eval_{name.name}", *options) for name in (teacher, other)]
    assert scores[0]["eval_f1_micro_tuned"] == scores[1]["eval_f1_micro_tuned"]
    assert predictions(tmp_path / "eval_trained") == predictions(tmp_path / "eval_turned")


def test_a_teacher_whose_names_are_wrong_is_refused(teacher, files, tmp_path, capsys):
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    model.classifier.weight.data = model.classifier.weight.data[[1, 2, 0]]
    model.classifier.bias.data = model.classifier.bias.data[[1, 2, 0]]
    model.save_pretrained(teacher)
    error = refused(capsys, distill, teacher, tmp_path / "out", *files, *BOTH)
    assert "the teacher's labels are in another order than the data's" in error
    assert "'bad' means 'fine', 'fine' means 'good', 'good' means 'bad'" in error


def test_a_teacher_that_guesses_is_warned_of(teacher, files, tmp_path, caplog):
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    model.classifier.weight.data.zero_()
    model.save_pretrained(teacher)
    distill(teacher, tmp_path / "out", *files, *BOTH, "--max_steps", "1", *SHORT_RUN)
    assert "THE TEACHER SCORES AT CHANCE" in caplog.text


@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_a_teacher_of_one_label_is_refused(files, tmp_path, capsys, problem):
    BertForSequenceClassification(tiny_config(labels=LABELS, problem_type=problem)).save_pretrained(tmp_path / "one")
    save_tokenizer(tmp_path / "one")
    error = refused(capsys, distill, tmp_path / "one", tmp_path / "out", *files, *BOTH)
    assert "the teacher gives one class per text, but this data has several labels per text" in error
    assert "set problem_type to multi_label_classification in its config.json" in error
    assert not (tmp_path / "out").exists()
    error = refused(capsys, fine_tune, tmp_path / "one", tmp_path / "out", *files, "--do_eval")
    assert "cannot be evaluated on this data: the model gives one class per text" in error


def test_a_teacher_of_scores_and_one_of_other_labels_are_refused(files, tmp_path, capsys):
    for labels, words in (
        (("score",), "the teacher predicts a number, but the data has 3 labels: it was fine-tuned for another"),
        (("bad", "fine", "ugly"), "the teacher's labels are 'ugly', 'bad', 'fine', but the data has 'good'"),
    ):
        problem = "regression" if len(labels) == 1 else "multi_label_classification"
        config = tiny_config(labels=labels, problem_type=problem)
        BertForSequenceClassification(config).save_pretrained(tmp_path / "other")
        save_tokenizer(tmp_path / "other")
        assert words in refused(capsys, distill, tmp_path / "other", tmp_path / "out", *files, *BOTH)


def test_a_teacher_of_several_labels_is_refused_for_classes(teacher, tmp_path, capsys):
    rows = [(text, ("bad", "fine", "good")[number % 3]) for number, (text, _) in enumerate(sentences(24))]
    path = str(write_tsv(tmp_path / "classes.tsv", rows))
    error = refused(capsys, distill, teacher, tmp_path / "out", "--train_file", path, "--validation_file", path, *BOTH)
    assert "the teacher gives several labels per text, but this data has one class per text" in error


def test_thresholds_that_are_damaged_are_refused(teacher, files, tmp_path, capsys):
    config = read(teacher / "config.json")
    del config["label_thresholds"]["fine"]
    (teacher / "config.json").write_text(json.dumps(config))
    test = ["--test_file", str(tmp_path / "validation.tsv"), "--do_predict"]
    error = refused(capsys, fine_tune, teacher, tmp_path / "out", *files, *test)
    assert "label_thresholds are" in error and "not thresholds of its labels ('bad', 'fine', 'good')" in error


def test_predictions_of_a_run_that_does_not_evaluate_are_refused(teacher, files, tmp_path, capsys):
    options = [*files, "--test_file", str(tmp_path / "validation.tsv"), "--do_train", "--do_predict"]
    error = refused(capsys, distill, teacher, tmp_path / "out", *options)
    assert "do_predict needs a threshold for each label" in error and not (tmp_path / "out").exists()


def test_label_smoothing_is_refused(teacher, files, tmp_path, capsys):
    error = refused(capsys, distill, teacher, tmp_path / "out", *files, *BOTH, "--label_smoothing_factor", "0.1")
    assert "label_smoothing_factor is set, but a text has several labels" in error


def test_real_files_through_the_command_line(shared_data, tmp_path):
    """GoEmotions: no header, ids joined by commas, names in a file whose last line does not end."""
    folder = shared_data / "multilabel" / "goemotions"
    files = [f"--{name}_file={folder / file}.tsv" for name, file in (("train", "train"), ("validation", "dev"))]
    files += [f"--test_file={folder / 'test.tsv'}", "--column_names", "text,labels,id", "--label_column", "labels"]
    files += ["--multi_label", f"--label_names_file={folder / 'labels.txt'}", "--quoting", "csv"]
    base = save_base(tmp_path / "base")
    few = ["--max_train_samples", "64", "--max_eval_samples", "50", "--max_predict_samples", "9", "--max_steps", "2"]
    metrics = fine_tune(base, tmp_path / "out", *files, *few, *BOTH, "--do_predict")
    assert metrics["train_samples"] == 64 and metrics["eval_samples"] == 50
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert len(config.id2label) == 28 and config.id2label[27] == "neutral" and config.id2label[0] == "admiration"
    assert len(predictions(tmp_path / "out")) == 9
