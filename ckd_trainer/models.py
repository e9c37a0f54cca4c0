"""Load a teacher and a student, build a student from the teacher, and check that the two fit."""

import copy
import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ckd_trainer.arguments import ModelArguments
from ckd_trainer.compatibility import (
    check_embeddings,
    check_max_length,
    check_padding_sides,
    check_vocabularies,
    label_order,
    outline,
)
from ckd_trainer.errors import InputError
from ckd_trainer.fingerprint import files_fingerprint
from ckd_trainer.layer_mapping import resolve_layer_mapping, unmatched_layers
from ckd_trainer.teacher import forward_arguments

logger = logging.getLogger(__name__)


class ModelPair:
    """The student and, where one is needed, the teacher: checked by configuration and tokenizer, then loaded.

    Args:
        args: where they come from.
        layer_mapping: which teacher layers make the student's, for student_init teacher_layers.
        model_class: the Auto class of the task's models.
        distils: a loss reads the teacher. Without, the teacher is loaded only where the student is made from it.
        trains: the student is to be trained; without, a head that is missing or has other labels is refused.

    Attributes:
        student_config, teacher_config: configurations; the teacher's is None where it is not needed.
        tokenizer: the student's, saved with it.
        teacher_tokenizer: encodes the texts, and gives all that either model reads; the student's own without one.
        folders: where the models lie, as far as they are on this machine.

    Raises:
        InputError: a model that is not named or cannot be loaded, or two vocabularies.

    Example::

        pair = ModelPair(model_args, "emb+skip", distils=True, trains=True)
        pair.set_labels(["negative", "positive"])
        student, teacher = pair.load()
    """

    def __init__(
        self,
        args: ModelArguments,
        layer_mapping: str,
        *,
        model_class=AutoModelForSequenceClassification,
        distils: bool,
        trains: bool,
    ):
        student, teacher = args.model_name_or_path, args.teacher_model_name_or_path
        from_teacher = args.student_is_from_teacher
        if student is None and not from_teacher:
            raise InputError(f"model_name_or_path is not given, but student_init {args.student_init} reads it.")
        if teacher is None and (distils or from_teacher):
            reader = "a term of the loss" if distils else f"student_init {args.student_init}"
            raise InputError(
                f"teacher_model_name_or_path is not given, but {reader} reads the teacher: name one, or set alpha and "
                "the weights to 0 and student_init to pretrained for plain fine-tuning."
            )
        self.args, self.model_class = args, model_class
        self.options = {"trust_remote_code": args.trust_remote_code}
        self.distils, self.trains = distils, trains
        self.folders = [Path(name) for name in (student, teacher) if name and is_folder(name)]
        self.head_order = None
        self.teacher_config = self.teacher_tokenizer = None
        if distils or from_teacher:
            self.teacher_config = _load(AutoConfig, teacher, **self.options)
            self.teacher_tokenizer = load_tokenizer(teacher, **self.options)
        self.layers = []
        if args.student_init == "teacher_layers":
            self.layers = student_layers(args, self.teacher_config.num_hidden_layers, layer_mapping)
            self.student_config = copy.deepcopy(self.teacher_config)
            self.student_config.num_hidden_layers = len(self.layers)
        else:
            config = copy.deepcopy(self.teacher_config) if from_teacher else _load(AutoConfig, student, **self.options)
            self.student_config = _override(config, args)
        self.tokenizer = self.teacher_tokenizer if from_teacher else load_tokenizer(student, **self.options)
        if self.teacher_tokenizer is None:
            self.teacher_tokenizer = self.tokenizer
        # Such as token_type_ids, which the student reads and the teacher does not.
        names = [*self.teacher_tokenizer.model_input_names, *self.tokenizer.model_input_names]
        self.teacher_tokenizer.model_input_names = list(dict.fromkeys(names))
        for config, tokenizer in self._models():
            check_embeddings(config, tokenizer)
        if distils:
            check_vocabularies(self.tokenizer, self.teacher_tokenizer)
            check_padding_sides(self.tokenizer, self.teacher_tokenizer)

    def set_labels(self, label_names: Sequence[str] | None) -> None:
        """Gives the student the data's labels (None: a score) and checks that the teacher has them too.

        A head that comes with the student and has the same labels in another order is put in the data's.
        """
        source = copy.deepcopy(self.student_config)
        self.student_config.update(label_config(label_names))
        if self.args.student_init != "random":
            try:
                self.head_order = label_order(source, self.student_config)
            except InputError as error:  # to be trained: a new head, or the old one for other names
                if not self.trains:
                    raise InputError(f"the model cannot be evaluated on this data: {error}") from None
        if self.distils:
            label_order(self.teacher_config, self.student_config)

    def set_span_head(self) -> None:
        """Gives the student two outputs a token, the start and the end of an answer; checks that the teacher has them.

        Raises:
            InputError: the teacher has another number.
        """
        names = ["LABEL_0", "LABEL_1"]  # not those of a classifier it may come from
        self.student_config.update(label_config(names) | {"problem_type": None})
        if self.distils and self.teacher_config.num_labels != len(names):
            raise InputError(
                f"the teacher has {self.teacher_config.num_labels} outputs, but the start and the end of an answer "
                f"are {len(names)}: it was fine-tuned for another task. Fine-tune a teacher on this data with "
                "run_teacher.py."
            )

    def check_max_length(self, max_seq_length: int) -> None:
        """Raises InputError where student or teacher has fewer positions than max_seq_length."""
        for config, tokenizer in self._models():
            check_max_length(config, tokenizer, max_seq_length, **self.options)

    def _models(self) -> list[tuple[PreTrainedConfig, PreTrainedTokenizerBase]]:
        models = [(self.student_config, self.tokenizer)]
        return models + ([(self.teacher_config, self.teacher_tokenizer)] if self.teacher_config else [])

    def load(self) -> tuple[PreTrainedModel, "StoredTeacher | None"]:
        """Returns the student with weights, and the teacher (None where no loss reads it) without them yet."""
        teacher = None
        if self.distils or self.layers:
            teacher = StoredTeacher(
                self.args.teacher_model_name_or_path, self.teacher_config, self.model_class, **self.options
            )
        if self.layers:
            student = student_from_layers(teacher.load(), self.layers, self.student_config)
        elif self.args.student_init == "random":
            student = _random_model(self.student_config, self.model_class)
        else:
            # A head for other labels is replaced, as when an MNLI model is fine-tuned on RTE.
            student, info = _load_model(
                self.args.model_name_or_path,
                self.model_class,
                config=self.student_config,
                ignore_mismatched_sizes=True,
                **self.options,
            )
            if not self.trains:
                _refuse_missing(info, self.args.model_name_or_path)
        if self.head_order is not None:
            _permute_head(student, self.head_order)
        return student, teacher if self.distils else None


