"""Builds a student from layers of the teacher, or from a configuration with random weights."""

import copy
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from ckd_trainer.arguments import STUDENT_LAYERS, ModelArguments
from ckd_trainer.losses.layer_mapping import resolve_layer_mapping
from ckd_trainer.models.compatibility import outline
from ckd_trainer.models.head_layer import last_layer
from ckd_trainer.utils.errors import InputError, agreeing, first_of

logger = logging.getLogger(__name__)

_OF_VALUES = (StrictDataclassError, ValueError, TypeError)  # how the fields of a configuration check their values
# Fields of every configuration that the task or the run sets.
_SET_BY_RUN = {
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "transformers_version",
}


def student_layers(args: ModelArguments, depth: int) -> list[int]:
    """Returns the teacher layers (from 1, out of `depth`) that become the student's layers, in order.

    From a teacher with T layers, a student with S layers takes the `first` S by default, as lower layers are more
    general. Alternatives are `first_and_last` (the first S - 1, and the last, for which the teacher's head was made),
    the layer mappings `last`, `skip` (every (T/S)-th; S must divide T) and `uniform` (round(l T/S)), or a list in
    student_layers.

    Raises:
        InputError: the teacher lacks the layers, or S does not divide T for skip.
    """
    chosen = args.student_layers or "first"
    if chosen not in STUDENT_LAYERS:
        layers = [int(layer) for layer in chosen.split(",")]
        if any(not 1 <= layer <= depth for layer in layers):
            raise InputError(f"student_layers is {chosen}, but the teacher has layers 1 to {depth}.")
        return layers
    count = args.student_num_layers
    if count is None:
        raise InputError("student_init teacher_layers needs student_num_layers (how many) or student_layers (which).")
    if count > depth:
        raise InputError(f"student_num_layers is {count}, but the teacher has only {depth} layers: give fewer.")
    if chosen == "first":
        return list(range(1, count + 1))
    if chosen == "first_and_last":
        return first_and_last(count, depth)
    if chosen == "skip" and depth % count:
        raise InputError(
            f"student_layers is skip, but {count} does not divide the teacher's {depth} layers evenly: use uniform."
        )
    source = dict(resolve_layer_mapping(chosen, count, depth))
    return [source[layer] for layer in range(1, count + 1)]


def first_and_last(count: int, depth: int) -> list[int]:
    """Returns the first `count` - 1 of `depth` layers, and the last, for which head and pooler are made."""
    return [*range(1, count), depth]


def config_of_layers(config: PreTrainedConfig, layers: Sequence[int]) -> PreTrainedConfig:
    """Returns the configuration of a student built from these teacher layers (from 1).

    Lists with one entry per layer, such as ModernBERT's layer_types, keep the entries of the chosen layers.
    """
    student = copy.deepcopy(config)
    for name, values in _layer_lists(config).items():
        setattr(student, name, [values[layer - 1] for layer in layers])
    student.num_hidden_layers = len(layers)
    return student


