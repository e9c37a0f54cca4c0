"""Load a teacher and a student, build a student from the teacher, and check that the two fit."""

import copy
from collections.abc import Iterable, Sequence

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

    Attributes:
        student_config, teacher_config: configurations; the teacher's is None where it is not needed.
        tokenizer: the student's, saved with it.
        teacher_tokenizer: encodes the texts, as it gives all that the teacher reads; the student's own without one.

    Raises:
        InputError: a model that is not named or cannot be loaded, or two vocabularies.

    Example::

        pair = ModelPair(model_args, "emb+skip", distils=True)
        pair.set_labels(["negative", "positive"])
        student, teacher = pair.load()
    """

    def __init__(self, args: ModelArguments, layer_mapping: str, *, distils: bool):
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
        self.distils = distils
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
        if distils:
            check_vocabularies(self.tokenizer, self.teacher_tokenizer)

    def set_labels(self, label_names: Sequence[str] | None) -> None:
        """Gives the student the data's labels (None: a score) and checks that the teacher has them too."""
        self.student_config.update(label_config(label_names))
        if self.distils:
            label_order(self.teacher_config, self.student_config)

    def check_max_length(self, max_seq_length: int) -> None:
        """Raises InputError where student or teacher has fewer positions than max_seq_length."""
        for config, tokenizer in (
            (self.student_config, self.tokenizer),
            (self.teacher_config or self.student_config, self.teacher_tokenizer),
        ):
            positions = getattr(config, "max_position_embeddings", None) or max_seq_length
            limit = min(positions, tokenizer.model_max_length)
            if max_seq_length > limit:
                name = config.name_or_path or "the student"
                raise InputError(
                    f"max_seq_length is {max_seq_length}, but {name} reads at most {limit} tokens: give {limit}."
                )

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
            student = _load_model(
                self.args.model_name_or_path, config=self.student_config, ignore_mismatched_sizes=True, **self.options
            )
        return student, teacher if self.distils else None


def load_tokenizer(name_or_path: str, **options) -> PreTrainedTokenizerBase:
    """Returns a tokenizer that can pad."""
    tokenizer = _load(AutoTokenizer, name_or_path, **options)
    if tokenizer.pad_token is None:
        raise InputError(f"the tokenizer of {name_or_path} has no padding token, so texts cannot be put in batches.")
    return tokenizer


def load_teacher(name_or_path: str, **options) -> PreTrainedModel:
    """Returns the fine-tuned teacher.

    Raises:
        InputError: it cannot be loaded, or its checkpoint lacks weights: a teacher that was not fine-tuned would
            teach noise.
    """
    model, info = _load_model(name_or_path, output_loading_info=True, **options)
    if info["missing_keys"]:
        raise InputError(
            f"{name_or_path} has no weights for {', '.join(sorted(info['missing_keys']))}: it was not fine-tuned for "
            "classification. Fine-tune it first with run_teacher.py and give its output folder."
        )
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
    fresh = student.state_dict()  # a head for other labels than the teacher's stays random
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
    theirs = [teacher.id2label[index].casefold() for index in range(teacher.num_labels)]
    ours = [student.id2label[index].casefold() for index in range(student.num_labels)]
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
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(f"cannot load {name_or_path}: {first_line}") from None


def _load_model(name_or_path: str, **kwargs):
    # float32 whatever the checkpoint's type: half-precision weights lose small updates, and bf16 is autocast's work.
    return _load(AutoModelForSequenceClassification, name_or_path, use_safetensors=True, dtype=torch.float32, **kwargs)


def _override(config: PreTrainedConfig, args: ModelArguments) -> PreTrainedConfig:
    """Applies student_config and student_num_layers (which only student_init random has)."""
    overrides = dict(args.student_config or {})
    if args.student_num_layers is not None:
        overrides["num_hidden_layers"] = args.student_num_layers
    for key, value in overrides.items():
        if not hasattr(config, key):
            raise InputError(f"student_config names {key}, which a {config.model_type} configuration does not have.")
        setattr(config, key, value)
    return config


def _random_model(config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"student_config does not make a {config.model_type} model: {error}") from None


def _layer_list(model: PreTrainedModel) -> str:
    """Returns the name of the `ModuleList` that holds the model's layers."""
    depth = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return name
    raise InputError(
        f"a {model.config.model_type} teacher does not keep {depth} separate layers, so a student cannot take some of "
        "them: use student_init pretrained or random."
    )
