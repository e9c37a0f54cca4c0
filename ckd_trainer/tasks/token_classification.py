"""Named entities in sentences or texts, for run_teacher.py and run_ner_ckd.py."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForTokenClassification, EvalPrediction, TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.entities import files_of, load_entities, load_validation_texts
from ckd_trainer.data.found_entities import write_entities
from ckd_trainer.data.hub import hub_name
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.data.windows import WindowCollator, check_windows, encode, read_decisions
from ckd_trainer.methods import MethodArguments
from ckd_trainer.metrics.entities import SCORES, EntityMetric, scores_of_counts, sentence_counts
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.reports.statistics import contributions
from ckd_trainer.tasks.base import ModelInputs, Task
from ckd_trainer.tasks.pipeline import run_task
from ckd_trainer.tasks.teacher_check import check_classes
from ckd_trainer.tasks.token_positions import DynamicTokenPositionsTrainer, TokenPositionsTrainer
from ckd_trainer.utils.units import UNITS, first_places

logger = logging.getLogger(__name__)


def run_token_classification(
    model_args: ModelArguments,
    data_args: NerArguments,
    run_args: RunArguments,
    args: TrainingArguments,
    ckd_args: CKDArguments | None = None,
    *more: MethodArguments | DynamicArguments,
) -> dict[str, float]:
    """Distills as the arguments say, or fine-tunes if no CKDArguments are given, see `run_task`."""
    return run_task(TokenClassification(data_args, args.seed), model_args, data_args, run_args, args, ckd_args, *more)


class TokenClassification(Task):
    """A data set by name, or the user's files.

    Args:
        seed: selects the training sentences if max_train_samples is set.
    """

    args: NerArguments
    classifies = False  # a text as a whole has no class
    model_class = AutoModelForTokenClassification
    trainer_class = TokenPositionsTrainer
    dynamic_trainer_class = DynamicTokenPositionsTrainer
    best_metric = "f1"
    metrics = SCORES

    def __init__(self, data_args: NerArguments, seed: int) -> None:
        self.args, self.seed = data_args, seed
        self.hub_dataset = hub_name(data_args)
        self.metric = EntityMetric(keep_in_memory=True)
        self._read: tuple[EvalPrediction, list[list[str]]] | None = None

    def files(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        return files_of(self.args, splits)

    def load(self, splits: Sequence[str]) -> None:
        self.data = load_entities(self.args, seed=self.seed, splits=splits)

    def load_texts(self) -> None:
        self.data = load_validation_texts(self.args)

    def check(self, pair: ModelPair) -> None:
        pair.fit_max_length(self.args)
        room = self.args.max_seq_length - pair.cutting_tokenizer.num_special_tokens_to_add()
        if "doc_stride" in self.args.by_default and 1 < room <= self.args.doc_stride:
            logger.info("doc_stride is %d, half of the %d tokens that a window has for the text.", room // 2, room)
            self.args.doc_stride = room // 2
        check_windows(pair.cutting_tokenizer, self.args)

    def set_head(self, pair: ModelPair) -> None:
        pair.set_labels(self.data.label_names)

    def encode(self, tokenizer: Tokenizer) -> ModelInputs:
        def windows(sentences: Dataset, with_words: bool) -> Dataset:
            return encode(sentences, tokenizer, self.args, with_words=with_words)

        return ModelInputs(
            train=None if self.data.train is None else windows(self.data.train, False),
            validation={name: windows(data, True) for name, data in self.data.validation.items()},
            test={name: windows(data, True) for name, data in self.data.test.items()},
        )

    @property
    def unlabeled_columns(self) -> dict[str, str]:
        return {"text": self.args.text_column}

    def encode_unlabeled(self, texts: Dataset, tokenizer: Tokenizer) -> Dataset:
        return encode(texts, tokenizer, self.args, with_words=False)

    def collator(self, tokenizer: Tokenizer) -> Callable[[list], Mapping[str, torch.Tensor]]:
        return WindowCollator(tokenizer, self.args.max_seq_length if self.args.pad_to_max_length else None)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return self.metric.compute(predictions=self._validation_tags(prediction), references=self._references())

    def contributions(self, prediction: EvalPrediction, inputs: Dataset) -> dict[str, np.ndarray]:
        """Returns those of sentences, or of groups of them, by a jackknife: F1 is not a mean over sentences."""
        counts = sentence_counts(self._validation_tags(prediction), self._references())
        return contributions(lambda _, some: scores_of_counts(some), counts, counts) if len(counts) > 1 else {}

    def _validation_tags(self, prediction: EvalPrediction) -> list[list[str]]:
        """Returns the tags of the validation set. They are read once for its scores and for its contributions."""
        if self._read is None or self._read[0] is not prediction:
            sentences, windows = self.data.validation[""], self.inputs.validation[""]
            decisions = read_decisions(sentences, windows, prediction.predictions)
            self._read = prediction, [self._named(one.tags) for one in decisions]
        return self._read[1]

    def _references(self) -> list[list[str]]:
        return [self._named(tags) for tags in self.data.validation[""]["tags"]]

    def _named(self, tags: Sequence[int] | np.ndarray) -> list[str]:
        return [self.data.label_names[tag] for tag in tags]

    def check_teacher(self, logits: torch.Tensor, examples: Dataset, split: str) -> None:
        """See `check_classes`; each labeled word is an example."""
        labels = [torch.tensor(row) for row in examples["labels"]]
        if UNITS in examples.column_names:
            labels = [row[first_places(units)] for row, units in zip(labels, examples[UNITS], strict=True)]
        answers = [row[:, : len(its)].argmax(0) for row, its in zip(logits, labels, strict=True)]
        wanted, found = torch.cat(labels), torch.cat(answers)
        given = wanted != -100
        check_classes(wanted[given], found[given], self.data.label_names, split)

    def write_predictions(self, name: str, logits: np.ndarray, folder: Path) -> Path:
        decisions = read_decisions(self.data.test[name], self.inputs.test[name], logits)
        return write_entities(self.data.test[name], decisions, self.data.label_names, folder)
