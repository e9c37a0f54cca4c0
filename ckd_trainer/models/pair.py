"""Loads a teacher and a student, and checks that they are compatible."""

import copy
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ckd_trainer.arguments import ModelArguments
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.tokenizer_pair import Tokenizer, TokenizerPair
from ckd_trainer.heads import Classes, MultiLabel
from ckd_trainer.heads.labels import THRESHOLDS, label_order, thresholds_of, warn_of_label_order
from ckd_trainer.heads.recognition import head_of_auto_class
from ckd_trainer.models.compatibility import (
    check_embeddings,
    check_encoder,
    check_max_length,
    check_padding_sides,
    check_savable,
    check_task,
    check_token_types,
    encoded_differently,
    max_length,
    vocabulary_difference,
)
from ckd_trainer.models.head_bias import center_at, log_frequencies, log_odds, start_at
from ckd_trainer.models.loading import (
    check_all_weights,
    check_base_weights,
    lacks_head,
    load_config,
    load_weights,
)
from ckd_trainer.models.narrowing import narrow
from ckd_trainer.models.sizes import SIZES, narrowed_config, size_of
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.models.student import (
    config_of_layers,
    override_config,
    permute_head,
    random_model,
    student_from_layers,
    student_layers,
)
from ckd_trainer.models.subnetworks import SUBNETWORKS
from ckd_trainer.models.tokenizers import load_tokenizer
from ckd_trainer.utils.errors import InputError, is_mendable
from ckd_trainer.utils.wrapped_models import forward_arguments

logger = logging.getLogger(__name__)

_READ_LENGTH = 64  # tokens of each text that a student is fitted or centered on: limits the memory that this takes
_CENTERED_TEXTS = 64  # on which a head that reads a lower layer is centered; its outputs hardly differ
# What heads give, by their names.
_OF_TEXT = {Classes.name: "one class per text", MultiLabel.name: "several labels per text"}


