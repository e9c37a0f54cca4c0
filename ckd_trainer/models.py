"""Load a teacher and a student, build a student from the teacher, and check that the two fit."""

import copy
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ckd_trainer.arguments import ModelArguments
from ckd_trainer.errors import InputError
from ckd_trainer.layer_mapping import resolve_layer_mapping, unmatched_layers

logger = logging.getLogger(__name__)

_ONE_ENCODING = (
    "both read the same token ids, and relations compare them token by token: give a student of the teacher's family, "
    "or use student_init teacher_layers."
)


class ModelPair:
    """The student and, where one is needed, the teacher: checked by configuration and tokenizer, then loaded.

    Args:
        args: where they come from.
        layer_mapping: which teacher layers make the student's, for student_init teacher_layers.
        distils: a loss reads the teacher. Without, the teacher is loaded only where the student is made from it.
        trains: the student is to be trained; without, a head that is missing or has other labels is refused.

    Attributes:
        student_config, teacher_config: configurations; the teacher's is None where it is not needed.
        tokenizer: the student's, saved with it.
        teacher_tokenizer: encodes the texts, as it gives all that the teacher reads; the student's own without one.

        folders: where the models lie, as far as they are on this machine.

    Raises:
        InputError: a model that is not named or cannot be loaded, or two vocabularies.

    Example::

        pair = ModelPair(model_args, "emb+skip", distils=True, trains=True)
        pair.set_labels(["negative", "positive"])
        student, teacher = pair.load()
    """

    def __init__(self, args: ModelArguments, layer_mapping: str, *, distils: bool, trains: bool):
        student, teacher = args.model_name_or_path, args.teacher_model_name_or_path
        from_teacher = args.student_init == "teacher_layers" or (args.student_init == "random" and not student)
        if student is None and not from_teacher:
            raise InputError(f"model_name_or_path is not given, but student_init {args.student_init} reads it.")
        if teacher is None and (distils or from_teacher):
            reader = "a term of the loss" if distils else f"student_init {args.student_init}"
            raise InputError(
                f"teacher_model_name_or_path is not given, but {reader} reads the teacher: name one, or set alpha and "
                "the weights to 0 and student_init to pretrained for plain fine-tuning."
            )
        self.args = args
        self.options = {"trust_remote_code": args.trust_remote_code}
        self.distils, self.trains = distils, trains
        self.folders = [Path(name) for name in (student, teacher) if name and Path(name).is_dir()]
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
        for config, tokenizer in self._models():
            _check_embeddings(config, tokenizer)
        if distils:
            check_vocabularies(self.tokenizer, self.teacher_tokenizer)

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

    def check_max_length(self, max_seq_length: int) -> None:
        """Raises InputError where student or teacher has fewer positions than max_seq_length."""
        for config, tokenizer in self._models():
            positions = getattr(config, "max_position_embeddings", None) or 0  # 0 or -1: no limit
            _refuse_length(max_seq_length, min([tokenizer.model_max_length, *([positions] if positions > 0 else [])]))

    def _models(self) -> list[tuple[PreTrainedConfig, PreTrainedTokenizerBase]]:
        models = [(self.student_config, self.tokenizer)]
        return models + ([(self.teacher_config, self.teacher_tokenizer)] if self.teacher_config else [])

    def load(self) -> tuple[PreTrainedModel, PreTrainedModel | None]:
        """Returns the student and the teacher (None where it is not needed), with weights."""
        teacher = None
        if self.teacher_config is not None and (self.distils or self.layers):
            teacher = load_teacher(self.args.teacher_model_name_or_path, **self.options)
        if self.layers:
            student = student_from_layers(teacher, self.layers, self.student_config)
        elif self.args.student_init == "random":
            student = _random_model(self.student_config)
        else:
            # A head for other labels is replaced, as when an MNLI model is fine-tuned on RTE.
            student, info = _load_model(
                self.args.model_name_or_path, config=self.student_config, ignore_mismatched_sizes=True, **self.options
            )
            if not self.trains:
                _refuse_missing(info, self.args.model_name_or_path)
        if self.head_order is not None:
            _permute_head(student, self.head_order)
        return student, teacher if self.distils else None


def load_tokenizer(name_or_path: str, **options) -> PreTrainedTokenizerBase:
    """Returns a tokenizer that can pad and knows words."""
    tokenizer = _load(AutoTokenizer, name_or_path, **options)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what AutoTokenizer makes of a folder without one
        raise InputError(f"{name_or_path} has no tokenizer: put the files of the one that it was trained with there.")
    if tokenizer.pad_token is None:
        raise InputError(f"the tokenizer of {name_or_path} has no padding token, so texts cannot be put in batches.")
    return tokenizer


