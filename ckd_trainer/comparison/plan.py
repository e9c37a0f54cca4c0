"""What a comparison checks and decides before the first run trains."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments

from ckd_trainer.arguments import ModelArguments
from ckd_trainer.comparison.variants import CKD_WEIGHTS, Options, Variant
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.glue import metrics_of
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.heads.recognition import head_of_auto_class
from ckd_trainer.methods import Pair, terms_of
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.runs.stages import stages_of
from ckd_trainer.utils.errors import InputError

Kind = TypeVar("Kind")


def metric_of(name: str | None, groups: Sequence[Any]) -> str:
    """Returns the score to compare; raises InputError if the task does not have it."""
    squad = [SQUAD_TASKS[group.task_name] for group in groups if isinstance(group, SquadArguments)]
    best, known = (squad[0].best_metric, squad[0].metrics) if squad else metrics_of(_one(GlueArguments, groups))
    if name is None:
        return best
    if not any(name == one or name.endswith(f"_{one}") for one in known):  # mismatched_accuracy
        raise InputError(f"metric is {name}, but the task has {', '.join(known)}: give one of these.")
    return name


def shared_options(recipe: Options, groups: Sequence[Any], output: Path) -> Options:
    """Returns the options that all runs share: the recipe's, on one sample of the data, with one cache."""
    args, data = _one(TrainingArguments, groups), _one(DataArguments, groups)
    if args.push_to_hub:
        raise InputError("push_to_hub is set, but the runs of a comparison stay here: leave it out.")
    shared = {name: value for name, value in recipe.items() if name not in ("output_dir", "seed")}
    shared |= {"do_train": True, "do_eval": True}
    shared.setdefault("teacher_cache_dir", str(output / "teacher_cache"))
    if data.max_train_samples is not None and data.sample_seed is None:
        shared["sample_seed"] = args.seed
    return shared


def checked(variant: Variant, groups: Sequence[Any], model_class: type[Any]) -> Variant:
    """Returns the variant, without the teacher cache if a cache cannot hold what its terms read.

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
            return variant
        head = head_of_auto_class(model_class, models.student_config)
        pair = Pair(models.student_config, models.teacher_config, head)
        terms = [term for stage in stages for term in terms_of(stage.ckd_args, stage.methods, pair)]
    except InputError as error:
        raise InputError(f"{variant.name}: {error}") from error
    if all(term.teacher_signal.uncached_because is None for term in terms):
        return variant
    return dataclasses.replace(variant, recipe=variant.recipe | {"teacher_cache_dir": None})


def order_of(variants: Sequence[Variant]) -> list[Variant]:
    """Returns the variants in the order in which they run: first those that fill the teacher cache for the others.

    CKD's terms and the logits need the most of what a cache can hold.
    """
    return sorted(variants, key=lambda variant: not any(float(variant.recipe.get(name, 1)) for name in CKD_WEIGHTS))


def _one(kind: type[Kind], groups: Iterable[Any]) -> Kind:
    return next(group for group in groups if isinstance(group, kind))
