"""A search for better options: optuna draws them, and runs with poor scores are stopped early."""

import contextlib
import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from ckd_trainer.comparison.formats import digits_of
from ckd_trainer.comparison.plan import EVALUATIONS
from ckd_trainer.comparison.ranges import draw_of
from ckd_trainer.comparison.schedule import Run
from ckd_trainer.comparison.variants import Options
from ckd_trainer.metrics.names import less_is_better
from ckd_trainer.reports.runs import read_json
from ckd_trainer.reports.table import markdown_table
from ckd_trainer.runs.lock import is_locked
from ckd_trainer.utils.errors import InputError, TemporaryError, first_of
from ckd_trainer.utils.files import delete, write_atomically

# After this many quarters, only the better half goes on. The learning rate falls over the whole training, so runs of
# different lengths are compared at the same share of their steps.
HALVINGS = {1: "a quarter", 2: "half"}
_ATTEMPTS = 20  # to draw what is new
_STATES = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "not finished": TrialState.RUNNING,
}


@dataclasses.dataclass
class Trial:
    """One draw.

    Attributes:
        state: "finished", "stopped", "failed" (it cannot be trained with these options) or "not finished".
        scores: {after how many quarters of the training: score}, of those in `HALVINGS`.
        score: at the end; None if the run has not finished, or if it is not a number.
    """

    number: int
    options: Options
    state: str = "not finished"
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    score: float | None = None


