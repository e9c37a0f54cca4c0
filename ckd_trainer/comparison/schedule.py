"""Runs the commands of a comparison, one after another or several at a time."""

import contextlib
import operator
import os
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ckd_trainer.reports.table import duration
from ckd_trainer.runs.lock import is_locked
from ckd_trainer.utils.errors import InputError, Interrupted, TemporaryError

_SECONDS_BETWEEN_LOOKS = 0.2
_REFUSED, _UNAVAILABLE = InputError.exit_code, TemporaryError.exit_code
# A progress bar of tqdm, which has no line of its own: " 33%|###   | 10/30 [00:01<00:02, 9.8it/s]".
_BAR = re.compile(r"[^\r\n]*\[\d+:\d\d(:\d\d)?[<,][^\]\r\n]*\](\x1b\[A)*")


@dataclass(frozen=True)
class Run:
    """A run of a comparison.

    Attributes:
        variant: the name of what it trains, see `Variant.name`.
        folder: its output folder. Its log is beside it.
        command: the program and its arguments.
        leaves: the files in its folder that show that it has finished.
    """

    variant: str
    seed: int
    folder: Path
    command: tuple[str, ...]
    leaves: tuple[str, ...] = ("train_results.json", "eval_results.json")

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def is_finished(self) -> bool:
        return all((self.folder / name).is_file() for name in self.leaves)

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def run_all(
    runs: Iterable[Run],
    *,
    jobs: int,
    devices: Sequence[str],
    report: Callable[[str], None],
    finished: Callable[[Run], None] = lambda run: None,
    stop: Callable[[Run], str | None] = lambda run: None,
    refused: Callable[[Run, str], bool] = lambda run, reason: False,
    unavailable: Callable[[Run, str], None] = lambda run, reason: None,
) -> dict[Run, str]:
    """Runs those that have not finished, and returns those that failed, each with the reason.

    A run continues from its last checkpoint, as it does by itself. A run that another process is still training (left
    by a comparison that was killed) is waited for. On SIGINT or SIGTERM the runs save a checkpoint and end.

    Args:
        runs: the next one is taken when there is a place for it, so that an iterator can choose it then.
        jobs: how many run at a time.
        devices: what CUDA_VISIBLE_DEVICES is for each place of `jobs`, in turn; empty without GPUs.
        report: called with each line of progress.
        finished: called with each run that has finished. If it raises, the others are stopped.
        stop: called several times a second with each run that is being trained. If it returns a reason, the run is
            stopped, and does not count as failed.
        refused: called with each run that could not be trained with its input, and the reason. If it returns True,
            the run does not count as failed.
        unavailable: called with each run that could not be trained here and now, for example because the disk is full,
            and the reason. If it raises, the others are stopped.

    Raises:
        Interrupted: by a signal.
    """
    source = iter(runs)
    failed: dict[Run, str] = {}
    seconds: list[float] = []  # that runs took which finished or were stopped
    working: dict[int, _Working] = {}  # by place
    elsewhere: list[Run] = []  # trained by another process

    def left() -> int:
        return operator.length_hint(source) + len(working) + len(elsewhere)

    def wait_for(run: Run) -> None:
        report(f"{run}: another process is training it; waiting for it to finish.")
        elsewhere.append(run)

    with _stopping(working):
        while True:
            ended = [run for run in elsewhere if not is_locked(run.folder)]
            elsewhere = [run for run in elsewhere if run not in ended]
            places = [place for place in range(jobs) if place not in working]
            while ended or len(places) > len(elsewhere):
                run = ended.pop(0) if ended else next(source, None)
                if run is None:
                    break
                if run.is_finished:  # by another process
                    report(f"{run}: finished; {left() or 'none'} left")
                    finished(run)
                elif is_locked(run.folder):
                    wait_for(run)
                else:
                    report(f"{run}: started (log: {run.log})")
                    place = places.pop(min(len(elsewhere), len(places) - 1))  # the first ones are theirs
                    device = devices[place % len(devices)] if devices else None
                    working[place] = _Working(run, _start(run, jobs, device))
            if not working and not elsewhere:
                return failed
            for place, one in list(working.items()):
                if one.process.poll() is None:
                    if not one.stopped:
                        one.stopped = stop(one.run)
                        if one.stopped:
                            one.process.terminate()
                    continue
                del working[place]
                took = time.monotonic() - one.started
                if one.stopped:
                    seconds.append(took)
                    report(
                        f"{one.run}: stopped after {duration(took)} ({one.stopped}); {_rest(left(), seconds, jobs)}"
                    )
                elif one.run.is_finished and one.process.returncode == 0:
                    seconds.append(took)
                    report(f"{one.run}: finished in {duration(took)}; {_rest(left(), seconds, jobs)}")
                    finished(one.run)
                elif one.process.returncode == _UNAVAILABLE and is_locked(one.run.folder):  # it was free at first
                    wait_for(one.run)
                else:
                    reason = _reason(one)
                    report(f"{one.run}: FAILED ({reason}); {_rest(left(), seconds, jobs)}")
                    if one.process.returncode == _UNAVAILABLE:
                        unavailable(one.run, reason)
                    if one.process.returncode != _REFUSED or not refused(one.run, reason):
                        failed[one.run] = reason
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _rest(left: int, seconds: Sequence[float], jobs: int) -> str:
    if not left or not seconds:
        return f"{left or 'none'} left"
    return f"{left} left, about {duration(left * statistics.mean(seconds) / jobs)}"


def _reason(one: "_Working") -> str:
    """Returns the error that a failed run printed, or else its last line, or the signal that killed it."""
    code = one.process.returncode
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    text = one.run.log.read_text(encoding="utf-8", errors="replace") if one.run.log.is_file() else ""
    lines = [line.strip() for line in _BAR.sub("", text).splitlines() if line.strip()] or ["it printed nothing"]
    # Other codes have no such line, but earlier attempts, which wrote to the same log, may have left one.
    errors = [line for line in lines if line.startswith("error: ")] if code in (_REFUSED, _UNAVAILABLE) else []
    return (errors or lines)[-1]


class _Working:
    """A run and its process."""

    def __init__(self, run: Run, process: subprocess.Popen) -> None:
        self.run, self.process, self.started = run, process, time.monotonic()
        self.stopped: str | None = None  # why


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