def student_from_layers(teacher: PreTrainedModel, layers: Sequence[int], config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a student whose layer l is the teacher's layer `layers[l - 1]`. Everything else is copied unchanged.

    Args:
        teacher: any encoder that keeps its layers in one `ModuleList`.
        layers: teacher layers, from 1.
        config: the student's; only the number of layers and the labels may differ from the teacher's.

    Raises:
        InputError: the student has another structure where a layer goes (ModernBERT's first layer lacks a norm), other
            weights elsewhere, or layers are shared (ALBERT).
    """
    student = type(teacher)(config)
    prefix = layer_list(teacher)
    weights = teacher.state_dict()
    fresh = student.state_dict()
    _check_structure(_names_by_layer(weights, prefix), _names_by_layer(fresh, prefix), layers, config.model_type)
    chosen = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{prefix}.")}
    for target, source in enumerate(layers):
        old, new = f"{prefix}.{source - 1}.", f"{prefix}.{target}."
        chosen |= {new + name[len(old) :]: tensor for name, tensor in weights.items() if name.startswith(old)}
    # A head with other labels than the teacher's stays random.
    rows = teacher.config.num_labels, config.num_labels
    head = _resized(chosen, fresh, rows, config.model_type)
    student.load_state_dict(chosen | {name: fresh[name] for name in head})
    return student


def _resized(
    teacher: Mapping[str, torch.Tensor], student: Mapping[str, torch.Tensor], rows: tuple[int, int], family: str
) -> list[str]:
    """Returns the names of the weights that have `rows` in teacher and student, one for each label, if these differ.

    Raises:
        InputError: other weights differ in shape, or only one of the models has them.
    """
    names = []
    for name in {**student, **teacher}:
        theirs, ours = (tuple(weights[name].shape) if name in weights else () for weights in (teacher, student))
        if theirs == ours:
            continue
        if (*theirs[:1], *ours[:1]) != rows or theirs[1:] != ours[1:]:
            raise InputError(
                f"the student's configuration makes another model than the {family} teacher: of {name}, the student "
                f"has {_described(ours)}, and the teacher {_described(theirs)}. Let only layers and labels differ, as "
                "config_of_layers does."
            )
        names.append(name)
    return names


def _described(shape: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape))} weights" if shape else "none"


def _names_by_layer(weights: Mapping[str, Any], prefix: str) -> dict[int, set[str]]:
    """Returns {layer, from 1: the names of its weights} for the layers in the list `prefix`."""
    names: dict[int, set[str]] = defaultdict(set)
    for name in weights:
        if name.startswith(f"{prefix}."):
            index, own = name.removeprefix(f"{prefix}.").split(".", 1)
            names[int(index) + 1].add(own)
    return names


def _check_structure(
    teacher: Mapping[int, set[str]], student: Mapping[int, set[str]], layers: Sequence[int], family: str
) -> None:
    """Raises InputError if a student's layer has other weights than the teacher's that it is to become."""
    for target, source in enumerate(layers, start=1):
        if teacher[source] != student[target]:
            fitting = [layer for layer, names in teacher.items() if names == student[target]]
            advice = "use student_init pretrained or random"
            if fitting:
                advice = (
                    f"give {agreeing(len(fitting), 'layer', 'one of layers')} {first_of(fitting)} there "
                    f"(student_layers), or {advice}"
                )
            raise InputError(
                f"layer {source} of the {family} teacher cannot be the student's layer {target}, which has another "
                f"structure: {advice}."
            )


def permute_head(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Reorders the rows of the head's last layer.

    Raises:
        InputError: the head has no linear layer with a row for each label.
    """
    layer = last_layer(model, len(order))
    if layer is None:
        raise InputError(
            f"the labels of the model are in another order than those of the data, and a {type(model).__name__} has "
            "no linear layer whose rows could be reordered: give the data's labels the model's order."
        )
    logger.info("The rows of the model's head are reordered to match the data's labels.")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[list(order)])


def override_config(config: PreTrainedConfig, args: ModelArguments) -> PreTrainedConfig:
    """Applies student_config and student_num_layers (with student_init random only)."""
    overrides = dict(args.student_config or {})  # type: ignore[arg-type]  # ModelArguments has parsed it
    if args.student_num_layers is not None:
        overrides["num_hidden_layers"] = args.student_num_layers
    lists = _layer_lists(config)
    follows = getattr(config, "pooler_hidden_size", None) == config.hidden_size
    for key, value in overrides.items():
        if key in _SET_BY_RUN:
            raise InputError(f"student_config contains {key}, which the task or the run sets: leave it out.")
        if key not in {*config.to_dict(), *config.attribute_map}:
            raise InputError(
                f"student_config contains {key}, which is not a field of {config.model_type} configurations."
            )
        try:
            setattr(config, key, value)
        except _OF_VALUES as error:
            raise InputError(f"student_config: {key} is {value!r}: {' '.join(str(error).split())}") from None
    if follows and "pooler_hidden_size" not in overrides:  # DeBERTa's pooler reads the hidden states as they are
        config.pooler_hidden_size = config.hidden_size
    if overrides:
        if config.num_hidden_layers < 1:
            raise InputError(f"student_config: num_hidden_layers is {config.num_hidden_layers}: give 1 or more.")
        try:
            _fit_layer_lists(config, {name: values for name, values in lists.items() if name not in overrides})
            outline(config, AutoModel)
        except InputError as error:
            raise InputError(f"student_config is {overrides}: {error}") from None
    return config


def _layer_lists(config: PreTrainedConfig) -> dict[str, list | tuple]:
    """Returns the configuration entries with one value per layer.

    They are identified by name and length. By length alone, DeBERTa's pos_att_type of two would be one in a 2-layer
    model.
    """
    return {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, list | tuple)
        and len(value) == config.num_hidden_layers
        and ("layer" in name or name == "attention_window")  # Longformer's
    }


def _fit_layer_lists(config: PreTrainedConfig, lists: dict[str, list | tuple]) -> None:
    """Fits per-layer lists to a new depth: repeats a value common to all layers, else uses the class's own pattern.

    Raises:
        InputError: the class has no pattern for this depth.
    """
    depth = config.num_hidden_layers
    for name, values in lists.items():
        if len(values) == depth:
            continue
        if all(value == values[0] for value in values):
            setattr(config, name, values[:1] * depth)
            continue
        others = {key: value for key, value in config.to_dict().items() if key not in lists}
        try:
            pattern = getattr(type(config).from_dict(others), name, None)
        except _OF_VALUES as error:
            raise InputError(" ".join(str(error).split())) from None
        if not isinstance(pattern, list | tuple) or len(pattern) != depth:
            raise InputError(
                f"{name} has {len(values)} entries, one per layer: give {depth} entries in student_config."
            )
        setattr(config, name, pattern)


def random_model(config: PreTrainedConfig, model_class: type[Any]) -> PreTrainedModel:
    """Returns a model with random weights; raises InputError if the configuration defines none."""
    outline(config, model_class)
    return model_class.from_config(config, dtype=torch.float32)


def layer_list(model: PreTrainedModel) -> str:
    """Returns the name of the `ModuleList` that holds the model's layers."""
    depth = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return name
    raise InputError(
        f"the {model.config.model_type} teacher does not have {depth} separate layers to select from: use "
        "student_init pretrained or random."
    )
