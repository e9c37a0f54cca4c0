"""A run resumes, and its trained model is used again, only with the inputs that it was trained on."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from datasets import Dataset, DatasetDict
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import sentences, snapshot, write_questions, write_tsv
from helpers.tiny import qa_model, save_base, tiny_model

import run_glue_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer.arguments import ModelArguments
from ckd_trainer.runs.folder import Start
from ckd_trainer.runs.inputs import TrainingInputs
from ckd_trainer.utils.files import files_fingerprint

QUICK = ["--do_train", "--max_steps", "4", "--save_steps", "2", "--report_to", "none", "--disable_tqdm", "true"]
EVALUATES = ["--eval_strategy", "steps", "--eval_steps", "2"]
BEST = [*EVALUATES, "--load_best_model_at_end"]


@pytest.fixture
def trains(text_files, tmp_path):
    """Options that train on good and bad sentences."""
    return [*text_files, *QUICK, "--output_dir", str(tmp_path / "out")]


@pytest.fixture
def distills(tiny_teacher, trains):
    """A command that distills."""
    return ["--teacher_model_name_or_path", str(tiny_teacher), *SHORT_RUN, *trains]


def cut_back(output):
    """Leaves of a run what it had when it was killed after the first checkpoint."""
    for path in output.iterdir():
        if path.name not in ("recipe.yaml", "run.json", "checkpoint-2"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def refused(capsys, command, main=run_glue_ckd.main):
    """Runs a command that is refused and leaves its folder as it was; returns the message."""
    output = Path(command[command.index("--output_dir") + 1])
    before = snapshot(output)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(command)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("error: ") == 1 and "Traceback" not in error
    assert snapshot(output) == before
    return error


def corrected(path):
    """Changes the first label of a file."""
    lines = path.read_text().splitlines(keepends=True)
    text, label = lines[1].rstrip("\n").split("\t")
    lines[1] = f"{text}\t{'bad' if label == 'good' else 'good'}\n"
    path.write_text("".join(lines))


def recorded(output):
    return json.loads((output / "run.json").read_text())["inputs"]


@pytest.mark.parametrize("main", [run_glue_ckd.main, run_teacher.main])
def test_corrected_training_file_is_refused(distills, trains, tiny_teacher, tmp_path, capsys, main):
    """By a trained run, and by one that was killed."""
    command, output = [*distills, *STUDENT], tmp_path / "out"
    if main is run_teacher.main:
        command = ["--model_name_or_path", str(tiny_teacher), *trains]
    main(command)
    corrected(tmp_path / "train.tsv")
    for is_trained in (True, False):
        if not is_trained:
            cut_back(output)
        error = refused(capsys, command, main)
        assert "train_file (train.tsv) has changed since the run in output_dir" in error and "restore it" in error
        assert ("leave do_train out" in error) == is_trained
    main([*command, "--overwrite_output_dir"])
    assert (output / "train_results.json").exists()
    main(command)


def test_corrected_training_questions_are_refused(tmp_path, capsys):
    base = save_base(tmp_path / "base")
    qa_model().save_pretrained(base)
    folder = tmp_path / "squad"
    folder.mkdir()
    write_questions(folder / "train-v1.1.json", 24)
    options = ["--max_seq_length", "32", "--doc_stride", "4", "--max_question_length", "8", *QUICK]
    for name, files in (
        ("file", ["--train_file", str(folder / "train-v1.1.json")]),
        ("dir", ["--data_dir", str(folder)]),
    ):
        command = ["--teacher_model_name_or_path", str(base), *STUDENT, *SHORT_RUN, *files, *options]
        command += ["--output_dir", str(tmp_path / name)]
        write_questions(folder / "train-v1.1.json", 24)
        run_squad_ckd.main(command)
        cut_back(tmp_path / name)
        write_questions(folder / "train-v1.1.json", 23)
        option = "train_file" if name == "file" else "data_dir"
        assert f"{option} (train-v1.1.json)" in refused(capsys, command, run_squad_ckd.main)


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("teacher/model.safetensors", STUDENT),
        ("teacher/tokenizer.json", STUDENT),
        ("teacher/config.json", STUDENT),
        ("student/model.safetensors", ["--model_name_or_path", "STUDENT"]),
        ("student/config.json", ["--model_name_or_path", "STUDENT", "--student_init", "random"]),
    ],
)
def test_changed_models_are_refused(distills, tiny_teacher, tmp_path, capsys, file, start):
    """By a trained run, and by one that was killed."""
    shutil.copytree(tiny_teacher, tmp_path / "student")
    command = [*distills, *(word.replace("STUDENT", str(tmp_path / "student")) for word in start)]
    run_glue_ckd.main(command)
    path = tmp_path / file
    if path.suffix == ".json":
        path.write_text(path.read_text() + "\n")
    else:
        tiny_model(seed=1).save_pretrained(path.parent)
    option = "teacher_model_name_or_path" if file.startswith("teacher") else "model_name_or_path"
    assert f"{option} ({path.name})" in refused(capsys, command)
    cut_back(tmp_path / "out")
    assert f"{option} ({path.name})" in refused(capsys, command)


def test_what_training_did_not_read_may_change(distills, tiny_teacher, tmp_path):
    """Files of other sets, and what a model's folder holds beside the model: results, checkpoints, a card."""
    shutil.copytree(tiny_teacher, tmp_path / "student")
    command = [*distills, "--model_name_or_path", str(tmp_path / "student"), "--student_init", "random"]
    run_glue_ckd.main(command)
    cut_back(tmp_path / "out")
    assert recorded(tmp_path / "out").keys() == {"train_file", "model_name_or_path", "teacher_model_name_or_path"}
    corrected(tmp_path / "validation.tsv")
    write_tsv(tmp_path / "test.tsv", [("the cat",)], header=("text",))
    tiny_model(seed=1).save_pretrained(tmp_path / "student")  # of which only the configuration is read
    (tiny_teacher / "README.md").write_text("A teacher.")
    (tiny_teacher / "all_results.json").write_text("{}")
    (tiny_teacher / "checkpoint-1").mkdir()
    run_glue_ckd.main([*command, "--do_eval", "--do_predict"])
    assert (tmp_path / "out" / "train_results.json").exists()


