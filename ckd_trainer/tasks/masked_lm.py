"""General-purpose encoders from running text, for run_mlm_ckd.py."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.blocks import BlockOptions
from ckd_trainer.data.hub import hub_name
from ckd_trainer.data.masking import MaskingCollator
from ckd_trainer.data.text_arguments import TextArguments, TextSource
from ckd_trainer.methods import MethodArguments
from ckd_trainer.models.language_head import fits, language_head
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.models.subnetworks import DynamicArguments, has_widths
from ckd_trainer.runs.stages import Stage
from ckd_trainer.tasks.base import ModelInputs, Task
from ckd_trainer.tasks.language_model_trainer import DynamicLanguageModelTrainer, LanguageModelTrainer
from ckd_trainer.tasks.pipeline import run_task
from ckd_trainer.tasks.running_text import OpenText
from ckd_trainer.tasks.stream_trainer import StreamTrainer
from ckd_trainer.tasks.streaming import check_streamed_stage, open_stream
from ckd_trainer.training.sampling import data_seed
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import public
from ckd_trainer.utils.processes import is_sharded

logger = logging.getLogger(__name__)


def run_masked_lm(
    model_args: ModelArguments,
    data_args: TextArguments,
    run_args: RunArguments,
    args: TrainingArguments,
    ckd_args: CKDArguments,
    *more: MethodArguments | DynamicArguments,
) -> dict[str, float]:
    """Distills a language model as the arguments say, see `run_task`."""
    if args.include_num_input_tokens_seen == "no":
        args.include_num_input_tokens_seen = "non_padding"  # for the tokens per second in the log
    return run_task(MaskedLanguageModeling(data_args, args), model_args, data_args, run_args, args, ckd_args, *more)


class MaskedLanguageModeling(Task):
    """Running text for a general-purpose encoder.

    Teacher and student are masked language models if masked tokens or logits count. Otherwise they are bare encoders,
    and the student gets its head back at the end.

    Raises:
        InputError: options that a language model does not have, or that contradict each other.
    """

    args: TextArguments
    classifies = False
    has_labels = False
    one_tokenizer_because = (
        "running text is cut into blocks of tokens, and words are masked by the tokens of one vocabulary"
    )
    keeps_inputs = True
    trainer_class = LanguageModelTrainer
    dynamic_trainer_class = DynamicLanguageModelTrainer
    best_metric = "loss"

    def __init__(self, data_args: TextArguments, args: TrainingArguments) -> None:
        self.args, self.training_args = data_args, args
        # Held-out blocks do not depend on the seed of a run: runs with several seeds are compared on the same ones.
        self.seed = data_args.sample_seed or 0
        named: list[Any] = [source for source in data_args.training_sources if source.dataset_name]
        self.hub_dataset = next(filter(None, map(hub_name, named)), None)
        self.holds_out = args.do_eval and data_args.validation_share is not None
        # FSDP2 does not return the hidden states of a bare encoder, and refuses the tied weights of a head.
        if args.do_train and is_sharded(args):
            raise InputError(
                "language models are trained whole on each device, but the launcher or TrainingArguments set FSDP or "
                "DeepSpeed: launch with an accelerate recipe without FSDP or DeepSpeed, such as multi_gpu.yaml."
            )
        if args.do_train and not data_args.training_sources:
            raise InputError("do_train is set, but there is no text to train on: give train_file or sources.")
        if args.do_predict:
            raise InputError("do_predict is set, but a language model has no test set: leave it out.")
        if args.do_eval and not (data_args.validation_source or data_args.validation_share):
            raise InputError(
                "do_eval is set, but there is no text to evaluate on: set validation_file, validation_split_name or "
                "validation_share, or leave do_eval out."
            )
        if args.label_smoothing_factor:
            raise InputError("label_smoothing_factor is set, which would distort the perplexity: leave it out.")

    def use_stages(self, stages: Sequence[Stage]) -> None:
        if self.args.streaming:
            self.trainer_class = StreamTrainer
        for stage in stages:
            with stage.naming_errors():
                self._check_stage(stage, is_last=stage is stages[-1])
        masks = self.args.mlm_probability > 0
        self.reads_head = any(stage.ckd_args.labels_and_logits for stage in stages)
        self.model_class = AutoModelForMaskedLM if self.reads_head else AutoModel
        always = all(stage.ckd_args.labels_and_logits for stage in stages)
        self.metrics = ("perplexity",) if always and masks else ()
        orders = next((stage for stage in stages if has_widths(stage.dynamic_args.subnetworks)), None)
        if orders is not None and not (masks and self.reads_head):
            with orders.naming_errors():
                raise InputError(
                    "student_widths has several widths, for which heads and neurons are ordered by their importance "
                    "for the loss on masked tokens: set labels_and_logits to true and mlm_probability to 0.15, or "
                    "give student_depths alone."
                )

    def _check_stage(self, stage: Stage, is_last: bool) -> None:
        """Raises InputError if the options of a stage contradict each other or the data."""
        loss, masks = stage.ckd_args, self.args.mlm_probability > 0
        if self.args.streaming and self.training_args.do_train:
            check_streamed_stage(stage)
        if stage.dynamic_args.whole_student_teaches:
            raise InputError(
                "whole_student_teaches is set, but a language model is evaluated against a teacher: leave it out, and "
                "give teacher_model_name_or_path."
            )
        if loss.labels_and_logits and loss.alpha < 1 and not masks:
            raise InputError(
                f"labels_and_logits is set and alpha is {loss.alpha:g}, so masked tokens have a weight in the loss, "
                "but mlm_probability is 0: set mlm_probability to 0.15, or alpha to 1 to compare the logits of all "
                "tokens, or labels_and_logits to false to train with relations alone."
            )
        if not loss.labels_and_logits and not stage.has_terms:
            raise InputError(
                "no term of the loss has a weight: give one a weight, or set labels_and_logits to true and "
                "mlm_probability to 0.15 to train on masked tokens."
            )
        is_evaluated = stage.args.eval_strategy != "no" or (stage.args.do_eval and is_last)
        if is_evaluated and not loss.weights and not loss.labels_and_logits and _learns_projections(stage):
            raise InputError(
                "every term of the loss learns a projection, which exists only in training, so there is nothing to "
                "evaluate: leave out do_eval and eval_strategy, or give another term a weight."
            )
        if loss.teacher_cache_dir and masks:
            raise InputError(
                f"teacher_cache_dir is set, but mlm_probability is {self.args.mlm_probability:g}, and masks change "
                "from one epoch to the next, so the teacher has to run on each batch: leave out one of them."
            )

    def files(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        # Those of a stream are not read here, as that would take too long: see `sets_by_name`.
        files = {} if self.args.streaming else _by_option(self.args.training_sources, "train_file")
        if self.args.validation_source is not None and "validation" in splits:
            files["validation_file"] = self.args.validation_source
        return {option: [source.path] for option, source in files.items() if source.path is not None}

    def load(self, splits: Sequence[str]) -> None:
        """Reads the beginning of each source; `encode` reads the rest, and a stream is read while training."""
        args, held_out = self.args, self.args.validation_source
        self.reads_train = "train" in splits
        self.reads_validation = "validation" in splits
        reads_training = self.reads_train or (self.reads_validation and held_out is None)
        seed = data_seed(self.training_args)
        sources = args.training_sources if reads_training else []
        self.sources = [OpenText(source, args, "train", seed=seed) for source in sources]
        self.held_out = OpenText(held_out, args, "validation") if held_out and self.reads_validation else None
        sample = Dataset.from_dict({"text": [text for opened in self._opened for text in opened.sample]})
        self.data = SimpleNamespace(
            train=sample if self.reads_train else None,
            validation={"": sample} if self.reads_validation else {},
            test={},
            text_columns=("text",),
        )

    @property
    def _opened(self) -> list[OpenText]:
        return [*self.sources, *([] if self.held_out is None else [self.held_out])]

    def sets_by_name(self, splits: Sequence[str]) -> dict[str, dict[str, Dataset | None]]:
        """Returns what identifies each data set by name or streamed file: to read all of its rows takes long."""
        named: dict[str, dict[str, Dataset | None]] = {}
        for number, opened in enumerate(self.sources, start=1):
            source, identity = opened.source, opened.identity
            kind = "dataset_name" if source.path is None else "train_file"
            part = source.train_split_name or "train" if source.path is None else source.path.name
            if identity is not None:
                named[kind if len(self.sources) == 1 else f"sources {number}"] = {part: identity}
        if self.held_out is not None and self.held_out.identity is not None and "validation" in splits:
            named["validation_split_name"] = {"validation": self.held_out.identity}
        return named

    def check(self, pair: ModelPair) -> None:
        pair.fit_max_length(self.args)
        self.collator(pair.teacher_tokenizer)  # raises if it has no mask token
        if self.reads_head and pair.layers and pair.args.student_config:
            raise InputError(
                "student_config makes the student narrower than the teacher, but labels_and_logits needs the "
                "teacher's head, which cannot be made narrower: set labels_and_logits to false, or student_init to "
                "random."
            )

    def set_head(self, pair: ModelPair) -> None:
        """Leaves the heads as they are: a vocabulary, or none."""

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> ModelInputs:
        """Cuts the text into blocks, or opens those that an earlier run has cut, or a stream."""
        train: Any = None
        parts, held_out = [], []
        # First, as cutting the training text may take hours.
        own = None if self.held_out is None else self._blocks(self.held_out, tokenizer)
        for opened in () if self.args.streaming else self.sources:
            rest, held = self._divided(self._blocks(opened, tokenizer))
            parts.append(self._repeated(rest, opened.source.weight))
            held_out.append(held)
        if own is not None:
            held_out = [own]
        if self.reads_train and self.args.streaming:
            seed = data_seed(self.training_args)
            train = open_stream(self.sources, tokenizer, self._block_options, seed=seed)
        elif self.reads_train:
            train = self.args.sample(concatenate_datasets(parts), self.training_args.seed)
        validation = {"": self._limited(concatenate_datasets(held_out))} if self.reads_validation else {}
        return ModelInputs(train=train, validation=validation, test={})

    @property
    def _block_options(self) -> BlockOptions:
        return BlockOptions(self.args.max_seq_length or 0, self.args.keep_sentences, self.args.quoting)

    def _blocks(self, opened: OpenText, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        show = PartialState().is_local_main_process and not self.training_args.disable_tqdm
        blocks = opened.blocks(tokenizer, self._block_options, show_progress=show)
        logger.info("%s has %d blocks of at most %d tokens.", opened.source, len(blocks), self.args.max_seq_length)
        return blocks

    def _limited(self, blocks: Dataset) -> Dataset:
        limit = self.args.max_eval_samples
        return blocks if limit is None else blocks.select(np.sort(self._drawn(len(blocks), limit)))

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
        if not times and round(part * len(blocks)) == 0:
            raise InputError(
                f"a text in sources has the weight {weight:g}, which draws none of its {len(blocks)} blocks: give a "
                "greater weight."
            )
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
        if self.reads_head or not (pair.trains or self.training_args.push_to_hub):
            return
        args, config = pair.args, pair.student_config
        name = args.teacher_model_name_or_path if pair.layers else args.model_name_or_path
        head, why = None, "its weights are random"
        if name is not None and args.student_init != "random":
            head = language_head(name, pair.teacher_config if pair.layers else config, **pair.options)
            why = f"{name} has none" if head is None else f"that of {name} has another size"
        if head is not None and fits(config, head):
            trainer.language_head = head
            trainer.head_of = "the teacher" if pair.layers else f"`{public(str(name))}`"
        else:
            logger.info("The student is saved without a language-model head: %s.", why)


def _by_option(sources: Sequence[TextSource], option: str) -> dict[str, TextSource]:
    """Returns sources by the option that names them: `option` for a single one, or their places in `sources`."""
    if len(sources) == 1:
        return {option: sources[0]}
    return {f"sources {number}": source for number, source in enumerate(sources, start=1)}


def _learns_projections(stage: Stage) -> bool:
    """Returns whether all terms of a stage's methods learn a projection."""
    return all(method.projected == method.weights.keys() for method in stage.methods)
