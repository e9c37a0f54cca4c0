"""Texts without labels through the scripts: files and data sets, beside labeled texts and alone."""

import errno
import json
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import sentences, snapshot, write_questions, write_tsv
from helpers.named_data import Hub, split_texts
from helpers.tiny import qa_model, save_tokenizer
from safetensors.torch import load_file

import run_glue_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer.data.parts import read_parts
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.training.sampling import MixedSampler

QUICK = ["--do_train", "--do_eval", "--max_steps", "6", "--save_steps", "3", "--report_to", "none"]
QUICK += [
    "--disable_tqdm",
    "true",
    "--per_device_train_batch_size",
    "8",
    "--max_seq_length",
    "32",
    "--logging_steps",
    "1",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def texts(tmp_path):
    rows = [row[:1] for row in sentences(60, seed=5)]
    return write_tsv(tmp_path / "more.tsv", rows, header=("text",))


@pytest.fixture
def command(tiny_teacher, tmp_path):
    train = write_tsv(tmp_path / "train.tsv", sentences(20))
    validation = write_tsv(tmp_path / "validation.tsv", sentences(22, seed=1))
    files = ["--train_file", str(train), "--validation_file", str(validation)]
    return ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *SHORT_RUN, *QUICK, *files]


def run(command, folder, *options, main=run_glue_ckd):
    main.main([*command, "--output_dir", str(folder), *map(str, options)])
    return json.loads((folder / "all_results.json").read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


def cut_back(folder):
    """Leaves of a run what it had when it was killed after the first checkpoint."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "checkpoint-3":
            shutil.rmtree(path)
        elif path.is_file() and path.name not in ("recipe.yaml", "run.json"):
            path.unlink()


def equal(one, other):
    return all(value.equal(other[name]) for name, value in one.items()) and one.keys() == other.keys()


def refused(capsys, command, folder, *options, main=run_glue_ckd, code=2):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(command, folder, *options, main=main)
    assert stopped.value.code == code
    return capsys.readouterr().err


def in_other_forms(texts, tmp_path):
    """Returns the options that name the same texts as JSON lines, parquet and a data set."""
    rows = texts.read_text().splitlines()[1:]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"text": row, "label": 3}) + "\n" for row in rows))
    pq.write_table(pa.table({"text": rows, "extra": range(len(rows))}), tmp_path / "more.parquet")
    Dataset.from_dict({"text": rows}).save_to_disk(tmp_path / "saved")
    return [
        ["--unlabeled_file", tmp_path / "more.jsonl"],
        ["--unlabeled_file", tmp_path / "more.parquet"],
        ["--unlabeled_dataset_name", tmp_path / "saved"],
    ]


def test_blank_texts_are_warned_of(command, tmp_path, capsys, caplog):
    (tmp_path / "some.tsv").write_text("text\ngood\n \nbad\n\u3000\n")
    run(command, tmp_path / "some", "--unlabeled_file", tmp_path / "some.tsv", "--max_steps", "1")
    assert "some.tsv: 2 of 4 texts ('text') are blank; the first is that of line 3." in caplog.text
    (tmp_path / "all.tsv").write_text("text\n \n\u3000\n")
    error = refused(capsys, command, tmp_path / "all", "--unlabeled_file", tmp_path / "all.tsv")
    assert "all.tsv: all texts ('text') are blank: name another column." in error


def test_each_form_trains_alike(command, texts, tmp_path):
    results = run(command, tmp_path / "tsv", "--unlabeled_file", texts)
    assert (results["train_samples"], results["unlabeled_samples"], results["epoch"]) == (20, 60, 6 / 5)
    assert results["eval_samples"] == 22
    for number, form in enumerate(in_other_forms(texts, tmp_path)):
        run(command, tmp_path / str(number), *form)
        assert equal(weights(tmp_path / "tsv"), weights(tmp_path / str(number)))
    without = run(command, tmp_path / "without")
    assert "unlabeled_samples" not in without and not equal(weights(tmp_path / "tsv"), weights(tmp_path / "without"))
    assert not list((tmp_path / "cache").glob("ckd-trainer-*"))  # the texts on disk are gone


def test_cached_and_resumed_bit_for_bit(command, texts, tmp_path):
    options = [
        "--unlabeled_file",
        texts,
        "--unlabeled_share",
        "0.75",
        "--teacher_cache_dir",
        tmp_path / "teacher_cache",
    ]
    options += ["--train_sampling_strategy", "group_by_length"]
    run(command, tmp_path / "whole", *options)
    run(command, tmp_path / "cut", *options)
    cut_back(tmp_path / "cut")
    run(command, tmp_path / "cut", *options)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_changed_texts_are_noticed(command, texts, tmp_path, capsys):
    run(command, tmp_path / "out", "--unlabeled_file", texts)
    write_tsv(texts, [row[:1] for row in sentences(60, seed=6)], header=("text",))
    error = refused(capsys, command, tmp_path / "out", "--unlabeled_file", texts)
    assert "unlabeled_file (more.tsv) has changed since the run" in error


def test_a_changed_data_set_is_noticed(command, texts, tmp_path, capsys):
    name = ["--unlabeled_dataset_name", tmp_path / "saved"]
    Dataset.from_dict({"text": ["good cat", "bad dog"] * 10}).save_to_disk(tmp_path / "saved")
    run(command, tmp_path / "out", *name)
    cut_back(tmp_path / "out")
    Dataset.from_dict({"text": ["good cat", "bad cat"] * 10}).save_to_disk(tmp_path / "saved")
    assert "unlabeled_dataset_name (train) has changed" in refused(capsys, command, tmp_path / "out", *name)


def test_alone(command, texts, tmp_path, capsys):
    """Labels are needed for validation only; each text is read once in an epoch."""
    place = command.index("--train_file")
    alone = command[:place] + command[place + 2 :]
    error = refused(capsys, alone, tmp_path / "out", "--unlabeled_file", texts)
    assert "there are unlabeled texts alone, but alpha is" in error
    results = run(alone, tmp_path / "out", "--unlabeled_file", texts, "--alpha", "1")
    assert (results["train_samples"], results["epoch"]) == (60, 6 / 8) and "eval_accuracy" in results
    cached = ["--unlabeled_file", texts, "--alpha", "1", "--teacher_cache_dir", tmp_path / "teacher_cache"]
    run(alone, tmp_path / "cached", *cached)
    run(alone, tmp_path / "again", *cached)  # with the complete cache
    assert equal(weights(tmp_path / "cached"), weights(tmp_path / "again"))


def test_confidence(command, texts, tmp_path, capsys, caplog):
    options = ["--unlabeled_file", texts, "--unlabeled_min_confidence"]
    assert "set teacher_cache_dir" in refused(capsys, command, tmp_path / "out", *options, "0.5")
    cache = ["--teacher_cache_dir", tmp_path / "teacher_cache"]
    everything = run(command, tmp_path / "all", *options, "0.5", *cache)  # the highest of two is never lower
    assert everything["unlabeled_samples"] == 60
    error = refused(capsys, command, tmp_path / "none", *options, "0.99999", *cache)
    highest = float(error.split("the teacher's highest is ")[1].split(":")[0])
    some = run(command, tmp_path / "some", *options, str(highest - 1e-3), *cache)
    assert 0 < some["unlabeled_samples"] < 60
    assert f"The teacher is sure of {some['unlabeled_samples']} of 60 unlabeled texts" in caplog.text


def test_without_a_teacher(command, texts, tmp_path, capsys, caplog):
    """The control run leaves them out; a teacher's training refuses them."""
    run(command, tmp_path / "with", "--alpha", "0", "--unlabeled_file", texts, "--unlabeled_share", "0.75")
    assert "so the unlabeled texts are left out" in caplog.text
    run(command, tmp_path / "without", "--alpha", "0")
    assert equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    teacher = [*command[2:], "--model_name_or_path", command[1]]
    teacher = [word for word in teacher if word not in (*STUDENT, *SHORT_RUN)]
    error = refused(capsys, teacher, tmp_path / "teacher_run", "--unlabeled_file", texts, main=run_teacher)
    assert "a teacher learns from the labels alone" in error


def test_data_of_the_hub(tiny_teacher, texts, tmp_path, monkeypatch):
    """Labeled texts from the Hub with unlabeled ones from a file, and both from the Hub."""
    Hub(monkeypatch, split_texts())
    models = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *SHORT_RUN, *QUICK]
    command = [*models, "--dataset_name", "me/data", "--text_column", "review"]
    write_tsv(texts, [row[:1] for row in sentences(60, seed=5)], header=("review",))
    assert run(command, tmp_path / "file", "--unlabeled_file", texts)["unlabeled_samples"] == 60
    more = ["--unlabeled_dataset_name", "me/more", "--unlabeled_split_name", "test"]
    assert run(command, tmp_path / "hub", *more)["unlabeled_samples"] == 13
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "- me/data\n- me/more\n" in card


