"""Kills a run again and again, and checks that it ends exactly like an uninterrupted one.

    python tests/helpers/chaos.py --kills 20 --seed 1 --folder /tmp/chaos

The reference is a distillation that runs to the end, of a classifier or (`--task mlm`) of a language model. The same
command then runs in another folder, with its own teacher cache. It is killed with SIGKILL at moments drawn from the
seed, and restarted until it completes. A kill happens at a random time or at an event. Events are before, during and
after writing a file (during: half of its bytes are on disk), before and after renaming or deleting a file, a training
step, an evaluation, and a batch of the teacher. At the end, all files of both runs are compared.
"""

import argparse
import builtins
import collections
import contextlib
import gc
import importlib
import io
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
OUTPUT, CACHE = "student", "cache"  # relative to the run's working directory, so that both runs write the same recipe

# What may differ between equal runs.
TIMINGS = ("_runtime", "_per_second", "_preparation_time", "latency_ms")  # suffixes of measured times
OF_THE_LAST_PART = {"train_loss"}  # `Trainer` averages it over the steps of its last call only
OF_THE_START = {"started", "commit"}  # in run.json: start and code version of the last call

STEPS, SAVE_STEPS = 25, 5  # an epoch has 15 steps, of a language model 7
HALF = "half written"


# ------------------------------------------------------------------------------------------------------------ the run


def make_classification(folder: Path) -> list[str]:
    """Generates sentences and a random teacher, and returns the options of a run of run_glue_ckd.py."""
    from transformers import BertForSequenceClassification

    from ckd_trainer.data.demo import agreement

    agreement.write_task(folder, seed=0, train=240, validation=48, test=30)
    test = (folder / "test.tsv").read_text(encoding="utf-8").splitlines()
    (folder / "unlabeled.tsv").write_text("".join(f"{line.split(chr(9))[0]}\n" for line in test), encoding="utf-8")
    _save_teacher(
        folder,
        BertForSequenceClassification,
        id2label=dict(enumerate(agreement.LABELS)),
        label2id={label: index for index, label in enumerate(agreement.LABELS)},
    )
    values = {
        "train_file": folder / "train.tsv",
        "validation_file": folder / "validation.tsv",
        "test_file": folder / "unlabeled.tsv",
        "max_seq_length": 40,
        "train_sampling_strategy": "group_by_length",
    }
    return [*_options(folder, values), "--do_predict", "--load_best_model_at_end"]


def make_language_model(folder: Path) -> list[str]:
    """Generates running text and a random teacher, and returns the options of a run of run_mlm_ckd.py."""
    from transformers import BertForMaskedLM

    from ckd_trainer.data.demo import agreement

    agreement.write_task(folder, seed=0, train=40, validation=20, test=2, text=200)
    lines = (folder / "text.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "train.txt").write_text("".join(lines[:160]), encoding="utf-8")  # some 100 blocks
    (folder / "held_out.txt").write_text("".join(lines[160:]), encoding="utf-8")
    _save_teacher(folder, BertForMaskedLM)
    values = {
        "train_file": folder / "train.txt",
        "validation_file": folder / "held_out.txt",
        "max_seq_length": 24,
    }
    return _options(folder, values)


def _save_teacher(folder: Path, model_class, **more) -> None:
    """Saves a random teacher of a model class, with dropout, and the tokenizer of the base."""
    import torch
    from transformers import AutoTokenizer, BertConfig

    options = json.loads((folder / "base" / "config.json").read_text()) | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    torch.manual_seed(0)
    model_class(BertConfig(**options | more)).save_pretrained(folder / "teacher")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "teacher")


def _options(folder: Path, values: dict) -> list[str]:
    """Returns the options of a run: those that all runs share, and these."""
    from ckd_trainer import CKDArguments
    from ckd_trainer.arguments import weight_names

    values = {
        "teacher_model_name_or_path": folder / "teacher",
        "student_init": "teacher_layers",
        "student_num_layers": 2,
        "window_size": 7,
        **dict.fromkeys(weight_names(CKDArguments), 0.3),  # all four relations
        "teacher_cache_dir": CACHE,
        "output_dir": OUTPUT,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "warmup_steps": 5,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "eval_strategy": "steps",
        "eval_steps": SAVE_STEPS,
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": "true",
        **values,
    }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return [*words, "--do_train", "--do_eval", "--use_cpu"]


