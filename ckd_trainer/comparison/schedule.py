"""Runs the commands of a comparison, one after another or several at a time."""

import contextlib
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ckd_trainer.reports.table import duration
from ckd_trainer.runs.lock import is_locked
from ckd_trainer.utils.errors import Interrupted

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Run:
    """A run of a comparison.

    Attributes:
        variant: the name of what it trains, see `Variant.name`.
        folder: its output folder. Its log is beside it.
        command: the program and its arguments.
    """

    variant: str
    seed: int
    folder: Path
    command: tuple[str, ...]

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def is_finished(self) -> bool:
        """Whether it was trained and evaluated."""
        return (self.folder / "eval_results.json").is_file() and (self.folder / "train_results.json").is_file()

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def run_all(runs: Sequence[Run], *, jobs: int, devices: Sequence[str], report: Callable[[str], None]) -> list[Run]:
    """Runs those that are not finished, and returns those that failed.

    A run continues from its last checkpoint, as it does by itself. A run that another process is still training (left
    by a comparison that was killed) is waited for. On SIGINT or SIGTERM the runs save a checkpoint and end.

    Args:
        jobs: how many run at a time.
        devices: what CUDA_VISIBLE_DEVICES is for each place of `jobs`, in turn; empty without GPUs.
        report: called with each line of progress.

    Raises:
        Interrupted: by a signal.
    """
    todo = [run for run in runs if not run.is_finished]
    if len(todo) < len(runs):
        report(f"{len(runs) - len(todo)} of {len(runs)} runs were finished before.")
    failed: list[Run] = []
    seconds: list[float] = []
    working: dict[int, _Working] = {}  # by place
    is_waiting = False
    with _stopping(working):
        while todo or working:
            for place in set(range(jobs)) - working.keys():
                run = next((run for run in todo if not is_locked(run.folder)), None)
                if run is not None:
                    todo.remove(run)
                    report(f"{run}: started, its log is {run.log}")
                    device = devices[place % len(devices)] if devices else None
                    working[place] = _Working(run, _start(run, jobs, device))
            if todo and not working and not is_waiting:
                report(f"{todo[0]}: another process is training it, waiting for that.")
                is_waiting = True
            for place, one in list(working.items()):
                if one.process.poll() is None:
                    continue
                del working[place]
                seconds.append(time.monotonic() - one.started)
                left = len(todo) + len(working)
                rest = f"{left} left, about {duration(left * statistics.mean(seconds) / jobs)}" if left else "the last"
                if one.run.is_finished and one.process.returncode == 0:
                    report(f"{one.run}: finished in {duration(seconds[-1])}; {rest}")
                else:
                    failed.append(one.run)
                    report(f"{one.run}: FAILED ({reason(one.run)}); {rest}")
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    return failed


def reason(run: Run) -> str:
    """Returns the last line that a failed run printed."""
    lines = run.log.read_text(encoding="utf-8", errors="replace").split("\n") if run.log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


class _Working:
    """A run and its process."""

    def __init__(self, run: Run, process: subprocess.Popen) -> None:
        self.run, self.process, self.started = run, process, time.monotonic()


def _start(run: Run, jobs: int, device: str | None) -> subprocess.Popen:
    environment = dict(os.environ)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    elif jobs > 1:  # else each would use all cores
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with open(run.log, "a", encoding="utf-8") as log:
        # In a session of its own: Ctrl-C reaches it once, through this process.
        return subprocess.Popen(
            run.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextlib.contextmanager
def _stopping(working: dict[int, _Working]) -> Iterator[None]:
    """Stops the running processes if the context ends early, and waits for their checkpoints."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        for one in working.values():
            one.process.terminate()
        for one in working.values():
            one.process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
