"""`transformers.Trainer` with a teacher.

`DistillationTrainer` overrides seventeen methods of `Trainer`:

- `compute_loss` adds the terms that compare the student with the teacher.
- `call_model_init` fits the terms to each new student.
- `get_batch_samples` counts the items of each term in a step, and measures the gradients of the terms.
- `get_train_dataloader` adds cached teacher signals to the batches.
- `get_eval_dataloader` and `get_test_dataloader` keep the rows in order.
- `_get_train_sampler` draws batches of similar length or of whole groups, and mixes unlabeled examples into each step.
- `num_examples` counts the examples of an epoch.
- `train` and `create_optimizer` train learned projections with the student.
- `log` reports each term.
- `prediction_step` keeps only logits.
- `_set_signature_columns_if_needed` keeps the columns that teacher and losses read.
- `save_model` adds the configuration, with the labels, to a PEFT adapter.
- `_save_rng_state` and `_load_from_checkpoint` add the projections to checkpoints; the first waits for all processes.
- `create_model_card` describes the distillation.

Everything else is `Trainer`.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.data.tokenizer_pair import TokenizerPair
from ckd_trainer.heads import Head, head_of
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.methods import MethodArguments, Pair, Term, terms_of
from ckd_trainer.model_card import write_model_card
from ckd_trainer.models.compatibility import (
    check_embeddings,
    check_encoder,
    check_padding_token,
    check_savable,
    check_token_ids,
    check_token_types,
)
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.models.subnetworks import SUBNETWORKS
from ckd_trainer.models.tokenizers import local_tokenizer
from ckd_trainer.objective import Objective
from ckd_trainer.teacher.cache import ROW, SignalCollator
from ckd_trainer.teacher.cached import PREFIX
from ckd_trainer.teacher.signals import Listener, Logits, Signal
from ckd_trainer.training.balance import TermBalance
from ckd_trainer.training.double_backward import check_double_backward
from ckd_trainer.training.gradients import gradients, norm, norms_and_cosines, updates_in_backward
from ckd_trainer.training.groups import Groups, groups_of
from ckd_trainer.training.projections import Projections, projected, use_learning_rate
from ckd_trainer.training.running_means import RunningMeans
from ckd_trainer.training.sampling import LengthGroupedSampler, data_seed, seed_of_epoch, step_size
from ckd_trainer.training.teacher_source import TeacherSource, check_has_rows
from ckd_trainer.training.unlabeled import Mixture, has_token_lists, lengths_of, mixed, sizes_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.processes import check_one_device
from ckd_trainer.utils.units import TEACHERS, UNITS, check_has_no_units, check_has_units, is_of_units
from ckd_trainer.utils.wrapped_models import (
    LABELS,
    asked_for,
    config_of,
    forward_arguments,
    has_adapters,
    inner_model,
    outputs_by_name,
    unwrapped,
    use_eager_attention,
    use_inner_weight_names,
)

# Options that, like the weights, do not affect the norms of the terms' gradients.
_NOT_IN_NORMS = {"term_balance", "balance_interval", "log_gradient_norms", "teacher_cache_dir"}


class StepItems(NamedTuple):
    """The number of items in the batches of a step.

    Attributes:
        terms: {term: the mean number over the batches and all processes}.
        labels: the number that `Trainer` passes to a `compute_loss_func`; None without one, or without labels.
        batches: the batches of this process.
    """

    terms: dict[str, Tensor]
    labels: Tensor | int | None
    batches: list[dict[str, Tensor]]


class DistillationTrainer(Trainer):
    """Trains a student with Contextual Knowledge Distillation.

    The loss is `(1 - alpha) task + alpha logits + weighted relation terms`, see `CKDArguments`. The weights of
    relations, and of other terms, are plain factors or shares of the gradient, measured in the first steps
    (`TermBalance`). The teacher runs in eval mode without gradients. Neither the optimizer nor a checkpoint contains
    it.

    The log holds `loss` (the total) and each term unweighted (`loss_task`, `loss_logits`, `loss_wr_distance`, ...).
    These are averaged over all processes and over the steps since the last log whose loss was finite;
    `nonfinite_steps` counts the others. The current scales of these weights are logged too
    (`scale_wr_distance`, ...). Evaluation reports only the student's loss on the labels and its metrics.

    With alpha 0 and all weights 0 (the control run, `CKDArguments.fine_tuning()`) the teacher is not run and need not
    be given. Training then equals that of `Trainer`, bit for bit, with two intended differences. The first is the
    mean of the loss on the labels. For spans it leaves out the logits of padding, see `span_task_loss`. For causal
    language models it leaves out the first token of each text, which is not predicted.

    The second is that a step depends only on its examples, not on how they are divided into batches and processes:
    1 x 32, 4 x 8 and 32 x 1 examples train alike, whatever their lengths. Each term of a batch is a mean over
    examples, or over pairs, triples or words that are not padding. Its weight in the step is its batch's share of all
    of these,

        (items in this batch) / (mean items of the step's batches, on all processes)

    so the plain mean that `Trainer` takes over batches and processes is the mean over all items.

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
        unlabeled_dataset: more training examples, encoded like those of train_dataset but without labels. They count
            in every term but the loss on the labels, and are drawn only if a term reads the teacher.
        unlabeled_share: their share of each step, 0.5 by default. An epoch goes once through train_dataset.
        group_size: draw whole groups: this many examples of each group, of which one has its highest label, see
            `GroupSampler`. The column `group` of train_dataset numbers the groups.
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

    train_dataset: Any
    data_collator: Any
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
        unlabeled_dataset: Dataset | None = None,
        unlabeled_share: float | None = None,
        group_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_one_device(self.args)
        self.group_size = group_size
        self.groups: Groups | None = None
        if group_size is not None and unlabeled_dataset is not None:
            raise InputError(
                "group_size and unlabeled_dataset are both given, but unlabeled examples are not mixed into groups: "
                "leave one out."
            )
        if group_size is not None and self.train_dataset is not None:
            self.groups = groups_of(self.train_dataset, group_size, self.args)
        self.mixture: Mixture | None = None
        if unlabeled_share is not None and unlabeled_dataset is None:
            raise InputError(
                f"unlabeled_share is {unlabeled_share:g}, but unlabeled_dataset is not given: leave it out."
            )
        if unlabeled_dataset is not None:
            self.train_dataset, self.mixture = mixed(self.train_dataset, unlabeled_dataset, unlabeled_share)
        # The loss is not a sum over items of the global batch. This does the work of `loss_is_scaled_for_ga` in
        # versions that lack it, and keeps `Trainer` from multiplying the loss by the number of processes.
        self.model_accepts_loss_kwargs = False
        self.ckd_args, self.methods = ckd_args or CKDArguments(), list(methods)
        self._given_head, self._given_terms = head, list(terms)
        self._given_teacher: Any = teacher_model
        self._source: TeacherSource | None = None  # one for all students
        self._listener: Listener | None = None
        self._projections: Projections | None = None
        self._last_step: StepItems | None = None  # of the last step, for `log_gradient_norms`
        self._read: tuple[dict[str, Any], dict[Signal, Any] | None] | None = None  # a batch and its teacher signals
        self._fit_to(self.model)

    def call_model_init(self, trial: Any = None) -> torch.nn.Module:
        """Fits terms, layers and columns to the new student: `model_init` may vary its depth or set `ckd_args`."""
        student = super().call_model_init(trial)
        if hasattr(self, "ckd_args"):  # not yet set when `Trainer.__init__` calls this
            self._fit_to(student)
            if self._projections is not None:
                self._projections.attach()
        return student

    def use_loss(self, ckd_args: CKDArguments, methods: Sequence[MethodArguments] = ()) -> None:
        """Replaces the loss; the student stays as it is. See the class for the arguments and errors."""
        self.ckd_args, self.methods = ckd_args, list(methods)
        self._fit_to(self.model)

    def _fit_to(self, student: torch.nn.Module) -> None:
        """Sets everything that depends on the models: head, terms, matched layers, label order and columns."""
        use_inner_weight_names(student)
        config = config_of(student)
        vars(config).pop(SUBNETWORKS, None)  # this training fits the whole student alone
        self.head = self._given_head or head_of(student)
        if isinstance(self._given_teacher, (str, os.PathLike)):
            self._given_teacher = StoredTeacher.with_head(self.head, self._given_teacher)
        teacher = self._given_teacher
        for model in (student, teacher):
            if model is not None and isinstance(config_of(model), PreTrainedConfig):
                check_encoder(config_of(model))
        if isinstance(unwrapped(student), PreTrainedModel):
            check_savable(config)
        if teacher is not None and inner_model(teacher) is inner_model(student):
            raise InputError("teacher and student are the same object: the teacher is frozen, so load it twice.")
        arguments = forward_arguments(student)
        if self.args.label_names is None and not self.label_names:  # the class of a wrapper does not show them
            self.label_names = [name for name in LABELS if name in arguments]
        self.tokenizers = self._tokenizer_pair()
        tokenizer = self._tokenizer()
        _check_padding_token(self.head, config, tokenizer)
        if tokenizer is not None:
            self.head.learn_special_tokens(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
        previous = getattr(self, "distillation_objective", None)
        self.distillation_objective = objective = self._objective(config, teacher)
        self.teacher: TeacherSource | None = None
        self._teacher_only_inputs: set[str] = set()
        self._signature_columns = self._cached_examples = None
        if self.mixture is not None and objective.terms:
            sizes_of(self.mixture.share, self.args)  # raises now, not after a cache is built
        if objective.terms:
            self._read_from(teacher, student)
        self._student_options = asked_for(student, objective.student_signals) if objective.terms else {}
        self._listen_to(student, objective.student_signals)
        self._project(student, objective.student_signals)
        self._balance_with(objective.balanced)
        self._running_means = RunningMeans(list(objective.weights))
        self._log_plan(previous)

    def _log_plan(self, previous: Objective | None) -> None:
        """Logs the loss, unless it is the `previous` one."""
        objective = self.distillation_objective
        if previous is None or previous.describe() != objective.describe():
            objective.log_plan()

    def _read_from(self, teacher: PreTrainedModel | StoredTeacher, student: torch.nn.Module) -> None:
        """Sets the source of the teacher's signals for this student."""
        columns = getattr(self.train_dataset, "column_names", None)
        if columns:
            (check_has_no_units if self.tokenizers is None else check_has_units)(columns)
        self._check_token_ids(config_of(student), teacher)
        cache_dir, objective = self.ckd_args.teacher_cache_dir, self.distillation_objective
        if cache_dir:
            objective.check_cacheable()
            if self.train_dataset is not None:
                check_has_rows(self.train_dataset)
        if self._source is None:
            self._source = TeacherSource(teacher, self.args, self.accelerator)
        self._source.fit(
            self._teacher_signals(),
            head=self.head,
            logits=self._teachers_logits,
            label_order=self.label_order,
            cache_dir=cache_dir,
            has_tokenizer=self.tokenizers is not None,
        )
        self.teacher = self._source
        self._check_token_types(student, teacher)
        if self.tokenizers is not None:
            self._teacher_only_inputs = {*self.teacher.columns, UNITS}
        elif not cache_dir:
            self._teacher_only_inputs = self.teacher.input_names - forward_arguments(student) - {*LABELS}

    def _check_token_types(self, student: torch.nn.Module, teacher: Any) -> None:
        """Raises InputError if a model that reads the training set lacks embeddings for its token types."""
        if not isinstance(self.train_dataset, Dataset):
            return
        own = "" if self.tokenizers is None else TEACHERS
        for model, names, prefix in (
            (student, forward_arguments(student), ""),
            (teacher, self.teacher.input_names, own),
        ):
            column = f"{prefix}token_type_ids"
            if "token_type_ids" in names and column in self.train_dataset.column_names:
                check_token_types(config_of(model), self.train_dataset[0][column])

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

    def _objective(self, config: PreTrainedConfig, teacher: Any) -> Objective:
        """Returns the loss of a student with this configuration; checks that the teacher's head fits."""
        head, args = self.head, self.ckd_args
        if args.maps_scores and not head.is_score:
            raise InputError(
                f"teacher_score_scale is {args.teacher_score_scale:g} and teacher_score_shift "
                f"{args.teacher_score_shift:g}, but the model does not predict a score: leave them out."
            )
        of_methods = [term for method in self.methods for term in method.weights]
        wanted = [*args.weights, *of_methods, *(term.name for term in self._given_terms)]
        if wanted and teacher is None:
            raise InputError(
                f"no teacher is given, but the terms {', '.join(wanted)} have a weight: give one, or set alpha and "
                "the weights to 0 for plain fine-tuning."
            )
        if "logits" in args.weights and not head.label_columns:
            raise InputError("a bare encoder has no logits to compare: set alpha to 0.")
        terms = self._terms_between(config, config_of(teacher)) if wanted else []
        reads_logits = [term.name for term in terms if term.teacher_signal.reads_labels]
        self.label_order: Sequence[int] | None = None
        self._teachers_logits: Logits | None = None
        if wanted:
            self._match_heads(config, teacher, reads_logits)
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
        columns = getattr(self.train_dataset, "column_names", None)
        for term in terms:
            term.student_signal.check(student)
            term.teacher_signal.check(teacher)
            lacking = [name for name in term.columns if columns and name not in columns]
            if lacking:
                raise InputError(
                    f"the term {term.name} reads the column {lacking[0]!r}, which the training set lacks: add it, or "
                    f"set the weight of {term.name} to 0."
                )
        return [term.to(self.args.device) for term in terms]

    def _match_heads(
        self, config: PreTrainedConfig, teacher: PreTrainedModel | StoredTeacher, reads_logits: list[str]
    ) -> None:
        """Finds the order of the teacher's labels; raises if terms (`reads_logits`) compare logits that differ."""
        head, theirs = self.head, None
        try:
            theirs = self._head_of(teacher)
            if theirs.name == head.name and head.label_columns:
                self.label_order = head.label_order(config_of(teacher), config)
                self._teachers_logits = Logits(head, head.outputs(config_of(teacher)))
        except InputError:
            if reads_logits:
                raise
        if theirs is not None:
            tokenizer = self._tokenizer() if self.tokenizers is None else self.tokenizers.teacher
            _check_padding_token(theirs, config_of(teacher), tokenizer)
        if not reads_logits:
            return
        if self._teachers_logits is None:
            options = ["alpha" if term == "logits" else f"the weight of {term}" for term in reads_logits]
            raise InputError(
                f"the student's head is {head.name}, but the teacher's is {theirs.name}, and their logits cannot be "
                f"compared: set {' and '.join(options)} to 0, or give a teacher with the student's head."
            )
        head.warn_of_label_order(config_of(teacher), config)
        columns = getattr(self.train_dataset, "column_names", None)
        if columns:
            head.check_columns(columns)

    def _head_of(self, teacher: PreTrainedModel | StoredTeacher) -> Head:
        if isinstance(teacher, StoredTeacher):
            return teacher.head
        try:
            return head_of(teacher)
        except InputError:
            if self._given_head is None:
                raise
            return self._given_head

    def _listen_to(self, student: torch.nn.Module, signals: Sequence[Signal]) -> None:
        """Prepares a student for its signals, with eager attention and hooks if they need them."""
        reads_attentions = any("attentions" in signal.model_outputs for signal in signals)
        differentiates = any(signal.differentiates for signal in signals)
        if differentiates:
            check_double_backward(student, self._given_teacher, self.args, self.accelerator)
        reads_modules = any(signal.modules(student) for signal in signals)
        reentrant = (self.args.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
        if self.args.gradient_checkpointing and reentrant and (reads_attentions or reads_modules):
            raise InputError(
                "gradient_checkpointing_kwargs sets use_reentrant, which passes on no gradient from inside a layer, "
                "but a term reads attentions or their projections: set use_reentrant to false."
            )
        if reads_attentions or differentiates:
            use_eager_attention(student)
        if self._listener is not None:
            self._listener.close()
        self._listener = Listener(student, signals)

    def _project(self, student: torch.nn.Module, signals: Sequence[Signal]) -> None:
        """Makes the projections that a student's signals need; `train` puts them into the student."""
        if self._projections is not None:
            self._projections.detach()
        found = projected(signals)
        self._projections = Projections(student, found, self.args.seed) if found else None
        if signals and not found and self.ckd_args.projection_learning_rate is not None:
            raise InputError(
                "projection_learning_rate is set, but no term of the loss learns a projection, as "
                "tinybert_hidden_weight does: leave it out."
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains learned projections with the student, and takes them out of it at the end."""
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
        if self._projections is None:
            return optimizer
        learning_rate = self.ckd_args.projection_learning_rate
        groups = getattr(optimizer, "param_groups", None)  # DeepSpeed's own optimizers have none here, and train all
        if groups is None:
            if learning_rate is not None:
                raise InputError(
                    "projection_learning_rate is set, but DeepSpeed's configuration defines the optimizer: leave one "
                    "out."
                )
        elif is_new and learning_rate is not None:
            use_learning_rate(optimizer, self._projections.module, learning_rate)
        elif not {weight for group in groups for weight in group["params"]}.issuperset(
            self._projections.module.parameters()
        ):
            raise InputError(
                "the optimizer given to the trainer does not train the projections that a term learns: leave it out, "
                "or choose it by `optim`."
            )
        return optimizer

    def _tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Returns the student's tokenizer, if it is known."""
        ours = None if self.tokenizers is None else self.tokenizers.student
        for tokenizer in (self.processing_class, ours, getattr(self.data_collator, "tokenizer", None)):
            if isinstance(tokenizer, PreTrainedTokenizerBase):
                return tokenizer
        return None

    def _tokenizer_pair(self) -> TokenizerPair | None:
        """Returns the tokenizers of student and teacher, if the batches hold an encoding of each."""
        tokenizer = getattr(self.data_collator, "tokenizer", None)
        return tokenizer if isinstance(tokenizer, TokenizerPair) else None

    def _balance_with(self, weights: dict[str, float]) -> None:
        """Makes the `TermBalance` of the balanced terms, {term: weight}."""
        self._balance = None
        self.remove_callback(TermBalance)
        if not weights:
            return
        if updates_in_backward(self.args):
            raise InputError(
                f"optim is {self.args.optim.value}, which changes weights in every backward pass, but balancing "
                "terms needs backward passes that change nothing: choose another optimizer."
            )
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise InputError(
                "gradients of terms cannot be measured under FSDP 1: set fsdp_version to 2, as in "
                "recipes/accelerate/fsdp2.yaml."
            )
        used: list[Any] = [self.ckd_args, *(method for method in self.methods if method.weights)]
        # Options at their defaults are left out, so that an option added later does not invalidate old checkpoints.
        definition = {
            option.name: value
            for arguments in used
            for option in dataclasses.fields(arguments)
            if (value := getattr(arguments, option.name)) != option.default
            and option.name not in _NOT_IN_NORMS
            and not option.name.endswith("_weight")
        }
        if self._given_terms:
            definition["terms"] = [
                [term.name, term.student_signal.key, term.teacher_signal.key] for term in self._given_terms
            ]
        rescales = self.ckd_args.term_balance == "gradient"
        yardstick = self.distillation_objective.yardstick
        self._balance = TermBalance(weights, rescales, self.ckd_args.balance_interval, definition, yardstick)
        self.add_callback(self._balance)

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

    def describe_loss(self) -> str:
        """Returns the loss in one line, with the scales of its weights once they are known."""
        return self.distillation_objective.describe(self.scales)

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

    def _check_token_ids(self, config: PreTrainedConfig, teacher: PreTrainedModel | StoredTeacher) -> None:
        if self.tokenizers is not None:
            check_embeddings(config, self.tokenizers.student)
            check_embeddings(config_of(teacher), self.tokenizers.teacher)
            return
        tokenizer = self._tokenizer()
        options = teacher.options if isinstance(teacher, StoredTeacher) else {"trust_remote_code": False}
        stored = local_tokenizer(getattr(inner_model(teacher), "name_or_path", ""), **options) if tokenizer else None
        check_token_ids(config, config_of(teacher), tokenizer, stored)

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

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Draws batches of similar length or of whole groups, and mixes unlabeled examples into each step.

        See `LengthGroupedSampler`, `GroupSampler` and `MixedSampler`.
        """
        if self.groups is not None:
            return self.groups.sampler(self.args, self._epoch)
        if self.mixture is not None and self.mixes:
            return self.mixture.sampler(self.train_dataset, self.args, self._epoch)
        examples = self.train_dataset if train_dataset is None else train_dataset
        if self.mixture is not None:
            examples = self.train_dataset.select(range(self.mixture.labeled))
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if grouped and has_token_lists(examples) and self.args.length_column_name not in examples.column_names:
            lengths = lengths_of(examples, "input_ids")  # `Trainer` would read every example in Python
        else:
            sampler = super()._get_train_sampler(examples)
            if not grouped or sampler is None:
                return sampler
            lengths = sampler.lengths
        seed = data_seed(self.args)
        return LengthGroupedSampler(lengths, step_size(self.args), lambda: seed_of_epoch(seed, self._epoch()))

    @property
    def mixes(self) -> bool:
        """Whether steps hold unlabeled examples: there are some, and a term reads the teacher."""
        return self.mixture is not None and bool(self.distillation_objective.terms)

    def _epoch(self) -> int:
        # It comes from the state. Accelerate wraps the sampler twice (for the batches of each process, and to skip
        # those trained before a resume), and its `set_epoch` does not reach through both.
        return int(self.state.epoch or 0)

    def num_examples(self, dataloader: DataLoader) -> int:
        """Returns the number of examples in an epoch, which need not be all of the training set."""
        batches = getattr(dataloader, "batch_sampler", None)
        while hasattr(batches, "batch_sampler"):  # that of Accelerate, for the batches of each process
            batches = batches.batch_sampler
        sampler = getattr(batches, "sampler", None)
        return super().num_examples(dataloader) if sampler is None else len(sampler)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Reads all rows in order, for `compute_metrics`."""
        with self._sequential():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Reads all rows in order, so that predictions are in that order too."""
        with self._sequential():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _sequential(self) -> Iterator[None]:
        # `Trainer` uses the training options here too: it would group the evaluated rows by length and return
        # predictions in that order, drop the last rows, and take batches as workers finish them.
        wanted = {
            "train_sampling_strategy": "sequential",
            "dataloader_drop_last": False,
            "dataloader_in_order": True,
        }
        before = {name: getattr(self.args, name) for name in wanted if hasattr(self.args, name)}
        try:
            for name in before:
                setattr(self.args, name, wanted[name])
            yield
        finally:
            for name, value in before.items():
                setattr(self.args, name, value)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, StepItems | None]:
        """Returns the batches of a step and their `StepItems`."""
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self._check_labels(batches[0])
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
                "the loss on the labels has a weight: set alpha to 1 to train without labels."
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

    def _task_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], options: dict[str, Any], num_items: Any
    ) -> tuple[Tensor, Any]:
        """Returns the loss on the labels (0 if the batch has none) and the student's outputs."""
        given = self._student_inputs(inputs) | options
        smooths = self.label_smoother is not None and "labels" in inputs
        if self.compute_loss_func is not None or smooths:
            return super().compute_loss(model, given, return_outputs=True, num_items_in_batch=num_items)
        if not self.head.has_labels(inputs):
            return torch.zeros((), device=self.args.device), model(**given)
        given |= self.head.labels_for_model(inputs)
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
            terms |= self.distillation_objective(dict(outputs) | captured, signals, inputs)
        ignores_head = weights.keys().isdisjoint({"task", "logits"})
        if ignores_head if self.head.label_columns else self.accelerator.num_processes > 1:
            # No term reads the head or a bare encoder's pooler, and a user's terms may read only parts of a layer. But
            # DDP waits for the gradients of all weights, and FSDP2 gathers a layer's once the gradient of its output
            # arrives. A head has zero gradients in one process too, as optimizers skip weights without any.
            zero = sum((0 * output).sum() for output in dict(outputs).values() if isinstance(output, Tensor))
            terms = {term: value + zero for term, value in terms.items()}
        if step:
            counts = dict(zip(weights, self._counts(inputs), strict=True))
            shares = {term: count / step.terms[term] for term, count in counts.items()}
            if step.labels is not None:  # a `compute_loss_func` has already divided by the labels of the step
                shares["task"] = torch.full_like(shares["task"], len(step.batches))
            # The mean over zero items is NaN: leave it out.
            terms = {term: torch.where(share > 0, terms[term] * share, 0) for term, share in shares.items()}
        return terms, outputs

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

    def _set_signature_columns_if_needed(self) -> None:
        # `Trainer` keeps the columns that the student's forward names. Keep the teacher's too, and those that a
        # wrapper passes on.
        super()._set_signature_columns_if_needed()
        read = {*forward_arguments(self.model), *self._teacher_only_inputs, ROW, *self._other_columns}
        self._signature_columns += sorted(read - set(self._signature_columns))

    @property
    def _other_columns(self) -> set[str]:
        """Columns of a batch that the loss reads but the model does not."""
        terms = self.distillation_objective.terms.values()
        of_terms = [name for term in terms for name in term.columns]
        return {*self.head.other_columns, *of_terms, *([] if self.group_size is None else [GROUP])}

    def _student_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in inputs.items()
            if name not in self._teacher_only_inputs
            and name not in self._other_columns
            and not name.startswith(PREFIX)
            and (self.tokenizers is None or not is_of_units(name))
        } | outputs_by_name(self.model)


def _check_padding_token(head: Head, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> None:
    if head.label_columns and head.tokens_dim is None:  # one result per text
        check_padding_token(config, tokenizer)
