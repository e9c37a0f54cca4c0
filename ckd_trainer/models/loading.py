"""Loads models: every weight that matters comes from the files, or one message explains what is wrong."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import HTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.utils.peft_utils import find_adapter_config_file

from ckd_trainer.models.compatibility import outline
from ckd_trainer.utils.errors import InputError, is_for_user
from ckd_trainer.utils.network import error_of_network

Result = TypeVar("Result")

# Buffers saved by older versions, and the second copy of the embeddings in DeBERTa-v3's files.
_NO_WEIGHTS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|attn\.masked_bias|rotary_emb\.inv_freq|(word|position)_embeddings\._weight)$"
)


_LANGUAGE_MODELS = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()}
# The classes that AutoModel loads.
_BARE = {name for names in MODEL_MAPPING_NAMES.values() for name in ((names,) if isinstance(names, str) else names)}
# What transformers, safetensors and huggingface_hub raise about files, the packages that these need, and the network.
_OF_FILES = (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError, HTTPError)
# What readers of JSON files raise if a file in the user's folder has another form, such as a list for a dict.
OF_FORM = (KeyError, TypeError, AttributeError, IndexError)


def call(
    function: Callable[..., Result], name_or_path: str, *, also: tuple[type[Exception], ...] = (), **kwargs: Any
) -> Result:
    """Returns the result of a loading function.

    Args:
        also: more exceptions that mean a complaint about the files, if they are in a local folder.

    Raises:
        InputError: the function complains about the files; a `TemporaryError` if the Hub is out of reach.
    """
    try:
        return function(name_or_path, **kwargs)
    except Exception as error:
        complaints = (*_OF_FILES, *also) if os.path.isdir(name_or_path) else _OF_FILES
        is_of_files = isinstance(error, complaints) or type(error) is Exception  # `tokenizers` raises bare Exceptions
        if not is_of_files or (isinstance(error, OSError) and not is_for_user(error)):
            raise
        message = f"{' '.join(str(error).split())[:600]} ({type(error).__name__})"
        if os.path.exists(name_or_path):
            raise InputError(f"cannot load {name_or_path}: {message}") from error
        raise error_of_network(error)(
            f"cannot load {name_or_path}: there is no such folder here, and loading it from the Hub fails: {message}"
        ) from error


def load_config(name_or_path: str, **options: Any) -> PreTrainedConfig:
    """Returns the configuration of a model.

    Raises:
        InputError: there is none, the name is that of a file, or the folder holds a PEFT adapter.
    """
    if os.path.isfile(name_or_path):
        raise InputError(f"{name_or_path} is a file: give the folder of a model, or its name on the Hub.")
    # With peft installed, transformers would download a base model and add the adapter's layers to it.
    if call(find_adapter_config_file, name_or_path) is not None:
        raise InputError(
            f"{name_or_path} holds an adapter (adapter_config.json, as peft saves LoRA weights), not a whole model. "
            "Load it with peft, merge it into its base model with merge_and_unload(), save the result and its "
            "tokenizer with save_pretrained to a new folder, and give that."
        )
    return call(AutoConfig.from_pretrained, name_or_path, also=OF_FORM, **options)


def load_weights(name_or_path: str, model_class: type[Any], **kwargs: Any) -> tuple[PreTrainedModel, dict]:
    """Returns a model in float32, and transformers' loading info for `check_all_weights` or `check_base_weights`.

    Raises:
        InputError: files cannot be read, or no model can be made with the values of the configuration.
    """
    try:
        return _load_weights(name_or_path, model_class, **kwargs)
    except InputError:
        raise
    except Exception:  # perhaps because of a size of 0, or an activation function that does not exist
        options = {name: value for name, value in kwargs.items() if name != "config"}
        outline(kwargs.get("config") or load_config(name_or_path, **options), model_class, **options)
        raise


def _load_weights(name_or_path: str, model_class: type[Any], **kwargs: Any) -> tuple[PreTrainedModel, dict]:
    # float32 whatever the checkpoint's type: half-precision weights lose small updates; bf16 is applied by autocast.
    model, info = call(
        model_class.from_pretrained,
        name_or_path,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the checks below name the weight and its shapes
        **kwargs,
    )
    # Old files have old names, such as BERT's LayerNorm.gamma. transformers would save weights under these names
    # again, and `Trainer` would not find them when it resumes or loads the best checkpoint.
    model._weight_conversions = []
    return model, info


def weight_files(folder: Path) -> list[Path]:
    """Returns the files from which `from_pretrained` loads weights, without copies in other formats.

    Raises:
        InputError: there are none.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return sorted(folder / shard for shard in call(_shards, str(index)))
    raise InputError(
        f"{folder} has no model.safetensors: load the model, save it with save_pretrained to a folder, and give that."
    )


def _shards(index: str) -> set[str]:
    content = json.loads(Path(index).read_text("utf-8"))
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict):
        raise ValueError("it has no weight_map, which names the files")
    return set(names.values())


