"""Draws training batches of similar length, in random order."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

POOL_BATCHES = 50  # as in transformers: little padding, but different batches in every epoch


class LengthGroupedSampler(Sampler[int]):
    """Draws batches of similar length, then shuffles the batches.

    An epoch is a random permutation of the examples, divided into pools of 50 batches (or of a quarter of the examples
    if these are few). Each pool is sorted by length and divided into batches, and all batches are shuffled. The batch
    with the longest example comes first, so that running out of memory shows in the first step. If the last batch is
    incomplete, its examples are neighbors at a random position of the last pool.

    transformers' sampler of this name draws the same batches but keeps each pool in order of length. The lengths of
    successive batches then rise and fall in a cycle, as do labels that depend on length.

    Args:
        lengths: number of tokens of each example.
        batch_size: number of examples in a step, over all processes and accumulated batches. Batches then do not
            depend on how a step is divided.
        epoch_seed: returns the seed of the next epoch; called at its start.

    Example:
        >>> sampler = LengthGroupedSampler([7, 3, 9, 4], batch_size=2, epoch_seed=lambda: 0)
        >>> next(iter(sampler))  # the longest
        2
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, epoch_seed: Callable[[], int]) -> None:
        self.lengths, self.batch_size, self.epoch_seed = np.asarray(lengths), batch_size, epoch_seed

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.epoch_seed())
        order = torch.randperm(len(self), generator=random).numpy()
        full, rest = divmod(len(self), self.batch_size)
        pool_size = self.batch_size * (min(full // 4, POOL_BATCHES) or 1)
        pools = [self._longest_first(order[start : start + pool_size]) for start in range(0, len(self), pool_size)]
        if rest:
            place = self.batch_size * int(torch.randint(len(pools[-1]) // self.batch_size + 1, (), generator=random))
            last = pools[-1][place : place + rest]
            pools[-1] = np.delete(pools[-1], slice(place, place + rest))
        batches = np.concatenate(pools).reshape(full, self.batch_size)
        batches = batches[torch.randperm(full, generator=random).numpy()]
        if full:
            longest = self.lengths[batches].max(1).argmax()
            batches[[0, longest]] = batches[[longest, 0]]
        yield from batches.reshape(-1).tolist()
        yield from last.tolist() if rest else ()

    def _longest_first(self, examples: np.ndarray) -> np.ndarray:
        return examples[np.argsort(-self.lengths[examples], kind="stable")]


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Returns the seed of an epoch. Different seeds share no epochs, unlike with `seed + epoch`."""
    return int(np.random.SeedSequence((seed % 2**64, epoch)).generate_state(1, np.uint64)[0])
