"""The scripts with a teacher that has a tokenizer of its own: from files to a student, its record and its scores."""

import json
import re
import shutil

import pytest
import torch
from helpers.commands import SHORT_RUN
from helpers.files import sentences, write_questions, write_tagged, write_tsv
from helpers.label_sets import LABELS, write_label_sets
from helpers.launching import launch
from helpers.rankings import write_rankings
from helpers.tokenizers import different_tokenizers, model_for
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
)

import run_glue_ckd
import run_mlm_ckd
import run_ner_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer.teacher.live import LiveTeacher

NOTE = "teacher and student have different tokenizers: relations compare words"
QUICK = ["--report_to", "none", "--disable_tqdm", "true", "--logging_steps", "2", "--per_device_train_batch_size", "8"]
ALL_TERMS = [f"--{relation}_{kind}_weight=0.3" for relation in ("wr", "ltr") for kind in ("distance", "angle")]


def save(folder, tokenizer, **kwargs):
    model_for(tokenizer, **kwargs).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def models(tmp_path):
    """Options that name a teacher and a student with different tokenizers."""
    pair = different_tokenizers()
    teacher, student = (
        save(tmp_path / "teacher", pair.teacher, seed=1),
        save(tmp_path / "student", pair.student, layers=2),
    )
    return ["--teacher_model_name_or_path", str(teacher), "--model_name_or_path", str(student), *QUICK, *ALL_TERMS]


@pytest.fixture
def files(tmp_path):
    train = write_tsv(tmp_path / "train.tsv", sentences(32))
    validation = write_tsv(tmp_path / "validation.tsv", sentences(22, seed=1))
    test = write_tsv(tmp_path / "test.tsv", [row[:1] for row in sentences(13, seed=2)], header=("text",))
    return ["--train_file", str(train), "--validation_file", str(validation), "--test_file", str(test)] + [
        "--max_seq_length",
        "24",
    ]


def run(main, folder, *options):
    main.main([*options, "--output_dir", str(folder)])
    return json.loads((folder / "all_results.json").read_text())


