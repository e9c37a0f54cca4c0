"""A search for better options: optuna draws them, and the worse half of the runs is stopped early, twice."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from ckd_trainer.comparison.schedule import Run
from ckd_trainer.comparison.variants import SET_BY_COMPARISON, Options, check_free
from ckd_trainer.reports.runs import read_json
from ckd_trainer.reports.table import markdown_table
from ckd_trainer.runs.lock import is_locked
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.utils.errors import InputError, first_of, short
from ckd_trainer.utils.files import write_atomically

# Each run is evaluated after every quarter of its training. After one quarter and after two, it goes on only if its
# score is in the better half so far. All lengths of training are compared at the same share of their steps, because
# the learning rate falls over the whole training.
EVALUATIONS: Options = {
    "eval_strategy": "steps",
    "eval_steps": 0.25,
    "save_strategy": "steps",
    "save_steps": 0.25,
    "save_total_limit": 1,
}
_QUARTERS = ("a quarter", "half")
_NAME, _JOURNAL = "search", "search.log"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What the search knows about one draw.

    Attributes:
        state: "finished", "stopped", "not finished", or "no score" (it is not a number).
        score: at the end; None if there is none.
        scores: after each quarter of the training.
    """

    number: int
    state: str
    score: float | None
    scores: list[float]
    options: Options


def read_ranges(path: str, recipe: Options, check: Callable[[Options, str], object]) -> dict[str, BaseDistribution]:
    """Returns the ranges in a YAML file, each a list of values, or `{low: ..., high: ..., log: true}`.

    Args:
        recipe: the options that all trials share.
        check: raises InputError if a recipe cannot be run; its second argument names the source.

    Raises:
        InputError: a malformed range, an option that does not exist or that the search sets, a value that an option
            does not take.

    Example::

        learning_rate: {low: 2e-5, high: 2e-4, log: true}
        num_train_epochs: [3, 6, 12]
    """
    ranges = {}
    given = read_recipe(path)
    check_free(given, path, (*SET_BY_COMPARISON, *EVALUATIONS, "stages", "push_to_hub"))
    for name, values in given.items():
        ranges[name] = _range(f"{path}: {name}", values)
        for value in values.values() if isinstance(values, dict) else values:
            if not isinstance(value, bool) or isinstance(values, list):  # all but `log`
                check(recipe | {name: value}, path)
    if not ranges:
        raise InputError(f"{path} has no ranges: give `option: [value, value]` per line.")
    if "num_train_epochs" in ranges and int(recipe.get("max_steps") or -1) > 0:
        raise InputError(
            f"{path} varies num_train_epochs, but the recipe's max_steps would win: leave one of them out."
        )
    return ranges


def _range(name: str, values: Any) -> BaseDistribution:
    form = "give a list of values, or {low: 2e-5, high: 2e-4, log: true}"
    if isinstance(values, list):
        if len(values) < 2 or not all(isinstance(value, str | int | float | bool) for value in values):
            raise InputError(f"{name} is {short(values)}: {form}.")
        if len({str(value) for value in values}) < len(values):
            raise InputError(f"{name} is {short(values)}, which holds a value twice: give each once.")
        return CategoricalDistribution(values)
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        raise InputError(f"{name} is {short(values)}: {form}.")
    low, high, log = values["low"], values["high"], values.get("log", False)
    if not isinstance(log, bool) or isinstance(low, bool) or isinstance(high, bool):
        raise InputError(f"{name} is {short(values)}: {form}.")
    kind = IntDistribution if all(isinstance(end, int) for end in (low, high)) else FloatDistribution
    try:
        low, high = float(low), float(high)  # YAML reads 2e-5 as text
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError("low is not below high")
        return kind(low, high, log=log) if kind is FloatDistribution else kind(int(low), int(high), log=log)
    except (TypeError, ValueError) as error:  # also a logarithm of 0
        raise InputError(f"{name} is {short(values)}, which is no range ({error}): {form}.") from None


