"""Fingerprints of content: another one where a teacher or the examples are others.

A teacher in memory and the same one in files have different fingerprints, and so have files that say the same in other
bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

_READ = 2**20  # bytes at a time
# What a configuration says of where a model comes from, and nothing of what it computes.
_ORIGIN = {"_name_or_path", "transformers_version"}


def files_fingerprint(paths: Sequence[Path]) -> str:
    """Returns a fingerprint of the bytes of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while data := file.read(_READ):
                digest.update(data)
    return digest.hexdigest()


def model_fingerprint(model: PreTrainedModel) -> str:
    """Returns a fingerprint of a model's configuration and weights."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in _ORIGIN}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def examples_fingerprint(examples: Dataset, columns: Sequence[str]) -> str:
    """Returns a fingerprint of these columns of encoded examples (lists of whole numbers), in the dataset's order."""
    digest = hashlib.sha256()
    for table in examples.select_columns(sorted(columns)).with_format("arrow").iter(batch_size=1000):
        for name in table.column_names:
            column = table[name].combine_chunks()
            digest.update(f"{name} {len(column)}\n".encode())
            digest.update(np.ascontiguousarray(column.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64))
            digest.update(np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.int64))
    return digest.hexdigest()