def test_alone_without_evaluation(command, texts, tmp_path):
    """A narrower student is fitted to the teacher on the unlabeled texts."""
    place = command.index("--train_file")
    alone = [word for word in command[:place] + command[place + 2 :] if word != "--do_eval"]
    narrow = ["--unlabeled_file", texts, "--alpha", "1", "--student_config", '{"hidden_size": 16}']
    assert run(alone, tmp_path / "out", *narrow)["train_samples"] == 60


def test_confidence_in_every_stage(command, texts, tmp_path, monkeypatch):
    """Also in one that is trained after a resume."""
    options = ["--unlabeled_file", texts, "--teacher_cache_dir", tmp_path / "teacher_cache"]
    options += ["--stages", '[{"max_steps": 3}, {"max_steps": 5}]']
    drawn = []
    monkeypatch.setattr(MixedSampler, "__init__", noting(drawn, MixedSampler.__init__))
    run(command, tmp_path / "all", *options)
    assert {len(rows) for rows in drawn} == {60}
    drawn.clear()
    options += ["--unlabeled_min_confidence", confidence_of_half(command, texts, tmp_path)]
    drawn.clear()
    run(command, tmp_path / "some", *options)
    (kept,) = {tuple(rows) for rows in drawn}
    assert 0 < len(kept) < 60
    for path in (tmp_path / "some").iterdir():
        if path.is_file() and path.name not in ("recipe.yaml", "run.json"):
            path.unlink()
    whole = (tmp_path / "some" / "_stage_1" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "some" / "checkpoint-5", ignore_errors=True)
    shutil.rmtree(tmp_path / "some" / "checkpoint-3", ignore_errors=True)
    drawn.clear()
    run(command, tmp_path / "some", *options)
    assert {tuple(rows) for rows in drawn} == {kept}
    assert (tmp_path / "some" / "_stage_1" / "model.safetensors").read_bytes() == whole


