"""Extractive question answering on SQuAD and similar data, for run_teacher.py and run_squad_ckd.py."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, EvalPrediction, TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.hub import hub_name
from ckd_trainer.data.spans import Answers, read_answers, write_answers
from ckd_trainer.data.squad import files_of, load_questions
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_features import SpanCollator, check_lengths, encode
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.methods import MethodArguments
from ckd_trainer.metrics.squad import SquadMetric, question_scores
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.tasks.base import ModelInputs, Task
from ckd_trainer.tasks.pipeline import run_task
from ckd_trainer.tasks.token_positions import DynamicTokenPositionsTrainer, TokenPositionsTrainer
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.units import UNITS, first_places

logger = logging.getLogger(__name__)


def run_question_answering(
    model_args: ModelArguments,
    data_args: SquadArguments,
    run_args: RunArguments,
    args: TrainingArguments,
    ckd_args: CKDArguments | None = None,
    *more: MethodArguments | DynamicArguments,
) -> dict[str, float]:
    """Distills as the arguments say, or fine-tunes if no CKDArguments are given, see `run_task`."""
    if args.label_smoothing_factor:
        raise InputError("label_smoothing_factor is set, but question-answering models do not smooth: leave it out.")
    return run_task(QuestionAnswering(data_args, args.seed), model_args, data_args, run_args, args, ckd_args, *more)


class QuestionAnswering(Task):
    """SQuAD v1.1 or v2.0, a data set by name, or the user's files.

    Args:
        seed: selects the training questions if max_train_samples is set.
    """

    args: SquadArguments
    classifies = False
    model_class = AutoModelForQuestionAnswering
    trainer_class = TokenPositionsTrainer
    dynamic_trainer_class = DynamicTokenPositionsTrainer

    def __init__(self, data_args: SquadArguments, seed: int) -> None:
        self.args, self.seed = data_args, seed
        self.squad = SQUAD_TASKS[data_args.task_name]
        self.best_metric, self.metrics = self.squad.best_metric, self.squad.metrics
        self.hub_dataset = self.squad.hub_name if data_args.reads_hub else hub_name(data_args)
        self.metric = SquadMetric(config_name=data_args.task_name, keep_in_memory=True)
        self._read: tuple[EvalPrediction, Answers] | None = None

    def files(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        return files_of(self.args, splits)

    def load(self, splits: Sequence[str]) -> None:
        self.data = load_questions(self.args, seed=self.seed, splits=splits)

    def check(self, pair: ModelPair) -> None:
        pair.fit_max_length(self.args)
        special = pair.cutting_tokenizer.num_special_tokens_to_add(pair=True)
        room = self.args.max_seq_length - self.args.max_question_length - special
        if "doc_stride" in self.args.by_default and 0 < room <= self.args.doc_stride:
            logger.info("doc_stride is %d, half of the %d tokens that a feature has for the context.", room // 2, room)
            self.args.doc_stride = room // 2
        check_lengths(pair.cutting_tokenizer, self.args)

    def set_head(self, pair: ModelPair) -> None:
        pair.set_span_head()

    def encode(self, tokenizer: Tokenizer) -> ModelInputs:
        def features(questions: Dataset, with_offsets: bool) -> Dataset:
            return encode(questions, tokenizer, self.args, with_offsets=with_offsets)

        train, validation, test = self.data.train, self.data.validation, self.data.test
        inputs = ModelInputs(
            train=None if train is None else features(train, False),
            validation={name: features(data, True) for name, data in validation.items()},
            test={name: features(data, True) for name, data in test.items() if data is not validation.get(name)},
        )
        for name in test.keys() - inputs.test.keys():  # the questions of the validation set
            inputs.test[name] = inputs.validation[name].remove_columns(["start_positions", "end_positions"])
        return inputs

    @property
    def unlabeled_columns(self) -> dict[str, str]:
        return {"question": "question", "context": "context"}

    def encode_unlabeled(self, texts: Dataset, tokenizer: Tokenizer) -> Dataset:
        return encode(texts, tokenizer, self.args, with_offsets=False)

    def collator(self, tokenizer: Tokenizer) -> SpanCollator:
        return SpanCollator(tokenizer, self.args.max_seq_length if self.args.pad_to_max_length else None)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        answers, references = self._validation_answers(prediction), self._references(self.data.validation[""])

        def scores(texts: Mapping[str, str]) -> dict[str, float]:
            predictions: list[dict[str, Any]] = [{"id": name, "prediction_text": text} for name, text in texts.items()]
            if answers.null_odds is not None:
                predictions = [row | {"no_answer_probability": answers.null_odds[row["id"]]} for row in predictions]
            return self.metric.compute(predictions=predictions, references=references)

        if answers.null_odds is None:
            return scores(answers.text)
        # The best threshold is found on all answers, before this run's threshold empties some of them.
        best = {name: value for name, value in scores(answers.text).items() if name.startswith("best_")}
        return scores(answers.final(self.args.null_score_diff_threshold)) | best

    def contributions(self, prediction: EvalPrediction, inputs: Dataset) -> dict[str, np.ndarray]:
        """Returns the scores of each question."""
        texts = self._validation_answers(prediction).final(self.args.null_score_diff_threshold)
        scores = question_scores(self.args.task_name, texts, self._references(self.data.validation[""]))
        return {name: np.array(values) for name, values in scores.items()}

    def _validation_answers(self, prediction: EvalPrediction) -> Answers:
        """Returns the answers for the validation set. They are read once for its scores and for its contributions."""
        if self._read is None or self._read[0] is not prediction:
            logits, questions = prediction.predictions, self.data.validation[""]
            self._read = prediction, self._answers(questions, self.inputs.validation[""], logits, n_best=1)
        return self._read[1]

    def _references(self, questions: Dataset) -> list[dict[str, Any]]:
        gold = questions.select_columns(["id", "answers"])[:]
        return [{"id": name, "answers": answers} for name, answers in zip(gold["id"], gold["answers"], strict=True)]

    def _answers(self, questions: Dataset, features: Dataset, logits: tuple[np.ndarray, ...], n_best: int) -> Answers:
        return read_answers(
            questions,
            features,
            *logits,
            n_best=n_best,
            max_answer_length=self.args.max_answer_length,
            null_answers=self.squad.null_answers,
        )

    def check_teacher(self, logits: torch.Tensor, examples: Dataset, split: str) -> None:
        """Warns if the starts of the teacher's answers have nothing to do with the right ones.

        By chance, the share sum_p P(teacher predicts p) P(p is right) of them would be right. The teacher counts as
        guessing if it is not right more often than that plus two standard errors. Features without an answer do not
        count: a teacher that always predicts "no answer" is right there. Fewer than 10 features are not judged.
        """
        length = logits.shape[-1]
        answer_masks, positions = examples["answer_mask"], examples["start_positions"][:]
        if UNITS in examples.column_names:
            units = examples[UNITS]
            answer_masks = [np.array(mask)[first_places(its)] for mask, its in zip(answer_masks, units, strict=True)]
            # An answer in no unit is left out, like none.
            positions = [max(0, its[position]) for position, its in zip(positions, units, strict=True)]
        masks = torch.zeros(len(examples), length, dtype=torch.bool)
        for row, mask in enumerate(answer_masks):
            masks[row, : len(mask)] = torch.as_tensor(mask, dtype=torch.bool)
        cls = masks.int().argmax(-1)
        starts = torch.tensor(positions)
        said = logits[:, 0].masked_fill(~masks, torch.finfo(logits.dtype).min).argmax(-1)
        said, starts = said[starts != cls], starts[starts != cls]
        count = len(starts)
        if count < 10:
            return
        right = float((said == starts).float().mean())
        chance = float((said.bincount(minlength=length) * starts.bincount(minlength=length)).sum()) / count**2
        result = f"right about where {right:.1%} of the answers start (by chance: {chance:.1%})"
        if right <= chance + 2 * (chance * (1 - chance) / count) ** 0.5:
            logger.warning(
                "THE TEACHER SCORES AT CHANCE: %s in %d %s features. A student learns nothing from it. Was it "
                "fine-tuned for question answering, on this kind of data?",
                result,
                count,
                split,
            )
        else:
            logger.info("The teacher on %d %s features: %s.", count, split, result)

    def write_predictions(self, name: str, logits: tuple[np.ndarray, ...], folder: Path) -> Path:
        answers = self._answers(self.data.test[name], self.inputs.test[name], logits, n_best=self.args.n_best_size)
        return write_answers(answers, folder, null_threshold=self.args.null_score_diff_threshold)
