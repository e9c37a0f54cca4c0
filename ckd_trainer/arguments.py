"""The options of the scripts, as dataclasses for `HfArgumentParser`.

Each `help` text is the documentation of its option. What a value alone can tell (ranges, combinations) is checked
here; what needs data or models is checked where those are loaded. Everything not listed here is a field of
`transformers.TrainingArguments`.
"""

import difflib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.losses.layer_mapping import parse_layer_mapping
from ckd_trainer.losses.pairs import DISTANCE_LOSSES
from ckd_trainer.utils.errors import InputError, short
from ckd_trainer.utils.files import expanded, user_path

STUDENT_LAYERS = ("first", "last", "skip", "uniform")  # see `ckd_trainer.models.student.student_layers`


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


_QUOTING = (
    "How csv and tsv files are quoted: csv (a field that holds a delimiter, a line break or a quote is in quotes, and "
    "quotes in it are doubled, as pandas and spreadsheets write) or none (quotes are text). auto: csv for .csv files, "
    "none for .tsv files, and a warning where a file looks otherwise."
)


@dataclass
class CKDArguments:
    """What is distilled, and with which weight.

    The training loss is `(1 - alpha) task + alpha logits + wr_distance_weight WR-distance + wr_angle_weight WR-angle
    + ltr_distance_weight LTR-distance + ltr_angle_weight LTR-angle`, where the weights of relations are shares of the
    gradient that task and logits have together, see `ckd_trainer.training.balance` (`term_balance` none: plain
    factors). With `alpha` 0 and all weights 0 the student is fine-tuned without a teacher (the control run).

    Example::

        CKDArguments(alpha=0.5, temperature=2.0, wr_angle_weight=0.1)
        CKDArguments(term_balance="none", alpha=0.9, temperature=3.0, wr_distance_weight=1.0, wr_angle_weight=10.0)
    """

    # alpha and temperature: the middle of the published settings. Shares: the four together have about the gradient of
    # task and logits.
    alpha: float = _option(
        0.7, "Weight of the teacher's logits, in [0, 1]; the task loss on the labels has weight 1 - alpha."
    )
    temperature: float = _option(3.0, "Softens the logits of teacher and student before they are compared; above 0.")
    scale_by_temperature: bool = _option(
        True,
        "Multiply the classification logit loss by temperature squared, so that its gradient does not shrink with the "
        "temperature (Hinton et al. 2015). false: as in the CKD authors' code.",
    )
    teacher_score_scale: float = _option(
        1.0,
        "Regression: the student learns teacher_score_scale * score + teacher_score_shift, for a teacher whose scores "
        "are on another scale than the labels.",
    )
    teacher_score_shift: float = _option(0.0, "See teacher_score_scale.")
    wr_distance_weight: float = _option(
        0.3,
        "Share of the gradient (a factor with term_balance none) of the word relation's distances, between pairs of "
        "tokens; 0 turns it off.",
    )
    wr_angle_weight: float = _option(0.3, "The same of the word relation's angles, between triples of tokens.")
    ltr_distance_weight: float = _option(
        0.3, "The same of the layer-transforming relation's distances, between pairs of layers."
    )
    ltr_angle_weight: float = _option(
        0.3, "The same of the layer-transforming relation's angles, between triples of layers."
    )
    term_balance: Literal["gradient", "none"] = _option(
        "gradient",
        "gradient: the weight of a relation term is a share, and 1 gives it as much gradient as task and logits have "
        "together, measured over the first steps. none: weights multiply the terms as they are, as published ones do.",
    )
    balance_interval: int | None = _option(
        None,
        "With term_balance gradient: the number of steps between measurements after step 128. Off by default.",
    )
    log_gradient_norms: bool = _option(
        False,
        "At each log, add the norms of the terms' gradients, as they are weighted, and the cosines between them: one "
        "more forward and backward for each term, and memory for a gradient of each.",
    )
    # Window 21: Park et al. 2021, section 4.
    window_size: int | None = _option(
        21,
        "Tokens around each token (itself in the middle, so an odd number) whose angles are compared; none for all "
        "tokens of the text.",
    )
    distance: Literal["cosine", "l2"] = _option(
        "cosine", "How far two hidden states are apart: cosine, or l2 for the squared Euclidean distance."
    )
    distance_loss: Literal["kl", "l1", "mse", "smooth_l1"] = _option(
        "kl",
        "Compares the distances of teacher and student: kl with distance cosine (softmax over the other items); l1, "
        "mse or smooth_l1 with distance l2.",
    )
    normalize_distances: bool = _option(
        False,
        "Divide l2 distances by their mean over the pairs of a set that are apart, for teacher and student each.",
    )
    angle_loss: Literal["mse", "l1", "smooth_l1"] = _option("mse", "Compares the cosines of the angles.")
    relation_temperature: float = _option(
        1.0,
        "Divides the cosines before the softmax of distance_loss kl; above 0. The lower it is, the more the nearest "
        "items count. At 1, as in the paper, the softmax is nearly flat and the gradient small, which term_balance "
        "gradient makes up for.",
    )
    relation_normalization: Literal["items", "pairs"] = _option(
        "items",
        "What the divergence of cosines is divided by: items (tokens; layers for the layer-transforming relation), so "
        "that one weight serves all lengths; or their pairs, as in the paper, so that it wears off as texts get "
        "longer. Distance l2 is a mean over pairs in any case.",
    )
    wr_layer_mapping: str = _option(
        "emb+skip",
        "Which student and teacher layers the word relation matches: skip, emb+skip, last, final, emb, emb+final, "
        "triple, uniform, or pairs STUDENT:TEACHER such as 0:0,1:2,3:6 (0 is the embedding output).",
    )
    ltr_layer_mapping: str = _option(
        "emb+skip",
        "Which layers the layer-transforming relation matches, as in wr_layer_mapping; at least three pairs.",
    )
    teacher_cache_dir: str | None = _option(
        None,
        "Folder for the teacher's logits and relations, computed once and read from then on by every epoch and every "
        "run with the same teacher, training examples and matched teacher layers. By default the teacher runs on each "
        "batch.",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}, but it is a share of the loss: give a number from 0 to 1.")
        for name in ("temperature", "relation_temperature"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}, but logits are divided by it: give a number above 0.")
        for name in ("wr_distance_weight", "wr_angle_weight", "ltr_distance_weight", "ltr_angle_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}: give 0 to turn the term off, or a positive number.")
        if self.balance_interval is not None and self.term_balance == "none":
            raise InputError("balance_interval is set, but term_balance none does not scale weights: leave it out.")
        _check_positive(self, "balance_interval")
        if not (math.isfinite(self.teacher_score_scale) and self.teacher_score_scale != 0):
            raise InputError(f"teacher_score_scale is {self.teacher_score_scale}: give a number other than 0.")
        if not math.isfinite(self.teacher_score_shift):
            raise InputError(f"teacher_score_shift is {self.teacher_score_shift}: give a finite number.")
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
        for name in ("wr_layer_mapping", "ltr_layer_mapping"):
            try:
                parse_layer_mapping(getattr(self, name))
            except ValueError as error:
                raise InputError(f"{name}: {error}") from None
        self.teacher_cache_dir = expanded(self.teacher_cache_dir)
        if self.teacher_cache_dir and Path(self.teacher_cache_dir).is_file():
            raise InputError(f"teacher_cache_dir {self.teacher_cache_dir} is a file: give a folder.")

    @property
    def weights(self) -> dict[str, float]:
        """{term: weight} of the terms that compare with the teacher, those with weight 0 left out."""
        weights = {
            "logits": self.alpha,
            "wr_distance": self.wr_distance_weight,
            "wr_angle": self.wr_angle_weight,
            "ltr_distance": self.ltr_distance_weight,
            "ltr_angle": self.ltr_angle_weight,
        }
        return {term: weight for term, weight in weights.items() if weight > 0}

    @property
    def maps_scores(self) -> bool:
        """Whether a regression teacher's scores are mapped to another scale."""
        return (self.teacher_score_scale, self.teacher_score_shift) != (1.0, 0.0)

    def map_scores(self, scores: Any) -> Any:
        """Returns a regression teacher's scores on the scale of the labels; a tensor or an array."""
        return self.teacher_score_scale * scores + self.teacher_score_shift if self.maps_scores else scores

    @classmethod
    def fine_tuning(cls) -> "CKDArguments":
        """The control run: the task loss alone, no teacher."""
        return cls(alpha=0, wr_distance_weight=0, wr_angle_weight=0, ltr_distance_weight=0, ltr_angle_weight=0)