def load_teacher(name_or_path: str, **options) -> PreTrainedModel:
    """Returns the fine-tuned teacher.

    Raises:
        InputError: it cannot be loaded, or its checkpoint lacks weights: a teacher that was not fine-tuned would
            teach noise.
    """
    model, info = _load_model(name_or_path, **options)
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
    student = _random_model(config)
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


def label_order(teacher: PreTrainedConfig, student: PreTrainedConfig) -> list[int] | None:
    """Returns for each label of the student its index among the teacher's; None where the orders are the same.

    Names are compared without regard to case. A teacher that has no names but LABEL_0, LABEL_1, ... is taken to have
    the student's order.

    Raises:
        InputError: another number of labels, or other names.
    """
    if teacher.num_labels != student.num_labels:
        raise InputError(
            f"the teacher has {teacher.num_labels} labels, but the data has {student.num_labels}: it was fine-tuned "
            "for another task. Fine-tune a teacher on this data with run_teacher.py."
        )
    if student.num_labels == 1:
        return None
    theirs = [str(teacher.id2label[index]).casefold() for index in range(teacher.num_labels)]
    ours = [str(student.id2label[index]).casefold() for index in range(student.num_labels)]
    if theirs == ours:
        return None
    unnamed = [f"label_{index}" for index in range(teacher.num_labels)]
    if theirs == unnamed or ours == unnamed:
        return None
    if sorted(theirs) != sorted(ours):
        raise InputError(
            f"the teacher's labels are {', '.join(theirs)}, but the data has {', '.join(ours)}: give a teacher of "
            "this task, or rename the labels in its config.json (id2label, label2id)."
        )
    return [theirs.index(name) for name in ours]


def check_positions(model: PreTrainedModel, max_seq_length: int) -> None:
    """Raises InputError where a model that counts positions from after its padding index (RoBERTa) has too few."""
    embeddings = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(embeddings, torch.nn.Embedding) and embeddings.padding_idx is not None:
        _refuse_length(max_seq_length, embeddings.num_embeddings - embeddings.padding_idx - 1)


def check_vocabularies(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises InputError unless the two have one vocabulary, entry by entry."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        example = min(token for token, _ in ours.items() ^ theirs.items())
        raise InputError(
            f"teacher and student have different vocabularies ({len(theirs)} and {len(ours)} entries; {example!r} is "
            f"{theirs.get(example, 'missing')} and {ours.get(example, 'missing')}), but {_ONE_ENCODING}"
        )


def check_encodings(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, texts: Iterable[Sequence[str]]
) -> None:
    """Raises InputError unless the two encode the texts (or pairs of texts) alike."""
    for row in texts:
        if student(*row)["input_ids"] != teacher(*row)["input_ids"]:
            raise InputError(
                f"teacher and student have one vocabulary but encode {row[0]!r} differently (upper case or special "
                f"tokens, say), but {_ONE_ENCODING}"
            )


def _load(auto_class, name_or_path: str, **kwargs):
    try:
        return auto_class.from_pretrained(name_or_path, **kwargs)
    except Exception as error:  # somebody's files: whatever is wrong with them, the message is what helps
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"cannot load {name_or_path}: {first_line} ({type(error).__name__})") from error


def _load_model(name_or_path: str, **kwargs):
    # float32 whatever the checkpoint's type: half-precision weights lose small updates, and bf16 is autocast's work.
    return _load(
        AutoModelForSequenceClassification,
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
            f"{name} has no weights for {', '.join(missing[:4])}: it was not fine-tuned for classification. Fine-tune "
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


def _check_embeddings(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = getattr(config, "vocab_size", None)
    if rows is not None and len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} entries, but the {config.model_type} model has embeddings for "
            f"{rows}: they do not belong together."
        )


def _refuse_length(max_seq_length: int, limit: int) -> None:
    if max_seq_length > limit:
        raise InputError(
            f"max_seq_length is {max_seq_length}, but the model reads at most {limit} tokens: give {limit}."
        )


def _override(config: PreTrainedConfig, args: ModelArguments) -> PreTrainedConfig:
    """Applies student_config and student_num_layers (which only student_init random has)."""
    overrides = dict(args.student_config or {})
    if args.student_num_layers is not None:
        overrides["num_hidden_layers"] = args.student_num_layers
    for key, value in overrides.items():
        if key not in {*config.to_dict(), *config.attribute_map}:
            raise InputError(f"student_config names {key}, which a {config.model_type} configuration does not have.")
        setattr(config, key, value)
    return config


def _random_model(config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
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
