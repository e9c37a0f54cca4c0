"""The runs of a comparison as processes: in turns and side by side, failed, finished before, stopped by a signal."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from filelock import FileLock

from ckd_trainer.comparison.schedule import Run, run_all
from ckd_trainer.runs.lock import LOCK, is_locked
from ckd_trainer.utils.errors import InputError, Interrupted

FINISHES = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "started").write_text(str(time.time()))
{work}
for name in ("train", "eval"):
    (folder / f"{{name}}_results.json").write_text("{{}}")
(folder / "ended").write_text(str(time.time()))
"""


def a_run(folder, name, work="", seed=1):
    output = folder / name / f"seed_{seed}"
    return Run(name, seed, output, (sys.executable, "-c", FINISHES.format(work=work), str(output)))


def times(run):
    return [float((run.folder / name).read_text()) for name in ("started", "ended")]


def test_runs_one_after_another_and_tells_progress(tmp_path):
    runs, lines = [a_run(tmp_path, name) for name in ("one", "two", "three")], []
    assert run_all(runs, jobs=1, devices=[], report=lines.append) == {}
    assert times(runs[0])[1] <= times(runs[1])[0] and times(runs[1])[1] <= times(runs[2])[0]
    assert [line.split(":")[0] for line in lines] == [f"{run.variant}, seed 1" for run in runs for _ in range(2)]
    assert "finished" in lines[1] and "2 left, about" in lines[1] and lines[-1].endswith("; none left")


def test_runs_side_by_side_on_their_own_devices(tmp_path):
    """Each waits for the other to start, so they end only if they run at the same time."""
    wait = """
other = folder.parent.parent / {other!r} / "seed_1" / "started"
while not other.exists():
    time.sleep(0.05)
(folder / "device").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
"""
    runs = [a_run(tmp_path, "one", wait.format(other="two")), a_run(tmp_path, "two", wait.format(other="one"))]
    assert run_all(runs, jobs=2, devices=["4", "GPU-5"], report=lambda line: None) == {}
    assert {(run.folder / "device").read_text() for run in runs} == {"4", "GPU-5"}


@pytest.mark.parametrize("given", [None, "3"])
def test_several_runs_share_the_cores_unless_the_user_has_divided_them(tmp_path, monkeypatch, given):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    run = a_run(tmp_path, "one", '(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])')
    assert run_all([run], jobs=4, devices=[], report=lambda line: None) == {}
    assert (run.folder / "threads").read_text() == (given or "2")


def test_a_failed_run_is_reported_and_the_others_go_on(tmp_path):
    runs, lines = [a_run(tmp_path, "bad", 'sys.exit("error: wrong")'), a_run(tmp_path, "good")], []
    assert run_all(runs, jobs=1, devices=[], report=lines.append) == {runs[0]: "error: wrong"}
    assert runs[1].is_finished
    assert any("bad, seed 1: FAILED (error: wrong); 1 left" in line for line in lines)


def test_a_run_that_ends_without_results_has_failed(tmp_path):
    run = Run("empty", 1, tmp_path / "empty", (sys.executable, "-c", ""))
    assert run_all([run], jobs=1, devices=[], report=lambda line: None) == {run: "it printed nothing"}


def test_a_killed_run_says_so(tmp_path):
    """Its last line is not the reason."""
    run = a_run(tmp_path, "killed", 'print("loss 0.3", flush=True); os.kill(os.getpid(), 9)')
    found = run_all([run], jobs=1, devices=[], report=lambda line: None)
    assert found == {run: "killed by SIGKILL, perhaps for lack of memory"}


BAR = " 33%|███       | 10/30 [00:01<00:02,  9.8it/s]"


@pytest.mark.parametrize(
    ("printed", "code"),
    [
        (f"\\r{BAR}error: training has diverged\\n\\r{BAR} \\n", 2),
        (f"error: training has diverged\\n\\r{BAR}\\x1b[A\\n\\rTeacher: {BAR}\\n", 2),
        ("error: training has diverged\\nWarning: a worker was killed\\n", 2),
        (f"\\r{BAR}\\nTraceback (most recent call last):\\nerror: training has diverged\\n\\r{BAR}\\n", 1),
    ],
)
def test_the_reason_is_the_error_and_no_progress_bar(tmp_path, printed, code):
    """A bar has no line of its own, and is drawn once more when the run ends."""
    work = f'sys.stderr.write("{printed}"); sys.exit({code})'
    run = a_run(tmp_path, "bad", work)
    assert run_all([run], jobs=1, devices=[], report=lambda line: None) == {run: "error: training has diverged"}


def test_the_reason_of_an_earlier_attempt_is_not_that_of_this_one(tmp_path):
    """All attempts write to one log."""
    for work, reason in (
        ('print("error: too warm"); sys.exit(2)', "error: too warm"),
        ('sys.exit("Killed")', "Killed"),
    ):
        run = a_run(tmp_path, "bad", work)
        assert run_all([run], jobs=1, devices=[], report=lambda line: None) == {run: reason}


def test_what_cannot_be_trained_may_be_no_failure(tmp_path):
    runs = [a_run(tmp_path, name, f"sys.exit({code})") for name, code in (("one", 2), ("two", 2), ("three", 1))]
    refused = []

    def ask(run, reason):
        refused.append(run)
        return run == runs[0]

    assert run_all(runs, jobs=1, devices=[], report=lambda line: None, refused=ask).keys() == {runs[1], runs[2]}
    assert refused == runs[:2]


