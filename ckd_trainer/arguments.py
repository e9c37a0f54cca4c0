"""The options that all tasks share, as dataclasses for `HfArgumentParser`. The data options are in `ckd_trainer.data`.

Each `help` text documents its option. Ranges and combinations of values are checked here. Checks that need data or
models are made where those are loaded. Everything not listed here is a field of `transformers.TrainingArguments`.
"""

import json
import math
import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers.utils import is_peft_available

from ckd_trainer.losses.layer_mapping import parse_layer_mapping
from ckd_trainer.losses.pairs import DISTANCE_LOSSES
from ckd_trainer.utils.errors import InputError, short
from ckd_trainer.utils.files import expanded
from ckd_trainer.utils.option_types import check_types

# See `ckd_trainer.models.student.student_layers`.
STUDENT_LAYERS = ("first", "first_and_last", "last", "skip", "uniform")


def option(default: Any, help: str) -> Any:
    """Returns a dataclass field with its default and its `--help` text."""
    return field(default=default, metadata={"help": help})


@dataclass
class CKDArguments:
    """The terms of the training loss and their weights.

    The training loss is `(1 - alpha) task + alpha logits + wr_distance_weight WR-distance + wr_angle_weight WR-angle
    + ltr_distance_weight LTR-distance + ltr_angle_weight LTR-angle`. The weights of relations are shares of the
    gradient of labels and logits together, see `ckd_trainer.training.balance`. With `term_balance` none they are
    plain factors. With `alpha` 0 and all weights 0 the student is fine-tuned without a teacher (the control run).
    Without `labels_and_logits` only the weighted terms are left.

    Example::

        CKDArguments(alpha=0.5, temperature=2.0, wr_angle_weight=0.1)
        CKDArguments(term_balance="none", alpha=0.9, temperature=3.0, wr_distance_weight=1.0, wr_angle_weight=10.0)
    """

    # alpha and temperature: the middle of the published settings.
    alpha: float = option(
        0.7, "Weight of the loss on the teacher's logits, from 0 to 1; the loss on the labels has weight 1 - alpha."
    )
    labels_and_logits: bool = option(
        True,
        "Whether the loss has labels and logits, which alpha weighs. false: only the other terms train the student, "
        "as in TinyBERT's first stage, and its head only if they read its scores. Shares are then relative to the "
        "gradient of the first term.",
    )
    temperature: float = option(
        3.0, "Divides the logits of teacher and student before they are compared, to soften them; above 0."
    )
    logit_loss: Literal["kl", "reverse_kl", "skewed_kl", "mse"] = option(
        "kl",
        "The loss on class logits. kl: KL(teacher || student); reverse_kl: KL(student || teacher); skewed_kl: "
        "KL(teacher || 0.1 teacher + 0.9 student), as in DistiLLM; mse: the squared error of the logits. Scores are "
        "always compared by their squared error.",
    )
    scale_by_temperature: bool = option(
        True,
        "Multiply the classification logit loss by temperature squared, so that its gradient does not shrink with the "
        "temperature (Hinton et al. 2015). false: do not, as in the CKD authors' code.",
    )
    teacher_score_scale: float = option(
        1.0,
        "Regression, for a teacher whose scores are on another scale than the labels: the student learns "
        "teacher_score_scale * score + teacher_score_shift.",
    )
    teacher_score_shift: float = option(
        0.0, "Regression: added to the teacher's scores after they are multiplied by teacher_score_scale."
    )
    # Shares: the word relation's distances alone are ahead of all four relations on each of four tasks, on MNLI beyond
    # the noise, and 0.3 is better than 1 on STS-B (docs/results.md, "Which relations").
    wr_distance_weight: float = option(
        0.3,
        "Share of the gradient for the word relation's distances, between pairs of tokens (with term_balance none, a "
        "plain factor); 0 turns the term off.",
    )
    wr_angle_weight: float = option(0.0, "The same for the word relation's angles, between triples of tokens.")
    ltr_distance_weight: float = option(
        0.0, "The same for the layer-transforming relation's distances, between pairs of layers."
    )
    ltr_angle_weight: float = option(
        0.0, "The same for the layer-transforming relation's angles, between triples of layers."
    )
    term_balance: Literal["gradient", "none"] = option(
        "gradient",
        "gradient: the weight of a term is a share, measured over the first steps. A share of 1 gives the "
        "term as much gradient as labels and logits together. none: weights multiply the terms directly, as in the "
        "paper.",
    )
    balance_interval: int | None = option(
        None,
        "With term_balance gradient: measure again every so many steps after step 128. Off by default.",
    )
    log_gradient_norms: bool = option(
        False,
        "Add to each log the norms of the terms' weighted gradients and the cosines between them. Each term costs one "
        "more forward and backward pass, and memory for its gradient.",
    )
    # Window 21: Park et al. 2021, section 4.
    window_size: int | None = option(
        21,
        "Angles are compared among this many tokens around each token. It is in the middle, so give an odd number; "
        "none for all tokens of the text.",
    )
    distance: Literal["cosine", "l2"] = option(
        "cosine", "Distance between two hidden states: cosine, or l2 for the squared Euclidean distance."
    )
    distance_loss: Literal["kl", "l1", "mse", "smooth_l1"] = option(
        "kl",
        "The loss that compares the distances of teacher and student: kl with distance cosine (softmax over the other "
        "items); l1, mse or smooth_l1 with distance l2.",
    )
    normalize_distances: bool = option(
        False,
        "Divide l2 distances by the mean of those that are not zero, separately for teacher and student.",
    )
    angle_loss: Literal["mse", "l1", "smooth_l1"] = option("mse", "The loss that compares the cosines of the angles.")
    relation_temperature: float = option(
        1.0,
        "Divides the cosines before the softmax of distance_loss kl; above 0. The lower it is, the more the nearest "
        "items count. At 1, as in the paper, the softmax is nearly flat and the gradient small; term_balance gradient "
        "makes up for that.",
    )
    relation_normalization: Literal["items", "pairs"] = option(
        "items",
        "The KL divergence of cosines is divided by the number of items or of pairs. items (tokens, or layers for the "
        "layer-transforming relation): one weight fits all lengths. pairs: as in the paper; the term shrinks as texts "
        "get longer. Distance l2 is always a mean over pairs.",
    )
    wr_layer_mapping: str = option(
        "emb+skip",
        "The student and teacher layers that the word relation matches: skip, emb+skip, last, final, emb, emb+final, "
        "triple, uniform, or pairs STUDENT:TEACHER such as 0:0,1:2,3:6 (0 is the embedding output).",
    )
    ltr_layer_mapping: str = option(
        "emb+skip",
        "The layers that the layer-transforming relation matches, as in wr_layer_mapping; at least three pairs.",
    )
    projection_learning_rate: float | None = option(
        None, "Learning rate of learned projections, which TinyBERT has; by default that of the student."
    )
    teacher_cache_dir: str | None = option(
        None,
        "Folder for the teacher's logits and relations. They are computed once, then read by every epoch and by every "
        "run with the same teacher, training examples and matched teacher layers. By default the teacher runs on each "
        "batch.",
    )

    def __post_init__(self) -> None:
        check_types(self)
        self._check_weights()
        self._check_teacher_scores()
        self._check_relations()
        self.teacher_cache_dir = expanded(self.teacher_cache_dir)
        if self.teacher_cache_dir and os.path.isfile(self.teacher_cache_dir):
            raise InputError(f"teacher_cache_dir {self.teacher_cache_dir} is a file: give a folder.")

    def _check_weights(self) -> None:
        """Raises InputError for a weight, a temperature or an option of their balance that cannot be used."""
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}, but it is a share of the loss: give a number from 0 to 1.")
        for name, divided in (("temperature", "logits"), ("relation_temperature", "cosines")):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}, but {divided} are divided by it: give a number above 0.")
        check_weights(self)
        if self.balance_interval is not None and self.term_balance == "none":
            raise InputError("balance_interval is set, but term_balance none does not scale weights: leave it out.")
        check_positive(self, "balance_interval")
        rate = self.projection_learning_rate
        if rate is not None and not (rate >= 0 and math.isfinite(rate)):
            raise InputError(f"projection_learning_rate is {rate}: give 0 or a positive number.")

    def _check_teacher_scores(self) -> None:
        """Raises InputError if the teacher's scores cannot be mapped."""
        if not (math.isfinite(self.teacher_score_scale) and self.teacher_score_scale != 0):
            raise InputError(f"teacher_score_scale is {self.teacher_score_scale}: give a number other than 0.")
        if not math.isfinite(self.teacher_score_shift):
            raise InputError(f"teacher_score_shift is {self.teacher_score_shift}: give a finite number.")

    def _check_relations(self) -> None:
        """Raises InputError for relations that cannot be compared; sets the normalization that l2 has."""
        if self.window_size is not None and (self.window_size < 1 or self.window_size % 2 == 0):
            raise InputError(
                f"window_size is {self.window_size}, but a token sits in the middle of its window: give an odd number "
                "such as 21, or none for all tokens."
            )
        if self.distance_loss not in DISTANCE_LOSSES[self.distance]:
            raise InputError(
                f"distance_loss {self.distance_loss} does not compare distance {self.distance}: give "
                f"{' or '.join(DISTANCE_LOSSES[self.distance])}."
            )
        if self.distance == "l2":
            self.relation_normalization = "pairs"
        check_layer_mapping(self, "wr_layer_mapping", "ltr_layer_mapping")

    @property
    def weights(self) -> dict[str, float]:
        """{term: weight} of the terms that compare with the teacher, without those of weight 0."""
        logits = {"logits": self.alpha} if self.labels_and_logits and self.alpha > 0 else {}
        return logits | weights_of(self)

    @property
    def maps_scores(self) -> bool:
        """Whether a regression teacher's scores are mapped to another scale."""
        return (self.teacher_score_scale, self.teacher_score_shift) != (1.0, 0.0)

    def map_scores(self, scores: Any) -> Any:
        """Returns a regression teacher's scores (a tensor or an array) on the scale of the labels."""
        return self.teacher_score_scale * scores + self.teacher_score_shift if self.maps_scores else scores

    @classmethod
    def fine_tuning(cls) -> "CKDArguments":
        """Returns the arguments of the control run: the loss on the labels alone, without a teacher."""
        return cls.without_relations(alpha=0)

    @classmethod
    def without_relations(cls, **options: Any) -> "CKDArguments":
        """Returns arguments without CKD's own terms: for the logits alone, or beside another method."""
        return cls(**{**dict.fromkeys(weight_names(cls), 0.0), **options})