@pytest.mark.parametrize(
    ("options", "refused_if_trained", "refused_if_killed"),
    [(BEST, True, True), (EVALUATES, False, True), (["--do_eval"], False, False)],
)
def test_validation_set_counts_where_training_has_read_it(
    distills, tmp_path, capsys, options, refused_if_trained, refused_if_killed
):
    command = [*distills, *STUDENT, *options]
    first = run_glue_ckd.main(command)
    corrected(tmp_path / "validation.tsv")

    def check(is_refused):
        if is_refused:
            assert "validation_file (validation.tsv)" in refused(capsys, command)
        else:
            assert run_glue_ckd.main(command)["eval_accuracy"] != first["eval_accuracy"]

    check(refused_if_trained)
    run_glue_ckd.main([word for word in command if word != "--do_train"])  # it may be evaluated on anything
    cut_back(tmp_path / "out")
    check(refused_if_killed)


def test_trained_model_outlives_what_it_was_trained_on(distills, tiny_teacher, tmp_path, caplog):
    command = [*distills, *STUDENT, "--do_eval"]
    first = run_glue_ckd.main(command)
    (tiny_teacher / "model.safetensors").unlink()
    assert run_glue_ckd.main(command)["eval_accuracy"] == first["eval_accuracy"]
    shutil.rmtree(tiny_teacher)
    assert run_glue_ckd.main(command)["eval_accuracy"] == first["eval_accuracy"]
    assert "cannot be noticed" not in caplog.text


def test_run_without_recorded_inputs_goes_on(distills, tmp_path, caplog):
    """One of an earlier version, or whose record is damaged."""
    command, output = [*distills, *STUDENT], tmp_path / "out"
    run_glue_ckd.main(command)
    cut_back(output)
    record = json.loads((output / "run.json").read_text())
    for content in (
        None,
        "",
        "[]",
        '{"inputs": [1]}',
        '{"inputs": {"train_file": 3}}',
        json.dumps({**record, "inputs": 1}),
    ):
        cut = shutil.copytree(output, tmp_path / "cut")
        (output / "run.json").unlink() if content is None else (output / "run.json").write_text(content)
        caplog.clear()
        run_glue_ckd.main(command)
        assert "changes cannot be noticed" in caplog.text and (output / "train_results.json").exists()
        shutil.rmtree(output)
        cut.rename(output)


def test_before_the_first_checkpoint_anything_may_change(distills, tmp_path):
    command, output = [*distills, *STUDENT], tmp_path / "out"
    run_glue_ckd.main(command)
    cut_back(output)
    shutil.rmtree(output / "checkpoint-2")
    before = recorded(output)
    corrected(tmp_path / "train.tsv")
    run_glue_ckd.main(command)
    assert recorded(output)["train_file"] != before["train_file"]


def test_evaluation_keeps_the_record_of_training(tiny_teacher, text_files, tmp_path, capsys):
    """do_train off, on, off and on again: what training has read stays on record, and nothing before that counts."""
    output = tmp_path / "out"
    command = [
        "--model_name_or_path",
        str(tiny_teacher),
        *text_files,
        *QUICK,
        "--output_dir",
        str(output),
        "--do_eval",
    ]
    evaluation = [word for word in command if word != "--do_train"]
    run_teacher.main(evaluation)
    assert recorded(output) == {}
    corrected(tmp_path / "train.tsv")
    run_teacher.main(command)
    cut_back(output)
    before = recorded(output)
    corrected(tmp_path / "train.tsv")
    run_teacher.main(evaluation)
    assert recorded(output) == before
    assert "train_file (train.tsv)" in refused(capsys, command, run_teacher.main)