# {task: (script, what makes its data and returns its options)}
TASKS = {
    "glue": ("run_glue_ckd", make_classification),
    "mlm": ("run_mlm_ckd", make_language_model),
}


class Watch:
    """Records the events of a run in a file, and kills the run at one of them.

    Args:
        path: the file; each line has a time and an event.
        target: the event at which the run is killed, or None.
    """

    def __init__(self, path: Path, target: str | None):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.target, self.seen = target, collections.Counter()

    def event(self, what: str, die=lambda: None) -> None:
        """Records an event. If it is the target, calls `die` to create the state of this moment, and kills the run."""
        self.seen[what] += 1
        if self.seen[what] > 1:
            what = f"{what} ({self.seen[what]})"
        os.write(self.file, f"{time.time()} {what}\n".encode())
        if what == self.target:
            die()
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, path, write) -> None:
        """Calls a function that writes a file."""
        name = self.name(path)
        if name is None:
            return write()
        self.event(f"{name}: not written")
        write()
        self.event(f"{name}: {HALF}", lambda: os.truncate(path, os.path.getsize(path) // 2))
        self.event(f"{name}: written")

    def change(self, path, done: str, change):
        """Calls a function that renames or deletes a file or folder."""
        name = self.name(path)
        if name is None:
            return change()
        self.event(f"{name}: not {done}")
        result = change()
        self.event(f"{name}: {done}")
        return result

    def name(self, path) -> str | None:
        """Returns the name of a watched path in the run's folder, without a process number; None for other paths."""
        if isinstance(path, int):
            return None
        name = os.path.relpath(os.path.abspath(os.fsdecode(path)))
        return re.sub(r"\.\d+$", "", name) if name.startswith((OUTPUT, CACHE)) else None

    def install(self) -> None:
        """Patches the functions that write, rename and delete files, train, evaluate and run the teacher."""
        import safetensors.torch
        import torch
        from transformers import Trainer

        from ckd_trainer.teacher import writer
        from ckd_trainer.teacher.live import LiveTeacher

        watch, opens, replace, unlink, rmdir = self, io.open, os.replace, os.unlink, os.rmdir
        save, serialize = torch.save, safetensors.torch.serialize_file
        train, predict, read = Trainer.training_step, Trainer.prediction_step, LiveTeacher.__call__
        write_part = writer.SignalWriter.write

        def open_watched(file, mode="r", *args, **kwargs):
            if not set(mode) & set("wxa") or watch.name(file) is None:
                return opens(file, mode, *args, **kwargs)
            watch.event(f"{watch.name(file)}: not written")
            return _Written(opens(file, mode, *args, **kwargs), watch, file)

        def in_folder(path, dir_fd):
            return path if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)

        builtins.open = io.open = open_watched
        os.replace = lambda old, new: watch.change(new, "renamed", lambda: replace(old, new))
        os.unlink = os.remove = lambda path, *, dir_fd=None: watch.change(
            in_folder(path, dir_fd), "deleted", lambda: unlink(path, dir_fd=dir_fd)
        )
        os.rmdir = lambda path, *, dir_fd=None: watch.change(
            in_folder(path, dir_fd), "deleted", lambda: rmdir(path, dir_fd=dir_fd)
        )
        if sys.version_info < (3, 11):  # pathlib binds these functions at import
            paths = Path._accessor
            paths.open, paths.replace, paths.unlink, paths.rmdir = io.open, os.replace, os.unlink, os.rmdir
        torch.save = lambda obj, f, *args, **kwargs: watch.write(f, lambda: save(obj, f, *args, **kwargs))
        safetensors.torch.serialize_file = lambda tensors, path, *args, **kwargs: watch.write(
            path, lambda: serialize(tensors, path, *args, **kwargs)
        )

        def training_step(trainer, *args, **kwargs):
            step = trainer.state.global_step + 1
            watch.event(f"step {step}: begins")
            loss = train(trainer, *args, **kwargs)
            watch.event(f"step {step}: gradients are there")
            return loss

        def prediction_step(trainer, *args, **kwargs):
            watch.event(f"evaluation after step {trainer.state.global_step}" if trainer.is_in_train else "evaluation")
            return predict(trainer, *args, **kwargs)

        def write(writer, part, report):
            watch.event(f"{CACHE}: part {part.number} begins")

            def read_batch(teacher, batch):
                watch.event(f"{CACHE}: teacher reads for part {part.number}")
                return read(teacher, batch)

            LiveTeacher.__call__ = read_batch
            write_part(writer, part, report)

        Trainer.training_step, Trainer.prediction_step = training_step, prediction_step
        writer.SignalWriter.write = write
        writer._PART_ROWS = 64  # several parts from a few examples


class _Written:
    """A file opened for writing, which records when it is closed."""

    def __init__(self, file, watch: Watch, path):
        self.file, self.watch, self.path = file, watch, path

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if not self.file.closed:
            name = self.watch.name(self.path)
            self.file.flush()
            self.watch.event(f"{name}: {HALF}", lambda: os.truncate(self.path, os.path.getsize(self.path) // 2))
            self.file.close()
            self.watch.event(f"{name}: written")


def phase(event: str) -> str:
    """Returns the phase of a run to which an event belongs."""
    if event.startswith(CACHE):
        return "cache"
    if event.startswith(("start", "step", "evaluation after")):
        return event.split()[0]
    if event.startswith(f"{OUTPUT}/checkpoint-"):
        return "rotation" if "deleted" in event else "save"
    return "start" if re.match(rf"{OUTPUT}/(recipe.yaml|run.json|\.)", event) else "end"


# ----------------------------------------------------------------------------------------------------------- processes


def child(folder: Path, number: int, script: str, options: list[str], target: str | None) -> None:
    """Runs a script under watch, in its own process."""
    gc.freeze()  # garbage collection then skips the imports, see conftest.py
    gc.set_threshold(20_000)
    os.setsid()
    os.chdir(folder)
    sys.path.insert(0, str(PROJECT))
    output = os.open(f"output-{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import datasets
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # not a lock between processes, which would outlive a kill
    datasets.config.HF_DATASETS_CACHE = "datasets"  # each run has its own
    sys.argv = [f"{script}.py", *options]
    watch = Watch(Path(f"events-{number}.txt"), target)
    watch.install()
    watch.event("start")
    importlib.import_module(script).main()


def context_of(forks: bool):
    """Returns a multiprocessing context: fresh interpreters, or forks of one that has imported everything."""
    if not forks:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "run_glue_ckd", "run_mlm_ckd", "safetensors.torch", "transformers.trainer"]
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(PROJECT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


@dataclass(frozen=True)
class Launch:
    """A finished process of a run."""

    code: int
    events: list[tuple[float, str]] = field(repr=False)  # (seconds since its start, event)
    text: str = field(repr=False)
    seconds: float

    @property
    def resumed_from(self) -> str:
        if "is already trained" in self.text:
            return "the trained model"
        found = re.search(r"Resuming the run in \S+ from (\S+)\.", self.text)
        return found[1] if found else "the beginning" if len(self.events) > 1 else "nothing yet"

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.text.splitlines() if " WARNING: " in line]


def launch(
    context,
    folder: Path,
    script: str,
    options: list[str],
    *,
    target: str | None = None,
    delay: float | None = None,
):
    """Starts or restarts a run in its folder, and waits until it ends.

    Args:
        target: the event at which it is killed.
        delay: seconds after its start until it is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("output-*.txt")))
    events, began = folder / f"events-{number}.txt", time.monotonic()
    process = context.Process(target=child, args=(folder, number, script, options, target))
    process.start()
    if delay is not None:
        while process.is_alive() and not (events.exists() and events.stat().st_size):
            time.sleep(0.01)
        process.join(delay)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
    lines = [line.split(" ", 1) for line in events.read_text().splitlines()] if events.exists() else []
    start = float(lines[0][0]) if lines else 0.0
    return Launch(
        process.exitcode,
        [(float(at) - start, what) for at, what in lines],
        (folder / f"output-{number}.txt").read_text(encoding="utf-8", errors="replace"),
        time.monotonic() - began,
    )


class Failure(Exception):
    """A run failed, or its result differs from the reference."""


class Chaos:
    """A reference run, and further runs that are killed.

    Args:
        folder: for all runs.
        forks: see `context_of`.
        task: a key of `TASKS`.
        more: options that override those of the task.
    """

    def __init__(self, folder: Path, *, forks: bool, task: str = "glue", more: Sequence[str] = ()):
        self.folder, self.context = Path(folder).resolve(), context_of(forks)
        self.script, make = TASKS[task]
        self.options = [*make(self.folder / "task"), *more]
        self.reference = self.launch("reference")
        if self.reference.code:
            raise Failure(f"the reference run failed:\n{self.reference.text[-3000:]}")

    def launch(self, name: str, **kwargs) -> Launch:
        return launch(self.context, self.folder / name, self.script, self.options, **kwargs)

    def difference(self, name: str) -> str | None:
        """Returns the first difference between a run and the reference, or None."""
        found = list(differences(self.folder / "reference", self.folder / name))
        return f"{found[0]} (the first of {len(found)} differences)" if found else None

    def last(self, pattern: str) -> str:
        """Returns the last event of the reference that matches a regular expression."""
        return [what for _, what in self.reference.events if re.search(pattern, what)][-1]

    def kill(self, kills: int, seed: int, say=print) -> collections.Counter:
        """Kills runs this number of times, lets them finish, and compares them.

        If a run ends before its moment, it is compared, and a new run starts.

        Returns:
            the number of kills in each phase.

        Raises:
            Failure: a process failed, or the result of a run differs from the reference.
        """
        draw, phases = random.Random(seed), collections.Counter()
        by_clock = draw.uniform(0.2, 0.5)
        for run in itertools.count(1):
            name, done = f"killed-{seed}-{run}", 0
            while True:
                left = kills - phases.total()
                moment = self._moment(draw, done, left, phases, by_clock) if left else {}
                process = self.launch(name, **moment)
                last = process.events[-1][1] if process.events else "imports"
                if process.code == 0:
                    say(f"run {run}: completed, resumed from {process.resumed_from}")
                    break
                if process.code != -signal.SIGKILL:
                    raise Failure(f"{name} failed after '{last}', code {process.code}:\n{process.text[-3000:]}")
                phases[phase(last)] += 1
                how = "by the clock, last event" if "delay" in moment else "at"
                say(
                    f"kill {phases.total()}: run {run}, resumed from {process.resumed_from}, killed after "
                    f"{process.events[-1][0] if process.events else 0:.2f} s {how} '{last}'"
                )
                done = max(done, self._milestone(process))
            found = self.difference(name)
            if found:
                raise Failure(f"{name}: {found}")
            if phases.total() == kills:
                return phases

    def _moment(self, draw, done, left, phases, by_clock) -> dict:
        """Draws the moment of the next kill from the remaining work, preferring phases with fewer kills."""
        events = self.reference.events
        begun = next(at for at, what in events if phase(what) != "start")  # after the start
        window = events[done : done + max(2, round(2 * (len(events) - done) / (left + 1)))]
        if draw.random() < by_clock or len(window) < 2:
            return {"delay": draw.uniform(begun / 2, begun + 2 * max(0.1, window[-1][0] - max(begun, window[0][0])))}
        by_phase = collections.defaultdict(list)
        for _, what in window:
            by_phase[phase(what)].append(what)
        fewest = min(phases[name] for name in by_phase)
        chosen = draw.choice([name for name in by_phase if phases[name] == fewest])
        return {"target": draw.choice(by_phase[chosen])}

    def _milestone(self, process: Launch) -> int:
        """Returns the index in the reference's events up to which a process made lasting progress."""
        lasting = re.compile(
            rf"{CACHE}/\S*: renamed|{OUTPUT}/(checkpoint-\d+/trainer_state|train_results).json: written"
        )
        places = {what: place + 1 for place, (_, what) in enumerate(self.reference.events)}
        return max((places.get(what, 0) for _, what in process.events if lasting.fullmatch(what)), default=0)


# ---------------------------------------------------------------------------------------------------------- comparison


def differences(reference: Path, other: Path):
    """Yields the differences between the files of two runs, except for times."""
    names = [_files(folder) for folder in (reference, other)]
    for name in sorted(names[1] - names[0]):
        yield f"{name} is left over"
    for name in sorted(names[0] - names[1]):
        yield f"{name} is missing"
    for name in sorted(names[0] & names[1], key=lambda name: (not name.endswith(".safetensors"), name)):
        ours, theirs = (_content(folder / name) for folder in (other, reference))
        yield from _differences(name, ours, theirs)


def _files(folder: Path) -> set[str]:
    """Returns the names of files, and of folders with a trailing slash."""
    paths = [path for part in (OUTPUT, CACHE) for path in (folder / part).rglob("*")]
    return {f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}" for path in paths}


def _content(path: Path):
    if path.is_dir():
        return None
    if path.name == "training_args.bin":
        import torch

        return torch.load(path, weights_only=False).to_dict()
    if path.name == "run.json" or path.name.endswith(("_results.json", "trainer_state.json")):
        with contextlib.suppress(ValueError):  # half a file is compared as text
            return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix in (".md", ".yaml", ".tsv", ".json"):
        return path.read_text(encoding="utf-8").splitlines()
    return path.read_bytes()


def _differences(name: str, ours, theirs):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**theirs, **ours}:
            if (
                key.endswith(TIMINGS)
                or key in OF_THE_LAST_PART
                or (name == f"{OUTPUT}/run.json" and key in OF_THE_START)
            ):
                continue
            if key not in ours or key not in theirs:
                yield f"{name}: {key} is {'missing' if key in theirs else 'left over'}"
            else:
                yield from _differences(f"{name}: {key}", ours[key], theirs[key])
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            yield f"{name} has {len(ours)} entries, the reference {len(theirs)}"
        for place, (our, their) in enumerate(zip(ours, theirs, strict=False)):
            yield from _differences(f"{name}: {place}", our, their)
    elif isinstance(ours, bytes) and isinstance(theirs, bytes):
        if ours != theirs:
            yield f"{name} has a different content ({len(ours)} bytes, the reference {len(theirs)})"
    elif ours != theirs:
        yield f"{name} is {ours!r}, but {theirs!r} in the reference"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, help="repeat the moments of a seed (default: a new one, printed)")
    parser.add_argument("--folder", type=Path, help="keep the runs here (default: a temporary folder)")
    parser.add_argument("--task", choices=TASKS, default="glue", help="what is distilled (default: glue)")
    parser.add_argument("--forks", action="store_true", help="fork from a process that has imported everything")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        for old in (folder / "task", folder / "reference", *folder.glob("killed-*")):
            shutil.rmtree(old, ignore_errors=True)
        try:
            chaos = Chaos(folder, forks=arguments.forks, task=arguments.task)
            print(f"reference: {chaos.reference.seconds:.1f} s, {len(chaos.reference.events)} events", flush=True)
            phases = chaos.kill(arguments.kills, seed, say=lambda line: print(line, flush=True))
        except Failure as failure:
            sys.exit(f"FAILED (seed {seed}): {failure}")
    told = ", ".join(f"{name} {count}" for name, count in phases.most_common())
    print(f"{arguments.kills} kills ({told}): every run ended exactly like the uninterrupted one.")


if __name__ == "__main__":
    sys.path[0] = str(PROJECT)  # not this folder, whose tokenizers.py would hide the library
    main()
