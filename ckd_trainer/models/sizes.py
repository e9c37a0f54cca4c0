"""The sizes of a model's layers: their names in each family's configuration, and those of a narrower student."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from ckd_trainer.utils.errors import InputError

# Families whose models can be made narrower (see `ckd_trainer.models.narrowing`).
NARROWED = (
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
SIZES = ("hidden_size", "num_attention_heads", "intermediate_size")
SHARED_HEADS = ("mpnet",)  # all layers add the same bias per head to the scores: head i is the same head in all layers
# The rotary positions of each dimension of a head turn at a speed of their own: no dimension can be left out.
_FIXED_HEADS = ("modernbert",)
_OWN_NAMES = {"distilbert": {"intermediate_size": "hidden_dim"}}  # beside those in `attribute_map`
# Sizes that are the hidden size by default: of embeddings without a projection, and of DeBERTa's pooler.
_AS_HIDDEN = ("embedding_size", "pooler_hidden_size")


def size_of(config: PreTrainedConfig, name: str) -> int:
    """Returns one of SIZES, whatever the family calls it."""
    return getattr(config, _own_name(config, name))


def set_size(config: PreTrainedConfig, name: str, value: int) -> None:
    """Sets one of SIZES, whatever the family calls it."""
    setattr(config, _own_name(config, name), value)


def head_size(config: PreTrainedConfig) -> int:
    """Returns the number of dimensions of an attention head."""
    return config.hidden_size // config.num_attention_heads


def size_of_weights(model: nn.Module) -> tuple[int, float]:
    """Returns the number of a model's parameters, and their size in MB (10^6 bytes).

    The untrained head that PEFT keeps beside the trained one is not counted.
    """
    parameters = [value for name, value in model.named_parameters() if ".original_module." not in name]
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return sum(parameter.numel() for parameter in parameters), size / 1e6


def narrowed_config(config: PreTrainedConfig, sizes: Mapping[str, Any]) -> PreTrainedConfig:
    """Returns the configuration of a narrower student.

    Args:
        config: that of the student at the teacher's width.
        sizes: some of SIZES, or the family's own names for them (DistilBERT's dim, n_heads and hidden_dim). Without a
            number of heads, heads keep their size, so that a smaller hidden size has fewer. Neurons stay as they are
            unless given.

    Raises:
        InputError: the family is not supported, or no model of these sizes can be made from the teacher.

    Example::

        narrowed_config(BertConfig(), {"hidden_size": 384})  # 6 heads of 64
    """
    given = _given(config, sizes)
    narrow = copy.deepcopy(config)
    if all(value == getattr(config, _own_name(config, name), None) for name, (_, value) in given.items()):
        return narrow
    _check_family(config)
    for name, (key, value) in given.items():
        if type(value) is not int or value < 1:
            raise InputError(f"student_config: {key} is {value!r}: give a whole number of 1 or more.")
        if value > size_of(config, name):
            raise InputError(
                f"student_config: {key} is {value}, but the teacher's is {size_of(config, name)}, and a student made "
                "from its layers cannot be larger: give less, or use student_init random."
            )
        set_size(narrow, name, value)
    if "num_attention_heads" not in given:
        if narrow.hidden_size % head_size(config):
            raise InputError(
                f"student_config: {given['hidden_size'][0]} is {narrow.hidden_size}, which is not a multiple of the "
                f"{head_size(config)} dimensions of the teacher's heads: give a multiple, or "
                f"{_own_name(config, 'num_attention_heads')} too."
            )
        narrow.num_attention_heads = narrow.hidden_size // head_size(config)
    _check_heads(config, narrow)
    for name in _AS_HIDDEN:
        if getattr(config, name, None) == config.hidden_size:
            setattr(narrow, name, narrow.hidden_size)
        elif getattr(config, name, None) == narrow.hidden_size:
            raise InputError(
                f"student_config: {given['hidden_size'][0]} is {narrow.hidden_size}, like {name}: such a student has "
                "no projection of the embeddings, but the teacher has one. Give another size."
            )
    if hasattr(config, "attention_head_size"):
        narrow.attention_head_size = head_size(narrow)
    return narrow


def _given(config: PreTrainedConfig, sizes: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Returns {name in SIZES: (name as given, value)}."""
    names = {_own_name(config, name): name for name in SIZES}
    given: dict[str, tuple[str, Any]] = {}
    for key, value in sizes.items():
        own = config.attribute_map.get(key, key)
        name = key if key in SIZES else names.get(own)
        if own == config.attribute_map.get("num_hidden_layers", "num_hidden_layers"):
            raise InputError(f"student_config contains {key}: give student_num_layers or student_layers instead.")
        if name is None:
            raise InputError(
                f"student_config contains {key}, but a student from teacher_layers differs from the teacher only in "
                f"its sizes ({', '.join(names)}): leave it out, or use student_init random."
            )
        if name in given:
            raise InputError(f"student_config contains {given[name][0]} and {key}, which are one size: leave one out.")
        given[name] = key, value
    return given


def _check_family(config: PreTrainedConfig) -> None:
    """Raises InputError for models that cannot be made narrower."""
    if config.model_type not in NARROWED:
        raise InputError(
            f"student_config is set, but it is unknown how to make the layers of {config.model_type} models "
            f"narrower: leave it out, use student_init random, or give a teacher of one of {', '.join(NARROWED)}."
        )
    if getattr(config, "conv_kernel_size", 0):  # DeBERTa-v2, not v3
        raise InputError(
            f"student_config is set, but the {config.model_type} teacher has a convolution, which cannot be made "
            "narrower: leave student_config out, or use student_init random."
        )


def _check_heads(config: PreTrainedConfig, narrow: PreTrainedConfig) -> None:
    """Raises InputError unless the heads of the narrow model can be made from the teacher's."""
    width, heads = narrow.hidden_size, narrow.num_attention_heads
    sizes = f"student_config: {width} dimensions (hidden_size) in {heads} heads (num_attention_heads)"
    if width % heads:
        raise InputError(f"{sizes} cannot be divided evenly: give a multiple of the number of heads.")
    size, narrow_size = head_size(config), head_size(narrow)
    if config.model_type in _FIXED_HEADS and narrow_size != size:
        raise InputError(
            f"{sizes} make heads of {narrow_size}, but heads with rotary positions must keep the teacher's {size}: "
            f"give {size} dimensions per head."
        )
    if narrow_size > size and narrow_size % size:
        raise InputError(
            f"{sizes} make heads of {narrow_size}, but heads larger than the teacher's are several of these joined: "
            f"give {size}, or a multiple of it, per head, or less."
        )


def _own_name(config: PreTrainedConfig, name: str) -> str:
    own = _OWN_NAMES.get(config.model_type, {})
    return own.get(name, config.attribute_map.get(name, name))
