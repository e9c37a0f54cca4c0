"""What a comparison checks and decides before the first run trains."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments
from ckd_trainer.comparison.variants import SET_BY_COMPARISON, Options, Variant, weights_by_method
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.data.text_tasks import metrics_of
from ckd_trainer.metrics.entities import SCORES
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.runs.recipe import one_of
from ckd_trainer.runs.stages import Stage, terms_of_teacher
from ckd_trainer.runs.training_options import check_steps
from ckd_trainer.runs.unlabeled import check_unlabeled_options, mixed_share
from ckd_trainer.tasks.base import Task
from ckd_trainer.tasks.inputs import examples_of_epoch
from ckd_trainer.tasks.pipeline import checked_stages, checked_terms
from ckd_trainer.teacher.cache import holds
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import expanded

# How each trial of a search is evaluated: after every quarter of its training.
EVALUATIONS: Options = {
    "eval_strategy": "steps",
    "eval_steps": 0.25,
    "eval_delay": 0,
    "eval_on_start": False,
    "save_strategy": "steps",
    "save_steps": 0.25,
    "save_total_limit": 1,
    "early_stopping_patience": None,  # it would count quarters
}


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """A variant that fits its models.

    Attributes:
        variant: without the teacher cache if a cache cannot hold what its terms read.
        task: what it learns.
        models: its configurations and tokenizers.
        stages: of its runs.
        signals: what a cache holds for it; empty without a cache.
        weights: {option: value} of all options that turn terms on.
        mixes: the share of unlabeled texts in its steps; None if its steps have none beside labeled ones.
    """

    variant: Variant
    task: Task
    models: ModelPair
    stages: Sequence[Stage]
    signals: frozenset[Signal]
    weights: dict[str, float]
    mixes: float | None

    def check_loaded(self) -> None:
        """Raises InputError if the data that the task has loaded does not fit the models, or leaves no step."""
        with self.naming_errors():
            self.task.set_head(self.models)
            if self.task.data.train is None or not any(stage.args.dataloader_drop_last for stage in self.stages):
                return
            self.task.inputs = self.task.encode(self.models.input_tokenizer)
            for stage in self.stages:
                with stage.naming_errors():
                    check_steps(stage.args, examples_of_epoch(self.task, stage))
            del self.task.inputs  # the comparison lasts for hours, and only its runs train

    def has_cache(self) -> bool:
        """Returns whether its teacher cache holds all that it reads. Logits are in every cache."""
        keys = {signal.key for signal in self.signals if not signal.reads_labels}
        return holds(expanded(str(self.variant.recipe["teacher_cache_dir"])), keys)

    def naming_errors(self) -> contextlib.AbstractContextManager[None]:
        """Adds the variant to the messages of InputErrors."""
        return _naming_errors(self.variant)


def metric_of(name: str | None, groups: Sequence[Any]) -> str:
    """Returns the score to compare; raises InputError if the runs do not record it per example."""
    data = one_of(DataArguments, groups)
    if isinstance(data, SquadArguments):
        task = SQUAD_TASKS[data.task_name]
        best, known = task.best_metric, task.metrics[:2]
    elif isinstance(data, NerArguments):
        best, known = SCORES[0], SCORES[:4]
    else:
        data = one_of(GlueArguments, groups)
        best, known = metrics_of(data)
        if data.task_name == "mnli":
            known += tuple(f"mismatched_{name}" for name in known)  # of its second set
    if name is None:
        return best
    name = name.removeprefix("eval_")
    if name not in known:
        raise InputError(f"metric is {name}, which cannot be compared: give {' or '.join(known)}.")
    return name


def shared_options(recipe: Options, groups: Sequence[Any], output: Path) -> Options:
    """Returns the options that all runs share: the recipe's, on one sample of the data, with one cache."""
    args, data = one_of(TrainingArguments, groups), one_of(DataArguments, groups)
    if args.push_to_hub:
        raise InputError("push_to_hub is set, but compare does not upload models: leave it out.")
    # Recipes are made to be given away: the runs find the token in their environment.
    shared = {name: value for name, value in recipe.items() if name not in (*SET_BY_COMPARISON, "hub_token")}
    shared |= {"do_train": True, "do_eval": True}
    shared.setdefault("teacher_cache_dir", str(output / "teacher_cache"))
    if data.sample_seed is None:
        shared["sample_seed"] = args.seed
    return shared