def log_of(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def test_classification(models, files, tmp_path, caplog):
    """A whole run: the plan, all terms, predictions, the card, and a saved tokenizer that is the student's."""
    output = tmp_path / "output"
    left = run(run_glue_ckd, output, *models, *files, "--do_train", "--do_eval", "--do_predict", "--max_steps", "6")
    assert NOTE in caplog.text and NOTE in (output / "README.md").read_text()
    assert 0 <= left["eval_accuracy"] <= 1
    terms = {f"loss_{term}" for term in ("task", "logits", "wr_distance", "wr_angle", "ltr_distance", "ltr_angle")}
    assert all(terms <= entry.keys() and entry["nonfinite_steps"] == 0 for entry in log_of(output))
    assert len((output / "predictions" / "predictions.tsv").read_text().splitlines()) == 14
    saved, student = (AutoTokenizer.from_pretrained(folder) for folder in (output, tmp_path / "student"))
    assert saved.get_vocab() == student.get_vocab()
    again = run(run_glue_ckd, output, *models, *files, "--do_eval", "--max_steps", "6")  # reads no teacher
    assert again["eval_accuracy"] == left["eval_accuracy"]


def test_killed_and_resumed_is_uninterrupted(models, files, tmp_path):
    options = [*models, *files, "--do_train", "--max_steps", "6", "--save_steps", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(run_glue_ckd, whole, *options)
    shutil.copytree(whole, cut)
    for path in cut.iterdir():
        if path.is_dir() and path.name != "checkpoint-3":
            shutil.rmtree(path)
        elif path.is_file() and path.name not in ("recipe.yaml", "run.json"):
            path.unlink()
    run(run_glue_ckd, cut, *options)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (cut, whole))
    assert ours.keys() == theirs.keys() and all(value.equal(theirs[name]) for name, value in ours.items())


def test_cache_serves_a_second_run_without_the_teacher(models, files, tmp_path, monkeypatch):
    options = [*models, *files, "--do_train", "--max_steps", "4", "--teacher_cache_dir", str(tmp_path / "cache")]
    run(run_glue_ckd, tmp_path / "one", *options)
    monkeypatch.setattr(LiveTeacher, "__call__", None)
    run(run_glue_ckd, tmp_path / "two", *options)
    assert log_of(tmp_path / "one")[-1]["loss"] == log_of(tmp_path / "two")[-1]["loss"]


@pytest.mark.slow
def test_two_processes_are_one(models, files, tmp_path):
    options = [*models, *files, "--do_train", "--max_steps", "4", "--optim", "sgd", "--learning_rate", "0.1"]
    options += ["--max_grad_norm", "0"]
    run(run_glue_ckd, tmp_path / "one", *options)
    options[options.index("--per_device_train_batch_size") + 1] = "4"
    launch("run_glue_ckd.py", *options, "--output_dir", str(tmp_path / "two"))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


def test_unlabeled_texts_and_pairs_of_texts(models, tmp_path, caplog):
    def rows(count, seed):
        return [
            (one, other, label)
            for (one, label), (other, _) in zip(sentences(count, seed), sentences(count, seed + 7), strict=True)
        ]

    header = ("text", "other", "label")
    train = write_tsv(tmp_path / "train.tsv", rows(24, 0), header=header)
    validation = write_tsv(tmp_path / "validation.tsv", rows(22, 1), header=header)
    more = write_tsv(tmp_path / "more.tsv", [row[:2] for row in rows(40, 2)], header=header[:2])
    options = ["--train_file", str(train), "--validation_file", str(validation), "--unlabeled_file", str(more)]
    options += ["--text_pair_column", "other", "--max_seq_length", "40", "--do_train", "--max_steps", "3"]
    run(run_glue_ckd, tmp_path / "output", *models, *options)
    assert NOTE in caplog.text and log_of(tmp_path / "output")[0]["loss_wr_angle"] > 0


def test_several_labels(tmp_path, caplog):
    pair = different_tokenizers()
    head = {"labels": LABELS, "problem_type": "multi_label_classification"}
    options = ["--teacher_model_name_or_path", str(save(tmp_path / "teacher", pair.teacher, seed=1, **head))]
    options += ["--model_name_or_path", str(save(tmp_path / "student", pair.student, layers=2, **head)), *QUICK]
    options += ["--train_file", str(write_label_sets(tmp_path / "train.tsv", 32)), "--multi_label", *ALL_TERMS]
    options += ["--max_seq_length", "24", "--do_train", "--max_steps", "2"]
    run(run_glue_ckd, tmp_path / "output", *options)
    assert NOTE in caplog.text and log_of(tmp_path / "output")[0]["loss_logits"] > 0


def test_candidates_of_queries(models, tmp_path, caplog):
    options = ["--train_file", str(write_rankings(tmp_path / "train.tsv", 16, 5, 0)), "--listwise_weight", "0.5"]
    options += ["--text_column", "query", "--text_pair_column", "candidate", "--group_column", "query_id"]
    options += ["--group_size", "4", "--max_seq_length", "40", "--do_train", "--max_steps", "2"]
    run(run_glue_ckd, tmp_path / "output", *models, *options)
    assert NOTE in caplog.text and log_of(tmp_path / "output")[0]["loss_listwise"] > 0


def test_a_student_of_several_widths(models, files, tmp_path, caplog):
    options = ["--student_widths", "1.0,0.5", "--do_train", "--max_steps", "2"]
    run(run_glue_ckd, tmp_path / "output", *models, *files, *options)
    assert NOTE in caplog.text
    (first,) = log_of(tmp_path / "output")
    assert first["nonfinite_steps"] == 0 and first["loss_wr_distance_w0.5_d1"] > 0


def test_one_vocabulary_read_in_two_ways(models, files, tmp_path, caplog):
    """The tokenizers differ in the case that they keep, which shows when they encode texts."""
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    tokenizer.backend_tokenizer.normalizer = None
    save(tmp_path / "cased", tokenizer, seed=1)
    models[1] = str(tmp_path / "cased")
    texts = write_tsv(tmp_path / "train.tsv", [(text.title(), label) for text, label in sentences(32)])
    run(
        run_glue_ckd,
        tmp_path / "output",
        *models,
        *files,
        "--train_file",
        str(texts),
        "--do_train",
        "--max_steps",
        "2",
    )
    assert NOTE in caplog.text


def refused(capsys, main, *options):
    with pytest.raises(SystemExit) as error:
        main.main(list(options))
    assert error.value.code == 2
    return capsys.readouterr().err


def test_language_models_are_refused(tmp_path, capsys):
    pair = different_tokenizers()
    for tokenizer in (pair.teacher, pair.student):
        tokenizer.mask_token = tokenizer.unk_token
    options = []
    for option, tokenizer in (("--teacher_model_name_or_path", pair.teacher), ("--model_name_or_path", pair.student)):
        folder = save(tmp_path / option.strip("-"), tokenizer, model_class=BertForMaskedLM)
        options += [option, str(folder)]
    (tmp_path / "text.txt").write_text("the cat sleeps\n" * 50)
    options += ["--train_file", str(tmp_path / "text.txt"), "--max_seq_length", "16", "--do_train", "--max_steps", "1"]
    said = refused(capsys, run_mlm_ckd, *options, "--output_dir", str(tmp_path / "output"))
    assert "different vocabularies" in said and "running text is cut into blocks of tokens" in said


def test_methods_of_tokens_are_refused_before_weights_are_read(models, files, tmp_path, capsys):
    for folder in ("teacher", "student"):
        (tmp_path / folder / "model.safetensors").unlink()
    options = [*models, *files, "--do_train", "--max_steps", "1", "--output_dir", str(tmp_path / "output")]
    said = refused(capsys, run_glue_ckd, *options, "--minilmv2_weight", "1", "--minilmv2_heads", "2")
    assert "so minilmv2 cannot compare them: queries and keys describe attention" in said


def other_task(tmp_path, model_class, **kwargs):
    pair = different_tokenizers()
    base = save(tmp_path / "base", pair.teacher, seed=1, model_class=model_class, **kwargs)
    student = save(tmp_path / "student", pair.student, layers=2, model_class=model_class, **kwargs)
    return base, student


def test_entities(tmp_path, caplog):
    """A teacher with a byte-level tokenizer teaches a WordPiece student, with long sentences in several windows."""
    base, student = other_task(tmp_path, BertForTokenClassification)
    train, validation = write_tagged(tmp_path / "train.conll", 96), write_tagged(tmp_path / "validation.conll", 23, 1)
    files = ["--train_file", str(train), "--validation_file", str(validation), "--max_seq_length", "16"]
    files += ["--doc_stride", "4", *QUICK, "--learning_rate", "3e-3", "--do_train", "--do_eval"]
    options = ["--task_name", "ner", "--model_name_or_path", str(base), "--num_train_epochs", "8"]
    taught = run(run_teacher, tmp_path / "teacher", *options, *files)
    assert taught["eval_f1"] > 0.8
    options = ["--teacher_model_name_or_path", str(tmp_path / "teacher"), "--model_name_or_path", str(student)]
    options += [*files, "--num_train_epochs", "8", "--alpha", "1", *SHORT_RUN]
    left = run(run_ner_ckd, tmp_path / "output", *options, "--teacher_cache_dir", str(tmp_path / "cache"))
    assert NOTE in caplog.text and "The teacher on" in caplog.text and "AT CHANCE" not in caplog.text
    assert left["eval_f1"] > 0.6  # without a label: the teacher's logits at the first token of each word


def test_answers(tmp_path, caplog):
    """The probabilities of words teach a student where answers start and end, without a label."""
    base, student = other_task(tmp_path, BertForQuestionAnswering, labels=("LABEL_0", "LABEL_1"))
    train, validation = (
        write_questions(tmp_path / "train.json", 96),
        write_questions(tmp_path / "dev.json", 23, seed=1),
    )
    files = ["--train_file", str(train), "--validation_file", str(validation), "--max_seq_length", "20"]
    files += ["--doc_stride", "4", "--max_question_length", "6", *QUICK, "--learning_rate", "3e-3"]
    files += ["--do_train", "--do_eval"]
    options = ["--task_name", "squad", "--model_name_or_path", str(base), "--num_train_epochs", "8"]
    taught = run(run_teacher, tmp_path / "teacher", *options, *files)
    assert taught["eval_f1"] > 80
    options = ["--teacher_model_name_or_path", str(tmp_path / "teacher"), "--model_name_or_path", str(student)]
    options += [*files, "--num_train_epochs", "8", "--alpha", "1", *SHORT_RUN]
    left = run(run_squad_ckd, tmp_path / "output", *options, "--teacher_cache_dir", str(tmp_path / "cache"))
    assert NOTE in caplog.text and left["eval_f1"] > 60
    assert lost_probability(caplog) < 20


def test_an_unsure_teacher_loses_probability(tmp_path, caplog):
    """A teacher that was never trained also gives the special tokens their share, which no word can take over."""
    base, student = other_task(tmp_path, BertForQuestionAnswering, labels=("LABEL_0", "LABEL_1"))
    questions = write_questions(tmp_path / "train.json", 8)
    options = ["--teacher_model_name_or_path", str(base), "--model_name_or_path", str(student), *QUICK]
    options += ["--train_file", str(questions), "--validation_file", str(questions), "--max_seq_length", "20"]
    options += ["--doc_stride", "4", "--max_question_length", "6", "--do_train", "--max_steps", "1"]
    run_squad_ckd.main([*options, "--output_dir", str(tmp_path / "output")])
    assert 5 < lost_probability(caplog) < 50


def lost_probability(caplog):
    (share,) = re.findall(
        r"In \d+ \w+ examples, at least (.*)% of the teacher's probability falls on tokens", caplog.text
    )
    return float(share)