class Search:
    """Draws the options of runs, watches them, and keeps what it finds in a journal.

    It is an iterator over runs: those that were not finished when the search was interrupted, then new ones.

    Args:
        folder: for the journal, `search.log`.
        ranges: as `read_ranges` returns them.
        count: the number of trials.
        seed: of the draws. Each trial's draw depends on it, its number and the results before it alone, so that a
            resumed search draws what an uninterrupted one would.
        metric: the score, as the evaluation names it without `eval_`.
        run_of: returns the run of a trial, given its number and its options.
        recipe: the options that all trials share. They are the first trial, if all of them lie in the ranges.

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
        recipe: Options,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.ranges, self.count, self.seed, self.metric = dict(ranges), count, seed, f"eval_{metric}"
        self.run_of = run_of
        self._storage = JournalStorage(JournalFileBackend(str(folder / _JOURNAL)))
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=_NAME,
            load_if_exists=True,
            direction="minimize" if metric == "rmse" else "maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        )
        self._check_same(folder, recipe)
        if not self.study.trials:
            self._enqueue(recipe)
        self._unfinished = [trial for trial in self.study.trials if trial.state is TrialState.RUNNING]
        self._trials: dict[Run, optuna.Trial] = {}

    def _check_same(self, folder: Path, recipe: Options) -> None:
        """Raises InputError if the folder's search has other ranges, options or another seed."""
        mine = {name: optuna.distributions.distribution_to_json(one) for name, one in self.ranges.items()}
        mine |= {"seed": str(self.seed), "metric": self.metric}
        mine |= {f"recipe: {name}": str(value) for name, value in recipe.items() if name != "teacher_cache_dir"}
        before = self.study.user_attrs.get("search", mine)
        changed = [name for name in before | mine if before.get(name) != mine.get(name)]
        if changed:
            raise InputError(
                f"{folder} holds a search with other options ({first_of(changed)}): give another --output."
            )
        self.study.set_user_attr("search", mine)

    def _enqueue(self, recipe: Options) -> None:
        """Makes the recipe itself the first trial, so that the search never ends with less."""
        values = {}
        for name, distribution in self.ranges.items():
            for value in _as_drawn(recipe.get(name), distribution):
                values[name] = value
        if values.keys() == self.ranges.keys():
            self.study.enqueue_trial(values)

    def __iter__(self) -> "Search":
        return self

    def __next__(self) -> Run:
        """Returns the next run."""
        self.tidy_up()
        if self._unfinished:
            number = self._unfinished.pop(0).number
            study_id = self._storage.get_study_id_from_name(_NAME)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
            trial = optuna.Trial(self.study, trial_id)
        elif self._drawn() < self.count:
            # The state of a sampler is not in the journal.
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(self.study.trials))
            trial = self.study.ask(self.ranges)
        else:
            raise StopIteration
        run = self.run_of(trial.number, trial.params)
        self._trials[run] = trial
        return run

    def __length_hint__(self) -> int:
        return len(self._unfinished) + max(0, self.count - self._drawn())

    def _drawn(self) -> int:
        return sum(trial.state is not TrialState.WAITING for trial in self.study.trials)

    def stop(self, run: Run) -> str | None:
        """Returns why the run should be stopped: after a part of its training, it is in the worse half so far."""
        trial = self._trials[run]
        reported = self.study.trials[trial.number].intermediate_values
        for quarter, score in enumerate(_scores_so_far(run.folder, self.metric)[: len(_QUARTERS)]):
            if quarter + 1 in reported:
                continue
            trial.report(score, quarter + 1)
            if trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                return f"{self.metric.removeprefix('eval_')} {score:.4f} after {_QUARTERS[quarter]} of its training"
        return None

    def finished(self, run: Run) -> None:
        """Takes in the score of a finished run."""
        if self.stop(run) is None:  # else it ended faster than it was looked at
            results = read_json(run.folder / "eval_results.json") or {}
            self.study.tell(self._trials[run], results[self.metric])

    def tidy_up(self) -> None:
        """Deletes the checkpoints of runs that are finished or stopped: they will not be resumed."""
        for run, trial in self._trials.items():
            if self.study.trials[trial.number].state.is_finished() and not is_locked(run.folder):
                for checkpoint in run.folder.glob("checkpoint-*"):
                    shutil.rmtree(checkpoint)

    @property
    def trials(self) -> list[Trial]:
        """All trials, the best score first, then those without one."""
        found = [_as_trial(trial) for trial in self.study.trials if trial.state is not TrialState.WAITING]
        sign = 1 if self.study.direction is optuna.study.StudyDirection.MINIMIZE else -1
        return sorted(found, key=lambda trial: (trial.score is None, sign * (trial.score or 0), trial.number))