class StoredTeacher:
    """A fine-tuned teacher in a folder or on the Hub, of which only the configuration is in memory.

    Args:
        name_or_path: folder or model id.
        config: its configuration.
        model_class: the Auto class that loads it.
        options: for `from_pretrained`.
    """

    def __init__(
        self, name_or_path: str, config: PreTrainedConfig, model_class=AutoModelForSequenceClassification, **options
    ):
        self.name_or_path, self.config, self.model_class, self.options = name_or_path, config, model_class, options

    def load(self) -> PreTrainedModel:
        """Returns the model with its weights, see `load_teacher`."""
        return load_teacher(self.name_or_path, self.model_class, **self.options)

    @property
    def input_names(self) -> set[str]:
        """The arguments of its forward."""
        return forward_arguments(outline(self.config, self.model_class, **self.options))

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files of weights, configuration, and code that came with them."""
        return files_fingerprint([*self._weights(), self._folder / "config.json", *self._folder.glob("*.py")])

    def num_parameters(self) -> int:
        """Returns the number of parameters, read from the heads of the files."""
        total = 0
        for path in self._weights():
            with safe_open(path, framework="pt") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
        return total

    @functools.cached_property
    def _folder(self) -> Path:
        folder = Path(self.name_or_path)
        if not folder.is_dir():
            patterns = ["config.json", "model*.safetensors", "*.py"]
            folder = Path(_call(snapshot_download, self.name_or_path, allow_patterns=patterns))
        return folder

    def _weights(self) -> list[Path]:
        files = sorted(self._folder.glob("model*.safetensors"))
        if not files:
            raise InputError(
                f"{self.name_or_path} has no model.safetensors: load it and save it with save_pretrained to a folder, "
                "and give that."
            )
        return files


def load_tokenizer(name_or_path: str, **options) -> PreTrainedTokenizerBase:
    """Returns a tokenizer that can pad and knows words."""
    tokenizer = _load(AutoTokenizer, name_or_path, **options)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what AutoTokenizer makes of a folder without one
        raise InputError(f"{name_or_path} has no tokenizer: put the files of the one that it was trained with there.")
    if tokenizer.pad_token is None:
        raise InputError(f"the tokenizer of {name_or_path} has no padding token, so texts cannot be put in batches.")
    return tokenizer


def load_teacher(name_or_path: str, model_class=AutoModelForSequenceClassification, **options) -> PreTrainedModel:
    """Returns the fine-tuned teacher.

    Raises:
        InputError: it cannot be loaded, or its checkpoint lacks weights: a teacher that was not fine-tuned would
            teach noise.
    """
    model, info = _load_model(name_or_path, model_class, **options)
    _refuse_missing(info, name_or_path)
    return model


def label_config(label_names: Sequence[str] | None) -> dict:
    """Returns the head's configuration for these class names, or for a score (None)."""
    if label_names is None:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        "problem_type": "single_label_classification",
    }