@dataclass
class LanguageModelCKDArguments(CKDArguments):
    """`CKDArguments` for running text: by default, all four relations train the student, and nothing else."""

    # All four, as in the paper: without labels, they were measured only together.
    wr_angle_weight: float = option(0.3, "The same for the word relation's angles, between triples of tokens.")
    ltr_distance_weight: float = option(
        0.3, "The same for the layer-transforming relation's distances, between pairs of layers."
    )
    ltr_angle_weight: float = option(
        0.3, "The same for the layer-transforming relation's angles, between triples of layers."
    )
    labels_and_logits: bool = option(
        False,
        "Whether the loss has the masked tokens and the teacher's logits, which alpha weighs. By default the other "
        "terms train the student alone, without computing any logits. Shares are then relative to the gradient of the "
        "first term.",
    )


@dataclass
class ModelArguments:
    """The models: teacher and student."""

    model_name_or_path: str | None = option(
        None,
        "The student (or, for ckd-trainer teacher, the model to fine-tune): a folder or a model id on the Hub. With "
        "student_init random, only its configuration and tokenizer are read.",
    )
    teacher_model_name_or_path: str | None = option(
        None, "The fine-tuned teacher: a folder or a model id on the Hub. Not needed for the control run."
    )
    student_init: Literal["pretrained", "teacher_layers", "random"] = option(
        "pretrained",
        "How the student's weights are initialized: from model_name_or_path (pretrained), from layers of the teacher "
        "(teacher_layers), or at random (random).",
    )
    student_num_layers: int | None = option(
        None,
        "The number of student layers, for student_init teacher_layers or random. By default, the number of layers of "
        "the model that the student is made from: the teacher or, with random, model_name_or_path if it is given.",
    )
    student_layers: str | None = option(
        None,
        "The teacher layers to copy for student_init teacher_layers: first (the default), first_and_last (the first "
        "ones and the last), last, skip (every second, third, ... layer), uniform (like skip, but rounded if the "
        "depths do not divide), or numbers counted from 1, such as 2,4,6.",
    )
    student_config: dict | str | None = option(
        None,
        'Changes to the student\'s configuration, such as {"hidden_size": 256} (a mapping in a recipe, JSON on the '
        "command line). With student_init random, any field. With teacher_layers, hidden_size, num_attention_heads "
        "and intermediate_size, or the family's own names; the student is then fitted to the teacher on training "
        "texts. Without num_attention_heads, heads keep their size, so that a smaller hidden_size has fewer.",
    )
    allow_unused_weights: bool = option(
        False,
        "Accept weights in a model's files that the model does not use, such as a teacher's second head. By default "
        "they are refused, as they may be layers that its configuration leaves out.",
    )
    lora_rank: int | None = option(
        None,
        "Train LoRA adapters of this rank and the head, such as 8; all other weights of the student stay as they are. "
        "By default all weights are trained. Needs peft: pip install 'ckd-trainer[lora]'.",
    )
    lora_target_modules: str | None = option(
        None,
        "The linear layers with adapters, by the last parts of their names, such as query,value. By default all "
        "linear layers of the encoder.",
    )
    lora_merge: bool = option(
        False,
        "Add the adapters to the weights when training ends, and save an ordinary model. By default the folder holds "
        "the adapter alone, to be loaded onto model_name_or_path.",
    )
    trust_remote_code: bool = option(False, "Run the code that comes with a model on the Hub.")

    def __post_init__(self) -> None:
        self.model_name_or_path = expanded(self.model_name_or_path)
        self.teacher_model_name_or_path = expanded(self.teacher_model_name_or_path)
        self.student_config = _mapping("student_config", self.student_config)
        if self.student_num_layers is not None and self.student_num_layers < 1:
            raise InputError(f"student_num_layers is {self.student_num_layers}: give 1 or more.")
        if self.student_init == "pretrained":
            for name in ("student_num_layers", "student_layers", "student_config"):
                if getattr(self, name):
                    raise InputError(
                        f"{name} is set, but student_init pretrained loads the student as it is: set student_init to "
                        "teacher_layers or random."
                    )
        if self.student_layers and self.student_init != "teacher_layers":
            raise InputError("student_layers is set, but only student_init teacher_layers reads it.")
        if self.model_name_or_path and self.student_init == "teacher_layers":
            raise InputError(
                f"model_name_or_path is {self.model_name_or_path}, but student_init teacher_layers makes the student "
                "from the teacher: leave one out."
            )
        if self.student_layers and self.student_layers not in STUDENT_LAYERS:
            try:
                layers = [int(layer) for layer in self.student_layers.split(",")]
            except ValueError:
                raise InputError(
                    f"student_layers is {self.student_layers!r}: give {', '.join(STUDENT_LAYERS)} or teacher layers "
                    "such as 2,4,6."
                ) from None
            if self.student_num_layers not in (None, len(layers)):
                raise InputError(
                    f"student_layers names {len(layers)} layers, but student_num_layers is {self.student_num_layers}: "
                    "leave student_num_layers out."
                )

        self._check_lora()

    def _check_lora(self) -> None:
        check_positive(self, "lora_rank")
        if self.lora_rank is None:
            for name in ("lora_target_modules", "lora_merge"):
                if getattr(self, name):
                    raise InputError(f"{name} is set, but lora_rank is not: set it, such as to 8, to train adapters.")
        elif not is_peft_available():
            raise InputError("lora_rank is set, but peft is not installed: pip install 'ckd-trainer[lora]'.")
        elif self.student_init != "pretrained" and not self.lora_merge:
            raise InputError(
                f"lora_rank is set, but student_init {self.student_init} makes a model that is not saved anywhere, so "
                "an adapter could not be loaded onto it later: set lora_merge."
            )

    @property
    def saves_adapter(self) -> bool:
        """Whether the run leaves an adapter, not a whole model."""
        return self.lora_rank is not None and not self.lora_merge

    @property
    def student_is_from_teacher(self) -> bool:
        """Whether the student takes its configuration and tokenizer from the teacher."""
        return self.student_init == "teacher_layers" or (self.student_init == "random" and not self.model_name_or_path)