def _as_drawn(value: Any, distribution: BaseDistribution) -> Sequence[Any]:
    """Returns a recipe's value as a draw from a range, or nothing if it does not lie in it."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if str(choice) == str(value)]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    try:
        number = int(value) if isinstance(distribution, IntDistribution) else float(value)
    except (TypeError, ValueError):
        return []
    return [number] if distribution.low <= number <= distribution.high else []


def _scores_so_far(folder: Path, metric: str) -> list[float]:
    """Returns the scores of a run's evaluations, from its last checkpoint or its end."""
    paths = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    histories: list[list[dict]] = []
    for path in paths:
        try:
            histories.append(json.loads(path.read_text(encoding="utf-8"))["log_history"])
        except (OSError, ValueError):  # missing, or being written or deleted at this moment
            continue
    longest = max(histories, key=len, default=[])
    return [entry[metric] for entry in longest if metric in entry]


def _as_trial(trial: FrozenTrial) -> Trial:
    states = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped", TrialState.FAIL: "no score"}
    score = trial.value if trial.state is TrialState.COMPLETE else None
    scores = [score for _, score in sorted(trial.intermediate_values.items())]
    return Trial(trial.number, states.get(trial.state, "not finished"), score, scores, dict(trial.params))


def write_results(trials: Sequence[Trial], metric: str, recipe: Options, output: Path) -> None:
    """Writes search.json, search.md and, if a trial has finished, the best recipe as best.yaml; prints the table.

    Args:
        trials: as `Search.trials` returns them, the best first.
        recipe: the options that all trials share.
    """
    content = {"metric": metric, "trials": [dataclasses.asdict(trial) for trial in trials]}
    write_atomically(output / "search.json", json.dumps(content, indent=2) + "\n")
    lines = [_as_table(trials, metric), ""]
    if trials and trials[0].score is not None:
        path = output / "best.yaml"
        best = yaml.safe_dump(recipe | EVALUATIONS | trials[0].options, sort_keys=False, allow_unicode=True)
        write_atomically(path, f"# Trial {trials[0].number} of a search: {metric} {trials[0].score:.4f}\n{best}")
        lines.append(
            f"{path} is the recipe of trial {trials[0].number}. Its score is the best of many on the same validation "
            "examples, so expect less. To see whether it is better, compare it with other seeds."
        )
    else:
        lines.append("No trial has finished.")
    text = "\n".join(lines)
    write_atomically(output / "search.md", text + "\n")
    print(f"\n{text}\n\nWritten to {output}: search.json, search.md")


def _as_table(trials: Sequence[Trial], metric: str) -> str:
    """Returns the trials as a Markdown table.

    Example::

        | trial | accuracy | after a quarter | after half | state    | learning_rate | temperature |
        | ----- | -------- | --------------- | ---------- | -------- | ------------- | ----------- |
        | 4     | 0.9105   | 0.7240          | 0.8420     | finished | 0.000127      | 2           |
        | 2     |          | 0.6895          |            | stopped  | 2.1e-05       | 4           |
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.options))
    rows = [["trial", metric, *(f"after {part}" for part in _QUARTERS), "state", *names]]
    for trial in trials:
        parts = [f"{score:.4f}" for score in trial.scores]
        score = "" if trial.score is None else f"{trial.score:.4f}"
        values = [trial.options.get(name, "") for name in names]
        shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        rows.append([str(trial.number), score, *parts, *[""] * (len(_QUARTERS) - len(parts)), trial.state, *shown])
    return markdown_table(rows)