@dataclass
class ModelArguments:
    """Where teacher and student come from."""

    model_name_or_path: str | None = _option(
        None,
        "The student (or, in run_teacher.py, the model to fine-tune): a folder or a model id on the Hub. With "
        "student_init random only its configuration and tokenizer are read.",
    )
    teacher_model_name_or_path: str | None = _option(
        None, "The fine-tuned teacher: a folder or a model id on the Hub. Not needed for the control run."
    )
    student_init: Literal["pretrained", "teacher_layers", "random"] = _option(
        "pretrained",
        "Where the student's weights come from: model_name_or_path (pretrained), chosen layers of the teacher "
        "(teacher_layers), or nowhere (random).",
    )
    student_num_layers: int | None = _option(
        None, "Number of student layers for student_init teacher_layers or random; the configuration's own by default."
    )
    student_layers: str | None = _option(
        None,
        "For student_init teacher_layers: which teacher layers to copy: first (the default), last, skip (every second "
        "one, or third, ...), uniform (as skip, rounded where the depths do not divide), or numbers from 1, such as "
        "2,4,6.",
    )
    student_config: dict | str | None = _option(
        None,
        'Overrides of the student\'s configuration for student_init random, such as {"hidden_size": 256} (a mapping '
        "in a recipe, JSON on the command line).",
    )
    allow_unused_weights: bool = _option(
        False,
        "Accept weights in the files of a model that it does not use, such as those of a second head of a teacher. By "
        "default they are refused, as they may be layers that its configuration leaves out.",
    )
    trust_remote_code: bool = _option(False, "Run model code that comes with a model on the Hub.")

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
        if self.student_config and self.student_init != "random":
            raise InputError("student_config is set, but only student_init random reads it.")
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
                    f"student_layers names {len(layers)} layers, but student_num_layers is {self.student_num_layers}."
                )

    @property
    def student_is_from_teacher(self) -> bool:
        """The student's configuration and tokenizer are the teacher's."""
        return self.student_init == "teacher_layers" or (self.student_init == "random" and not self.model_name_or_path)