@dataclass
class RunArguments:
    """The output folder, early stopping, stages, and your own method."""

    overwrite_output_dir: bool = option(
        False, "Delete the checkpoints and results of the earlier run in output_dir and start again."
    )
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations without a better metric; needs load_best_model_at_end."
    )
    stages: list | str | None = option(
        None,
        "Several trainings in a row, each starting from the weights of the previous one with a new optimizer: a list "
        'of the options that each changes, such as [{"labels_and_logits": false}, {"num_train_epochs": 1}] (a list in '
        "a recipe, JSON on the command line). A stage may change options of the loss, learning_rate, num_train_epochs "
        "and similar ones; these win over the command line.",
    )
    method_file: str | None = option(
        None,
        "A Python file with your own method: a dataclass derived from ckd_trainer.methods.MethodArguments. The file "
        "is executed, and the fields of the dataclass become options of this command.",
    )

    def __post_init__(self) -> None:
        check_positive(self, "early_stopping_patience")
        self.method_file = expanded(self.method_file)
        self.stages = _stages(self.stages)


def weight_names(arguments: Any) -> list[str]:
    """Returns the options of a dataclass, or of an instance, that are weights of terms: `<name>_weight`."""
    return [option.name for option in fields(arguments) if option.name.endswith("_weight")]


