"""Loads tokenizers, and checks that they can encode batches."""

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ckd_trainer.models.loading import OF_FORM, call
from ckd_trainer.utils.errors import InputError


def load_tokenizer(name_or_path: str, **options: Any) -> PreTrainedTokenizerBase:
    """Returns a tokenizer, and checks that it has a vocabulary and a padding token."""
    tokenizer = call(AutoTokenizer.from_pretrained, name_or_path, also=OF_FORM, **options)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # from a folder without tokenizer files
        raise InputError(f"{name_or_path} has no tokenizer: add the files of the tokenizer that it was trained with.")
    if tokenizer.pad_token is None:
        raise InputError(f"the tokenizer of {name_or_path} has no padding token, needed for batches: set pad_token.")
    return tokenizer


def local_tokenizer(name_or_path: str, **options: Any) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer stored with a model on this machine; None if there is no usable one."""
    try:
        # Without trust_remote_code, transformers would ask in the terminal whether a model's own code may run.
        options = {"trust_remote_code": False} | options
        return load_tokenizer(name_or_path, local_files_only=True, **options) if name_or_path else None
    except InputError:
        return None
