"""A disk that is full at any moment: one message, the last checkpoint is whole, and the same command ends well."""

import logging
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from helpers.commands import SHORT_RUN
from helpers.files import sentences, write_tsv
from helpers.tiny import save_tokenizer, tiny_model
from safetensors.torch import load_file
from transformers import Trainer, TrainerState

import ckd_trainer.runs.results
import ckd_trainer.runs.run
import ckd_trainer.tasks.text_classification
import ckd_trainer.teacher.cache
import ckd_trainer.trainer
import run_glue_ckd
from ckd_trainer.cli import main
from ckd_trainer.data.demo import agreement
from ckd_trainer.teacher.writer import SignalWriter
from ckd_trainer.utils.files import told_without_room

QUICK = ["--student_init", "teacher_layers", "--student_num_layers", "2", "--do_train", "--do_eval", "--do_predict"]
QUICK += ["--per_device_train_batch_size", "8", "--max_steps", "9", "--save_steps", "3", "--save_total_limit", "1"]
QUICK += ["--max_seq_length", "32", "--report_to", "none", "--disable_tqdm", "true"]


class Disk:
    """A small disk, which is filled to its last byte.

    Args:
        folder: in it.
    """

    reason = "No space left on device"

    def __init__(self, folder):
        self.folder = folder
        self.folder.mkdir()

    def fill(self):
        with (self.folder / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def make_room(self):
        (self.folder / "filler").unlink(missing_ok=True)


class Limit:
    """No file may have more than 64 KB, which cuts as a quota does and can be had anywhere."""

    reason = "File too large|torch could not write a complete file"  # torch does not say why

    def __init__(self, folder):
        self.folder = folder
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, self.before[1]))

    def make_room(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    """A disk of 4 MB, mounted in a namespace of its own: that takes no rights where the system allows it at all.

    filelock resolves /proc/PID/root, and so locks a folder of the same name outside of the namespace: one that other
    workers do not use.
    """
    place = tmp_path_factory.mktemp("mounted")
    script = f"mount -t tmpfs -o size=4m none {place} && echo mounted && exec cat"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    try:
        holder = subprocess.Popen(command, **pipes, text=True)
    except FileNotFoundError:
        pytest.skip("a small disk takes unshare, of Linux")
    with holder:
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"a small disk cannot be mounted here: {holder.communicate()[1].strip()}")
        yield Path(f"/proc/{holder.pid}/root{place}")
        holder.stdin.close()


@pytest.fixture
def disk(mounted):
    disk = Disk(mounted / "disk")
    yield disk
    shutil.rmtree(disk.folder)


@pytest.fixture
def limit(tmp_path):
    limit = Limit(tmp_path)
    yield limit
    limit.make_room()


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Of a run on files beside the disk."""
    folder = tmp_path_factory.mktemp("given")
    tiny_model().save_pretrained(folder / "teacher")
    save_tokenizer(folder / "teacher")
    files = {
        "train_file": write_tsv(folder / "train.tsv", sentences(96)),
        "validation_file": write_tsv(folder / "validation.tsv", sentences(22, seed=1)),
        "test_file": write_tsv(folder / "test.tsv", [row[:1] for row in sentences(13, seed=2)], header=("text",)),
        "teacher_model_name_or_path": folder / "teacher",
    }
    return [*QUICK, *(word for name, path in files.items() for word in (f"--{name}", str(path)))]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """What a run leaves that always has room."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run_glue_ckd.main([*options, *SHORT_RUN, "--output_dir", str(output)])
    return output


