"""`transformers.Trainer` with a teacher.

`DistillationTrainer` overrides fourteen methods of `Trainer`:

- `call_model_init` fits the terms to each new student.
- `train` and `create_optimizer` train learned projections with the student.
- `get_train_dataloader` adds cached teacher signals to the batches.
- `_set_signature_columns_if_needed` keeps the columns that teacher and losses read.
- `get_batch_samples` counts the items of each term in a step, and measures the gradients of the terms.
- `compute_loss` adds the terms that compare the student with the teacher.
- `training_step` checks that an overridden `compute_loss` still adds the terms.
- `prediction_step` keeps only logits.
- `log` reports each term.
- `save_model` adds the configuration, with the labels, to a PEFT adapter.
- `_save_rng_state` and `_load_from_checkpoint` add the projections to checkpoints; the first waits for all processes.
- `create_model_card` describes the distillation.

`SamplingTrainer` overrides six, which decide which examples are in a batch. Everything else is `Trainer`.
"""

import contextlib
import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.heads import Head, head_of
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.methods import MethodArguments, Pair, Term, terms_of
from ckd_trainer.model_card import write_model_card
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.models.subnetworks import SUBNETWORKS
from ckd_trainer.objective import Objective, check_kinds, check_loss, check_readable, listed
from ckd_trainer.teacher.cache import ROW, SignalCollator
from ckd_trainer.teacher.cached import PREFIX
from ckd_trainer.teacher.listener import Listener
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.training.balance import TermBalance, balance_of
from ckd_trainer.training.gradients import gradients, norm, norms_and_cosines
from ckd_trainer.training.matching import (
    Match,
    check_encoding,
    check_models,
    check_padding,
    check_segments,
    check_smoothing,
    match_heads,
    tokenizer_of,
    tokenizer_pair_of,
)
from ckd_trainer.training.projections import Projections, learned_projections
from ckd_trainer.training.running_means import RunningMeans
from ckd_trainer.training.sampling_trainer import SamplingTrainer
from ckd_trainer.training.step_items import StepItems
from ckd_trainer.training.student_signals import check_student_signals
from ckd_trainer.training.teacher_source import TeacherSource, check_has_rows
from ckd_trainer.training.unlabeled import sizes_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import packs_texts
from ckd_trainer.utils.processes import check_one_device
from ckd_trainer.utils.units import TEACHERS, UNITS, check_has_no_units, check_has_units, is_of_units
from ckd_trainer.utils.wrapped_models import (
    LABELS,
    asked_for,
    config_of,
    forward_arguments,
    has_adapters,
    named_outputs,
    outputs_by_name,
    use_eager_attention,
    use_inner_weight_names,
)

logger = logging.getLogger(__name__)


