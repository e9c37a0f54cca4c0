"""Draws training batches: of similar length, and with the same share of unlabeled examples in each."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import TrainingArguments

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

    def __init__(self, lengths: Sequence[int] | np.ndarray, batch_size: int, epoch_seed: Callable[[], int]) -> None:
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


class MixedSampler(Sampler[int]):
    """Draws steps with the same numbers of labeled and of unlabeled examples.

    An epoch goes once through the labeled examples, in random order. The unlabeled ones have an order of their own,
    which continues from one epoch of a training to the next: none is repeated until all have been drawn. What is left
    of the labeled examples is a smaller last step, with the same share of unlabeled ones.

    With lengths, pools of 50 steps are divided by length, and all steps are shuffled, as in `LengthGroupedSampler`.

    Args:
        labeled: the number of labeled examples, which are the first rows of the training set.
        unlabeled: the rows of the unlabeled ones.
        sizes: the numbers of labeled and of unlabeled examples in a step, over all processes and accumulated batches.
        seed: of all epochs.
        epoch: returns the number of the next epoch; called at its start.
        lengths: number of tokens of each row of the training set; None for steps of mixed lengths.

    Example:
        >>> sampler = MixedSampler(2, np.arange(2, 8), sizes=(1, 2), seed=0, epoch=lambda: 0)
        >>> len(sampler), sum(row < 2 for row in sampler)
        (6, 2)
    """

    def __init__(
        self,
        labeled: int,
        unlabeled: np.ndarray,
        *,
        sizes: tuple[int, int],
        seed: int,
        epoch: Callable[[], int],
        lengths: np.ndarray | None = None,
    ) -> None:
        self.labeled, self.unlabeled, self.sizes = labeled, unlabeled, sizes
        self.seed, self.epoch, self.lengths = seed, epoch, lengths
        self.full, rest = divmod(labeled, sizes[0])
        self.drawn = self.full * sizes[1] + round(rest * sizes[1] / sizes[0])  # unlabeled examples of an epoch

    def __len__(self) -> int:
        return self.labeled + self.drawn

    def __iter__(self) -> Iterator[int]:
        epoch, full = self.epoch(), self.full
        random = torch.Generator().manual_seed(seed_of_epoch(self.seed, epoch))
        parts = [torch.randperm(self.labeled, generator=random).numpy(), self._unlabeled(epoch * self.drawn)]
        ends = [full * size for size in self.sizes]
        last = [part[end:][None] for part, end in zip(parts, ends, strict=True)]
        parts = [part[:end] for part, end in zip(parts, ends, strict=True)]
        if self.lengths is not None:
            lengths = self.lengths
            parts = [self._longest_first(part, size, lengths) for part, size in zip(parts, self.sizes, strict=True)]
        steps = self._mixed([part.reshape(full, size) for part, size in zip(parts, self.sizes, strict=True)])
        if self.lengths is not None and full:
            steps = steps[torch.randperm(full, generator=random).numpy()]
            longest = self.lengths[steps].max(1).argmax()
            steps[[0, longest]] = steps[[longest, 0]]
        yield from steps.reshape(-1).tolist()
        yield from self._mixed(last)[0].tolist()

    def _unlabeled(self, start: int) -> np.ndarray:
        """Returns an epoch's unlabeled rows: from `start` on in permutations that follow one another."""
        parts, missing = [np.empty(0, self.unlabeled.dtype)], self.drawn
        while missing:
            number, begin = divmod(start, len(self.unlabeled))
            random = torch.Generator().manual_seed(seed_of_epoch(self.seed, number, stream=1))
            order = torch.randperm(len(self.unlabeled), generator=random).numpy()[begin : begin + missing]
            parts.append(self.unlabeled[order])
            start, missing = start + len(order), missing - len(order)
        return np.concatenate(parts)

    def _mixed(self, parts: list[np.ndarray]) -> np.ndarray:
        """Returns steps of labeled and unlabeled rows, (steps, examples), in the order in which batches cut them."""
        steps = np.concatenate(parts, axis=1)
        if self.lengths is not None:
            return np.take_along_axis(steps, np.argsort(-self.lengths[steps], axis=1, kind="stable"), axis=1)
        # Evenly spread, so that the batches of a step have about the same share.
        places = np.concatenate([(np.arange(part.shape[1]) + 0.5) / max(1, part.shape[1]) for part in parts])
        return steps[:, np.argsort(places, kind="stable")]

    def _longest_first(self, rows: np.ndarray, size: int, lengths: np.ndarray) -> np.ndarray:
        """Returns the rows with the longest of each pool of 50 steps first."""
        pool = size * (min(self.full // 4, POOL_BATCHES) or 1)
        pools = [rows[start : start + pool] for start in range(0, len(rows), pool)]
        return np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in [rows[:0], *pools]])


def step_size(args: TrainingArguments) -> int:
    """Returns the number of examples in a step, over all processes and accumulated batches."""
    processes = 1 if args.accelerator_config.split_batches else args.world_size
    return args.train_batch_size * args.gradient_accumulation_steps * processes


def data_seed(args: TrainingArguments) -> int:
    """Returns the seed of the order of the training examples."""
    return args.seed if args.data_seed is None else args.data_seed


def seed_of_epoch(seed: int, epoch: int, stream: int = 0) -> int:
    """Returns the seed of an epoch. Different seeds share no epochs, unlike with `seed + epoch`, nor do streams."""
    parts = (seed % 2**64, epoch, stream) if stream else (seed % 2**64, epoch)
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