@pytest.fixture(scope="module")
def whole_relations(options, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    run_glue_ckd.main([*options, "--output_dir", str(output)])
    return output


def fill_at(monkeypatch, disk, moment):
    """Fills the disk before the function of a moment is called for the nth time; returns what was there then."""
    owner, name, number = moment
    function, calls, there = getattr(owner, name), [], {}

    def filled(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            there.update({path: path.read_bytes() for path in disk.folder.rglob("*") if path.is_file()})
            disk.fill()
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, filled)
    return there


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# The third and last checkpoint has a number of its own, by which the second is the second call of what saves it.
CHECKPOINTS = {
    "weights of a checkpoint": (Trainer, "_save", 2),
    "optimizer of a checkpoint": (Trainer, "_save_optimizer_and_scheduler", 2),
    "random numbers of a checkpoint": (Trainer, "_save_rng_state", 2),
    "state of a checkpoint": (TrainerState, "save_to_json", 2),
}
MOMENTS = CHECKPOINTS | {
    "first record": (ckd_trainer.runs.run, "write_record", 1),
    "model": (Trainer, "_save", 4),
    "state": (TrainerState, "save_to_json", 4),
    "results of the training": (ckd_trainer.runs.run, "save_results", 1),
    "results": (ckd_trainer.runs.results, "save_results", 1),
    "predictions": (ckd_trainer.tasks.text_classification, "write_predictions", 1),
    "card": (ckd_trainer.trainer, "write_model_card", 2),
}
QUICKLY = ["optimizer of a checkpoint", "state of a checkpoint", "model", "predictions"]
CUT = [("limit", name) for name in list(CHECKPOINTS)[:2]] + [("disk", name) for name in QUICKLY]
CUT += [pytest.param("disk", name, marks=pytest.mark.slow) for name in MOMENTS if name not in QUICKLY]


@pytest.mark.parametrize(("place", "moment"), CUT)
def test_run_without_room(place, moment, options, whole, request, monkeypatch, capsys, caplog):
    disk = request.getfixturevalue(place)
    output = disk.folder / "out"
    command = [*options, *SHORT_RUN, "--output_dir", str(output)]
    with monkeypatch.context() as patch:
        before = fill_at(patch, disk, MOMENTS[moment])
        with pytest.raises(SystemExit) as stopped:
            run_glue_ckd.main(command)
    error = capsys.readouterr().err
    assert stopped.value.code == 75 and "Traceback" not in error
    (message,) = (line for line in error.splitlines() if line.startswith("error: "))
    assert re.search(rf"output_dir {output} cannot be written \(({disk.reason})\)\. Free some space", message)
    checkpoints = [path for path in before if path.parent.name.startswith("checkpoint-")]
    if moment in CHECKPOINTS:
        checkpoints = [path for path in checkpoints if path.parent.name == "checkpoint-3"]
        assert checkpoints
    assert all(path.read_bytes() == before[path] for path in checkpoints)

    disk.make_room()
    with caplog.at_level(logging.INFO):
        run_glue_ckd.main(command)
    if moment in CHECKPOINTS:
        assert f"Resuming the run in {output} from checkpoint-3." in caplog.messages
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    predictions = "predictions/predictions.tsv"
    assert (output / predictions).read_bytes() == (whole / predictions).read_bytes()
    assert names(output) == names(whole)


CACHE = {
    "signals": (SignalWriter, "write", 1),
    "manifest": (ckd_trainer.teacher.cache, "_finish", 1),
}


@pytest.mark.parametrize(
    ("place", "moment"),
    [pytest.param("limit", "signals", marks=pytest.mark.slow), *(("disk", name) for name in CACHE)],
)
def test_teacher_cache_without_room(place, moment, options, whole_relations, request, tmp_path, monkeypatch, capsys):
    """What is there of it is never taken for a cache."""
    disk = request.getfixturevalue(place)
    cache, output = disk.folder / "cache", tmp_path / "out"
    command = [*options, "--output_dir", str(output), "--teacher_cache_dir", str(cache)]
    with monkeypatch.context() as patch:
        fill_at(patch, disk, CACHE[moment])
        with pytest.raises(SystemExit) as stopped:
            run_glue_ckd.main(command)
    error = capsys.readouterr().err
    assert stopped.value.code == 75 and "Traceback" not in error
    (message,) = (line for line in error.splitlines() if line.startswith("error: "))
    assert re.search(rf"teacher_cache_dir {cache} cannot be written \(({disk.reason})\)\. Free some space", message)
    assert not output.exists() and [path.suffix for path in cache.iterdir() if path.is_dir()] == [".building"]

    disk.make_room()
    run_glue_ckd.main(command)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    assert names(folder)[0] == "manifest.json" and len(names(folder)) == 2
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, whole_relations))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)


