"""General-purpose encoders from running text, for run_mlm_ckd.py."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.blocks import BlockOptions, blocks_of
from ckd_trainer.data.documents import first_texts, read_documents
from ckd_trainer.data.hub import NamedDataset, hub_name
from ckd_trainer.data.masking import MaskingCollator
from ckd_trainer.data.tables import Table
from ckd_trainer.data.text_arguments import TextArguments, TextSource
from ckd_trainer.methods import MethodArguments
from ckd_trainer.models.language_head import HeadWeights, attach, fits, language_head
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.tasks.base import ModelInputs, Task, run_task
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.training.sampling import data_seed
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)

_SAMPLE = 256  # texts of each source that are read before the models are looked up


def run_masked_lm(
    model_args: ModelArguments,
    data_args: TextArguments,
    run_args: RunArguments,
    args: TrainingArguments,
    ckd_args: CKDArguments,
    *methods: MethodArguments,
) -> dict[str, float]:
    """Distills a language model as the arguments say, see `run_task`."""
    if args.include_num_input_tokens_seen == "no":
        args.include_num_input_tokens_seen = "non_padding"  # for the tokens per second in the log
    task = MaskedLanguageModeling(data_args, run_args, args, ckd_args)
    return run_task(task, model_args, data_args, run_args, args, ckd_args, *methods)


class _CountEpochs(TrainerCallback):
    """Tells the collator the epoch before its batches are made."""

    def __init__(self, collator: MaskingCollator) -> None:
        self.collator = collator

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.collator.epoch = int(state.epoch or 0)


class LanguageModelTrainer(DistillationTrainer):
    """A `DistillationTrainer` for running text: evaluation reports every term of the loss on held-out text.

    `eval_loss` is the weighted sum of the terms, as in training, and `eval_loss_<term>` each of them, unweighted: the
    mean over all its items. With a loss on masked tokens, `eval_perplexity` is its exponential. Masks of the
    validation set are the same in each evaluation.

    Attributes:
        language_head: the head to put on the encoder whenever it is saved in the output folder, see
            `ckd_trainer.models.language_head`; None to save it as it is.
    """

    language_head: HeadWeights | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_CountEpochs(self.data_collator))
        self._held_out: dict[str, Tensor] = {}  # for each term, the sum over its items and their number
        self._uncached_teacher: Callable[..., Any] | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Adds the tokens per second to the results."""
        before = self.state.num_input_tokens_seen
        output = super().train(*args, **kwargs)
        seconds, tokens = output.metrics.get("train_runtime"), self.state.num_input_tokens_seen - before
        if seconds and tokens:
            output.metrics["train_tokens_per_second"] = round(tokens / seconds, 3)
        return output

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Uses the same masks in each evaluation, and evaluates no block twice."""
        collator = self.data_collator
        self.data_collator = copy.copy(collator)
        self.data_collator.epoch = None
        even = self.accelerator.even_batches
        # Sharded models are gathered in each forward pass, so there all processes need the same number of batches.
        self.accelerator.even_batches = self.is_fsdp_enabled or self.is_deepspeed_enabled
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.accelerator.even_batches = collator, even

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Returns the terms on a set, instead of its logits, which a vocabulary makes too large to keep."""
        objective = self.distillation_objective
        self._held_out = {term: torch.zeros(2, device=self.args.device) for term in objective.weights}
        self._uncached_teacher = None if self.teacher is None else self.teacher.uncached()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._uncached_teacher = None  # frees a teacher that was loaded beside a cache
        sums = {term: self.accelerator.reduce(pair, reduction="sum").tolist() for term, pair in self._held_out.items()}
        means = {term: total / count if count else math.nan for term, (total, count) in sums.items()}
        metrics = {f"loss_{term}": mean for term, mean in means.items()}
        if means:
            weights = self.term_weights
            metrics["loss"] = sum(weights[term] * mean for term, mean in means.items() if weights[term])
        if "task" in means:
            metrics["perplexity"] = math.exp(min(means["task"], 700.0))  # finite
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Adds the terms of a batch to those of the set."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            terms, _ = self._terms(model, inputs, None, self._uncached_teacher)
        for term, count in zip(terms, self._counts(inputs), strict=True):
            mean = torch.where(count > 0, terms[term], 0)  # the mean over zero items is NaN
            self._held_out[term] += torch.stack([mean * count, count.to(mean.dtype)])
        return None, None, None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model; in the output folder, with its language-model head."""
        super().save_model(output_dir, _internal_call)
        folder = output_dir or self.args.output_dir
        if self.language_head is not None and folder == self.args.output_dir and self.args.should_save:
            attach(folder, self.model.config, self.language_head)


class MaskedLanguageModeling(Task):
    """Running text for a general-purpose encoder.

    Teacher and student are masked language models if labels or logits count, and otherwise bare encoders, whose head
    is put back at the end.

    Raises:
        InputError: masked tokens or their loss are asked for without each other.
    """

    args: TextArguments
    classifies = False
    has_labels = False
    keeps_inputs = True
    trainer_class = LanguageModelTrainer
    best_metric = "loss"

    def __init__(
        self, data_args: TextArguments, run_args: RunArguments, args: TrainingArguments, ckd_args: CKDArguments
    ) -> None:
        self.args, self.training_args = data_args, args
        # Held-out blocks, and those drawn by weight, must not depend on the seed of a comparison.
        self.seed = args.seed if data_args.sample_seed is None else data_args.sample_seed
        names = [hub_name(source) for source in data_args.training_sources if source.dataset_name]  # type: ignore[arg-type]
        self.hub_dataset = next(filter(None, names), None)
        options = [{}] if run_args.stages is None else [stage for stage in run_args.stages if isinstance(stage, dict)]
        self.reads_head = any(stage.get("labels_and_logits", ckd_args.labels_and_logits) for stage in options)
        self.model_class = AutoModelForMaskedLM if self.reads_head else AutoModel
        self.metrics = ("loss", "perplexity") if self.reads_head else ("loss",)
        masks = data_args.mlm_probability > 0
        if self.reads_head and not masks and ckd_args.alpha < 1:
            raise InputError(
                f"labels_and_logits is set and alpha is {ckd_args.alpha:g}, so masked tokens have a weight in the "
                "loss, but mlm_probability is 0: set mlm_probability to 0.15, or alpha to 1 to compare the logits of "
                "all tokens, or labels_and_logits to false to train with relations alone."
            )
        if masks and ckd_args.teacher_cache_dir:
            raise InputError(
                f"teacher_cache_dir is set, but mlm_probability is {data_args.mlm_probability:g}: masks change from "
                "one epoch to the next, so the teacher has to run on each batch. Leave one of them out."
            )
        if masks and args.dataloader_persistent_workers:
            raise InputError(
                "dataloader_persistent_workers is set, but masks are drawn anew in each epoch, which needs new "
                "workers: leave it out."
            )
        if args.do_eval and not (data_args.validation_source or data_args.validation_share):
            raise InputError(
                "do_eval is set, but there is no text to evaluate on: set validation_file or validation_share, or "
                "leave do_eval out."
            )

    def files(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        sources = self.args.training_sources
        files = {f"sources {number}": source for number, source in enumerate(sources, start=1)}
        if len(sources) == 1:
            files = {"train_file": sources[0]}
        if self.args.validation_source is not None and "validation" in splits:
            files["validation_file"] = self.args.validation_source
        return {option: [source.path] for option, source in files.items() if source.path is not None}

    def load(self, splits: Sequence[str]) -> None:
        """Reads the beginning of each source; `encode` reads the rest."""
        held_out = self.args.validation_source
        self.reads_train = "train" in splits
        self.reads_validation = "validation" in splits
        reads_training = self.reads_train or (self.reads_validation and held_out is None)
        self.sources = self.args.training_sources if reads_training else []
        self.held_out = held_out if self.reads_validation else None
        self._tables: dict[TextSource, Table] = {}
        texts = [text for source in (*self.sources, self.held_out) if source for text in self._beginning(source)]
        sample = Dataset.from_dict({"text": texts})
        self.data = SimpleNamespace(
            train=sample if self.reads_train else None,
            validation={"": sample} if self.reads_validation else {},
            test={},
            text_columns=("text",),
        )

    def _beginning(self, source: TextSource) -> list[str]:
        if source.dataset_name:
            options: Any = source  # it has the options of a data set by name
            self._tables[source] = NamedDataset(options).table(
                "train", texts=[source.text_column], label=None, advice="name the column of texts with text_column"
            )
        return first_texts(read_documents(source, self._tables.get(source), quoting=self.args.quoting), _SAMPLE)

    def sets_by_name(self, splits: Sequence[str]) -> dict[str, dict[str, Dataset | None]]:
        """Returns the state of each data set by name: to read all of its rows takes long."""
        states = {
            str(source): Dataset.from_dict({"state": [table.data._fingerprint]})
            for source, table in self._tables.items()
        }
        return {"dataset_name": dict(states)} if states else {}

    def check(self, pair: ModelPair) -> None:
        pair.fit_max_length(self.args)
        self.collator(pair.teacher_tokenizer)  # raises if it has no mask token

    def set_head(self, pair: ModelPair) -> None:
        """Leaves the heads as they are: a vocabulary, or none."""

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> ModelInputs:
        """Cuts the text into blocks, or opens those that an earlier run has cut."""
        train, held_out = [], []
        for source in self.sources:
            rest, held = self._divided(self._blocks(source, tokenizer))
            train.append(self._repeated(rest, source.weight))
            held_out.append(held)
        if self.held_out is not None:
            held_out = [self._blocks(self.held_out, tokenizer)]
        validation = concatenate_datasets(held_out)
        limit = self.args.max_eval_samples
        return ModelInputs(
            train=self.args.sample(concatenate_datasets(train), self.seed) if self.reads_train else None,
            validation={"": validation.select(range(min(limit or len(validation), len(validation))))}
            if self.reads_validation
            else {},
            test={},
        )

    def _blocks(self, source: TextSource, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        args = self.args
        blocks = blocks_of(
            source,
            tokenizer,
            BlockOptions(args.max_seq_length or 0, args.keep_sentences, args.quoting),
            table=self._tables.get(source),
            show_progress=PartialState().is_local_main_process and not self.training_args.disable_tqdm,
        )
        logger.info("%s has %d blocks of at most %d tokens.", source, len(blocks), args.max_seq_length)
        return blocks

    def _divided(self, blocks: Dataset) -> tuple[Dataset, Dataset]:
        """Returns the blocks to train on and those that are held out, both in order."""
        share = self.args.validation_share
        if share is None:
            return blocks, blocks.select([])
        held = np.zeros(len(blocks), bool)
        held[self._drawn(len(blocks), max(1, round(share * len(blocks))))] = True
        if held.all():
            raise InputError(
                f"validation_share is {share:g}, which leaves none of {len(blocks)} blocks to train on: give more "
                "text, or a validation_file."
            )
        return blocks.select(np.flatnonzero(~held)), blocks.select(np.flatnonzero(held))

    def _repeated(self, blocks: Dataset, weight: float) -> Dataset:
        """Returns the blocks that an epoch reads: all of them, as often as `weight` says, and then some of them."""
        if weight == 1:
            return blocks
        times, part = int(weight), weight - int(weight)
        some = np.sort(self._drawn(len(blocks), round(part * len(blocks))))
        return blocks.select(np.concatenate([*[np.arange(len(blocks))] * times, some]))

    def _drawn(self, blocks: int, count: int) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(blocks)[:count]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> MaskingCollator:
        args = self.args
        return MaskingCollator(
            tokenizer,
            args.mlm_probability,
            seed=data_seed(self.training_args),
            length=args.max_seq_length if args.pad_to_max_length else None,
            gives_labels=self.reads_head,
        )

    def prepare(self, trainer: LanguageModelTrainer, pair: ModelPair) -> None:
        """Finds the head with which a student that trains without one is saved."""
        if self.reads_head or not pair.trains:
            return
        args, config = pair.args, pair.student_config
        name = args.teacher_model_name_or_path if pair.layers else args.model_name_or_path
        head, why = None, "its weights are random"
        if name is not None and args.student_init != "random":
            head = language_head(name, pair.teacher_config if pair.layers else config, **pair.options)
            why = f"{name} has none" if head is None else f"that of {name} has another size"
        if head is None or not fits(config, head):
            logger.info("The student is saved without a language-model head: %s.", why)
            return
        trainer.language_head = head
