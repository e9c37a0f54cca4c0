"""What a comparison checks and decides before the first run trains."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments

from ckd_trainer.arguments import ModelArguments
from ckd_trainer.comparison.variants import SET_BY_COMPARISON, Options, Variant
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.glue import metrics_of
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.heads.recognition import head_of_auto_class
from ckd_trainer.methods import Pair, terms_of
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.runs.stages import stages_of
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.utils.errors import InputError

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """A variant that fits its models.

    Attributes:
        variant: without the teacher cache if a cache cannot hold what its terms read.
        signals: what a cache holds for it; empty without a cache.
    """

    variant: Variant
    signals: frozenset[Signal]


def metric_of(name: str | None, groups: Sequence[Any]) -> str:
    """Returns the score to compare; raises InputError if the runs do not record it per example."""
    squad = [SQUAD_TASKS[group.task_name] for group in groups if isinstance(group, SquadArguments)]
    best, known = (squad[0].best_metric, squad[0].metrics[:2]) if squad else metrics_of(_one(GlueArguments, groups))
    if name is None:
        return best
    name = name.removeprefix("eval_")
    if name.removeprefix("mismatched_") not in known:  # MNLI's second set
        raise InputError(f"metric is {name}, which cannot be compared: give {' or '.join(known)}.")
    return name


def shared_options(recipe: Options, groups: Sequence[Any], output: Path) -> Options:
    """Returns the options that all runs share: the recipe's, on one sample of the data, with one cache."""
    args, data = _one(TrainingArguments, groups), _one(DataArguments, groups)
    if args.push_to_hub:
        raise InputError("push_to_hub is set, but compare does not upload models: leave it out.")
    shared = {name: value for name, value in recipe.items() if name not in SET_BY_COMPARISON}
    shared |= {"do_train": True, "do_eval": True}
    shared.setdefault("teacher_cache_dir", str(output / "teacher_cache"))
    if data.sample_seed is None:
        shared["sample_seed"] = args.seed
    return shared


def checked(variant: Variant, groups: Sequence[Any], model_class: type[Any]) -> Checked:
    """Checks a variant's loss against its models.

    Args:
        groups: its options, as instances of the dataclasses that define them.
        model_class: the Auto class of the task's models.

    Raises:
        InputError: models cannot be found, or its terms do not fit them.
    """
    try:
        stages = stages_of(groups)
        distills = any(stage.distills for stage in stages)
        models = ModelPair(_one(ModelArguments, groups), model_class=model_class, distills=distills, trains=True)
        if not distills:
            return Checked(variant, frozenset())
        head = head_of_auto_class(model_class, models.student_config)
        pair = Pair(models.student_config, models.teacher_config, head)
        terms = [term for stage in stages for term in terms_of(stage.ckd_args, stage.methods, pair)]
    except InputError as error:
        raise InputError(f"{variant.name}: {error}") from error
    signals = frozenset(term.teacher_signal for term in terms)
    if any(signal.uncached_because for signal in signals):
        without = variant.recipe | {"teacher_cache_dir": None}
        return Checked(dataclasses.replace(variant, recipe=without), frozenset())
    return Checked(variant, signals)


def cache_fillers(variants: Sequence[Checked], weights: Collection[str]) -> list[Variant]:
    """Returns what fills the teacher cache first, so that the teacher runs once for all variants of a student.

    Each is a single step with the terms of all variants that read the cache. None is needed for a single reader.

    Args:
        weights: the names of the options that turn terms on.
    """
    fillers = []
    for student in dict.fromkeys(one.variant.student for one in variants):
        readers = [one for one in variants if one.signals and one.variant.student == student]
        if len({one.signals for one in readers}) < 2:
            continue
        recipe = dict(readers[0].variant.recipe)
        for name in (*weights, "alpha"):
            given = [float(one.variant.recipe[name]) for one in readers if name in one.variant.recipe]
            recipe |= {name: max(given)} if given else {}
        recipe |= {"max_steps": 1, "do_eval": False, "eval_strategy": "no", "save_strategy": "no", "stages": None}
        recipe |= {"load_best_model_at_end": False, "early_stopping_patience": None}
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:8]
        fillers.append(Variant(f"_teacher_cache_{key}", student, recipe))  # no method begins with an underscore
    return fillers


def _one(kind: type[Kind], groups: Iterable[Any]) -> Kind:
    return next(group for group in groups if isinstance(group, kind))