def test_files_of_a_task_without_room(disk, capsys):
    disk.fill()
    with pytest.raises(SystemExit) as stopped:
        agreement.main([str(disk.folder / "data")])
    error = capsys.readouterr().err
    assert stopped.value.code == 75 and "Traceback" not in error
    assert (
        f"{disk.folder / 'data'}/" in error
        and "No space left on device: give another path, or free some space" in error
    )
    assert all(path.stat().st_size for path in (disk.folder / "data").iterdir())
    disk.make_room()
    agreement.main([str(disk.folder / "data")])
    assert (disk.folder / "data" / "train.tsv").is_file()


@pytest.fixture(scope="module")
def dynamic(options, tmp_path_factory):
    """A dynamic run that the commands for students of several sizes read."""
    output = tmp_path_factory.mktemp("dynamic") / "out"
    widths = ["--student_init", "teacher_layers", "--student_num_layers", "4", "--student_widths", "1.0,0.5"]
    run_glue_ckd.main([*options, *widths, "--do_eval", "--output_dir", str(output)])
    return output


COMMANDS = {
    "search": (["--metric", "accuracy"], ["model", "search.json", "search.md"]),
    "export-subnets": (["--widths", "0.5"], ["config.json", "model.safetensors"]),
}


def check_refused_without_room(words, output, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 75 and "Traceback" not in error
    assert f"output {output} cannot be written (No space left on device). Free some space" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_exports_without_room(command, dynamic, disk, capsys):
    """Nothing is left of them, so that the same command starts over."""
    words, files = COMMANDS[command]
    words = [command, str(dynamic), *words, "--output", str(disk.folder / "out")]
    disk.fill()
    check_refused_without_room(words, disk.folder / "out", capsys)
    disk.make_room()
    main(words)
    assert all((disk.folder / "out" / name).exists() for name in files)


@pytest.mark.parametrize("command", COMMANDS)
def test_exports_where_there_can_be_no_folder(command, dynamic, tmp_path, capsys, monkeypatch):
    """They are refused before anything is read."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    for place, code, reason in (
        ("file/out", 2, f"{tmp_path / 'file'} is a file"),
        ("closed/out", 75, f"{tmp_path / 'closed'} is closed"),
        ("x" * 300, 2, "File name too long"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(
                [
                    command,
                    "nothing",
                    "--metric" if command == "search" else "--widths",
                    "1",
                    "--output",
                    str(tmp_path / place),
                ]
            )
        error = capsys.readouterr().err
        assert stopped.value.code == code and reason in error and error.count("error: ") == 1


def test_comparison_without_room(options, disk, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    words = iter(options[len(QUICK) :])
    given = {name.removeprefix("--"): value for name, value in zip(words, words, strict=True)}
    recipe.write_text(yaml.safe_dump(given | {"student_init": "teacher_layers", "student_num_layers": 2}))
    words = ["compare", str(recipe), "--methods", "fine_tuned", "logits", "--output", str(disk.folder / "out")]
    (disk.folder / "out" / "recipes").mkdir(parents=True)
    disk.fill()
    check_refused_without_room(words, disk.folder / "out", capsys)


@pytest.mark.parametrize("error", [RuntimeError("unexpected shape"), OSError(5, "I/O error"), ValueError("os error")])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as raised, told_without_room(tmp_path, "output_dir", "there"):
        raise error
    assert raised.value is error


def test_a_missing_file_elsewhere_keeps_its_error(tmp_path):
    """Whatever the form of its name."""
    with pytest.raises(FileNotFoundError), told_without_room(tmp_path, "output_dir", "the beginning"):
        os.listdir(b"/nowhere")