@dataclass
class GlueArguments:
    """Which texts and labels to train and evaluate on: a GLUE task, or own files.

    `by_default` names the options that were not given and that a run lowers where its models read less.
    """

    task_name: str | None = _option(
        None, "A GLUE task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte or wnli. Leave out for own files."
    )
    data_dir: str | None = _option(
        None,
        "A folder in the classic GLUE layout (data_dir/CoLA/train.tsv, ...), or the folder of the one task. By "
        "default GLUE comes from the Hub (nyu-mll/glue).",
    )
    train_file: str | None = _option(
        None, "Own training data: .csv, .tsv, .json/.jsonl (one object a line) or .parquet."
    )
    validation_file: str | None = _option(None, "Own validation data, in the same columns.")
    test_file: str | None = _option(None, "Own test data, in the same columns; labels are not needed.")
    text_column: str = _option("text", "Column of own files that holds the text (or the first of a pair).")
    text_pair_column: str | None = _option(None, "Column of own files that holds the second text of a pair.")
    label_column: str = _option("label", "Column of own files that holds the label.")
    regression: bool = _option(False, "The label of own files is a number to predict, not a class.")
    quoting: Literal["auto", "csv", "none"] = _option("auto", _QUOTING)
    max_seq_length: int | None = _option(
        None, "Longer texts are cut to this many tokens. By default 128, or what the models read if that is less."
    )
    pad_to_max_length: bool = _option(
        False,
        "Pad every text to max_seq_length (for hardware that wants one shape) instead of to the longest of its batch.",
    )
    max_train_samples: int | None = _option(None, "Use only this many training examples, drawn with the run's seed.")
    max_eval_samples: int | None = _option(None, "Use only the first so many examples of each validation set.")
    max_predict_samples: int | None = _option(None, "Use only the first so many examples of each test set.")

    def __post_init__(self) -> None:
        if self.task_name in SQUAD_TASKS:
            raise InputError(f"task_name is {self.task_name}, which is question answering: use run_squad_ckd.py.")
        if self.task_name and self.task_name not in GLUE_TASKS:
            names = [*GLUE_TASKS, *SQUAD_TASKS]
            nearest = difflib.get_close_matches(self.task_name.lower(), names, n=1, cutoff=0.0)[0]
            raise InputError(
                f"task_name is {self.task_name!r}, which is no task; the nearest is {nearest} (there are "
                f"{', '.join(names)})."
            )
        files = [name for name in ("train_file", "validation_file", "test_file") if getattr(self, name)]
        if self.task_name and files:
            raise InputError(f"task_name is {self.task_name}, but {files[0]} is set as well: give one or the other.")
        if not self.task_name and not files:
            raise InputError(
                "there is no data to use: give task_name for a GLUE task, or train_file and validation_file."
            )
        if self.task_name and self.regression:
            raise InputError("regression is for own files: whether a GLUE task predicts a number is known.")
        if self.data_dir and not self.task_name:
            raise InputError("data_dir is set without task_name: name the GLUE task, or give train_file instead.")
        self.by_default = _fill_in(self, max_seq_length=128)
        _check_positive(self, "max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples")


