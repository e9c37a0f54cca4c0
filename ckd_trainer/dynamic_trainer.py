"""The trainer of dynamic students: a `DistillationTrainer` that trains several sub-networks in each step."""

import contextlib
import functools
import logging
import numbers
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.methods import MethodArguments
from ckd_trainer.metrics.names import is_score
from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.subnetworks import (
    DynamicArguments,
    SubNetwork,
    at_depth,
    check_dynamic,
    config_at_depth,
    has_widths,
    record_subnetworks,
    subnetworks_of,
)
from ckd_trainer.objective import Objective
from ckd_trainer.teacher.listener import Listener
from ckd_trainer.teacher.live import TeachingStudent
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.training.dynamic_options import check_options, check_terms
from ckd_trainer.training.importance import labeled_dataset, order_by_importance
from ckd_trainer.training.projections import projected
from ckd_trainer.training.running_means import RunningMeans
from ckd_trainer.training.step_items import StepItems
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import asked_for, config_of, inner_model

logger = logging.getLogger(__name__)


def scores_of(parts: Sequence[SubNetwork], metrics: Sequence[str]) -> list[str]:
    """Returns the names of the scores that an evaluation of these sub-networks reports, the whole student first."""
    means = [f"mean_{name}" for name in metrics]
    return [*metrics, *means, *(f"{name}_{part}" for part in parts[1:] for name in metrics)]