def test_what_has_no_place_now_has_failed_unless_the_search_stops(tmp_path):
    runs = [a_run(tmp_path, "one", 'print("error: no room"); sys.exit(75)'), a_run(tmp_path, "two")]
    refused = []
    found = run_all(runs, jobs=1, devices=[], report=lambda line: None, refused=lambda *run: refused.append(run))
    assert found == {runs[0]: "error: no room"} and runs[1].is_finished and refused == []


def test_a_run_whose_folder_another_process_has_just_locked_is_waited_for(tmp_path):
    """It was free when the run was started, but not when it had imported everything."""
    locks = """
import filelock, subprocess
if not (folder / "again").exists():
    (folder / "again").touch()
    script = "import filelock, pathlib, time; lock = filelock.FileLock('_lock'); lock.acquire(); "
    script += "pathlib.Path('held').touch(); time.sleep(1)"
    subprocess.Popen([sys.executable, "-c", script], cwd=folder)
    while not (folder / "held").exists():
        time.sleep(0.02)
    print("error: output_dir is in use by another run")
    sys.exit(75)
"""
    run, lines = a_run(tmp_path, "one", locks), []
    assert run_all([run], jobs=1, devices=[], report=lines.append) == {}
    assert run.is_finished and "one, seed 1: another process is training it; waiting for it to finish." in lines


def test_a_check_that_fails_stops_the_others(tmp_path):
    runs = [a_run(tmp_path, "one"), a_run(tmp_path, "two")]

    def check(run):
        assert run == runs[0] and run.is_finished
        raise InputError("the data has changed")

    with pytest.raises(InputError, match="the data has changed"):
        run_all(runs, jobs=1, devices=[], report=lambda line: None, finished=check)
    assert not runs[1].folder.exists()


def test_finished_runs_are_kept(tmp_path):
    runs, finished = [a_run(tmp_path, "one"), a_run(tmp_path, "two")], []
    run_all(runs[:1], jobs=1, devices=[], report=lambda line: None)
    before = times(runs[0])
    run_all(runs, jobs=1, devices=[], report=lambda line: None, finished=finished.append)
    assert times(runs[0]) == before and finished == runs


def test_the_next_run_is_chosen_when_there_is_a_place_for_it(tmp_path):
    """So that the choice can depend on the results before it."""
    chosen = []

    def choose():
        for name in ("one", "two", "three"):
            assert all(run.is_finished for run in chosen)
            chosen.append(a_run(tmp_path, name))
            yield chosen[-1]

    assert run_all(choose(), jobs=1, devices=[], report=lambda line: None) == {}
    assert len(chosen) == 3 and chosen[-1].is_finished


def test_a_run_can_be_stopped_without_having_failed(tmp_path):
    waits = '(folder / "ready").touch(); time.sleep(60)'
    runs, lines = [a_run(tmp_path, "bad", waits), a_run(tmp_path, "good")], []

    def stop(run):
        return "too bad" if (run.folder / "ready").exists() else None

    assert run_all(runs, jobs=1, devices=[], report=lines.append, stop=stop) == {}
    assert not runs[0].is_finished and runs[1].is_finished
    assert any(line.startswith("bad, seed 1: stopped after") and "(too bad); 1 left" in line for line in lines)


def test_a_signal_reaches_the_runs_and_they_are_waited_for(tmp_path):
    """As the runs do, this one takes a while to save its checkpoint."""
    work = """
import signal
def save(number, frame):
    time.sleep(0.5)
    (folder / "checkpoint").write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(folder / "ready").touch()
time.sleep(60)
"""
    runs = [a_run(tmp_path, "one", work), a_run(tmp_path, "two")]

    def stop():
        while not (runs[0].folder / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match="SIGTERM; the same command resumes"):
        run_all(runs, jobs=1, devices=[], report=lambda line: None)
    assert (runs[0].folder / "checkpoint").read_text() == "saved"
    assert not runs[1].folder.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_another_process_trains_is_waited_for(tmp_path):
    """A comparison that was killed leaves its run behind, which goes on."""
    device = '(folder / "device").write_text(os.environ["CUDA_VISIBLE_DEVICES"])'
    runs = [a_run(tmp_path, name, device) for name in ("one", "two")]
    runs[0].folder.mkdir(parents=True)
    lock = FileLock(runs[0].folder / LOCK, thread_local=False)
    lock.acquire()
    assert is_locked(runs[0].folder) and not is_locked(runs[1].folder)

    def release():
        while not runs[1].is_finished:
            time.sleep(0.05)
        time.sleep(0.5)
        assert not runs[0].is_finished
        lock.release()

    thread = threading.Thread(target=release)
    thread.start()
    lines = []
    assert run_all(runs, jobs=2, devices=["0", "1"], report=lines.append) == {}
    assert (runs[1].folder / "device").read_text() == "1"  # the other has the first one
    thread.join()
    assert lines.count("one, seed 1: another process is training it; waiting for it to finish.") == 1
    assert times(runs[1])[1] <= times(runs[0])[0]
    assert json.loads((runs[0].folder / "eval_results.json").read_text()) == {}