@dataclass
class SquadArguments:
    """Which questions to train and evaluate on, and how answers are looked for.

    Lengths are in tokens. The defaults are those of BERT's and transformers' SQuAD examples. `by_default` names those
    that were not given and that a run lowers where its models read less.
    """

    task_name: str = _option(
        "squad",
        "squad (v1.1: the context holds the answer to each question) or squad_v2 (v2.0: to some there is no answer). "
        "It also sets the rules by which your own files are read and scored.",
    )
    data_dir: str | None = _option(
        None,
        "A folder with the official files (train-v1.1.json, dev-v1.1.json, or those of v2.0). By default SQuAD comes "
        "from the Hub (rajpurkar/squad, rajpurkar/squad_v2).",
    )
    train_file: str | None = _option(
        None,
        "Own training data: the official JSON, or the Hub's columns (id, context, question, answers) as .jsonl, "
        ".parquet, .csv or .tsv (with answers as JSON text).",
    )
    validation_file: str | None = _option(None, "Own validation data, likewise.")
    test_file: str | None = _option(
        None, "Questions to predict, likewise; answers are not needed. By default those of the validation set."
    )
    quoting: Literal["auto", "csv", "none"] = _option("auto", _QUOTING)
    max_seq_length: int | None = _option(
        None,
        "Length of a feature: a question and a piece of its context. By default 384, or what the models read if that "
        "is less.",
    )
    doc_stride: int | None = _option(
        None,
        "How many tokens two neighbouring features of one context share. By default 128, or half of the context's "
        "room in a feature if 128 do not fit.",
    )
    max_question_length: int = _option(64, "Longer questions are cut to this many tokens.")
    max_answer_length: int = _option(30, "The longest answer that is looked for.")
    n_best_size: int = _option(20, "How many answers nbest_predictions.json holds for a question.")
    null_score_diff_threshold: float = _option(
        0.0,
        "squad_v2: there is no answer where its score exceeds that of the best answer by more than this "
        "(eval_best_f1_thresh says which value would have been best).",
    )
    drop_misplaced_answers: bool = _option(
        False, "Leave out questions whose answer does not stand at answer_start, instead of stopping."
    )
    pad_to_max_length: bool = _option(
        False,
        "Pad every feature to max_seq_length (for hardware that wants one shape) instead of to the longest of its "
        "batch.",
    )
    max_train_samples: int | None = _option(None, "Use only this many training questions, drawn with the run's seed.")
    max_eval_samples: int | None = _option(None, "Use only the first so many questions of the validation set.")
    max_predict_samples: int | None = _option(None, "Use only the first so many questions of the test set.")

    def __post_init__(self) -> None:
        if self.task_name not in SQUAD_TASKS:
            raise InputError(f"task_name is {self.task_name!r}: give {' or '.join(SQUAD_TASKS)}.")
        files = [name for name in ("train_file", "validation_file") if getattr(self, name)]
        if self.data_dir and files:
            raise InputError(f"data_dir is set, but {files[0]} is set as well: give one or the other.")
        if self.data_dir and not user_path(self.data_dir).is_dir():
            raise InputError(f"data_dir is {self.data_dir}, which is no folder: give one with the official files.")
        self.by_default = _fill_in(self, max_seq_length=384, doc_stride=128)
        _check_positive(
            self,
            "max_seq_length",
            "max_question_length",
            "max_answer_length",
            "n_best_size",
            "max_train_samples",
            "max_eval_samples",
            "max_predict_samples",
        )
        if self.doc_stride < 0:
            raise InputError(f"doc_stride is {self.doc_stride}: give 0 or more.")
        if not math.isfinite(self.null_score_diff_threshold):
            raise InputError(f"null_score_diff_threshold is {self.null_score_diff_threshold}: give a number.")

    @property
    def reads_hub(self) -> bool:
        """SQuAD comes from the Hub. (A test file says nothing of where the rest comes from.)"""
        return not (self.data_dir or self.train_file or self.validation_file)


@dataclass
class RunArguments:
    """How a run treats its folder and when it stops early."""

    overwrite_output_dir: bool = _option(
        False, "Delete the checkpoints and results of the earlier run in output_dir and start again."
    )
    early_stopping_patience: int | None = _option(
        None, "Stop after this many evaluations without a better metric; needs load_best_model_at_end."
    )

    def __post_init__(self) -> None:
        _check_positive(self, "early_stopping_patience")


def _fill_in(arguments: Any, **defaults: Any) -> frozenset[str]:
    """Sets the options that were not given; returns their names, as the models may ask for lower values."""
    names = frozenset(name for name in defaults if getattr(arguments, name) is None)
    for name in names:
        setattr(arguments, name, defaults[name])
    return names


def _check_positive(arguments: Any, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}: give 1 or more.")


def _mapping(name: str, value: dict | str | None) -> dict | None:
    """Returns the mapping that an option holds, given as such or as JSON text."""
    if value is None or isinstance(value, dict):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, endless brackets
        raise InputError(f"{name} is {short(value)}, which is not JSON ({error}).") from None
    if not isinstance(parsed, dict):
        raise InputError(f'{name} is {short(value)}: give a mapping such as {{"hidden_size": 256}}.')
    return parsed