def weights_of(arguments: Any) -> dict[str, float]:
    """Returns {term: weight} of the terms with a weight above 0."""
    weights = {name.removesuffix("_weight"): getattr(arguments, name) for name in weight_names(arguments)}
    return {term: weight for term, weight in weights.items() if weight > 0}


def check_weights(arguments: Any) -> None:
    """Raises InputError if a weight is not 0 or a positive number."""
    for name in weight_names(arguments):
        value = getattr(arguments, name)
        if not (value >= 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value}: give 0 to turn the term off, or a positive number.")


def check_layer_mapping(arguments: Any, *names: str) -> None:
    """Raises InputError if one of these options is not a layer mapping."""
    for name in names:
        try:
            parse_layer_mapping(getattr(arguments, name))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None


def check_positive(arguments: Any, *names: str) -> None:
    """Raises InputError if one of these options is set to less than 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}: give 1 or more.")


def _mapping(name: str, value: dict | str | None) -> dict | None:
    """Returns the mapping that an option holds, parsed if it is JSON text."""
    parsed = parsed_json(name, value)
    if parsed is not None and not isinstance(parsed, dict):
        raise InputError(f'{name} is {short(value)}: give a mapping such as {{"hidden_size": 256}}.')
    return parsed


def _stages(value: list | str | None) -> list | None:
    """Returns a list of one or more mappings, parsed if it is JSON text."""
    parsed, example = parsed_json("stages", value), '[{"labels_and_logits": false}, {"num_train_epochs": 1}]'
    if parsed is not None and not (isinstance(parsed, list) and parsed):
        raise InputError(f"stages is {short(parsed)}: give a list with the options of each stage, such as {example}.")
    for number, stage in enumerate(parsed or (), start=1):
        if not isinstance(stage, dict):
            raise InputError(f"stage {number} is {short(stage)}: give a mapping of options, as in {example}.")
    return parsed


def parsed_json(name: str, value: Any) -> Any:
    """Returns the value of an option, parsed if it is JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, endless brackets
        raise InputError(f"{name} is {short(value)}, which is not JSON ({error}).") from None