class _ResetsMeans(TrainerCallback):
    """Drops means that were not logged: of an earlier training, or of batches too large for `auto_find_batch_size`."""

    def __init__(self, trainer: "DistillationTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._drained_means()


class DistillationTrainer(SamplingTrainer):
    """Trains a student with Contextual Knowledge Distillation.

    The loss is `(1 - alpha) task + alpha logits + weighted relation terms`, see `CKDArguments`. The weights of
    relations, and of other terms, are plain factors or shares of the gradient, measured in the first steps
    (`TermBalance`). The teacher runs in eval mode without gradients. Neither the optimizer nor a checkpoint contains
    it.

    The log holds `loss` (the total) and each term unweighted (`loss_task`, `loss_logits`, `loss_wr_distance`, ...).
    These are averaged over the batches of all processes since the last log whose loss was finite; `nonfinite_steps`
    counts the others. The current scales of these weights are logged too
    (`scale_wr_distance`, ...). Evaluation reports only the student's loss on the labels and its metrics.

    With alpha 0 and all weights 0 (the control run, `CKDArguments.fine_tuning()`) the teacher is not run and need not
    be given. Training then equals that of `Trainer`, bit for bit, with three intended differences:

    - The mean of the loss on the labels. For spans it leaves out the logits of padding, see `span_task_loss`. For
      causal language models it leaves out the first token of each text, which is not predicted.
    - A step depends only on its examples, not on how they are divided into batches and processes: 1 x 32, 4 x 8 and
      32 x 1 examples train alike, whatever their lengths, see `StepItems`.
    - Evaluation changes nothing in the training around it: it gives back the random numbers that it draws.

    Args:
        teacher_model: a fine-tuned model with the student's labels and vocabulary; a folder or Hub id of one; or a
            `StoredTeacher`, whose weights are loaded only if they are needed. If the labels are in another order, they
            are put in the student's. Student and teacher may be wrapped by PEFT, by `torch.compile` or by a module of
            your own.
        ckd_args: weights and definitions of the terms; by default `CKDArguments()`. `hyperparameter_search` sets only
            `TrainingArguments`: to search over these, set `trainer.ckd_args` in `model_init(trial)`.
        methods: the options of other methods, such as `PKDArguments(pkd_weight=0.3)`, see `ckd_trainer.methods`.
        head: the meaning of the outputs of student and teacher, see `ckd_trainer.heads`; by default it follows from
            the class of the model.
        terms: your own additional terms for the loss, see docs/extending.md.
        unlabeled_dataset, unlabeled_share, group_size: see `SamplingTrainer`. Unlabeled examples count in every term
            but the loss on the labels, and are drawn only if a term reads the teacher.
        args, kwargs: as for `Trainer`. A `compute_loss_func` replaces the loss on the labels. As with `Trainer`, it
            receives the number of labels in the step, and its results are summed over the batches of the step.

    Raises:
        InputError: a term needs a teacher, but there is none; a model with unknown outputs or without access to them;
            labels, a vocabulary or a layer mapping that do not fit; teacher_cache_dir with a dataset, a teacher or a
            term that cannot be cached; an unlabeled_dataset or a group_size that does not fit the training set.

    Example::

        trainer = DistillationTrainer(
            model=student,
            teacher_model="path/of/the/teacher",
            ckd_args=CKDArguments(alpha=0.5, wr_angle_weight=0.1),
            args=TrainingArguments("out"),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
        )
        trainer.train()
    """

    # `Trainer` still has to divide the result of `compute_loss` by the number of accumulated batches.
    loss_is_scaled_for_ga = False

    label_names: list[str]
    _signature_columns: list[str] | None

    def __init__(
        self,
        *args: Any,
        teacher_model: PreTrainedModel | StoredTeacher | str | os.PathLike | None = None,
        ckd_args: CKDArguments | None = None,
        methods: Sequence[MethodArguments] = (),
        head: Head | None = None,
        terms: Sequence[Term] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_one_device(self.args)
        # The loss is not a sum over items of the global batch. This does the work of `loss_is_scaled_for_ga` in
        # versions that lack it, and keeps `Trainer` from multiplying the loss by the number of processes.
        self.model_accepts_loss_kwargs = False
        self.ckd_args, self.methods = CKDArguments() if ckd_args is None else ckd_args, methods
        self._given_head, self._given_terms = head, terms
        self._given_teacher: Any = teacher_model
        self._source: TeacherSource | None = None  # one for all students
        self._listener: Listener | None = None
        self._projections: Projections | None = None
        self._last_step: StepItems | None = None  # of the last step, for `log_gradient_norms`
        self._read: tuple[dict[str, Any], dict[Signal, Any] | None] | None = None  # a batch and its teacher signals
        self._fit_to(self.model)
        self.add_callback(_ResetsMeans(self))

    def call_model_init(self, trial: Any = None) -> torch.nn.Module:
        """Fits terms, layers and columns to the new student: `model_init` may vary its depth or set `ckd_args`."""
        student = super().call_model_init(trial)
        if hasattr(self, "ckd_args"):  # not yet set when `Trainer.__init__` calls this
            self._fit_to(student)
            if self._projections is not None:
                self._projections.attach()
        return student

    def use_loss(self, ckd_args: CKDArguments, methods: Sequence[MethodArguments] = ()) -> None:
        """Replaces the loss; the student stays as it is. See the class for the arguments and errors.

        If the new loss is refused, the trainer keeps the old one, and trains on with it.
        """
        self._fit_to(self.model, ckd_args=ckd_args, methods=methods)

    def _fit_to(self, student: torch.nn.Module, **options: Any) -> None:
        """Sets the loss, and everything that depends on it and on the models. If it is refused, nothing changes.

        Args:
            options: the attributes that define a new loss.
        """
        before = dict(vars(self))
        self.__dict__.update(options)
        try:
            self.methods, self._given_terms = listed(self.methods), listed(self._given_terms)
            check_kinds(self.ckd_args, self.methods, self._given_terms, self._given_head)
            self._derive(student)
        except Exception:
            self.__dict__ = before
            raise
        projections, source = before["_projections"], before["_source"]
        if projections is not None:
            projections.detach()
        if source is not None and source is not self._source:
            source.close()
        self._fitted = self.ckd_args, self.methods
        self._connect(student)
        self._log_plan(before.get("distillation_objective"))

    def _derive(self, student: torch.nn.Module) -> None:
        """Sets the attributes that depend on the models: head, terms, matched layers, label order and columns.

        All errors are raised here. Only these attributes change, so that `_fit_to` can set them back.
        """
        config = config_of(student)
        self.head = self._given_head or head_of(student)
        if isinstance(self._given_teacher, (str, os.PathLike)):
            self._given_teacher = StoredTeacher.with_head(self.head, self._given_teacher)
        teacher = self._given_teacher
        check_models(student, teacher)
        arguments = forward_arguments(student)
        if self.args.label_names is None and not self.label_names:  # the class of a wrapper does not show them
            self.label_names = [name for name in LABELS if name in arguments]
        self.tokenizers = tokenizer_pair_of(self.data_collator)
        tokenizer = self._tokenizer
        check_padding(self.head, config, tokenizer)
        if self.args.label_smoothing_factor and self.compute_loss_func is None:
            check_smoothing(self.head, self.args.label_smoothing_factor)
        if tokenizer is not None:
            self.head.learn_special_tokens(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
        self.distillation_objective = objective = self._objective(config, teacher)
        self.teacher: TeacherSource | None = None
        self._teacher_only_inputs: set[str] = set()
        self._signature_columns = self._cached_examples = None
        if self.mixture is not None and objective.terms:
            sizes_of(self.mixture.share, self.args)  # raises now, not after a cache is built
        if objective.terms:
            self._read_from(teacher, student)
        signals = objective.student_signals
        self._student_options = asked_for(student, signals) if objective.terms else {}
        check_student_signals(student, signals, teacher, self.head, self.args, self.accelerator)
        self._projections = learned_projections(
            student, signals, seed=self.args.seed, learning_rate=self.ckd_args.projection_learning_rate
        )
        is_fsdp_1 = self.is_fsdp_enabled and not self.accelerator.is_fsdp2
        self._balance = balance_of(
            objective, self.ckd_args, self.methods, self._given_terms, self.args, is_fsdp_1=is_fsdp_1
        )
        self._running_means = RunningMeans(list(objective.weights))

    def _objective(self, config: PreTrainedConfig, teacher: Any) -> Objective:
        """Returns the loss of a student with this configuration; checks that the teacher's head fits."""
        head, args = self.head, self.ckd_args
        of_methods = [term for method in self.methods for term in method.weights]
        wanted = [*args.weights, *of_methods, *(term.name for term in self._given_terms)]
        check_loss(args, head, wanted, has_teacher=teacher is not None)
        terms = self._terms_between(config, config_of(teacher)) if wanted else []
        reads_logits = [term.name for term in terms if term.teacher_signal.reads_labels]
        match = Match()
        if wanted:
            tokenizer = self._tokenizer if self.tokenizers is None else self.tokenizers.teacher
            columns = getattr(self.train_dataset, "column_names", None)
            match = match_heads(head, config, teacher, self._given_head, reads_logits, tokenizer, columns)
        self.label_order, self._teachers_logits = match
        has_function = self.compute_loss_func is not None
        reads_labels = args.labels_and_logits and (bool(head.label_columns) or has_function)
        return Objective(
            head,
            terms,
            task_weight=1 - args.alpha if reads_labels else None,
            counts_examples=has_function,
            balances=args.term_balance == "gradient",
            tokenizers=self.tokenizers,
        )

    def _terms_between(self, student: PreTrainedConfig, teacher: PreTrainedConfig) -> list[Term]:
        """Returns the terms that compare a student with a teacher; raises InputError if one does not fit them."""
        terms = [*terms_of(self.ckd_args, self.methods, Pair(student, teacher, self.head)), *self._given_terms]
        check_readable(terms, student, teacher, getattr(self.train_dataset, "column_names", None))
        return [term.to(self.args.device) for term in terms]

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase | None:
        return tokenizer_of(self.processing_class, self.data_collator)

    def _connect(self, student: torch.nn.Module) -> None:
        """Gives a student the hooks and the eager attention that its signals need, and the trainer its callback."""
        use_inner_weight_names(student)
        vars(config_of(student)).pop(SUBNETWORKS, None)  # this training fits the whole student alone
        signals = self.distillation_objective.student_signals
        if any("attentions" in signal.model_outputs or signal.differentiates for signal in signals):
            use_eager_attention(student)
        if self._listener is not None:
            self._listener.close()
        self._listener = Listener(student, signals)
        self.remove_callback(TermBalance)
        if self._balance is not None:
            self.add_callback(self._balance)

    def _log_plan(self, previous: Objective | None) -> None:
        """Logs the loss, unless it is the `previous` one."""
        objective = self.distillation_objective
        if previous is None or previous.describe() != objective.describe():
            objective.log_plan()
            if self.ckd_args.teacher_cache_dir and self.teacher is None:
                logger.info("No term of the loss reads the teacher, so teacher_cache_dir is not used.")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains learned projections with the student, and takes them out of it at the end."""
        is_fitted = self.ckd_args is self._fitted[0] and self.methods is self._fitted[1]
        if self.model_init is None and not is_fitted:
            raise InputError("ckd_args or methods were replaced after the trainer was made: call use_loss instead.")
        if self._projections is not None:
            self._projections.attach()
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._projections is not None:
                self._projections.detach()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Gives learned projections their own learning rate, if there is one."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if self._projections is not None:
            self._projections.join(optimizer, self.ckd_args.projection_learning_rate, is_new=is_new)
        return optimizer

    def _read_from(self, teacher: PreTrainedModel | StoredTeacher, student: torch.nn.Module) -> None:
        """Sets the source of the teacher's signals for this student."""
        columns = getattr(self.train_dataset, "column_names", None)
        if columns:
            (check_has_no_units if self.tokenizers is None else check_has_units)(columns)
        check_encoding(config_of(student), teacher, self._tokenizer, self.tokenizers)
        cache_dir, objective = self.ckd_args.teacher_cache_dir, self.distillation_objective
        if cache_dir:
            objective.check_cacheable()
            if self.train_dataset is not None:
                check_has_rows(self.train_dataset)
        # A copy: if the new loss is refused, the trainer keeps the source of the old one.
        source = copy.copy(self._source or TeacherSource(teacher, self.args, self.accelerator))
        source.fit(
            self._teacher_signals(),
            head=self.head,
            logits=self._teachers_logits,
            label_order=self.label_order,
            cache_dir=cache_dir,
            has_tokenizer=self.tokenizers is not None,
        )
        self.teacher = self._source = source
        own = "" if self.tokenizers is None else TEACHERS
        check_segments(student, forward_arguments(student), self.train_dataset)
        check_segments(teacher, self.teacher.input_names, self.train_dataset, own)
        if self.tokenizers is not None:
            self._teacher_only_inputs = {*self.teacher.columns, UNITS}
        elif not cache_dir:
            self._teacher_only_inputs = self.teacher.input_names - forward_arguments(student) - {*LABELS}

    def _teacher_signals(self) -> list[Signal]:
        """Returns the teacher's signals that a step reads."""
        return self.distillation_objective.teacher_signals

    @property
    def teacher_model(self) -> PreTrainedModel | StoredTeacher | None:
        """The teacher; None in the control run."""
        return None if self.teacher is None else self.teacher.model

    @property
    def given_teacher(self) -> PreTrainedModel | StoredTeacher | None:
        """The teacher that was given, even if no term reads it."""
        return self._given_teacher

    @property
    def caches_teacher(self) -> bool:
        """Whether batches hold cached signals of the teacher."""
        return self.teacher is not None and self.teacher.caches

    def open_teacher_cache(self) -> None:
        """Opens the teacher's cache of the training set, and builds it first if there is none."""
        if self._cached_examples is self.train_dataset:
            return
        check_has_rows(self.train_dataset)
        examples = self._columns_read(self.train_dataset)
        show_progress = self.is_local_process_zero() and not self.args.disable_tqdm
        self.teacher.open_cache(examples, self.data_collator, show_progress=show_progress)
        self._cached_examples = self.train_dataset

    def _columns_read(self, examples: Dataset) -> Dataset:
        """Returns examples with the columns that student and teacher read."""
        if not self.args.remove_unused_columns:
            return examples
        self._set_signature_columns_if_needed()
        kept = {*self._signature_columns, *(self.teacher.columns if self.teacher is not None else ())}
        return examples.select_columns([name for name in examples.column_names if name in kept])

    def get_train_dataloader(self) -> DataLoader:
        """Adds the teacher's cached signals to the batches, if there is a cache."""
        if not self.caches_teacher:
            return super().get_train_dataloader()
        self.open_teacher_cache()
        examples, collator = self.train_dataset, self.data_collator
        self.train_dataset = examples.add_column(ROW, range(len(examples)))
        self.data_collator = SignalCollator(collator, self.teacher.cache, self.teacher.signals)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = examples, collator

    @property
    def mixes(self) -> bool:
        """Whether steps hold unlabeled examples: there are some, and a term reads the teacher."""
        return super().mixes and bool(self.distillation_objective.terms)

    def _set_signature_columns_if_needed(self) -> None:
        # `Trainer` keeps the columns that the student's forward names. Keep the teacher's too, and those that a
        # wrapper passes on.
        super()._set_signature_columns_if_needed()
        read = {*forward_arguments(self.model), *self._teacher_only_inputs, ROW, *self._other_columns}
        self._signature_columns += sorted(read - set(self._signature_columns))

    @property
    def _other_columns(self) -> set[str]:
        """Columns of a batch that the loss reads, without those of terms that the student reads as well."""
        terms = self.distillation_objective.terms.values()
        of_terms = {name for term in terms for name in term.columns}
        if of_terms:  # looking at the model's signature in each step takes time
            of_terms -= forward_arguments(self.model)
        return {*self.head.other_columns, *of_terms, *([] if self.group_size is None else [GROUP])}

    def _student_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        others = self._teacher_only_inputs | self._other_columns
        return {
            name: value
            for name, value in inputs.items()
            if name not in others
            and not name.startswith(PREFIX)
            and (self.tokenizers is None or not is_of_units(name))
        } | outputs_by_name(self.model)

    def _read_teacher(self, inputs: dict[str, Any]) -> dict[Signal, Any] | None:
        """Returns the teacher's signals of a training batch; None if no term reads any."""
        if not self.distillation_objective.terms:
            return None
        return self._run_teacher(inputs) if self._read is None else self._read[1]

    def _run_teacher(self, inputs: dict[str, Any]) -> dict[Signal, Any] | None:
        return None if self.teacher is None else self.teacher(inputs)

    def _read_once(self, inputs: dict[str, Any]) -> None:
        """Runs the teacher on a batch, unless that was the last one: all passes over it read the same signals.

        They are kept until `_read` is set to None.
        """
        if self._read is None or self._read[0] is not inputs:
            self._read = None  # frees the signals of the last one
            with self.compute_loss_context_manager():
                self._read = inputs, self._run_teacher(inputs)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, StepItems | None]:
        """Returns the batches of a step and their `StepItems`."""
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self._check_labels(batches[0])
        self._check_texts(batches[0])
        counts = torch.stack([self._counts(batch) for batch in batches]).sum(0).to(device)
        counts = self.accelerator.reduce(counts, reduction="sum").clamp_min(1)
        means = counts / (len(batches) * self.accelerator.num_processes)
        terms = dict(zip(self.distillation_objective.weights, means, strict=True))
        step = StepItems(terms, labels, batches)
        if self.balance is not None and self.balance.is_due(self.state.global_step):
            self._measure(step)
        self._last_step = step if self.ckd_args.log_gradient_norms else None
        return batches, step

    def _check_labels(self, batch: dict[str, Tensor]) -> None:
        """Raises InputError if the loss on the labels has a weight, but the batches have no labels."""
        needs = self.distillation_objective.weights.get("task") and self.compute_loss_func is None
        if needs and not self.head.has_labels(batch):
            raise InputError(
                f"the batches have no {' and '.join(self.head.label_columns)}, but with alpha {self.ckd_args.alpha:g} "
                "the loss on the labels has a weight: give the labels that name in the data, as a Trainer drops "
                "columns of other names, or set alpha to 1 to train without labels."
            )

    def _check_texts(self, batch: dict[str, Tensor]) -> None:
        """Raises InputError if a term would compare tokens of different texts."""
        terms = [name for name in self.distillation_objective.terms if name != "logits"]
        if terms and packs_texts(batch):
            raise InputError(
                f"the batches pack several texts into a row (position_ids start again within it), and {terms[0]} "
                "would take them for one: pad them, as DataCollatorWithPadding does."
            )

    def _counts(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns the number of items that each term averages over, in the order of the weights."""
        return torch.stack(list(self.distillation_objective.counts(batch).values()))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: StepItems | Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Returns the distillation loss of a training batch, or the loss on the labels of an evaluation batch.

        Args:
            num_items_in_batch: in training, the `StepItems` of `get_batch_samples`; None for a batch that is a step of
                its own. In evaluation, the number that `Trainer` counts for a `compute_loss_func`.
        """
        step = num_items_in_batch if isinstance(num_items_in_batch, StepItems) else None
        if not model.training:
            loss, outputs = self._task_loss(model, inputs, {}, num_items_in_batch)
            return (loss, outputs) if return_outputs else loss
        terms, outputs = self._terms(model, inputs, step)
        total: Any = sum(weight * terms[term] for term, weight in self.term_weights.items() if weight)
        self._running_means.add(total, terms)
        if step and self.compute_loss_func is not None and not hasattr(Trainer, "loss_is_scaled_for_ga"):
            total = total / len(step.batches)  # without the attribute, `Trainer` leaves this to the function
        return (total, outputs) if return_outputs else total

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of a batch; raises InputError if an overridden `compute_loss` leaves out the terms."""
        loss = super().training_step(*args, **kwargs)
        if self._running_means.sums is None and self.distillation_objective.terms:
            raise InputError(
                f"compute_loss of {type(self).__name__} did not call super().compute_loss, so the teacher has no "
                "effect: call it, change the loss on the labels with a compute_loss_func, or add a term of your own."
            )
        return loss

    def _task_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], options: dict[str, Any], num_items: Any
    ) -> tuple[Tensor, Any]:
        """Returns the loss on the labels (0 if the batch has none) and the student's outputs."""
        given = self._student_inputs(inputs) | options
        if self.compute_loss_func is None:
            given |= self.head.labels_for_model(inputs)
        smooths = self.label_smoother is not None and "labels" in inputs
        if self.compute_loss_func is not None or smooths:
            return super().compute_loss(model, given, return_outputs=True, num_items_in_batch=num_items)
        if not self.head.has_labels(inputs):
            return torch.zeros((), device=self.args.device), model(**given)
        loss, outputs = super().compute_loss(model, given, return_outputs=True, num_items_in_batch=num_items)
        return self.head.task_loss(outputs, inputs, loss), outputs

    def _terms(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        step: StepItems | None,
        teacher: Callable[[dict[str, Any]], dict[Signal, Any]] | None = None,
    ) -> tuple[dict[str, Tensor], Any]:
        """Returns the terms of a batch, each times its share of the step, and the student's outputs.

        Args:
            step: the items of the step; None for the terms themselves.
            teacher: returns the teacher's signals; by default those of a training batch.
        """
        signals = self._read_teacher(inputs) if teacher is None else teacher(inputs)
        options = {} if signals is None else self._student_options
        labels = step.labels if step else None
        with self._listener.capturing() as captured:
            loss, outputs = self._task_loss(model, inputs, options, labels)
        weights = self.distillation_objective.weights
        terms = {"task": loss} if "task" in weights else {}
        if signals is not None:
            terms |= self.distillation_objective(named_outputs(model, outputs) | captured, signals, inputs)
        ignores_head = weights.keys().isdisjoint({"task", "logits"})
        if ignores_head if self.head.label_columns else self.accelerator.num_processes > 1:
            # No term reads the head or a bare encoder's pooler, and a user's terms may read only parts of a layer. But
            # DDP waits for the gradients of all weights, and FSDP2 gathers a layer's once the gradient of its output
            # arrives. A head has zero gradients in one process too, as optimizers skip weights without any. A loss on
            # labels is left out: it is NaN if all of them are missing.
            others = [output for name, output in dict(outputs).items() if name != "loss"]
            zero = sum((0 * output).sum() for output in others if isinstance(output, Tensor))
            terms = {term: value + zero for term, value in terms.items()}
        if step:
            terms = step.shared(terms, dict(zip(weights, self._counts(inputs), strict=True)))
        return terms, outputs

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Keeps only logits: `Trainer` would gather every output of a student that is configured to return more."""
        if ignore_keys is None:
            ignore_keys = getattr(config_of(self.model), "keys_to_ignore_at_inference", [])
        ignore_keys = [*ignore_keys, "hidden_states", "attentions"]
        return super().prediction_step(model, self._student_inputs(inputs), prediction_loss_only, ignore_keys)

    @property
    def balance(self) -> TermBalance | None:
        """The balance of the terms beside labels and logits; None if there are none."""
        if self._balance is not None and self._balance not in self.callback_handler.callbacks:
            # When it restores a checkpoint's callbacks, `Trainer` replaces it by one with the terms of that run.
            found = next((one for one in self.callback_handler.callbacks if isinstance(one, TermBalance)), None)
            if found is None:
                raise InputError("the callback TermBalance was removed, but the balanced weights need it.")
            self._balance.take_over(found.state())
            self.remove_callback(TermBalance)
            self.add_callback(self._balance)
        return self._balance

    @property
    def scales(self) -> dict[str, float]:
        """{term: factor of its weight} for the balanced terms."""
        balance = self.balance
        return balance.scales if balance is not None and balance.rescales else {}

    @property
    def term_weights(self) -> dict[str, float]:
        """{term: scaled weight} of all terms of the loss, labels and logits included."""
        scales = self.scales
        weights = self.distillation_objective.weights
        return {term: weight * scales.get(term, 1.0) for term, weight in weights.items()}

    def describe_loss(self) -> str:
        """Returns the loss in one line, with the scales of its weights once they are known."""
        return self.distillation_objective.describe(self.scales)

    def describe_head(self) -> str | None:
        """Returns what the model card says of the student's head; None where it is trained like the rest."""
        return None

    def _measure(self, step: StepItems) -> None:
        """Measures the norms of a step's gradients and updates the balance."""
        balance = self.balance

        def rest() -> dict[str, float]:
            weights = self.distillation_objective.weights
            return {term: weight for term, weight in weights.items() if term not in balance.weights}

        def alone(term: str) -> dict[str, float]:
            return {term: 1.0}

        each = [functools.partial(alone, term) for term in balance.weights]
        # Without labels and logits, the first term is the yardstick for the others.
        norm_of_rest, *norms = map(norm, self._gradients(step, [rest if rest() else each[0], *each]))
        balance.add(self.state.global_step, norm_of_rest, dict(zip(balance.weights, norms, strict=True)))

    def _gradients(self, step: StepItems, mixtures: list[Callable[[], dict[str, float]]]) -> Iterator[list[Tensor]]:
        """Yields the gradient of each weighted sum of terms in a step, see `gradients`.

        Args:
            mixtures: each returns {term: weight} for the current pass.
        """
        batches = [self._prepare_inputs(batch) for batch in step.batches]
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()  # as before every training step: schedule-free optimizers need it

        @contextlib.contextmanager
        def loss(
            batch: dict[str, Any],
            context: Callable[[], contextlib.AbstractContextManager],
            mixture: Callable[[], dict[str, float]],
            model: torch.nn.Module,
        ) -> Iterator[Tensor]:
            self._read_once(batch)
            with context():
                with self.compute_loss_context_manager():
                    terms, _ = self._terms(model, batch, step)
                    weights = mixture()
                    total: Any = sum(weights.get(term, 0.0) * value for term, value in terms.items())
                yield total / len(batches)

        passes = [(batch, context) for batch in batches for context in self._passes()]
        losses = [[functools.partial(loss, *each, mixture) for each in passes] for mixture in mixtures]
        seed = self.args.seed + self.state.global_step * self.args.world_size + self.args.process_index
        try:
            yield from gradients(self.model_wrapped, losses, self.accelerator, seed=seed)
        finally:
            self._read = None

    def _passes(self) -> list[Callable[[], contextlib.AbstractContextManager]]:
        """Returns the contexts of a batch's forward passes in a step: here, of the only one."""
        return [contextlib.nullcontext]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the terms' means and scales to a training log."""
        if "loss" in logs:
            logs = logs | self._drained_means()
            logs |= {f"scale_{term}": scale for term, scale in self.scales.items()}
            if self._last_step is not None:
                terms = [term for term, weight in self.term_weights.items() if weight]
                found = self._gradients(self._last_step, [functools.partial(self._weighted, term) for term in terms])
                logs |= norms_and_cosines(dict(zip(terms, found, strict=True)))
        super().log(logs, start_time)

    def _weighted(self, term: str) -> dict[str, float]:
        return {term: self.term_weights.get(term, 0.0)}

    def _drained_means(self) -> dict[str, float]:
        """Returns the means of the terms since the last log, see `RunningMeans.drain`."""
        return self._running_means.drain(self.accelerator)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the student; an adapter with the configuration of its model, which holds the labels."""
        if has_adapters(self.model) and self.args.should_save:  # before a push to the Hub
            config_of(self.model).save_pretrained(output_dir or self.args.output_dir)
        super().save_model(output_dir, _internal_call)

    @property
    def _saves_projections(self) -> bool:
        # With FSDP and DeepSpeed, checkpoints hold all weights of the wrapped student, its projections included.
        return self._projections is not None and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._saves_projections:
            self._projections.load(resume_from_checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self._add_to_checkpoint(output_dir)
        # Each process saves its own. The trainer state marks a checkpoint as complete, so it must come after them all.
        self.accelerator.wait_for_everyone()

    def _add_to_checkpoint(self, output_dir: str) -> None:
        """Saves what resuming needs beside the files of `Trainer`; called in all processes."""
        if self._saves_projections and self.args.should_save:
            self._projections.save(output_dir)

    def create_model_card(self, **kwargs: Any) -> None:
        """Writes a model card that names the teacher and the losses, see `ckd_trainer.model_card`."""
        if self.is_world_process_zero():
            write_model_card(self, **kwargs)