def test_named_checkpoint_of_the_run_itself(distills, tmp_path, capsys):
    output = tmp_path / "out"
    command = [*distills, *STUDENT]
    run_glue_ckd.main(command)
    named = [*command, "--resume_from_checkpoint", str(output / "checkpoint-2")]
    run_glue_ckd.main([*named, "--max_steps", "6"])  # to train on is what a checkpoint is named for
    moved = tmp_path / "moved"
    moved.mkdir()
    train = Path(command[command.index("--train_file") + 1])
    shutil.copy(train, moved)
    elsewhere = [*named, "--train_file", str(moved / train.name), "--output_dir", str(tmp_path / "elsewhere")]
    run_glue_ckd.main(elsewhere)  # data that have moved are the same
    assert recorded(tmp_path / "elsewhere")["train_file"].keys() == {train.name}
    corrected(moved / train.name)
    for options in ([*named, "--train_file", str(moved / train.name)], elsewhere):
        error = refused(capsys, options)
        assert f"train_file ({train.name})" in error


def test_data_dir_counts_the_files_of_the_task_and_its_sets(tiny_teacher, tmp_path, capsys):
    folder = tmp_path / "glue" / "CoLA"
    folder.mkdir(parents=True)
    for name, count in (("train", 32), ("dev", 8)):
        rows = [("x", str(index % 2), "", text) for index, (text, _) in enumerate(sentences(count))]
        write_tsv(folder / f"{name}.tsv", rows[1:], header=rows[0])
    command = ["--model_name_or_path", str(tiny_teacher), "--task_name", "cola", "--data_dir", str(tmp_path / "glue")]
    command += [*QUICK, *BEST, "--max_seq_length", "32", "--output_dir", str(tmp_path / "out")]
    run_teacher.main(command)
    assert recorded(tmp_path / "out")["data_dir"].keys() == {"train.tsv", "dev.tsv"}
    (folder / "test.tsv").write_text("new")
    (folder.parent / "RTE").mkdir()
    run_teacher.main(command)
    (folder / "dev.tsv").write_text((folder / "dev.tsv").read_text().replace("\t1\t", "\t0\t", 1))
    assert "data_dir (dev.tsv)" in refused(capsys, command, run_teacher.main)


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_teacher):
    """A cache of the Hub with me/teacher at commit 1...; returns what moves it to another commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--me--teacher"
    (repository / "refs").mkdir(parents=True)

    def move(commit):
        shutil.copytree(tiny_teacher, repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)

    move("1" * 40)
    return move


def test_another_commit_of_a_model_on_the_hub_is_refused(hub, text_files, tmp_path, capsys):
    command = ["--teacher_model_name_or_path", "me/teacher", *STUDENT, *SHORT_RUN, *text_files, *QUICK]
    command += ["--output_dir", str(tmp_path / "out")]
    run_glue_ckd.main(command)
    assert recorded(tmp_path / "out")["teacher_model_name_or_path"] == {"commit": "1" * 40}
    hub("2" * 40)
    assert "teacher_model_name_or_path (commit)" in refused(capsys, command)
    cut_back(tmp_path / "out")
    assert "teacher_model_name_or_path (commit)" in refused(capsys, command)


@pytest.mark.parametrize("is_trained", [True, False])
def test_other_rows_of_data_on_the_hub_are_refused(tiny_teacher, tmp_path, monkeypatch, capsys, is_trained):
    """Of a set that the call reads; of a trained run it does not read the training set any more."""

    def rows(count):
        features = datasets.Features(
            sentence=datasets.Value("string"), label=datasets.ClassLabel(names=["unacceptable", "acceptable"])
        )
        texts = [text for text, _ in sentences(count)]
        return Dataset.from_dict({"sentence": texts, "label": [row % 2 for row in range(count)]}, features=features)

    parts = DatasetDict(train=rows(32), validation=rows(8), test=rows(4))
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: DatasetDict(parts))
    command = ["--model_name_or_path", str(tiny_teacher), "--task_name", "cola", "--max_seq_length", "32"]
    command += [*QUICK, *BEST, "--output_dir", str(tmp_path / "out")]
    run_teacher.main(command)
    assert recorded(tmp_path / "out")["task_name"].keys() == {"train", "validation"}
    if not is_trained:
        cut_back(tmp_path / "out")
    name = "validation" if is_trained else "train"
    parts[name] = rows(len(parts[name]) - 1)
    assert f"task_name ({name})" in refused(capsys, command, run_teacher.main)


def test_each_file_is_read_once(distills, tmp_path, monkeypatch):
    read = []

    def fingerprint(paths):
        read.extend(path.name for path in paths)
        return files_fingerprint(paths)

    monkeypatch.setattr("ckd_trainer.runs.inputs.files_fingerprint", fingerprint)
    run_glue_ckd.main([*distills, *STUDENT, *BEST])
    tokenizer = ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(read) == ["config.json", "model.safetensors", *tokenizer, "train.tsv", "validation.tsv"]


def test_deepspeed_configuration_is_an_input(tmp_path):
    config = tmp_path / "zero2.json"
    config.write_text("{}")
    args = SimpleNamespace(output_dir=str(tmp_path), do_train=True, deepspeed=str(config))
    start = Start(recipe={})
    TrainingInputs(args, start, ModelArguments("nobody/nothing"), stages=[]).check_files({})
    assert start.inputs["deepspeed"].keys() == {"zero2.json"}