def noting(drawn, init):
    def noted(self, labeled, unlabeled, **options):
        drawn.append(unlabeled.tolist())
        init(self, labeled, unlabeled, **options)

    return noted


def confidence_of_half(command, texts, tmp_path):
    """Returns a confidence that the teacher has for some of the texts, but not for all."""
    cache = ["--teacher_cache_dir", tmp_path / "teacher_cache"]
    with pytest.raises(SystemExit):
        run(command, tmp_path / "none", "--unlabeled_file", texts, "--unlabeled_min_confidence", "0.99999", *cache)
    return "0.6"


def test_a_mistake_in_a_later_part(command, texts, tmp_path, capsys, monkeypatch):
    """Found before any weights are loaded."""
    monkeypatch.setattr(read_parts, "__kwdefaults__", read_parts.__kwdefaults__ | {"size": 100})
    texts.write_text(texts.read_text() + "a\tcat\n")
    monkeypatch.setattr(StoredTeacher, "load", None)
    error = refused(capsys, command, tmp_path / "out", "--unlabeled_file", texts)
    assert "more.tsv, line 62: the row has 2 fields, not 1" in error


def test_a_full_disk(command, texts, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", full)
    error = refused(capsys, command, tmp_path / "out", "--unlabeled_file", texts, code=75)
    assert "HF_DATASETS_CACHE" in error and error.count("error: ") == 1


def test_options_for_labeled_texts_are_refused_without_any(command, texts, tmp_path, capsys):
    place = command.index("--train_file")
    alone = [*command[:place], *command[place + 2 :], "--unlabeled_file", str(texts), "--alpha", "1"]
    for option, value in (("unlabeled_share", "0.3"), ("max_train_samples", "5")):
        error = refused(capsys, alone, tmp_path / "out", f"--{option}", value)
        assert f"{option} is {value}, but there are no labeled texts" in error


def test_confidence_is_for_classes(tmp_path, capsys):
    rows = [(text, str(len(text))) for text, _ in sentences(20)]
    options = ["--train_file", write_tsv(tmp_path / "train.tsv", rows), "--regression", *STUDENT, *SHORT_RUN, *QUICK]
    options += ["--validation_file", tmp_path / "train.tsv", "--teacher_model_name_or_path", tmp_path / "none"]
    options += ["--unlabeled_file", tmp_path / "train.tsv", "--unlabeled_min_confidence", "0.5"]
    error = refused(capsys, [*map(str, options)], tmp_path / "out", "--teacher_cache_dir", tmp_path / "cache")
    assert "the task has no classes to be confident of" in error


def test_questions(tmp_path):
    qa_model().save_pretrained(tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher")
    train = write_questions(tmp_path / "train.json", 20)
    validation = write_questions(tmp_path / "validation.json", 12, seed=1)
    rows = [{"question": "very not", "context": text} for text, _ in sentences(40, seed=4)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["--teacher_model_name_or_path", str(tmp_path / "teacher"), *STUDENT, *SHORT_RUN, *QUICK]
    command += ["--train_file", str(train), "--validation_file", str(validation), "--doc_stride", "4"]
    command += ["--max_question_length", "8"]
    more = ["--unlabeled_file", tmp_path / "more.jsonl"]
    cut = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4", "--unlabeled_share", "0.75"]
    results = run(command, tmp_path / "out", *more, *cut, main=run_squad_ckd)
    assert results["unlabeled_samples"] >= 40 and results["train_samples"] >= 20
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert all(entry["nonfinite_steps"] == 0 for entry in log if "loss_task" in entry)
    assert all(entry["loss_task"] > 0 and entry["loss_logits"] > 0 for entry in log if "loss_task" in entry)
    alone = [word for word in command if word not in ("--train_file", str(train))]
    results = run(alone, tmp_path / "alone", *more, "--alpha", "1", main=run_squad_ckd)
    assert results["train_samples"] >= 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--unlabeled_file", "none.tsv"], "none.tsv is missing"),
        (["--unlabeled_file", "HERE/other.tsv"], "other.tsv has no column 'text'"),
        (
            ["--unlabeled_dataset_name", "HERE/saved", "--unlabeled_dataset_revision", "x"],
            "is a local folder: leave it",
        ),
        (["--unlabeled_file", "HERE/more.tsv", "--unlabeled_dataset_name", "x"], "give one or the other"),
        (["--unlabeled_share", "0.5"], "unlabeled_share is 0.5, but unlabeled_file is not set"),
        (["--unlabeled_file", "HERE/more.tsv", "--unlabeled_share", "1"], "unlabeled_share is 1: give a number"),
        (["--unlabeled_file", "HERE/more.tsv", "--unlabeled_share", "0.01"], "of the 8 examples of a step"),
        (["--unlabeled_file", "HERE/more.tsv", "--unlabeled_split_name", "x"], "unlabeled_dataset_name is not set"),
        (
            ["--unlabeled_dataset_name", "HERE/more.tsv"],
            "which is a file: give a folder, or give the file as unlabeled",
        ),
        (["--unlabeled_dataset_name", "HERE/saved", "--unlabeled_split_name", "dev"], "with unlabeled_split_name"),
        (["--unlabeled_file", "HERE/bad.tsv"], "bad.tsv, line 4: the row has 2 fields"),
    ],
)
def test_mistakes(command, texts, tmp_path, capsys, options, message):
    Dataset.from_dict({"text": ["a cat"]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "bad.tsv").write_text("text\na cat\na dog\na\tcat\n")
    (tmp_path / "other.tsv").write_text("review\na cat\n")
    before = snapshot(tmp_path / "teacher")
    options = [word.replace("HERE", str(tmp_path)) for word in options]
    error = refused(capsys, command, tmp_path / "out", *options)
    assert message in error and error.count("error: ") == 1
    assert snapshot(tmp_path / "teacher") == before