class ModelPair:
    """The student and, if needed, the teacher: checked by configuration and tokenizer, then loaded.

    Args:
        args: names the models.
        model_class: the Auto class for the task.
        terms: the names of the terms that read the teacher. If there are none, the teacher is loaded only to build the
            student from it.
        trains: whether the student will be trained. If not, a missing head or one with other labels is refused.

    Attributes:
        student_config, teacher_config: configurations; the teacher's is None if it is not needed.
        tokenizer: the student's.
        teacher_tokenizer: the teacher's; the student's if there is no teacher.
        tokenizers: both, if a loss reads the teacher and they encode texts differently; else None.
        difference: how they differ, a clause.
        saved_tokenizer: the student's as it was loaded. A tokenizer that has encoded texts keeps the truncation and
            padding of its last call, and would be saved with them.
        folders: the local folders of the models.

    Raises:
        InputError: a model is not named or cannot be loaded, or the tokenizers differ and one is not fast.

    Example::

        pair = ModelPair(model_args, terms=["logits"], trains=True)
        pair.set_labels(["negative", "positive"])
        student, teacher = pair.load()
    """

    def __init__(
        self,
        args: ModelArguments,
        *,
        model_class: type[Any] = AutoModelForSequenceClassification,
        terms: Sequence[str],
        trains: bool,
    ) -> None:
        student, teacher = args.model_name_or_path, args.teacher_model_name_or_path
        from_teacher = args.student_is_from_teacher
        if student is None and not from_teacher:
            or_layers = (
                ", or set student_init to teacher_layers to start from layers of the teacher" if teacher else ""
            )
            raise InputError(
                "model_name_or_path is not given: name a pre-trained model, such as "
                f"google-bert/bert-base-uncased{or_layers}."
            )
        distills = bool(terms)
        if teacher is None and (distills or from_teacher):
            readers, changes = [], []
            if distills:
                weights = ["alpha" if term == "logits" else f"{term}_weight" for term in terms]
                readers, changes = [f"the loss ({', '.join(terms)})"], [f"{' and '.join(weights)} to 0"]
            if from_teacher:
                readers.append(f"student_init {args.student_init}")
                changes.append("student_init to pretrained")
            need = "need" if len(readers) > 1 else "needs"
            raise InputError(
                f"teacher_model_name_or_path is not given, but {' and '.join(readers)} {need} a teacher: name one or, "
                f"for plain fine-tuning, set {' and '.join(changes)}."
            )
        self.args, self.model_class = args, model_class
        self.options = {"trust_remote_code": args.trust_remote_code}
        self.distills, self.trains = distills, trains
        self.folders = [Path(name) for name in (student, teacher) if name and is_folder(name)]
        self.head_order: Sequence[int] | None = None
        self._first_outputs: Sequence[float] | None = None
        self.teacher_config = self.teacher_tokenizer = None
        if distills or from_teacher:
            self.teacher_config = self._load_config(teacher)
            self.teacher_tokenizer = load_tokenizer(teacher, **self.options)
        self.layers = []
        if args.student_init == "teacher_layers":
            self.layers = student_layers(args, self.teacher_config.num_hidden_layers)
            self.student_config = config_of_layers(self.teacher_config, self.layers)
            if args.student_config:
                self.student_config = narrowed_config(self.student_config, dict(args.student_config))  # type: ignore[arg-type]  # parsed
        else:
            config = copy.deepcopy(self.teacher_config) if from_teacher else self._load_config(student)
            self.student_config = override_config(config, args)
        if from_teacher and hasattr(self.student_config, SUBNETWORKS):
            delattr(self.student_config, SUBNETWORKS)  # those of the teacher
        if trains:
            vars(self.student_config).pop(THRESHOLDS, None)  # those of the model before training
        if self.student_config.output_attentions:  # each forward pass requests the outputs that it needs
            logger.info(
                "The student's configuration sets output_attentions, with which it cannot be saved: turned off."
            )
            self.student_config.output_attentions = False
        self.tokenizer = self.teacher_tokenizer if from_teacher else load_tokenizer(student, **self.options)
        self.saved_tokenizer = copy.deepcopy(self.tokenizer)
        self._student_name = self.student_config.name_or_path
        if self.teacher_tokenizer is None:
            self.teacher_tokenizer = self.tokenizer
        for config, tokenizer in self._models():
            check_embeddings(config, tokenizer)
        self.tokenizers: TokenizerPair | None = None
        self.difference = vocabulary_difference(self.tokenizer, self.teacher_tokenizer) if distills else None
        if self.difference is not None:
            self.tokenizers = TokenizerPair(self.tokenizer, self.teacher_tokenizer)
        elif distills:
            check_padding_sides(self.tokenizer, self.teacher_tokenizer)

    def compare_encodings(self, texts: Iterable[Sequence[str]]) -> None:
        """Finds out whether tokenizers with the same vocabulary encode some texts differently, and sets `tokenizers`.

        Args:
            texts: or pairs of texts.
        """
        if self.tokenizers is None:
            self.difference = encoded_differently(self.tokenizer, self.input_tokenizer, texts)
            if self.difference is not None:
                self.tokenizers = TokenizerPair(self.tokenizer, self.teacher_tokenizer)

    @property
    def input_tokenizer(self) -> Tokenizer:
        """What encodes the texts, with all inputs that either model reads: one tokenizer, or both if they differ."""
        if self.tokenizers is not None:
            return self.tokenizers
        tokenizer = copy.copy(self.teacher_tokenizer)
        # Such as token_type_ids, if the student reads them and the teacher does not.
        names = [*self.teacher_tokenizer.model_input_names, *self.tokenizer.model_input_names]
        tokenizer.model_input_names = list(dict.fromkeys(names))
        return tokenizer

    def _load_config(self, name: str) -> PreTrainedConfig:
        config = load_config(name, **self.options)
        check_task(config, self.model_class, name)
        check_encoder(config)
        return config

    def set_labels(
        self, label_names: Sequence[str] | None, *, several: bool = False, examples: ArrayLike | None = None
    ) -> None:
        """Sets the student's labels to those of the data (None: a score), and checks that the teacher has them too.

        If the student's head has the same labels in another order, it will be reordered.

        Args:
            several: whether a text can have several labels.
            examples: the labels or scores of the training set, if a new head is to start at their frequencies or at
                their mean (see `start_at`).
        """
        if examples is not None:
            if label_names is None:
                self._first_outputs = [float(np.asarray(examples, float).mean())]
            else:
                self._first_outputs = log_odds(examples) if several else log_frequencies(examples, len(label_names))
        source = copy.deepcopy(self.student_config)
        self.student_config.update(label_config(label_names, several=several))
        if self.args.student_init != "random":
            try:
                self.head_order = label_order(source, self.student_config, whose="the model")
                if not self.trains:
                    self._check_head(source, "the model")
                    warn_of_label_order(source, self.student_config, whose="the model")
            except InputError as error:  # in training, a head with other labels is replaced or renamed
                if not self.trains:
                    raise InputError(f"the model cannot be evaluated on this data: {error}") from None
        thresholds = thresholds_of(source)
        if thresholds is not None:
            order = self.head_order or range(len(thresholds))
            ordered = {name: thresholds[place] for name, place in zip(label_names or (), order, strict=True)}
            setattr(self.student_config, THRESHOLDS, ordered)
        if self.distills:
            label_order(self.teacher_config, self.student_config)
            self._check_head(self.teacher_config, "the teacher")

    def _check_head(self, config: PreTrainedConfig, whose: str) -> None:
        """Raises InputError if a model has one of several labels per text, and the data any number, or vice versa."""
        theirs, ours = (head_of_auto_class(self.model_class, one).name for one in (config, self.student_config))
        if theirs != ours:
            advice = (
                "If it was trained for several labels per text, set problem_type to multi_label_classification in its "
                "config.json."
                if ours == MultiLabel.name
                else "If the texts have several labels, set multi_label."
            )
            given, wanted = (_OF_TEXT.get(name, name) for name in (theirs, ours))
            raise InputError(
                f"{whose} gives {given}, but this data has {wanted}: fine-tune a model on this data with "
                f"ckd-trainer teacher. {advice}"
            )

    def set_span_head(self) -> None:
        """Sets the student's outputs to two per token, the start and end of an answer.

        Raises:
            InputError: the teacher has another number of outputs.
        """
        names = ["LABEL_0", "LABEL_1"]  # replaces the names of a classifier
        self.student_config.update(label_config(names) | {"problem_type": None})
        if self.distills and self.teacher_config.num_labels != len(names):
            raise InputError(
                f"the teacher has {self.teacher_config.num_labels} outputs, but the start and end of an answer need "
                f"{len(names)}: it was fine-tuned for another task. Fine-tune a teacher on this data with "
                "ckd-trainer teacher."
            )

    def check_max_length(self, max_seq_length: int) -> None:
        """Raises InputError if student or teacher has fewer positions than max_seq_length."""
        for config, tokenizer in self._models():
            check_max_length(config, tokenizer, max_seq_length, **self.options)

    def fit_max_length(self, data_args: DataArguments) -> None:
        """Lowers a default max_seq_length to what student and teacher support.

        Raises:
            InputError: max_seq_length was given and exceeds that.
        """
        if "max_seq_length" in data_args.by_default:
            limit = min(max_length(config, tokenizer, **self.options) for config, tokenizer in self._models())
            if limit < data_args.max_seq_length:
                logger.info(
                    "max_seq_length is lowered to %d, the most that the models support (the default is %d).",
                    limit,
                    data_args.max_seq_length,
                )
                data_args.max_seq_length = limit
        self.check_max_length(data_args.max_seq_length)

    @property
    def cutting_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer whose tokens are counted where long texts are cut into pieces."""
        return self.teacher_tokenizer if self.tokenizers is None else self.tokenizer

    def _models(self) -> list[tuple[PreTrainedConfig, PreTrainedTokenizerBase]]:
        models = [(self.student_config, self.tokenizer)]
        return models + ([(self.teacher_config, self.teacher_tokenizer)] if self.teacher_config else [])

    def load(
        self, texts: Sequence[tuple[str, ...]] = (), trained: Path | None = None
    ) -> tuple[PreTrainedModel, StoredTeacher | None]:
        """Returns the student with its weights, and the teacher still without (None if no loss reads it).

        Args:
            texts: examples of the training data. If student_config makes the student narrower than the teacher, it is
                fitted to the teacher on them. If it lacks the teacher's last layer, its head is centered on them (see
                `center_at`).
            trained: the folder in which an earlier stage of the run has left the student.
        """
        teacher = None
        has_new_head = reads_lower_layer = False
        if self.distills or self.layers:
            teacher = StoredTeacher(
                self.args.teacher_model_name_or_path,
                self.teacher_config,
                self.model_class,
                allow_unused_weights=self.args.allow_unused_weights,
                **self.options,
            )
        if trained is not None:
            student = self._load_trained(trained)
        elif self.layers:
            student = self._student_of_layers(teacher.load(), texts)
            has_new_head = student.config.num_labels != self.teacher_config.num_labels
            reads_lower_layer = self.layers[-1] < self.teacher_config.num_hidden_layers
        elif self.args.student_init == "random":
            student = random_model(self.student_config, self.model_class)
            has_new_head = True
        else:
            # A head for other labels is replaced, for example when an MNLI model is fine-tuned on RTE.
            student, info = load_weights(
                self.args.model_name_or_path,
                self.model_class,
                config=self.student_config,
                **self.options,
            )
            check_weights = check_base_weights if self.trains else check_all_weights
            check_weights(student, info, self.args.model_name_or_path, allow_unused=self.args.allow_unused_weights)
            has_new_head = lacks_head(student, info)
        if self.head_order is not None and trained is None:
            permute_head(student, self.head_order)
        if self._first_outputs is not None and has_new_head:
            start_at(student, self._first_outputs)
        elif self._first_outputs is not None and reads_lower_layer and texts:
            center_at(student, self._first_outputs, self._encoded(texts[:_CENTERED_TEXTS], student))
        check_savable(student.config)
        return student, teacher if self.distills else None

    def _load_trained(self, folder: Path) -> PreTrainedModel:
        """Returns the student that an earlier stage has left in a folder."""
        config = load_config(str(folder), **self.options)
        if hasattr(config, SUBNETWORKS):
            setattr(self.student_config, SUBNETWORKS, getattr(config, SUBNETWORKS))
        student, info = load_weights(str(folder), self.model_class, config=self.student_config, **self.options)
        check_all_weights(student, info, str(folder))
        student.name_or_path = student.config.name_or_path = self._student_name
        return student

    def _student_of_layers(self, teacher: PreTrainedModel, texts: Sequence[tuple[str, ...]]) -> PreTrainedModel:
        config = self.student_config
        wide = config_of_layers(self.teacher_config, self.layers)
        wide.update({name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")})
        sizes = [name for name in SIZES if self.args.student_config and size_of(wide, name) != size_of(config, name)]
        if not sizes:
            return student_from_layers(teacher, self.layers, config)
        student = student_from_layers(teacher, self.layers, wide)
        changes = ", ".join(f"{name} {size_of(wide, name)} -> {size_of(config, name)}" for name in sizes)
        logger.info("The student is made narrower than the teacher, fitted on %d texts: %s.", len(texts), changes)
        return narrow(student, config, self._encoded(texts, student))

    def _encoded(self, texts: Sequence[tuple[str, ...]], model: PreTrainedModel) -> dict[str, Tensor]:
        """Returns the inputs of a model for the beginnings of texts."""
        config = model.config
        encoded = self.tokenizer(
            *map(list, zip(*texts, strict=True)),
            padding=True,
            truncation=True,
            max_length=min(_READ_LENGTH, max_length(config, self.tokenizer, **self.options)),
            return_tensors="pt",
        )
        reads = forward_arguments(model)
        batch = {name: value for name, value in encoded.items() if name in reads}
        if "token_type_ids" in batch:
            check_token_types(config, batch["token_type_ids"].flatten().tolist())
        return batch


def label_config(label_names: Sequence[str] | None, *, several: bool = False) -> dict:
    """Returns the head's configuration for these class names, or for a score (None).

    Args:
        several: whether a text can have several of them.
    """
    if label_names is None:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        "problem_type": f"{'multi' if several else 'single'}_label_classification",
    }


def is_folder(name: str) -> bool:
    """Returns whether a model's name is a local folder, not an id on the Hub."""
    try:
        return Path(name).is_dir()
    except OSError as error:
        if not is_mendable(error):
            raise
        return False  # too long for a path, or no access: loading will raise a clear error
