"""The trainer of dynamic students: a `DistillationTrainer` that trains several sub-networks in each step."""

import contextlib
import functools
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
from ckd_trainer.models.importance import importance, rewire
from ckd_trainer.models.subnetworks import (
    SUBNETWORKS,
    DynamicArguments,
    SubNetwork,
    check_dynamic,
    config_at_depth,
)
from ckd_trainer.objective import Objective
from ckd_trainer.teacher.signals import Attentions, Listener, ProjectedStates, QueryKeyValue, Signal
from ckd_trainer.trainer import DistillationTrainer, StepItems
from ckd_trainer.training.running_means import RunningMeans
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import asked_for, config_of, inner_model

# Importance is measured on this many examples, in batches of DynaBERT's size: a sum of absolute values depends on it.
_EXAMPLES, _BATCH = 1024, 8


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

    Before the first step, the heads and neurons of each layer are reordered by their importance for the loss on the
    labels, which leaves the outputs as they are. So the narrow sub-networks have the most important ones.

    The log holds the mean over sub-networks of each term (`loss_task`), and the term of each (`loss_task_w0.5_d0.5`).
    `loss` is the mean over sub-networks, too. Evaluation reports the metrics of the whole student (`eval_accuracy`),
    of each other sub-network (`eval_accuracy_w0.5_d0.5`), and their mean (`eval_mean_accuracy`).

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
        super().__init__(*args, **kwargs)

    def use_loss(
        self,
        ckd_args: CKDArguments,
        methods: Sequence[MethodArguments] = (),
        dynamic_args: DynamicArguments | None = None,
    ) -> None:
        """Replaces the loss, and the widths and depths if they are given."""
        self.dynamic_args = dynamic_args or self.dynamic_args
        super().use_loss(ckd_args, methods)

    def _fit_to(self, student: torch.nn.Module) -> None:
        self._check_launcher()
        self.subnetworks = self.dynamic_args.subnetworks
        self._signals_of_batch: dict[Signal, Any] | None = None  # of the teacher, while a step runs
        model = inner_model(student)
        check_dynamic(model.config, self.subnetworks)
        if not hasattr(self, "_is_ordered"):  # a model that has been dynamic before
            self._is_ordered = hasattr(model.config, SUBNETWORKS)
        self._dynamic = DynamicModel(model)
        for listener, _ in getattr(self, "_reading", {}).values():
            listener.close()
        super()._fit_to(student)
        setattr(model.config, SUBNETWORKS, [[part.width, part.depth] for part in self.subnetworks])
        self._reading = {1.0: (self._listener, self._student_options)}
        for part in self.dynamic_args.at_full_width[1:]:
            signals = self._objectives[part.depth].student_signals
            with self._dynamic.running(part):
                listener = Listener(student, signals)
            self._reading[part.depth] = (listener, asked_for(student, signals) if signals else {})
        self._means = {part: RunningMeans(list(self.distillation_objective.weights)) for part in self.subnetworks}

    def _check_launcher(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError(
                "a student of several widths and depths needs all of its weights on each device: leave out FSDP and "
                "DeepSpeed, or student_widths and student_depths."
            )
        if self.args.torch_compile:
            raise InputError(
                "torch_compile would recompile the model for every sub-network: leave it out, or student_widths and "
                "student_depths."
            )

    def _objective(self, config: PreTrainedConfig, teacher: Any) -> Objective:
        """Returns the loss of the whole student, and keeps that of each depth."""
        objective = super()._objective(config, teacher)
        for name, term in objective.terms.items():
            self._check_term(name, term.student_signal)
        self._objectives = {1.0: objective}
        for part in self.dynamic_args.at_full_width[1:]:
            shallow = config_at_depth(config, part)
            terms = self._terms_between(shallow, config_of(teacher)) if objective.terms else []
            self._objectives[part.depth] = objective.with_terms(terms)
        return objective

    def _check_term(self, name: str, signal: Signal) -> None:
        reason = None
        if isinstance(signal, ProjectedStates):
            reason = "it learns projections, for a single depth"
        elif isinstance(signal, Attentions | QueryKeyValue) and len({part.width for part in self.subnetworks}) > 1:
            reason = "it compares attention heads, and narrow sub-networks have fewer than the teacher"
        if reason is not None:
            raise InputError(
                f"the term {name} does not work with several widths and depths, because {reason}: set its weight to "
                "0, or leave student_widths and student_depths out."
            )

    def _teacher_signals(self) -> list[Signal]:
        """Returns the signals that the terms of any depth read."""
        signals = [signal for objective in self._objectives.values() for signal in objective.teacher_signals]
        return list(dict.fromkeys(signals))

    @contextlib.contextmanager
    def running(self, part: SubNetwork) -> Iterator[None]:
        """Within the context, the student is this sub-network, with its own terms and means."""
        whole = self.distillation_objective, self._running_means, self._listener, self._student_options
        self.distillation_objective, self._running_means = self._objectives[part.depth], self._means[part]
        self._listener, self._student_options = self._reading[part.depth]
        try:
            with self._dynamic.running(part):
                yield
        finally:
            self.distillation_objective, self._running_means, self._listener, self._student_options = whole

    def _parts_of_step(self) -> list[SubNetwork]:
        """Returns the sub-networks of a step, the largest last: DDP waits for all gradients in the last one."""
        largest, *others = self.subnetworks
        count = self.dynamic_args.subnetworks_per_step
        if count is not None:
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
        with self._teacher_runs_once(inputs):
            for part in parts:
                waits = part is not parts[-1]
                with self.accelerator.no_sync(model) if waits else contextlib.nullcontext(), self.running(part):
                    losses.append(super().training_step(model, inputs, num_items_in_batch))
        return torch.stack(losses).mean()

    @contextlib.contextmanager
    def _teacher_runs_once(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Within the context, all sub-networks read the same signals of the teacher for a batch."""
        with self.compute_loss_context_manager():
            self._signals_of_batch = self._read_teacher(inputs)
        try:
            yield
        finally:
            self._signals_of_batch = None

    def _read_teacher(self, inputs: dict[str, Any]) -> dict[Signal, Any] | None:
        return super()._read_teacher(inputs) if self._signals_of_batch is None else self._signals_of_batch

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Reorders heads and neurons before the first step, unless the student has been dynamic before."""
        if not (self._is_ordered or resume_from_checkpoint):
            self._rewire()
        self._is_ordered = True
        return super().train(resume_from_checkpoint, **kwargs)

    def _drained_means(self) -> dict[str, float]:
        """Returns the mean over sub-networks of each term, and the terms of each sub-network, by name.

        `nonfinite_steps` is that of the sub-network with the most.
        """
        drained = {part: found for part, means in self._means.items() if (found := means.drain(self.accelerator))}
        if not drained:
            return {}
        skipped = max(found.pop("nonfinite_steps") for found in drained.values())
        names = next(iter(drained.values()))
        overall = {name: statistics.fmean(found[name] for found in drained.values()) for name in names}
        by_part = {f"{name}_{part}": value for part, found in drained.items() for name, value in found.items()}
        return overall | (by_part if len(self.subnetworks) > 1 else {}) | {"nonfinite_steps": skipped}

    def _rewire(self) -> None:
        """Orders heads and neurons by their importance for a sample of the training examples."""
        examples, model = self.train_dataset, self.model
        if not isinstance(examples, Dataset):
            raise InputError(
                f"the training set is a {type(examples).__name__}, but heads and neurons are ordered by their "
                "importance for a sample of it: give a datasets.Dataset."
            )
        labeled = len(examples) if self.mixture is None else self.mixture.labeled
        rows = random.Random(self.args.seed).sample(range(labeled), min(_EXAMPLES, labeled))
        loader = DataLoader(
            self._columns_read(examples.select(rows)),
            batch_size=_BATCH,
            collate_fn=self.data_collator,
            generator=torch.Generator(),  # the default generator is the one that dropout uses
        )

        def loss(batch: dict[str, Any]) -> Tensor:
            inputs = send_to_device(batch, self.args.device)
            if self.compute_loss_func is None and not self.head.has_labels(inputs):
                raise InputError(
                    "the training examples have no labels, but heads and neurons are ordered by their importance for "
                    "the loss on the labels: give labeled examples, or leave student_widths and student_depths out."
                )
            with self.compute_loss_context_manager():
                return self._task_loss(model, inputs, {}, None)[0]

        model.eval()
        rewire(
            inner_model(model), importance(inner_model(model), (functools.partial(loss, batch) for batch in loader))
        )

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
        for name, value in whole.items() if by_part else ():
            if not is_score(name):
                continue
            values = [value, *(metrics[name] for metrics in by_part.values())]
            score = name.removeprefix(f"{metric_key_prefix}_")
            output.metrics.update({f"{name}_{part}": metrics[name] for part, metrics in by_part.items()})
            output.metrics[f"{metric_key_prefix}_mean_{score}"] = statistics.fmean(values)
        return output
