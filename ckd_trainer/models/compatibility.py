"""Checks that teacher, student and data are compatible, from configurations and tokenizers, before loading weights."""

import copy
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ckd_trainer.utils.decoders import is_decoder
from ckd_trainer.utils.errors import InputError, short

_PADDED_TO = (8, 16, 32, 64, 128, 256, 512)  # vocabularies are padded to such multiples for fast matrix products
_ONE_ENCODING = (
    "both read the same token ids, and relations compare them token by token: give a student of the teacher's family, "
    "use student_init teacher_layers, or encode the texts with both tokenizers (ckd_trainer.TokenizerPair)."
)

# Classifiers that do not have one hidden state per token.
_UNSUPPORTED = {
    "canine": "reads characters, not tokens",
    "funnel": "pools tokens, so its deeper layers have fewer states than the text has tokens",
    "perceiver": "reads bytes into an array of a fixed length",
    "layoutlmv2": "reads images and text",
    "layoutlmv3": "reads images and text",
    "lxmert": "reads images and text",
    "tapas": "reads tables",
}
# What constructors of models raise: 5 heads for 32 units, 0 heads, a padding id beyond the ids, a missing package.
_OF_VALUES = (ValueError, ZeroDivisionError, AssertionError, ImportError)
_IMPOSSIBLE_SIZE = re.compile("negative dimension|out of bounds for dimension 0 with size 0")
_SUPPORTED = "a text encoder with one state per token, such as bert, roberta, distilbert, electra, mpnet or modernbert"


def check_task(config: PreTrainedConfig, model_class: type[Any], name: str) -> None:
    """Raises InputError if transformers has no model of this type for the task.

    Args:
        model_class: the Auto class of the task's models.
        name: the model's name in the message.
    """
    with_code = model_class.__name__ in (getattr(config, "auto_map", None) or {})
    if type(config) not in model_class._model_mapping and not with_code:
        raise InputError(
            f"{name} is a model of type {config.model_type}, which {model_class.__name__} does not support: give "
            f"{_SUPPORTED}."
        )


def check_encoder(config: PreTrainedConfig) -> None:
    """Raises InputError if a model does not have one hidden state per token in each layer."""
    reason = _UNSUPPORTED.get(config.model_type)
    if config.is_encoder_decoder:
        reason = "has an encoder and a decoder"
    elif reason is None and getattr(config, "num_hidden_layers", None) is None:
        reason = "does not define its number of layers (num_hidden_layers)"
    if reason:
        raise InputError(f"the {config.model_type} model {reason}: give {_SUPPORTED}.")
    if config.model_type == "big_bird" and config.attention_type == "block_sparse":
        raise InputError(
            "the big_bird model's hidden states of a long text are padded to whole blocks, and do not match its "
            "tokens: set attention_type to original_full in its configuration."
        )