def check_all_weights(model: PreTrainedModel, info: dict, name: str, *, allow_unused: bool = False) -> None:
    """Checks a model that is used unchanged: a teacher, or a student that is only evaluated.

    Args:
        info: from `load_weights`.
        name: the checkpoint's name in the message.
        allow_unused: accept weights in the files that the model does not use.

    Raises:
        InputError: the files lack weights, or hold weights that are not used. Buffers, and a pooler that the model's
            class does not have, may stay unused. So may the heads of pre-training, if the model is a bare encoder or a
            masked language model. A bare encoder may lack a pooler, which no loss reads.
    """
    missing = _without_weights(info)
    if is_bare_encoder(model):
        missing = [key for key in missing if not _is_pooler(key, model)]
    other_shape = {key for key, *_ in info["mismatched_keys"]}
    if unexplained := [key for key in missing if key in other_shape or _in_base(key, model)]:
        raise InputError(_lacking(name, unexplained, info, model))
    is_language_model = type(model).__name__ in _LANGUAGE_MODELS
    if missing:
        reason = "it was not fine-tuned for this task. Fine-tune it with ckd-trainer teacher and give its folder."
        if is_language_model:
            reason = "it has no head for masked tokens. Give one that has, or set labels_and_logits to false."
        raise InputError(f"{name} has no weights for {_few(missing)}: {reason}")
    if not allow_unused:
        has_other_heads = is_language_model or is_bare_encoder(model)
        is_used = _in_base if has_other_heads else lambda key, model: not _is_pooler(key, model)
        _refuse_unused(model, name, [key for key in info["unexpected_keys"] if is_used(key, model)])


def check_base_weights(model: PreTrainedModel, info: dict, name: str, *, allow_unused: bool = False) -> None:
    """Checks a pre-trained model that will be fine-tuned. Only its head and pooler may be new.

    Args:
        info: from `load_weights`.
        name: the checkpoint's name in the message.
        allow_unused: accept encoder weights in the files that the model does not use.

    Raises:
        InputError: the files lack encoder weights, have other shapes, or hold encoder weights that are not used.
    """
    new = _without_weights(info)
    if missing := [key for key in new if _in_base(key, model)] or (new if len(new) == len(model.state_dict()) else []):
        way_out = "To train from random weights on purpose, set student_init to random."
        raise InputError(f"{_lacking(name, missing, info, model)} {way_out}")
    if not allow_unused:
        _refuse_unused(model, name, [key for key in info["unexpected_keys"] if _in_base(key, model)])


def lacks_head(model: PreTrainedModel, info: dict) -> bool:
    """Returns whether the last layer of the head is new, because the files have none or one for other labels."""
    head = [name for name, _ in model.named_parameters() if not _in_base(name, model)]
    return bool(head) and head[-1] in _without_weights(info)


def _without_weights(info: dict) -> list[str]:
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def _lacking(name: str, missing: list[str], info: dict, model: PreTrainedModel) -> str:
    """Returns the message about encoder weights that would be random, with the likely reason."""
    shapes = {key: (tuple(theirs), tuple(ours)) for key, theirs, ours in info["mismatched_keys"]}
    if key := next((key for key in missing if key in shapes), None):
        theirs, ours = shapes[key]
        return (
            f"{name} has {key} of shape {theirs}, but its config.json requires {ours}: the two do not belong "
            "together. Give the config.json that was saved with these weights."
        )
    # Files of the bare encoder have names without the first part.
    tail = missing[0].partition(".")[2]
    other = min((key for key in info["unexpected_keys"] if key.endswith(f".{tail}")), default=None)
    if other is not None:
        return (
            f"{name} has no weights for {_few(missing)}, but some with names such as {other}. If a wrapper around the "
            "model was saved (DataParallel, torch.compile or your own module), save the model inside it with "
            "save_pretrained, or rename the weights. Otherwise the files hold another model than the "
            f"{model.config.model_type} of config.json."
        )
    return (
        f"{name} has no weights for {_few(missing)}: its config.json describes another model than its files. "
        "Give the config.json that was saved with these weights."
    )


def _refuse_unused(model: PreTrainedModel, name: str, keys: Iterable[str]) -> None:
    unused = sorted(key for key in keys if not _NO_WEIGHTS.search(key))
    if unused:
        raise InputError(
            f"{name} holds weights that {type(model).__name__} does not use: {_few(unused)}. It would compute "
            "something else than the trained model: correct its config.json, or use the version of transformers that "
            "saved it. If these weights do not matter, set allow_unused_weights."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")


def _in_base(key: str, model: PreTrainedModel) -> bool:
    """Returns whether a weight belongs to the encoder, without its pooler; False without a separate encoder."""
    base, prefix = model.base_model, f"{model.base_model_prefix}."
    if (base is model and not is_bare_encoder(model)) or _is_pooler(key, model):
        return False
    # Files of the bare encoder have names without the prefix.
    return key.startswith(prefix) or key.split(".")[0] in {name.split(".")[0] for name in base.state_dict()}


def is_bare_encoder(model: PreTrainedModel) -> bool:
    """Returns whether a model has no head."""
    return type(model).__name__ in _BARE


def _is_pooler(key: str, model: PreTrainedModel) -> bool:
    return key.removeprefix(f"{model.base_model_prefix}.").split(".")[0] == "pooler"
