"""The trainer of language models on a stream of text: it resumes within it, and stops where it breaks off."""

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ckd_trainer.data.streamed_documents import StreamBroken
from ckd_trainer.data.streams import BlockStream
from ckd_trainer.tasks.language_model_trainer import LanguageModelTrainer
from ckd_trainer.training.sampling import step_size
from ckd_trainer.training.step_items import StepItems
from ckd_trainer.utils.errors import InputError, InputErrorOnAnotherRank
from ckd_trainer.utils.files import write_atomically
from ckd_trainer.utils.processes import in_all_processes

# In a checkpoint: where the stream goes on. Without it, a resumed run reads the text again from its beginning.
_STATE = "stream.json"


class _SaveWhereItBreaks(TrainerCallback):
    """Saves a checkpoint where the stream breaks off."""

    def __init__(self, trainer: "StreamTrainer") -> None:
        self.trainer, self.saved = trainer, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.saved = state.global_step  # 0, or the step of the checkpoint to resume from

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.broken is None:
            return
        control.should_save = state.global_step > self.saved
        if not control.should_save:
            self._keep_checkpoints(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.saved = state.global_step
        if self.trainer.broken is not None:
            self._keep_checkpoints(state)

    @staticmethod
    def _keep_checkpoints(state: TrainerState) -> None:
        # At its end, `Trainer` would load the best model and, with a save_total_limit of 1, delete the others. This is
        # not the end, and the checkpoints are saved by now.
        state.best_model_checkpoint = None


class StreamTrainer(LanguageModelTrainer):
    """A `LanguageModelTrainer` whose training set is a `BlockStream`.

    Steps take the blocks of the stream in the order of their numbers, so a global batch holds the same ones with any
    number of processes and accumulated batches. The whole training is one epoch.

    Attributes:
        broken: the error that ended the training, once the steps before it are in a checkpoint.

    Raises:
        InputError: by `train`, if the stream cannot be read any further.
    """

    train_dataset: BlockStream
    broken: InputError | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.train_dataset is not None:  # a call that does not train
            self.train_dataset.length = self.args.max_steps * step_size(self.args)
        self.add_callback(_SaveWhereItBreaks(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Goes to the place in the stream at which the checkpoint was saved."""
        if resume_from_checkpoint is not None:
            path = Path(str(resume_from_checkpoint)) / _STATE
            if path.is_file():
                self.train_dataset.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
        self.train_dataset.open()
        try:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.train_dataset.close()
        if self.broken is None:
            return output
        broken = copy.copy(self.broken)
        broken.args = (f"{self.broken} {self._way_on()}",)
        raise broken from self.broken

    def _way_on(self) -> str:
        if self.state.global_step == 0:
            return "No step was completed."
        if self.args.save_only_model or not isinstance(self.broken, StreamBroken | InputErrorOnAnotherRank):
            return f"The model of step {self.state.global_step} is in a checkpoint."
        return f"All {self.state.global_step} steps are in a checkpoint: the same command resumes from there."

    def _add_to_checkpoint(self, output_dir: str) -> None:
        """Adds the state of the stream."""
        super()._add_to_checkpoint(output_dir)
        place = self.train_dataset.state_before(self.state.global_step * step_size(self.args))
        if self.args.should_save:
            write_atomically(Path(output_dir) / _STATE, json.dumps(place))

    def get_train_dataloader(self) -> DataLoader:
        """Takes the blocks in order, and leaves their numbers to the collator, which draws masks from them."""
        removes, self.args.remove_unused_columns = self.args.remove_unused_columns, False
        try:
            with self._sequential():
                return super().get_train_dataloader()
        finally:
            self.args.remove_unused_columns = removes

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, StepItems | None]:
        """Ends the training in all processes, after the last whole step, if the stream breaks off in one of them."""
        try:
            batches = in_all_processes(lambda: list(itertools.islice(epoch_iterator, num_batches)))
        except InputError as error:
            self.broken, self.control.should_epoch_stop = error, True
            return [], None
        return super().get_batch_samples(iter(batches), num_batches, device)