class Search:
    """Draws the options of runs, watches them, and keeps what it finds in search.json.

    It is an iterator over runs: those that were not finished when the search was interrupted, then new ones. Each draw
    depends only on the seed, the trial's number and the trials before it, and is none of these. The first trial is the
    recipe itself, if all its values lie in the ranges, and is never stopped.

    Args:
        folder: of search.json.
        ranges: as `read_ranges` returns them.
        count: the number of trials.
        seed: of the draws.
        metric: the score, as the evaluation names it without `eval_`.
        run_of: returns the run of a trial, given its number and its options.
        check: raises InputError if options that were drawn do not go together.
        shared: {option: value} of the recipe, which all trials share, but for what may differ between two calls.
        start: the recipe's values of the options in the ranges.

    Raises:
        InputError: the folder holds another search.
    """

    def __init__(
        self,
        folder: Path,
        ranges: Mapping[str, BaseDistribution],
        *,
        count: int,
        seed: int,
        metric: str,
        run_of: Callable[[int, Options], Run],
        check: Callable[[Options], None],
        shared: Options,
        start: Options,
    ) -> None:
        self.path, self.ranges, self.count, self.seed, self.metric = (
            folder / "search.json",
            ranges,
            count,
            seed,
            metric,
        )
        self._run_of, self._check = run_of, check
        self._setup = {name: distribution_to_json(one) for name, one in ranges.items()}
        self._setup |= {"seed of the draws": str(seed), "metric": metric}
        self._setup |= {f"recipe: {name}": str(value) for name, value in shared.items()}
        self.trials = self._read()
        self.runs = {run_of(trial.number, trial.options): trial for trial in self.trials}
        for run, trial in self.runs.items():
            if trial.state == "finished" and not run.is_finished:  # its folder was deleted: it is run again
                trial.state, trial.scores, trial.score = "not finished", {}, None
        self._unfinished = [run for run, trial in self.runs.items() if trial.state == "not finished"]
        self._unfinished.sort(key=lambda run: not is_locked(run.folder))  # those that go on need no place
        self._start = {name: draw_of(ranges[name], start[name]) for name in ranges}
        self._looked_at: dict[Run, dict[Path, int]] = {}
        self.tidy_up()

    def _read(self) -> list[Trial]:
        content = read_json(self.path)
        if content is None:
            return []
        before = content["search"]
        changed = [name for name in before | self._setup if before.get(name) != self._setup.get(name)]
        if changed:
            raise InputError(
                f"{self.path.parent} holds a search with other options ({first_of(changed)}): give another --output."
            )
        trials = [Trial(**trial) for trial in content["trials"]]
        for trial in trials:
            trial.scores = {int(quarters): score for quarters, score in trial.scores.items()}
        return trials

    def _write(self) -> None:
        """Writes search.json at once: a search that is killed at any moment has either made a decision or not."""
        content = {"search": self._setup, "trials": [dataclasses.asdict(trial) for trial in self.trials]}
        write_atomically(self.path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def __iter__(self) -> "Search":
        return self

    def __next__(self) -> Run:
        """Returns the next run."""
        if self._unfinished:
            return self._unfinished.pop(0)
        if len(self.trials) >= self.count:
            raise StopIteration
        self.tidy_up()
        options = self._draw()
        if options is None:
            self.count = len(self.trials)
            raise StopIteration
        trial = Trial(len(self.trials), options)
        self.trials.append(trial)
        self._write()
        run = self._run_of(trial.number, trial.options)
        self.runs[run] = trial
        return run

    def __length_hint__(self) -> int:
        return len(self._unfinished) + max(0, self.count - len(self.trials))

    def _draw(self) -> Options | None:
        """Returns new options that go together, None if none are found."""
        if not self.trials and not self.outside:
            return self._start
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        error = None
        # Among few values, optuna soon draws the best ones again and again.
        others = itertools.islice(self._in_order(), len(self.trials) + _ATTEMPTS)
        for options in itertools.chain(self._drawn_by_optuna(), others):
            if any(trial.options == options for trial in self.trials):
                continue
            try:
                self._check(options)
            except InputError as wrong:
                error = wrong
                continue
            return options
        if error is not None and not self.trials:
            raise error
        return None

    def _drawn_by_optuna(self) -> Iterator[Options]:
        for attempt in range(_ATTEMPTS):
            sampler = optuna.samplers.TPESampler(seed=self._seed(attempt))
            study = optuna.create_study(sampler=sampler, direction="minimize" if self._lower_is_better else "maximize")
            study.add_trials([self._as_optuna(trial) for trial in self.trials])
            yield study.ask(dict(self.ranges)).params

    def _in_order(self) -> Iterator[Options]:
        """Yields each combination of values once, beginning with a random one; none if a range is not finite."""
        choices = [_values(one) for one in self.ranges.values()]
        count = math.prod(map(len, choices))
        begin = random.Random(self._seed(_ATTEMPTS)).randrange(count or 1)  # a seed that optuna's draws do not have
        for number in range(begin, begin + count):
            options = {}
            for name, values in zip(self.ranges, choices, strict=True):
                number, place = divmod(number, len(values))
                options[name] = values[place]
            yield options

    def _seed(self, attempt: int) -> int:
        return int(np.random.SeedSequence([self.seed, len(self.trials), attempt]).generate_state(1)[0])

    def _as_optuna(self, trial: Trial) -> FrozenTrial:
        state = _STATES[trial.state]
        if state is TrialState.COMPLETE and trial.score is None:
            state = TrialState.FAIL
        return optuna.trial.create_trial(
            state=state,
            params=trial.options,
            distributions=dict(self.ranges),
            intermediate_values=trial.scores,
            value=trial.score,
        )

    @property
    def outside(self) -> list[str]:
        """The options whose values in the recipe lie in no range, so that the first trial cannot be the recipe."""
        return [name for name, value in self._start.items() if value is None]

    @property
    def _lower_is_better(self) -> bool:
        return less_is_better(self.metric)

    def stop(self, run: Run) -> str | None:
        """Returns why a run should be stopped: after a part of its training, it is in the worse half so far."""
        trial = self.runs[run]
        if trial.scores.keys() == HALVINGS.keys() or not self._has_news(run):
            return None
        for quarters, score in self._scores_so_far(run.folder).items():
            if quarters in trial.scores:
                continue
            others = [other.scores[quarters] for other in self.trials if quarters in other.scores]
            better = sum(other < score if self._lower_is_better else other > score for other in others)
            trial.scores[quarters] = score
            if trial.number > 0 and better >= max(1, (len(others) + 1) // 2):
                trial.state = "stopped"
                self._write()
                return f"{self.metric} {score:.4f} after {HALVINGS[quarters]} of its training"
            self._write()
        return None

    def finished(self, run: Run) -> None:
        """Takes in the scores of a finished run.

        Raises:
            InputError: it has none.
        """
        trial, score = self.runs[run], (read_json(run.folder / "eval_results.json") or {}).get(f"eval_{self.metric}")
        if score is None:
            raise InputError(f"{run.folder} has no {self.metric}, so there is nothing to search by: see its log.")
        trial.scores = self._scores_so_far(run.folder)
        trial.state, trial.score = "finished", score if math.isfinite(score) else None
        self._write()

    def refused(self, run: Run, reason: str) -> bool:
        """Takes in that a run cannot be trained with its options, for example because it diverged."""
        self.runs[run].state = "failed"
        self._write()
        return True

    def unavailable(self, run: Run, reason: str) -> None:
        """Stops the search if a run cannot be trained here and now: its options may be as good as any.

        Raises:
            TemporaryError: always, with the reason.
        """
        raise TemporaryError(f"the search stopped at {run.variant}: {reason.removeprefix('error: ')}")

    def _has_news(self, run: Run) -> bool:
        """Returns whether the run has written a checkpoint since it was last looked at: reading one takes time."""
        times = {}
        for path in run.folder.glob("checkpoint-*/trainer_state.json"):
            with contextlib.suppress(FileNotFoundError):  # just deleted
                times[path] = path.stat().st_mtime_ns
        before = self._looked_at.get(run)
        self._looked_at[run] = times
        return times != before

    def _scores_so_far(self, folder: Path) -> dict[int, float]:
        """Returns the scores of a run's evaluations that are in `HALVINGS`, from its last checkpoint or its end."""
        found: dict[int, float] = {}
        for path in (folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")):
            try:
                state = json.loads(path.read_text(encoding="utf-8"))
            except (FileNotFoundError, ValueError):  # not yet there or no longer, or being written
                continue
            for entry in state["log_history"]:
                quarters, score = round(4 * entry["step"] / state["max_steps"]), entry.get(f"eval_{self.metric}")
                if quarters in HALVINGS and score is not None and math.isfinite(score):
                    found.setdefault(quarters, score)
        return dict(sorted(found.items()))

    def tidy_up(self) -> None:
        """Deletes the checkpoints of runs that are finished or stopped: they will not be resumed."""
        for run, trial in self.runs.items():
            if trial.state != "not finished" and not is_locked(run.folder):
                for checkpoint in run.folder.glob("checkpoint-*"):
                    delete(checkpoint)

    @property
    def ranking(self) -> list[Trial]:
        """All trials, the best score first, then those without one."""
        sign = 1 if self._lower_is_better else -1
        return sorted(self.trials, key=lambda one: (one.score is None, sign * (one.score or 0), one.number))


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    """Returns the values in a range; none if it is not finite."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return range(distribution.low, distribution.high + 1) if isinstance(distribution, IntDistribution) else ()


def write_results(search: Search, recipe: Options, output: Path) -> str:
    """Writes the table as search.md and, if a trial has a score, the best recipe as best.yaml; returns the table.

    Args:
        recipe: the options that all trials share, and the seed.
    """
    lines, best = [_as_table(search), ""], search.ranking[0]
    if best.score is not None:
        path = output / "best.yaml"
        text = yaml.safe_dump(recipe | EVALUATIONS | best.options, sort_keys=False, allow_unicode=True)
        write_atomically(path, f"# Trial {best.number} of a search: {search.metric} {best.score:.4f}\n{text}")
        lines += [
            f"{path} is the recipe of trial {best.number}.",
            "Its score is the best of many on the same validation examples, so expect less of it on others. To see",
            "whether it is better, compare it with the old recipe, with other seeds.",
        ]
    else:
        lines.append("No trial has a score.")
    table = "\n".join(lines)
    write_atomically(output / "search.md", table + "\n")
    return table


def _as_table(search: Search) -> str:
    """Returns the trials as a Markdown table.

    Example::

        | trial | accuracy | after a quarter | after half | state    | learning_rate | temperature |
        | ----- | -------- | --------------- | ---------- | -------- | ------------- | ----------- |
        | 4     | 0.9105   | 0.7240          | 0.8420     | finished | 0.000127      | 2           |
        | 2     |          | 0.6895          |            | stopped  | 2.1e-05       | 4           |
    """
    rows = [["trial", search.metric, *(f"after {part}" for part in HALVINGS.values()), "state", *search.ranges]]
    known = [score for trial in search.trials for score in (trial.score, *trial.scores.values()) if score is not None]
    digits = digits_of(search.metric, known)
    for trial in search.ranking:
        scores: Sequence[float | None] = [trial.score, *(trial.scores.get(quarters) for quarters in HALVINGS)]
        shown = ["" if score is None else f"{score:.{digits}f}" for score in scores]
        values = [trial.options[name] for name in search.ranges]
        options = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        rows.append([str(trial.number), *shown, trial.state, *options])
    return markdown_table(rows)
