"""One run at a time in an output folder: a second is refused, a killed one does not block, and no files are left."""

import contextlib
import errno
import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
from helpers.commands import SHORT_RUN
from helpers.files import snapshot
from helpers.launching import ENVIRONMENT, forked, run_script

import run_glue_ckd
import run_teacher
from ckd_trainer.runs.lock import HOLDER, LOCK, is_locked, run_lock
from ckd_trainer.utils.errors import InputError

STUDENT = ["--student_init", "teacher_layers", "--student_num_layers", "2", "--do_train"]
STUDENT += SHORT_RUN
QUICK = ["--report_to", "none", "--disable_tqdm", "true"]


def stopped_in_training(script, *options):
    """Starts a script in a process of its own; returns it, stopped by SIGSTOP, once it has saved a checkpoint."""
    output = Path(options[options.index("--output_dir") + 1])
    process = forked(run_script, script, options, environment=ENVIRONMENT, output=output.with_suffix(".txt"))
    patience = time.monotonic() + 120
    while not any(file.read_bytes().endswith(b"\n}\n") for file in output.glob("checkpoint-*/trainer_state.json")):
        assert process.is_alive() and time.monotonic() < patience
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGSTOP)
    return process


def refused(capsys, main, options):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(options)
    error = capsys.readouterr().err
    assert stopped.value.code == 75 and error.count("error: ") == 1 and "Traceback" not in error
    return error


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "2"])
def test_second_run_is_refused_and_a_killed_one_does_not_block(
    tiny_teacher, text_files, tmp_path, capsys, caplog, workers
):
    output = tmp_path / "out"
    command = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *text_files, *QUICK]
    command += ["--output_dir", str(output), "--dataloader_num_workers", workers]
    command += ["--max_steps", "30", "--save_steps", "5", "--save_total_limit", "2"]
    first = stopped_in_training("run_glue_ckd.py", *command)
    try:
        before = snapshot(output)
        evaluation = ["--model_name_or_path", str(tiny_teacher), *text_files, *QUICK, "--output_dir", str(output)]
        for main, options in (
            (run_glue_ckd.main, command),
            (run_glue_ckd.main, [*command, "--overwrite_output_dir"]),
            (run_glue_ckd.main, [*command, "--resume_from_checkpoint", "true"]),
            (run_glue_ckd.main, [*command, "--output_dir", os.path.relpath(output)]),
            (run_teacher.main, [*evaluation, "--do_eval"]),
        ):
            error = refused(capsys, main, options)
            assert "is in use by another run" in error and "give another output_dir" in error
            assert f"process {first.pid} on {socket.gethostname()}" in error
        assert snapshot(output) == before
    finally:
        first.kill()
        first.join()
    run_glue_ckd.main(command)
    assert "Resuming the run" in caplog.text
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 30
    assert not (output / LOCK).exists() and not (output / HOLDER).exists()


def test_lock_is_held_to_the_end_and_leaves_nothing(tmp_path):
    with run_lock(str(tmp_path / "a" / "b")):
        with pytest.raises(InputError, match=f"process {os.getpid()} on "), run_lock(str(tmp_path / "a" / "b")):
            pass
        assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {LOCK, HOLDER}
    assert not (tmp_path / "a").exists()  # made for nothing


def test_lock_is_released_on_an_error_and_keeps_what_is_there(tmp_path):
    folder = tmp_path / "out"
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        with contextlib.suppress(error), run_lock(str(folder)):
            (folder / "checkpoint-1").mkdir()
            raise error
        (folder / "checkpoint-1").rmdir()
        assert list(folder.iterdir()) == []
    with contextlib.suppress(InputError), run_lock(str(folder)):
        raise InputError
    assert folder.is_dir()  # it was there before


@pytest.mark.parametrize("holder", ["", "[]", "{}", '"x"', None])
def test_holder_that_cannot_be_read(tmp_path, holder):
    with run_lock(str(tmp_path)):
        (tmp_path / HOLDER).unlink() if holder is None else (tmp_path / HOLDER).write_text(holder)
        with pytest.raises(InputError, match="its process is unknown"), run_lock(str(tmp_path)):
            pass


def test_a_lock_that_workers_of_a_dead_process_hold_is_waited_for(tmp_path):
    """With older versions of filelock they keep it until they notice that their process has died."""
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    lock = filelock.FileLock(tmp_path / LOCK, thread_local=False)
    lock.acquire()
    (tmp_path / HOLDER).write_text(
        json.dumps({"process": int(dead.stdout), "host": socket.gethostname(), "since": ""})
    )
    release = threading.Timer(0.5, lock.release)
    release.start()
    with run_lock(str(tmp_path)):
        release.join()


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog, error):
    def acquire(self, timeout):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with run_lock(str(tmp_path / "out")):
        (tmp_path / "out" / "config.json").write_text("{}")
    assert "has no locks" in caplog.text and (tmp_path / "out" / "config.json").exists()


def test_without_locks_nothing_is_locked(tmp_path, monkeypatch):
    """The file of a lock that could not be taken stays, and the next run finds it."""

    def acquire(self, *args, **kwargs):
        Path(self.lock_file).touch()
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with run_lock(str(tmp_path)):
        pass
    assert (tmp_path / LOCK).exists() and not is_locked(tmp_path)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"), run_lock(str(tmp_path / "file" / "out")):
        pass


def test_lock_is_not_uploaded(tiny_teacher, text_files, tmp_path, monkeypatch):
    from huggingface_hub import HfApi, RepoUrl

    uploaded = []

    def create_repo(repo_id, **kwargs):
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(folder_path, ignore_patterns, **kwargs):
        names = [path.name for path in Path(folder_path).iterdir()]
        assert LOCK in names
        uploaded.append([name for name in names if not any(fnmatch.fnmatch(name, glob) for glob in ignore_patterns)])

    for call in (create_repo, upload_folder):  # the first transformers 5 have names of their own for them
        monkeypatch.setattr(HfApi, call.__name__, staticmethod(call))
        monkeypatch.setattr(f"transformers.trainer.{call.__name__}", call, raising=False)
    command = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *text_files, *QUICK]
    push = ["--push_to_hub", "--hub_model_id", "me/my-student", "--hub_strategy", "end", "--max_steps", "1"]
    run_glue_ckd.main([*command, "--output_dir", str(tmp_path / "out"), *push])
    assert uploaded and all("model.safetensors" in names for names in uploaded)
    assert not [name for names in uploaded for name in names if name in (LOCK, HOLDER)]
