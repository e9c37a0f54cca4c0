"""Loading models and tokenizers: every weight that counts comes from the files, or one message says what is wrong."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from ckd_trainer.utils.errors import InputError, is_for_user

Result = TypeVar("Result")

# Buffers that older versions saved, and the second copy of the embeddings in DeBERTa-v3's files.
_NO_WEIGHTS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|attn\.masked_bias|rotary_emb\.inv_freq|(word|position)_embeddings\._weight)$"
)


# What transformers, safetensors and huggingface_hub raise about files, and about packages that these need.
_OF_FILES = (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError)


def call(function: Callable[..., Result], name_or_path: str, **kwargs: Any) -> Result:
    """Returns what a loading function returns; what it says about somebody's files becomes an `InputError`."""
    try:
        return function(name_or_path, **kwargs)
    except Exception as error:
        is_of_files = isinstance(error, _OF_FILES) or type(error) is Exception  # so `tokenizers` raises all it has
        if not is_of_files or (isinstance(error, OSError) and not is_for_user(error)):
            raise
        message = " ".join(str(error).split())
        raise InputError(f"cannot load {name_or_path}: {message[:600]} ({type(error).__name__})") from error


def load_config(name_or_path: str, **options: Any) -> PreTrainedConfig:
    """Returns the configuration of a model.

    Raises:
        InputError: there is none, or it belongs to a PEFT adapter.
    """
    # With peft installed, transformers would put the adapter's layers into a base model from elsewhere.
    if call(find_adapter_config_file, name_or_path) is not None:
        raise InputError(
            f"{name_or_path} holds an adapter (adapter_config.json, as peft saves LoRA weights), not a whole model: "
            "load it with peft, merge it into its base model with merge_and_unload(), save the result and its "
            "tokenizer with save_pretrained to a new folder, and give that."
        )
    return call(AutoConfig.from_pretrained, name_or_path, **options)


def load_weights(name_or_path: str, model_class: type[Any], **kwargs: Any) -> tuple[PreTrainedModel, dict]:
    """Returns a model in float32 and transformers' loading info, for `check_all_weights` or `check_base_weights`."""
    # float32 whatever the checkpoint's type: half-precision weights lose small updates, and bf16 is autocast's work.
    model, info = call(
        model_class.from_pretrained,
        name_or_path,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the checks below name the weight and its shapes
        **kwargs,
    )
    # Old files have old names, such as BERT's LayerNorm.gamma. transformers would save under these names again, and
    # `Trainer` would not find them when it resumes or goes back to the best checkpoint.
    model._weight_conversions = []
    return model, info


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that `from_pretrained` reads weights from; copies beside them are not among them.

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
    """Checks a model that is used as it is: a teacher, or a student that is only evaluated.

    Args:
        info: from `load_weights`.
        name: the checkpoint, for the message.
        allow_unused: accept weights in the files that the model does not use.

    Raises:
        InputError: the files lack weights, or hold some that go unused. A pooler that the model's class does not have
            may go unused, as may buffers.
    """
    missing = _without_weights(info)
    other_shape = {key for key, *_ in info["mismatched_keys"]}
    if unexplained := [key for key in missing if key in other_shape or _in_base(key, model)]:
        raise InputError(_lacking(name, unexplained, info, model))
    if missing:
        raise InputError(
            f"{name} has no weights for {_few(missing)}: it was not fine-tuned for this task. Fine-tune it first with "
            "run_teacher.py and give its output folder."
        )
    if not allow_unused:
        _refuse_unused(model, name, [key for key in info["unexpected_keys"] if not _is_pooler(key, model)])


def check_base_weights(model: PreTrainedModel, info: dict, name: str, *, allow_unused: bool = False) -> None:
    """Checks a pre-trained model that is to be fine-tuned. Its head and pooler may be new; the rest may not.

    Args:
        info: from `load_weights`.
        name: the checkpoint, for the message.
        allow_unused: accept weights of the encoder in the files that the model does not use.

    Raises:
        InputError: the files lack weights of the encoder, hold them in other shapes, or hold some that go unused.
    """
    new = _without_weights(info)
    if missing := [key for key in new if _in_base(key, model)] or (new if len(new) == len(model.state_dict()) else []):
        way_out = "To train from random weights on purpose, set student_init to random."
        raise InputError(f"{_lacking(name, missing, info, model)} {way_out}")
    if not allow_unused:
        _refuse_unused(model, name, [key for key in info["unexpected_keys"] if _in_base(key, model)])


def _without_weights(info: dict) -> list[str]:
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def _lacking(name: str, missing: list[str], info: dict, model: PreTrainedModel) -> str:
    """Returns the message for weights of the encoder that would be random, with the likely reason."""
    shapes = {key: (tuple(theirs), tuple(ours)) for key, theirs, ours in info["mismatched_keys"]}
    if key := next((key for key in missing if key in shapes), None):
        theirs, ours = shapes[key]
        return (
            f"{name} has {key} in the shape {theirs}, but its config.json asks for {ours}: the two do not belong "
            "together. Give the config.json that was saved with these weights."
        )
    # A file of the bare encoder has names without the first part.
    tail = missing[0].partition(".")[2]
    other = min((key for key in info["unexpected_keys"] if key.endswith(f".{tail}")), default=None)
    if other is not None:
        return (
            f"{name} has no weights for {_few(missing)}, but some with names such as {other}. Either a wrapper around "
            "the model was saved (DataParallel, torch.compile, a module of your own): save the model inside it with "
            "save_pretrained, or rename the weights. Or the files hold another kind of model than the "
            f"{model.config.model_type} of config.json."
        )
    return (
        f"{name} has no weights for {_few(missing)}: its config.json describes another model than its files hold. "
        "Give the config.json that was saved with these weights."
    )


def _refuse_unused(model: PreTrainedModel, name: str, keys: Iterable[str]) -> None:
    unused = sorted(key for key in keys if not _NO_WEIGHTS.search(key))
    if unused:
        raise InputError(
            f"{name} holds weights that {type(model).__name__} does not use: {_few(unused)}. It would compute "
            "something else than the model that was trained: correct its config.json, or use the version of "
            "transformers that saved it. If these weights do not matter, set allow_unused_weights."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")


def _in_base(key: str, model: PreTrainedModel) -> bool:
    """Whether a weight belongs to the encoder, its pooler left out; False where a model does not set it apart."""
    base, prefix = model.base_model, f"{model.base_model_prefix}."
    if base is model or _is_pooler(key, model):
        return False
    # A file of the bare encoder has names without the prefix.
    return key.startswith(prefix) or key.split(".")[0] in {name.split(".")[0] for name in base.state_dict()}


def _is_pooler(key: str, model: PreTrainedModel) -> bool:
    return key.removeprefix(f"{model.base_model_prefix}.").split(".")[0] == "pooler"
