"""Batches in which teacher and student read encodings of their own, and the units that both have in common.

Such a batch holds the student's encoding under the usual names and the teacher's under the same names after TEACHERS.
UNITS gives the unit of each token, -1 for none, of the student's tokens and, after TEACHERS, of the teacher's. The
relations then compare units. In other batches teacher and student read the same tokens, and relations compare these.

`ckd_trainer.data.tokenizer_pair.TokenizerPair` makes the batches.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import attention_mask_of

TEACHERS = "teacher_"
UNITS = "units"
UNIT_MASK = "unit_mask"  # (batch, units): 1 for the units of an example
_NEEDED = (f"{TEACHERS}input_ids", UNITS, TEACHERS + UNITS)  # columns of examples with two encodings


def is_of_units(name: str) -> bool:
    """Returns whether a column holds units, or a part of the teacher's own encoding."""
    return name.startswith(TEACHERS) or name in (UNITS, UNIT_MASK)


def check_has_units(columns: Collection[str]) -> None:
    """Raises InputError if examples lack the teacher's encoding."""
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise InputError(
            f"teacher and student have different tokenizers, but the examples have no column {missing[0]}: encode "
            "their texts with the ckd_trainer.TokenizerPair that the data collator uses."
        )


def check_has_no_units(columns: Collection[str]) -> None:
    """Raises InputError if examples have an encoding for the teacher that the data collator would drop."""
    if all(name in columns for name in _NEEDED):
        raise InputError(
            "the examples hold the encodings of two tokenizers, but the data collator has no TokenizerPair, so the "
            "teacher would read the student's tokens: give the trainer data_collator=DataCollatorWithPadding("
            "tokenizers), with the TokenizerPair that encoded the texts."
        )


def item_mask_of(batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the mask of the items that relations compare, (batch, items): the units of a batch, or its tokens."""
    mask = batch.get(UNIT_MASK)
    return attention_mask_of(batch) if mask is None else mask


def teachers_view(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Returns the batch as the teacher reads it: with its own encoding, if it has one."""
    if UNIT_MASK not in batch:
        return batch
    own = {name.removeprefix(TEACHERS): value for name, value in batch.items() if name.startswith(TEACHERS)}
    return own | {UNIT_MASK: batch[UNIT_MASK]}


def pooling_of(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Returns the matrix A that takes the mean of a unit's tokens, (batch, units, length); None without units.

    A_ui is 1 / n if token i is one of the n tokens of unit u, and 0 otherwise.
    """
    if UNIT_MASK not in batch:
        return None
    belongs = _belongs(batch).float()
    return belongs / belongs.sum(-1, keepdim=True).clamp_min(1)


def pooled(states: Tensor, pooling: Tensor | None) -> Tensor:
    """Returns the mean of the states of a unit's tokens, (batch, units, width); the states themselves without units.

    Args:
        states: (batch, length, width). Those of tokens without a unit may hold anything, even NaN.
        pooling: from `pooling_of`.
    """
    if pooling is None:
        return states
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    in_unit = pooling.any(-2)[..., None]
    with torch.autocast(states.device.type, enabled=False):
        return pooling.to(states.dtype) @ states.masked_fill(~in_unit, 0)


def first_places(units: Sequence[int]) -> np.ndarray:
    """Returns the position of the first token of each unit of an example."""
    numbers, places = np.unique(units, return_index=True)
    return places[numbers >= 0]


def at_first_tokens(values: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the values (batch, length, ...) at the first token of each unit, (batch, units, ...).

    Without units, the values are returned as they are.
    """
    if UNIT_MASK not in batch:
        return values
    first = _belongs(batch).int().argmax(-1)  # (batch, units)
    return values[torch.arange(len(first), device=first.device)[:, None], first]


def added_up(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns logits of units, (batch, ..., units), from those of tokens, (batch, ..., length).

    The logit of a unit is log sum exp over its tokens, so that their probabilities add up. Without units, the logits
    are returned as they are.
    """
    if UNIT_MASK not in batch:
        return logits
    belongs = _belongs(batch)  # (batch, units, length)
    belongs = belongs.view(len(belongs), *[1] * (logits.dim() - 2), *belongs.shape[1:])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))[..., None, :]
    # Finite: the logits of units that are padding have no gradient, instead of NaN.
    return logits.masked_fill(~belongs, torch.finfo(logits.dtype).min / 4).logsumexp(-1)


def at_outer_tokens(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Moves logits of units for starts and ends, (batch, 2, units), to tokens, (batch, 2, length).

    The first token of a unit gets its logit for starts, and the last one its logit for ends. All other tokens get the
    lowest logit of the text: little probability, but a finite loss whichever way the models are compared.
    """
    belongs = _belongs(batch)
    before = belongs.cumsum(-1)  # (batch, units, length): how many of its tokens a unit has up to here
    first, last = belongs & (before == 1), belongs & (before == before[..., -1:])
    outer = torch.stack([first.any(1), last.any(1)], dim=1)  # (batch, 2, length)
    index = batch[UNITS].clamp_min(0)[:, None].expand_as(outer)
    is_unit = batch[UNIT_MASK].bool()[:, None]
    lowest = logits.masked_fill(~is_unit, torch.inf).amin(-1, keepdim=True)
    return torch.where(outer, logits.gather(-1, index), lowest)


def _belongs(batch: Mapping[str, Tensor]) -> Tensor:
    """Returns which tokens belong to which unit, (batch, units, length)."""
    units = torch.arange(batch[UNIT_MASK].shape[-1], device=batch[UNITS].device)
    return batch[UNITS][:, None, :] == units[:, None]