def check_padding_token(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Raises InputError if a decoder that classifies texts does not know which tokens are padding.

    Its logits are those of the last token that is not padding: one whose id is not `pad_token_id`.

    Args:
        tokenizer: the one that encodes the data; None if unknown.
    """
    if not is_decoder(config):
        return
    ours, theirs = getattr(config, "pad_token_id", None), tokenizer.pad_token_id if tokenizer is not None else None
    if ours is None:
        raise InputError(
            f"the configuration of the {config.model_type} model has no pad_token_id, by which it finds the last "
            f"token of a text: set it to that of the tokenizer{'' if theirs is None else f', {theirs}'}."
        )
    if theirs is not None and ours != theirs:
        raise InputError(
            f"pad_token_id is {ours} in the configuration of the {config.model_type} model, but {theirs} in the "
            "tokenizer. The model would read padding as the last token of a text: set both to the same id."
        )


def check_token_types(config: PreTrainedConfig, types: Sequence[int]) -> None:
    """Raises InputError if a text has token types for which a model has no embeddings.

    Args:
        types: those of a text's tokens, such as 0 in the first and 1 in the second text of a pair.
    """
    rows = getattr(config, "type_vocab_size", None)
    if rows and max(types) >= rows:  # DeBERTa-v2 has 0, and does not read them
        raise InputError(
            f"the examples have token_type_ids up to {max(types)}, but the {config.model_type} model has "
            f"embeddings for {rows} (type_vocab_size): use a tokenizer whose model_input_names lack token_type_ids."
        )


def check_savable(config: PreTrainedConfig) -> None:
    """Raises InputError if a configuration cannot be saved, or changes when it is saved and loaded."""
    way_out = "correct its config.json, or the values that you passed."
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy.deepcopy(config).save_pretrained(folder)
            saved = type(config).from_pretrained(folder)
        except (ValueError, TypeError, StrictDataclassError) as error:
            message = " ".join(str(error).split())
            raise InputError(
                f"the {config.model_type} model's configuration cannot be saved ({message}): {way_out}"
            ) from error
    if saved.num_hidden_layers != config.num_hidden_layers:
        raise InputError(
            f"the {config.model_type} model's configuration has {config.num_hidden_layers} layers, but "
            f"{saved.num_hidden_layers} once it is saved: {way_out}"
        )


def max_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any) -> int:
    """Returns the maximum number of tokens that a model and its tokenizer support."""
    positions = getattr(config, "max_position_embeddings", None) or 0  # 0 or -1: no limit
    limits = [tokenizer.model_max_length] + ([positions] if positions > 0 else [])
    base = outline(config, AutoModel, **options)
    embeddings = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
    if isinstance(embeddings, torch.nn.Embedding) and embeddings.padding_idx is not None:
        # RoBERTa starts counting positions after its padding index.
        limits.append(embeddings.num_embeddings - embeddings.padding_idx - 1)
    return min(limits)


def check_max_length(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, **options: Any
) -> None:
    """Raises InputError if max_seq_length exceeds what a model supports, or leaves no room for a text."""
    limit = max_length(config, tokenizer, **options)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_seq_length <= special:
        raise InputError(
            f"max_seq_length is {max_seq_length}, but the {special} special tokens of the {config.model_type} model "
            f"then leave no room for a text: give {special + 1} or more."
        )
    if max_seq_length > limit:
        raise InputError(
            f"max_seq_length is {max_seq_length}, but the {config.model_type} model reads at most {limit} tokens: "
            f"give {limit}."
        )


def outline(config: PreTrainedConfig, model_class: type[Any], **options: Any) -> PreTrainedModel:
    """Returns a configuration's model on the meta device: modules and shapes, without memory for weights.

    Args:
        model_class: one of transformers' Auto classes.

    Raises:
        InputError: the configuration is not valid.
    """
    try:
        with torch.device("meta"):
            return model_class.from_config(config, **options)
    except Exception as error:
        if not _is_of_values(error, config):
            raise
        reason = f"there is no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(f"the {config.model_type} model's configuration cannot be used: {reason}") from error


def _is_of_values(error: Exception, config: PreTrainedConfig) -> bool:
    """Returns whether a model cannot be made of the values of a configuration, as far as each class checks them."""
    if isinstance(error, KeyError):  # a name that means nothing, such as an activation function
        return any(value in error.args for value in config.to_dict().values())
    return isinstance(error, _OF_VALUES) or _IMPOSSIBLE_SIZE.search(str(error)) is not None


def check_padding_sides(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises InputError unless both tokenizers pad on the same side."""
    if student.padding_side != teacher.padding_side:
        raise InputError(
            f"the teacher's tokenizer pads on the {teacher.padding_side}, but the student's on the "
            f"{student.padding_side}: both read the same batches, and the positions of the tokens matter. Set "
            "padding_side in the tokenizer_config.json of the one that was trained with the other side."
        )


def vocabulary_difference(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> str | None:
    """Returns how the vocabularies of two tokenizers differ, a clause; None if they are the same, entry by entry."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return None
    example = min(token for token, _ in ours.items() ^ theirs.items())
    return (
        f"teacher and student have different vocabularies ({len(theirs)} and {len(ours)} entries; {short(example)} is "
        f"{theirs.get(example, 'missing')} and {ours.get(example, 'missing')})"
    )


def check_token_ids(
    student: PreTrainedConfig,
    teacher: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Raises InputError if the models evidently read different token ids; for use without the scripts.

    With both tokenizers, each id must have the same meaning in both, and the teacher must have embeddings for all
    entries of the student's. Otherwise the numbers of embeddings are compared. They may differ by unused rows: models
    are often padded to a multiple of 8, as BERT's 30,522 to 30,528.

    Args:
        tokenizer: the one that encoded the data; None if unknown.
        teacher_tokenizer: the one stored with the teacher; None if there is none.
    """
    if tokenizer is not None:
        check_embeddings(teacher, tokenizer)
        # A tokenizer with more entries than the teacher has embeddings is not the teacher's own: such a teacher was
        # built from another model's configuration.
        if teacher_tokenizer is not None and len(teacher_tokenizer) <= getattr(teacher, "vocab_size", 0):
            _check_same_meaning(tokenizer, teacher_tokenizer)
            return
    ours, theirs = (getattr(config, "vocab_size", None) for config in (student, teacher))
    if ours is None or theirs is None:
        return
    fewer, more = sorted((ours, theirs))
    if fewer != more and not any(more == math.ceil(fewer / multiple) * multiple for multiple in _PADDED_TO):
        raise InputError(
            f"the teacher has embeddings for {theirs} token ids, the student for {ours}, but {_ONE_ENCODING} If they "
            "do share a tokenizer, and one has rows for tokens that were added later, resize the other with "
            "resize_token_embeddings."
        )


def _check_same_meaning(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    ours, theirs = ({index: token for token, index in each.get_vocab().items()} for each in (student, teacher))
    differing = [index for index in sorted(ours.keys() & theirs.keys()) if ours[index] != theirs[index]]
    if differing:
        raise InputError(
            f"the teacher's tokenizer, stored in {teacher.name_or_path}, has another vocabulary than the student's: "
            f"{len(differing)} ids differ, such as {differing[0]}, which is {theirs[differing[0]]!r} for the teacher "
            f"and {ours[differing[0]]!r} for the student, but {_ONE_ENCODING}"
        )


def encoded_differently(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, texts: Iterable[Sequence[str]]
) -> str | None:
    """Returns which text (or pair of texts) two tokenizers encode differently, a clause; None if there is none.

    Args:
        teacher: with at least the columns of the student's.
    """
    for row in texts:
        ours, theirs = student(*row), teacher(*row)
        name = next((name for name in ours if ours[name] != theirs[name]), None)
        if name is not None:
            return (
                f"teacher and student have the same vocabulary but encode {short(row[0])} differently ({name}; the "
                "cause may be upper case, special tokens or token types)"
            )
    return None


def check_embeddings(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError if a tokenizer has more entries than a model has embeddings."""
    rows = getattr(config, "vocab_size", None)
    if rows is not None and len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} entries, but the {config.model_type} model has embeddings for "
            f"{rows}: they do not belong together."
        )