def student_layers(args: ModelArguments, depth: int, layer_mapping: str) -> list[int]:
    """Returns which of the teacher's `depth` layers (from 1) become the student's, in order.

    Those that student_layers names; else those that the layer mapping matches, or the uniform ones where the mapping
    leaves a student layer out.

    Raises:
        InputError: more layers than the teacher has, or layers that it does not have.
    """
    if args.student_layers:
        layers = [int(layer) for layer in args.student_layers.split(",")]
        if any(not 1 <= layer <= depth for layer in layers):
            raise InputError(f"student_layers is {args.student_layers}, but the teacher has layers 1 to {depth}.")
        return layers
    count = args.student_num_layers
    if count is None:
        raise InputError("student_init teacher_layers needs student_num_layers (how many) or student_layers (which).")
    if count > depth:
        raise InputError(f"student_num_layers is {count}, but the teacher has only {depth} layers to take them from.")
    try:
        pairs = resolve_layer_mapping(layer_mapping, count, depth)
    except ValueError as error:
        raise InputError(f"wr_layer_mapping: {error}") from None
    if unmatched_layers(pairs, count):
        pairs = resolve_layer_mapping("uniform", count, depth)
    source = dict(pairs)
    return [source[layer] for layer in range(1, count + 1)]


def student_from_layers(teacher: PreTrainedModel, layers: Sequence[int], config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a student whose layer l is the teacher's layer `layers[l - 1]`; all else is copied as it is.

    Args:
        teacher: any encoder that keeps its layers in one `ModuleList`.
        layers: teacher layers, from 1.
        config: of the student; like the teacher's but for the number of layers and the labels.

    Raises:
        InputError: the teacher shares one layer among all depths (ALBERT).
    """
    student = type(teacher)(config)
    prefix = _layer_list(teacher)
    weights = teacher.state_dict()
    chosen = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{prefix}.")}
    for target, source in enumerate(layers):
        old, new = f"{prefix}.{source - 1}.", f"{prefix}.{target}."
        chosen |= {new + name[len(old) :]: tensor for name, tensor in weights.items() if name.startswith(old)}
    fresh = student.state_dict()
    if chosen.keys() != fresh.keys():
        raise InputError(
            f"layers of the {config.model_type} teacher cannot be taken on their own, as they are not all alike: use "
            "student_init pretrained or random."
        )
    # A head for other labels than the teacher's stays random.
    chosen = {name: tensor if tensor.shape == fresh[name].shape else fresh[name] for name, tensor in chosen.items()}
    student.load_state_dict(chosen)
    return student


def is_folder(name: str) -> bool:
    """Returns whether a model's name is that of a folder here, and not an id on the Hub."""
    try:
        return Path(name).is_dir()
    except OSError:  # too long for a path; loading it says what it is not
        return False


def _load(auto_class, name_or_path: str, **kwargs):
    return _call(auto_class.from_pretrained, name_or_path, **kwargs)


def _call(function, name_or_path: str, **kwargs):
    try:
        return function(name_or_path, **kwargs)
    except Exception as error:  # somebody's files: whatever is wrong with them, the message is what helps
        message = " ".join(str(error).split())
        raise InputError(f"cannot load {name_or_path}: {message[:600]} ({type(error).__name__})") from error


def _load_model(name_or_path: str, model_class, **kwargs):
    # float32 whatever the checkpoint's type: half-precision weights lose small updates, and bf16 is autocast's work.
    return _load(
        model_class,
        name_or_path,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **kwargs,
    )


def _refuse_missing(info: dict, name: str) -> None:
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if missing:
        raise InputError(
            f"{name} has no weights for {', '.join(missing[:4])}: it was not fine-tuned for this task. Fine-tune "
            "it first with run_teacher.py and give its output folder."
        )


def _permute_head(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Puts the rows of the head's last layer in another order of the labels."""
    logger.warning("The model's head has the labels in another order than the data; its rows are put in the data's.")
    base = f"{model.base_model_prefix}."
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(base) and parameter.shape[0] == len(order):
                parameter.copy_(parameter[list(order)])


def _override(config: PreTrainedConfig, args: ModelArguments) -> PreTrainedConfig:
    """Applies student_config and student_num_layers (which only student_init random has)."""
    overrides = dict(args.student_config or {})
    if args.student_num_layers is not None:
        overrides["num_hidden_layers"] = args.student_num_layers
    for key, value in overrides.items():
        if key not in {*config.to_dict(), *config.attribute_map}:
            raise InputError(f"student_config names {key}, which a {config.model_type} configuration does not have.")
        try:
            setattr(config, key, value)
        except Exception as error:  # each field checks its values in its own way
            raise InputError(f"student_config: {key} is {value!r}: {' '.join(str(error).split())}") from None
    if overrides:
        try:
            outline(config, AutoModel)
        except InputError as error:
            raise InputError(f"student_config is {overrides}: {error}") from None
    return config


def _random_model(config: PreTrainedConfig, model_class) -> PreTrainedModel:
    try:
        return model_class.from_config(config, dtype=torch.float32)
    except Exception as error:  # each class checks its values in its own way
        raise InputError(f"student_config does not make a {config.model_type} model: {error}") from error


def _layer_list(model: PreTrainedModel) -> str:
    """Returns the name of the `ModuleList` that holds the model's layers."""
    depth = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return name
    raise InputError(
        f"the {model.config.model_type} teacher does not keep {depth} separate layers, so a student cannot take some "
        "of them: use student_init pretrained or random."
    )