class DynamicTrainer(DistillationTrainer):
    """Trains a student whose parts are students too: sub-networks of several widths and depths, as in DynaBERT.

    The loss of a step is the sum of the losses of its sub-networks, and the optimizer makes one step for all of them:

        loss = sum_s (1 - alpha) task_s + alpha logits_s + weighted relation terms_s

    Each sub-network has all terms, with the teacher's layers matched to its own depth. The teacher's signals are
    computed once per batch. Weights that are shares of the gradient are scaled alike for all sub-networks, by the
    gradients of their sums.

    With `whole_student_teaches`, the loss of the whole student is task alone, at weight 1, and it is the teacher of
    the other sub-networks: it runs once more per batch, in eval mode, without gradients.

    Before the first step with several widths, the heads and neurons of each layer are reordered by their importance
    for the loss on the labels, which leaves the outputs as they are. So the narrow sub-networks have the most
    important ones. Importance is measured on training examples, or on those of `eval_dataset` if the training set has
    no labels.

    The log holds the mean over sub-networks of each term (`loss_task`), and the term of each (`loss_task_w0.5_d0.5`).
    `loss` is the mean over the sub-networks of each step. Evaluation reports the metrics of the whole student
    (`eval_accuracy`), of each other sub-network (`eval_accuracy_w0.5_d0.5`), and their mean (`eval_mean_accuracy`).

    Args:
        dynamic_args: the widths and depths.
        args, kwargs: as for `DistillationTrainer`.

    Raises:
        InputError: a student of another family, or a term, an option or a launcher that does not work with several
            widths or depths.

    Example::

        trainer = DynamicTrainer(
            model=student,
            teacher_model=teacher,
            dynamic_args=DynamicArguments(student_widths="1.0,0.5", student_depths="1.0,0.5"),
            args=TrainingArguments("out"),
            train_dataset=train,
        )
    """

    def __init__(self, *args: Any, dynamic_args: DynamicArguments, **kwargs: Any) -> None:
        self.dynamic_args = dynamic_args
        if kwargs.get("model_init") is not None:
            raise InputError("model_init makes new students, which have no order of heads and neurons: give a model.")
        self._is_ordered: bool | None = None
        self._teaching: TeachingStudent | None = None  # if the whole student teaches
        self._reading: dict[float, tuple[Any, dict[str, bool]]] = {}  # by depth
        self._logged: list[Any] | None = None
        super().__init__(*args, **kwargs)

    def use_loss(
        self,
        ckd_args: CKDArguments,
        methods: Sequence[MethodArguments] = (),
        dynamic_args: DynamicArguments | None = None,
    ) -> None:
        """Replaces the loss, and the widths and depths if they are given. If they are refused, nothing changes."""
        sizes = dynamic_args or self.dynamic_args
        self._fit_to(self.model, ckd_args=ckd_args, methods=methods, dynamic_args=sizes)

    def _derive(self, student: torch.nn.Module) -> None:
        self.subnetworks = self.dynamic_args.subnetworks
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        check_options(self.dynamic_args, self.ckd_args, self.args, is_sharded=is_sharded)
        model = inner_model(student)
        check_dynamic(model.config, self.subnetworks)
        if self._is_ordered is None:  # a model that has had several widths before
            self._is_ordered = has_widths(subnetworks_of(model.config))
        self._dynamic = DynamicModel(model)
        super()._derive(student)
        self._means = {part: RunningMeans(list(self._objectives[part].weights)) for part in self.subnetworks}
        if self._will_rewire and self.train_dataset is not None:
            self._labeled_dataset()  # raises if there is none

    def _connect(self, student: torch.nn.Module) -> None:
        if self._teaching is not None:
            self._teaching.listener.close()
        for listener, _ in self._reading.values():
            listener.close()
        super()._connect(student)
        record_subnetworks(inner_model(student).config, self.subnetworks)
        teaches = self.dynamic_args.whole_student_teaches
        self._teaching = TeachingStudent(student, self._teacher_signals()) if teaches else None
        self._reading = {1.0: (self._listener, self._student_options)}
        for part in self.dynamic_args.at_full_width[1:]:
            signals = self._objectives[part].student_signals
            with self._dynamic.running(part):
                listener = Listener(student, signals)
            self._reading[part.depth] = (listener, asked_for(student, signals) if signals else {})

    def _objective(self, config: PreTrainedConfig, teacher: Any) -> Objective:
        """Returns the loss at full depth, and keeps that of each sub-network."""
        teaches = self.dynamic_args.whole_student_teaches
        if teaches:
            teacher = self.model
        objective = super()._objective(config, teacher)
        check_terms(objective.terms.values(), self.dynamic_args, config)
        by_depth = {1.0: objective}
        for part in self.dynamic_args.at_full_width[1:]:
            with at_depth(part):
                shallow = config_at_depth(config, part)
                terms = self._terms_between(shallow, config_of(teacher)) if objective.terms else []
            by_depth[part.depth] = objective.with_terms(terms)
        self._objectives = {part: by_depth[part.depth] for part in self.subnetworks}
        if teaches:
            if not objective.terms:
                raise InputError(
                    "whole_student_teaches is set, but no term of the loss has a weight, so it would teach nothing: "
                    "give alpha or a term a weight, or leave it out."
                )
            if not self.head.label_columns and self.compute_loss_func is None:
                raise InputError(
                    "whole_student_teaches is set, but a bare encoder has no loss on labels to learn from: give a "
                    "student with a head, or a teacher."
                )
            self._objectives[SubNetwork()] = objective.of_labels()
        return objective

    def describe_loss(self) -> str:
        """Adds what is the teacher of what, where the whole student teaches."""
        if not self.dynamic_args.whole_student_teaches:
            return super().describe_loss()
        return f"{super().describe_loss()}; the whole student learns from the labels alone, and teaches the others"

    def _log_plan(self, previous: Objective | None) -> None:
        super()._log_plan(previous)
        shallow = {part: self._objectives[part] for part in self.dynamic_args.at_full_width[1:]}
        plan = [self.dynamic_args, *(objective.describe() for objective in shallow.values())]
        if not self.dynamic_args.is_dynamic or plan == self._logged:
            return
        self._logged = plan
        for part, objective in shallow.items():
            objective.log_plan(f"at depth {part.depth:g}: ")
        config = inner_model(self.model).config
        logger.info("Sub-networks: %s.", "; ".join(f"{part}, {part.describe(config)}" for part in self.subnetworks))
        if self.dynamic_args.whole_student_teaches:
            logger.info("The whole student learns from the labels alone, and teaches the others.")

    def _read_from(self, teacher: Any, student: torch.nn.Module) -> None:
        if not self.dynamic_args.whole_student_teaches:
            super()._read_from(teacher, student)

    def _run_teacher(self, inputs: dict[str, Any]) -> dict[Signal, Any] | None:
        return super()._run_teacher(inputs) if self._teaching is None else self._teaching(inputs)

    def _teacher_signals(self) -> list[Signal]:
        """Returns the signals that the terms of any depth read."""
        signals = [signal for objective in self._objectives.values() for signal in objective.teacher_signals]
        return list(dict.fromkeys(signals))

    def _check_labels(self, batch: dict[str, Tensor]) -> None:
        if self._teaching is not None and self.compute_loss_func is None and not self.head.has_labels(batch):
            raise InputError(
                f"the batches have no {' and '.join(self.head.label_columns)}, but the whole student learns from them "
                "alone: give labeled examples, or a teacher instead of whole_student_teaches."
            )
        super()._check_labels(batch)

    @property
    def mixes(self) -> bool:
        """Whether steps hold unlabeled examples: there are some, and a teacher of its own reads them."""
        return super().mixes and not self.dynamic_args.whole_student_teaches

    @contextlib.contextmanager
    def running(self, part: SubNetwork) -> Iterator[None]:
        """Within the context, the student is this sub-network, with its own terms and means."""
        whole = self.distillation_objective, self._running_means, self._listener, self._student_options
        self.distillation_objective, self._running_means = self._objectives[part], self._means[part]
        self._listener, self._student_options = self._reading[part.depth]
        try:
            with self._dynamic.running(part), self._projecting(part):
                yield
        finally:
            self.distillation_objective, self._running_means, self._listener, self._student_options = whole

    def _projecting(self, part: SubNetwork) -> contextlib.AbstractContextManager:
        """Returns the context in which learned projections are applied to a sub-network's own layers."""
        if self._projections is None:
            return contextlib.nullcontext()
        return self._projections.reading(projected(self._objectives[part].student_signals))

    def _parts_of_step(self) -> list[SubNetwork]:
        """Returns the sub-networks of a step, the largest last: DDP waits for all gradients in the last one."""
        largest, *others = self.subnetworks
        count = self.dynamic_args.subnetworks_per_step
        if count is not None and count < len(self.subnetworks):
            # The same in all processes, and after a resume.
            draws = random.Random(f"{self.args.seed} {self.state.global_step}")
            smallest = others.pop()
            others = [*draws.sample(others, count - 2), smallest]
        return [*reversed(others), largest]

    def _passes(self) -> list[Callable[[], contextlib.AbstractContextManager]]:
        return [functools.partial(self.running, part) for part in self._parts_of_step()]

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: StepItems | Tensor | int | None = None,
    ) -> Tensor:
        """Adds up the gradients of the sub-networks of a step; returns the mean of their losses."""
        inputs = send_to_device(inputs, self.args.device)
        parts = self._parts_of_step()
        losses = []
        self._read_once(inputs)
        try:
            for part in parts:
                waits = part is not parts[-1]
                with self.accelerator.no_sync(model) if waits else contextlib.nullcontext(), self.running(part):
                    losses.append(super().training_step(model, inputs, num_items_in_batch))
        finally:
            self._read = None
        return torch.stack(losses).mean()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Adds up the sub-networks of a step: each takes about width x depth of what the whole student takes."""
        whole = super().floating_point_ops(inputs)
        return sum(round(whole * part.width * part.depth) for part in self._parts_of_step())

    @property
    def _will_rewire(self) -> bool:
        return has_widths(self.subnetworks) and not self._is_ordered

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Reorders heads and neurons before the first step, unless the student has had several widths before."""
        if self._will_rewire and not resume_from_checkpoint:
            self._rewire()
        self._is_ordered = self._is_ordered or has_widths(self.subnetworks)
        return super().train(resume_from_checkpoint, **kwargs)

    def _drained_means(self) -> dict[str, float]:
        """Returns the mean over sub-networks of each term, and the terms of each sub-network, by name.

        `nonfinite_steps` is that of the sub-network with the most.
        """
        drained = {part: found for part, means in self._means.items() if (found := means.drain(self.accelerator))}
        if not drained:
            return {}
        skipped = max(found.pop("nonfinite_steps") for found in drained.values())
        names = dict.fromkeys(name for found in drained.values() for name in found)
        overall = {
            name: statistics.fmean(found[name] for found in drained.values() if name in found) for name in names
        }
        by_part = {f"{name}_{part}": value for part, found in drained.items() for name, value in found.items()}
        return overall | (by_part if len(self.subnetworks) > 1 else {}) | {"nonfinite_steps": skipped}

    def _rewire(self) -> None:
        """Orders heads and neurons by their importance for a sample of the examples."""
        model = self.model

        def loss(batch: dict[str, Any]) -> Tensor:
            inputs = send_to_device(batch, self.args.device)
            with self.compute_loss_context_manager():
                return self._task_loss(model, inputs, {}, None)[0]

        examples = self._columns_read(self._labeled_dataset())
        model.eval()
        order_by_importance(inner_model(model), examples, self.data_collator, loss, seed=self.args.seed)

    def _labeled_dataset(self) -> Dataset:
        """Returns the training examples that have labels, or those of the evaluation set if they have none."""
        training, held_out = self.train_dataset, self.eval_dataset
        if isinstance(training, Dataset) and self.mixture is not None:
            training = training.select(range(self.mixture.labeled))
        held_out = held_out.values() if isinstance(held_out, dict) else [held_out]
        return labeled_dataset((training, *held_out), self._has_labels)

    def _has_labels(self, examples: Dataset) -> bool:
        if self.compute_loss_func is not None:
            return True
        if not len(examples):
            return False
        return self.head.has_labels(self.data_collator([self._columns_read(examples.select([0]))[0]]))

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """Adds the metrics of all sub-networks to those of the whole student, except to predictions."""
        by_part = {}
        for part in self.subnetworks[1:] if metric_key_prefix.startswith("eval") else ():
            with self.running(part):
                by_part[part] = (
                    super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs).metrics
                )
        # The whole student last: callers keep the predictions of the last loop.
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        whole = dict(output.metrics)
        names = dict.fromkeys(name for metrics in (whole, *by_part.values()) for name in metrics if is_score(name))
        for name in names if by_part else ():
            # A type of entity that a sub-network never predicts, and that no text has, has no scores there.
            values = {part: metrics[name] for part, metrics in by_part.items() if name in metrics}
            output.metrics.update({f"{name}_{part}": value for part, value in values.items()})
            everywhere = [metrics[name] for metrics in (whole, *by_part.values()) if name in metrics]
            is_number = all(isinstance(value, numbers.Real) for value in everywhere)  # a report is text
            if len(everywhere) == len(self.subnetworks) and is_number:
                score = name.removeprefix(f"{metric_key_prefix}_")
                output.metrics[f"{metric_key_prefix}_mean_{score}"] = statistics.fmean(everywhere)
        return output