def checked(variant: Variant, groups: Sequence[Any], task: Task) -> Checked:
    """Checks a variant's options, and its loss against its models.

    Args:
        groups: its options, as instances of the dataclasses that define them.
        task: the task that it learns.

    Raises:
        InputError: options that its runs would refuse, models that cannot be found, or terms that do not fit them.
    """
    args, ckd_args, data = (one_of(kind, groups) for kind in (TrainingArguments, CKDArguments, DataArguments))
    weights = {"alpha": ckd_args.alpha, "labels_and_logits": ckd_args.labels_and_logits}
    weights |= {name: value for values in weights_by_method(groups).values() for name, value in values.items()}
    with _naming_errors(variant):
        if args.prediction_loss_only:
            raise InputError("prediction_loss_only leaves no scores to compare: leave it out.")
        stages = checked_stages(task, groups)
        distills = any(stage.distills for stage in stages)
        models = ModelPair(
            one_of(ModelArguments, groups), model_class=task.model_class, terms=terms_of_teacher(stages), trains=True
        )
        if data.has_unlabeled:
            check_unlabeled_options(data, stages, classifies=task.classifies)
        terms = checked_terms(task, models, stages, trains=True)
        signals = frozenset(term.teacher_signal for term in terms)
        if not distills or ckd_args.teacher_cache_dir is None:
            signals = frozenset()
        elif any(signal.uncached_because for signal in signals):
            if data.unlabeled_min_confidence is not None:
                raise InputError(
                    "unlabeled_min_confidence needs a cache, which cannot hold what this method reads: leave one of "
                    "them out."
                )
            signals = frozenset()
            variant = dataclasses.replace(variant, recipe=variant.recipe | {"teacher_cache_dir": None})
    return Checked(variant, task, models, stages, signals, weights, mixed_share(data, distills=distills))


@contextlib.contextmanager
def _naming_errors(variant: Variant) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{variant.name}: {error}") from error


def check_same_steps(plan: Sequence[Checked], args: TrainingArguments) -> None:
    """Raises InputError if the variants' epochs have different numbers of steps, and steps are not counted."""
    one, other = plan[0], next((one for one in plan if one.mixes != plan[0].mixes), None)
    if other is not None and args.max_steps < 1:
        raise InputError(
            f"an epoch of {one.variant.name} and one of {other.variant.name} have different numbers of steps, because "
            "they do not mix unlabeled texts in the same way: set max_steps."
        )


def cache_fillers(variants: Sequence[Checked]) -> list[Checked]:
    """Returns what fills the teacher cache first, so that the teacher runs once for all variants of a student.

    Each is a single step with the terms of all variants that read the cache. None is needed for a single reader.
    """
    fillers = []
    for student in dict.fromkeys(one.variant.student for one in variants):
        readers = [one for one in variants if one.signals and one.variant.student == student]
        if len({one.signals for one in readers}) < 2:
            continue
        recipe = readers[0].variant.recipe | {
            name: max(one.weights[name] for one in readers) for name in readers[0].weights
        }
        recipe |= {"max_steps": 1, "do_eval": False, "save_strategy": "no", "stages": None}
        recipe |= {"eval_strategy": "no", "eval_on_start": False, "load_best_model_at_end": False}
        recipe |= {"early_stopping_patience": None, "lr_scheduler_type": "linear", "lr_scheduler_kwargs": None}
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:8]
        filler = Variant(f"_teacher_cache_{key}", student, recipe)  # no method begins with an underscore
        signals = frozenset().union(*(one.signals for one in readers))
        fillers.append(dataclasses.replace(readers[0], variant=filler, signals=signals))
    return fillers
