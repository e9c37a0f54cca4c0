"""Masks tokens for masked language models, the same way whenever an epoch is repeated."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ckd_trainer.utils.errors import InputError

NUMBER = "number_in_stream"  # of a block, from which its masks follow


class MaskingCollator:
    """Makes batches of blocks, with masked tokens and their labels.

    Each token other than special ones is chosen with `probability`. Of these, 80% become the mask token, 10% a random
    token and 10% stay; their labels are what they were, all other labels are -100 (Devlin et al. 2019, section 3.1).
    At least one token of a block is chosen, as in BERT's own code, unless all are special.
    Masks depend only on the seed, the epoch and the tokens of a block. So each epoch has other masks, and they are the
    same after a resume, with any number of processes, workers or batches. A block that an epoch reads twice has
    the same masks both times. A stream has no epochs: there, masks depend on the block's number, and it gets others
    when it is read again.

    Args:
        tokenizer: that of teacher and student.
        probability: 0 for batches without masks and labels.
        seed: of the masks.
        length: pad to this many tokens; None for the longest block of a batch.
        gives_labels: whether a model reads labels.

    Attributes:
        epoch: the number of the epoch; None for evaluation, with masks that do not depend on the seed.

    Raises:
        InputError: tokens are to be masked, but the tokenizer has no mask token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        probability: float,
        *,
        seed: int,
        length: int | None = None,
        gives_labels: bool = True,
    ) -> None:
        if probability and tokenizer.mask_token_id is None:
            raise InputError(
                f"mlm_probability is {probability:g}, but the tokenizer has no mask token: set mlm_probability to 0, "
                "or give models with a tokenizer that has one."
            )
        self.tokenizer, self.probability, self.seed, self.length = tokenizer, probability, seed, length
        self.gives_labels, self.epoch = gives_labels, 0
        ids = {*tokenizer.get_vocab().values()}  # there may be gaps
        self._words = np.array(sorted(ids - {*tokenizer.all_special_ids}))
        self._is_word = np.isin(np.arange(max(ids) + 1), self._words)

    def __call__(self, blocks: list[dict[str, Any]]) -> dict[str, Tensor]:
        numbers = [block.get(NUMBER) for block in blocks]
        blocks = [{name: value for name, value in block.items() if name != NUMBER} for block in blocks]
        padding = "longest" if self.length is None else "max_length"
        batch = dict(
            self.tokenizer.pad(
                blocks, padding=padding, max_length=self.length, return_attention_mask=True, return_tensors="pt"
            )
        )
        if not self.probability:
            return batch
        ids, labels = batch["input_ids"].numpy().copy(), np.full(batch["input_ids"].shape, -100)
        for row, real in enumerate(batch["attention_mask"].bool().numpy()):
            ids[row, real], labels[row, real] = self._masked(ids[row, real], numbers[row])
        batch["input_ids"] = torch.from_numpy(ids)
        return batch | ({"labels": torch.from_numpy(labels)} if self.gives_labels else {})

    def _masked(self, block: np.ndarray, number: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of a block with masks, and the labels."""
        time = self.epoch if number is None else f"block {number}"
        draw = "evaluation " if time is None else f"{self.seed} {time} "
        key = hashlib.blake2b(draw.encode() + block.tobytes(), digest_size=16).digest()
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        is_word = self._is_word[block]
        lots = np.where(is_word, random.random(len(block)), 1.0)  # special tokens are never chosen
        chosen = lots < self.probability
        if is_word.any() and not chosen.any():
            chosen[lots.argmin()] = True
        fate, others = random.random(len(block)), self._words[random.integers(len(self._words), size=len(block))]
        masked = np.select([fate < 0.8, fate < 0.9], [self.tokenizer.mask_token_id, others], block)
        return np.where(chosen, masked, block), np.where(chosen, block, -100)
