"""A `Trainer` that decides which examples are in a batch, and in which order. It knows neither teachers nor losses.

`SamplingTrainer` overrides six methods of `Trainer`:

- `train` draws from the training set that the trainer has then.
- `_get_train_sampler` draws batches of similar length or of whole groups, and mixes unlabeled examples into each step.
- `num_examples` counts the examples of an epoch.
- `get_eval_dataloader` and `get_test_dataloader` keep the rows in order.
- `evaluation_loop` gives back the random numbers that it draws.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import has_length

from ckd_trainer.training.groups import Groups, groups_of
from ckd_trainer.training.sampling import LengthGroupedSampler, data_seed, seed_of_epoch, step_size
from ckd_trainer.training.unlabeled import Mixture, has_token_lists, lengths_of, mixed
from ckd_trainer.utils.errors import InputError, short
from ckd_trainer.utils.random_numbers import random_numbers_given_back


class _EpochCounter(TrainerCallback):
    """Counts the epochs of a training, from 0. The number in the state lags behind after one that was ended early."""

    epoch: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch = int(state.epoch or 0) if self.epoch is None else self.epoch + 1


class SamplingTrainer(Trainer):
    """Draws training batches by length, by group, or with unlabeled examples; evaluates all rows in order.

    How often it evaluates does not change the training.

    Args:
        unlabeled_dataset: more training examples, encoded like those of train_dataset but without labels.
        unlabeled_share: their share of each step, 0.5 by default. An epoch goes once through train_dataset.
        group_size: draw whole groups: this many examples of each group, of which one has its highest label, see
            `GroupSampler`. The column `group` of train_dataset numbers the groups.
        args, kwargs: as for `Trainer`.

    Attributes:
        groups: the groups of the training set; None without group_size.
        mixture: which rows of the training set have no labels; None without unlabeled_dataset.

    Raises:
        InputError: an unlabeled_dataset or a group_size that does not fit the training set.
    """

    train_dataset: Any
    data_collator: Any

    def __init__(
        self,
        *args: Any,
        unlabeled_dataset: Dataset | None = None,
        unlabeled_share: float | None = None,
        group_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._epochs = _EpochCounter()
        self.add_callback(self._epochs)
        self.group_size = group_size
        self.groups: Groups | None = None
        if self.args.auto_find_batch_size and not (group_size is None and unlabeled_dataset is None):
            raise InputError(
                "auto_find_batch_size is set, but batches of another size would cut groups, or hold another share of "
                "unlabeled examples: leave it out."
            )
        if group_size is not None and unlabeled_dataset is not None:
            raise InputError(
                "group_size and unlabeled_dataset are both given, but unlabeled examples are not mixed into groups: "
                "leave one out."
            )
        if group_size is not None and self.train_dataset is not None:
            self.groups = groups_of(self.train_dataset, group_size, self.args)
        self.mixture: Mixture | None = None
        if unlabeled_share is not None and unlabeled_dataset is None:
            raise InputError(
                f"unlabeled_share is {short(unlabeled_share)}, but unlabeled_dataset is not given: leave it out."
            )
        if unlabeled_dataset is not None:
            self.train_dataset, self.mixture = mixed(self.train_dataset, unlabeled_dataset, unlabeled_share)
        self._drawn_from = self.train_dataset

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Draws from the training set of now: users may have replaced it since the trainer was made."""
        if self.train_dataset is not self._drawn_from:
            if self.mixture is not None:
                raise InputError(
                    "train_dataset was replaced, but unlabeled_dataset was mixed into the one before: make a new "
                    "trainer."
                )
            if self.group_size is not None:
                self.groups = groups_of(self.train_dataset, self.group_size, self.args)
            self._drawn_from = self.train_dataset
        return super().train(*args, **kwargs)

    @property
    def mixes(self) -> bool:
        """Whether steps hold unlabeled examples."""
        return self.mixture is not None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Draws batches of similar length or of whole groups, and mixes unlabeled examples into each step.

        See `LengthGroupedSampler`, `GroupSampler` and `MixedSampler`.
        """
        if self.groups is not None:
            return self.groups.sampler(self.args, self._epoch)
        if self.mixture is not None and self.mixes:
            return self.mixture.sampler(self.train_dataset, self.args, self._epoch)
        examples = self.train_dataset if train_dataset is None else train_dataset
        if self.mixture is not None:
            examples = self.train_dataset.select(range(self.mixture.labeled))
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if grouped and has_token_lists(examples) and self.args.length_column_name not in examples.column_names:
            lengths = lengths_of(examples, "input_ids")  # `Trainer` would read every example in Python
        else:
            sampler = super()._get_train_sampler(examples)
            if not grouped or sampler is None:
                return sampler
            lengths = sampler.lengths
        seed = data_seed(self.args)
        return LengthGroupedSampler(lengths, step_size(self.args), lambda: seed_of_epoch(seed, self._epoch()))

    def _epoch(self) -> int:
        # Accelerate wraps the sampler twice (for the batches of each process, and to skip those trained before a
        # resume), and its `set_epoch` does not reach through both.
        return self._epochs.epoch or 0

    def num_examples(self, dataloader: DataLoader) -> int:
        """Returns the number of examples in an epoch, which need not be all of the training set."""
        batches: Any = getattr(dataloader, "batch_sampler", None)
        while hasattr(batches, "batch_sampler"):  # that of Accelerate, for the batches of each process
            batches = batches.batch_sampler
        sampler = getattr(batches, "sampler", None)
        # That of a torch IterableDataset is endless.
        return len(sampler) if sampler is not None and has_length(sampler) else super().num_examples(dataloader)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `Trainer` does, and gives the random numbers back."""
        with random_numbers_given_back():
            return super().evaluation_loop(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Reads all rows in order, for `compute_metrics`."""
        with self._sequential():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Reads all rows in order, so that predictions are in that order too."""
        with self._sequential():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _sequential(self) -> Iterator[None]:
        # `Trainer` uses the training options here too: it would group the evaluated rows by length and return
        # predictions in that order, drop the last rows, and take batches as workers finish them.
        wanted = {
            "train_sampling_strategy": "sequential",
            "dataloader_drop_last": False,
            "dataloader_in_order": True,
        }
        before = {name: getattr(self.args, name) for name in wanted if hasattr(self.args, name)}
        try:
            for name in before:
                setattr(self.args, name, wanted[name])
            yield
        finally:
            for name, value in before.items():
                setattr(self.args, name, value)
