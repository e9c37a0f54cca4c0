"""Fingerprints of content: they change when a teacher or the examples change.

A teacher in memory and the same teacher on disk have different fingerprints, as do files of equivalent content but
different bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ckd_trainer.heads.labels import THRESHOLDS
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import has_adapters, unwrapped

# Configuration entries about a model's origin and the use of its outputs, which do not affect what it computes.
_NOT_COMPUTED_WITH = {"_name_or_path", "transformers_version", THRESHOLDS}


def model_fingerprint(model: Any) -> str:
    """Returns a fingerprint of a model's configuration, weights and PEFT adapters, whether compiled or not."""
    model = unwrapped(model)
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_COMPUTED_WITH}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    if has_adapters(model):
        digest.update(json.dumps(_adapter_state(model), sort_keys=True, default=_listed).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_has_fingerprint(model: torch.nn.Module) -> None:
    """Raises InputError for a user's wrapper: its code is in neither configuration nor weights."""
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel) and not has_adapters(model):
        raise InputError(
            f"teacher_cache_dir is set, but the teacher is a {type(model).__name__}: a cache is named by "
            "configuration and weights, which do not determine what a wrapper computes. Give the transformers model "
            "itself, or leave teacher_cache_dir out."
        )


def _adapter_state(model: Any) -> list:
    """Returns the state of PEFT adapters other than weights: their configurations, and which are active per layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [
        [name, layer.active_adapters, layer.merged_adapters, layer.disable_adapters, getattr(layer, "scaling", None)]
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    return [{name: config.to_dict() for name, config in model.peft_config.items()}, layers]


def _listed(value: Any) -> list | str:
    return sorted(value) if isinstance(value, set) else str(value)


def examples_fingerprint(examples: Dataset, columns: Sequence[str]) -> str:
    """Returns a fingerprint of columns of encoded examples (lists of integers), in the dataset's order."""
    digest = hashlib.sha256()
    for table in examples.select_columns(sorted(columns)).with_format("arrow").iter(batch_size=1000):
        for name in table.column_names:
            column = table[name].combine_chunks()
            digest.update(f"{name} {len(column)}\n".encode())
            digest.update(
                np.ascontiguousarray(column.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64).data
            )
            digest.update(np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int64).data)
    return digest.hexdigest()
