"""Classification and regression of texts, from arguments to a run folder: what run_teacher and run_glue_ckd share."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, TrainingArguments

from ckd_trainer.arguments import CKDArguments, GlueArguments, ModelArguments, RunArguments
from ckd_trainer.compatibility import check_encodings
from ckd_trainer.data.glue import (
    TextTask,
    compute_metrics_for,
    load_task,
    metrics_of,
    tokenize,
    write_predictions,
)
from ckd_trainer.errors import InputError
from ckd_trainer.models import ModelPair
from ckd_trainer.objective import CKDObjective
from ckd_trainer.runner import run, start, use_best_metric
from ckd_trainer.teacher import PREFIX
from ckd_trainer.trainer import DistillationTrainer

logger = logging.getLogger(__name__)

CHECKED_EXAMPLES = 256  # do the tokenizers agree, does the teacher know the task


def run_text_classification(
    model_args: ModelArguments,
    data_args: GlueArguments,
    run_args: RunArguments,
    args: TrainingArguments,
    ckd_args: CKDArguments | None = None,
) -> dict[str, float]:
    """Distils as the arguments say, or fine-tunes where no CKDArguments are given.

    Returns:
        the metrics of all_results.json that this call measured.

    Raises:
        InputError: before any weights are loaded, for everything that can be told from the arguments, the models'
            configurations and tokenizers, and the data.
    """
    arguments = [model_args, data_args, ckd_args, run_args, args]
    use_best_metric(args, *metrics_of(data_args))
    begin = start(*(group for group in arguments if group is not None))
    trains = args.do_train and not begin.is_trained
    if begin.is_trained:
        model_args = ModelArguments(args.output_dir, trust_remote_code=model_args.trust_remote_code)
    elif not args.do_train and model_args.student_init != "pretrained":
        raise InputError(
            f"do_train is off, but student_init {model_args.student_init} makes a student that was never trained."
        )
    if ckd_args is None or not trains:
        ckd_args = CKDArguments.fine_tuning()

    # Files here are read before a model is looked up, and data on the Hub after: no mistake costs a download.
    reads = {"train": trains, "validation": args.do_eval, "test": args.do_predict}
    splits = [split for split, wanted in reads.items() if wanted]
    on_hub = data_args.task_name and not data_args.data_dir
    task = None if on_hub else load_task(data_args, seed=args.seed, splits=splits)
    pair = ModelPair(model_args, ckd_args.wr_layer_mapping, distils=bool(ckd_args.weights), trains=trains)
    if begin.overwrites and Path(args.output_dir).resolve() in map(Path.resolve, pair.folders):
        raise InputError(f"output_dir {args.output_dir} holds a model that this run reads: give another output_dir.")
    pair.check_max_length(data_args.max_seq_length)
    if pair.distils:  # raises where a layer mapping does not fit
        CKDObjective(ckd_args, pair.student_config.num_hidden_layers, pair.teacher_config.num_hidden_layers)
    task = task or load_task(data_args, seed=args.seed, splits=splits)
    pair.set_labels(task.label_names)
    sample = next(iter([*task.validation.values(), *task.test.values(), task.train]))
    sample = sample.shuffle(seed=args.seed).select(range(min(CHECKED_EXAMPLES, len(sample))))
    if pair.distils:
        texts = zip(*(sample[name] for name in task.text_columns), strict=True)
        check_encodings(pair.tokenizer, pair.teacher_tokenizer, texts)

    with args.main_process_first(desc="tokenizing"):
        train, validation, test = (
            {name: tokenize(split, task, pair.teacher_tokenizer, data_args) for name, split in splits.items()}
            for splits in ({"": task.train} if trains else {}, task.validation, task.test)
        )
    student, teacher = pair.load()
    trainer = _make_trainer(
        model=student,
        teacher=teacher,
        ckd_args=ckd_args,
        args=args,
        train_dataset=train.get(""),
        eval_dataset=validation.get(""),
        data_collator=DataCollatorWithPadding(pair.teacher_tokenizer),
        processing_class=pair.tokenizer,
        compute_metrics=compute_metrics_for(task),
    )
    if teacher is not None and trainer.caches_teacher:
        rows = np.random.default_rng(args.seed).permutation(len(trainer.train_dataset))[:CHECKED_EXAMPLES]
        warn_of_chance(_cached_logits(trainer, rows), trainer.train_dataset.select(rows)["labels"], task, "training")
    elif teacher is not None and "" in validation:
        checked = tokenize(sample, task, pair.teacher_tokenizer, data_args)
        warn_of_chance(_live_logits(trainer, checked), checked["labels"], task, "validation")
    return run(
        trainer,
        start=begin,
        early_stopping_patience=run_args.early_stopping_patience,
        evaluation=validation,
        prediction=test,
        write_predictions=lambda name, logits, folder: write_predictions(task, name, logits, folder),
    )


def _make_trainer(**kwargs) -> DistillationTrainer:
    try:
        return DistillationTrainer(**kwargs)
    except (ValueError, RuntimeError, ImportError, OSError) as error:  # a tracker that is missing, no network, ...
        raise InputError(str(error)) from error


def _cached_logits(trainer: DistillationTrainer, rows: np.ndarray) -> torch.Tensor:
    teacher = trainer.teacher  # opens the cache, or builds it
    return teacher.logits({PREFIX + "logits": torch.from_numpy(trainer.teacher_cache.read(rows)["logits"])})


def _live_logits(trainer: DistillationTrainer, sample: Dataset) -> torch.Tensor:
    logits = []
    for batch in DataLoader(sample, batch_size=trainer.args.eval_batch_size, collate_fn=trainer.data_collator):
        batch = {name: value.to(trainer.args.device) for name, value in batch.items()}
        logits.append(trainer.teacher.logits(batch).cpu())
    return torch.cat(logits).float()


def warn_of_chance(logits: torch.Tensor, labels: Sequence, task: TextTask, split: str) -> None:
    """Warns loudly where the teacher's answers on a sample of a split have nothing to do with the labels.

    Measured by a correlation that chance leaves at 0 whatever the balance of the classes (Matthews, or Pearson for
    scores), whose standard error by chance is 1 / sqrt(n); below two of them the teacher is taken to guess. Nothing is
    said of fewer than 10 examples or of one answer for all, which tell nothing.
    """
    if len(labels) < 10 or len(set(labels)) < 2:
        return
    if task.is_regression:
        correlation = float(pearsonr(logits[:, 0], labels).statistic)
        result = f"Pearson correlation {correlation:.3f}"
    else:
        answers = logits.argmax(-1)
        correlation = matthews_corrcoef(labels, answers)
        result = f"accuracy {accuracy_score(labels, answers):.3f}, Matthews correlation {correlation:.3f}"
    if not correlation > 2 / len(labels) ** 0.5:
        logger.warning(
            "THE TEACHER SCORES AT CHANCE: %s on %d %s examples. A student learns nothing from it. Was it "
            "fine-tuned on this task, with these labels in this order (%s)?",
            result,
            len(labels),
            split,
            ", ".join(task.label_names or ["a score"]),
        )
    else:
        logger.info("The teacher on %d %s examples: %s.", len(labels), split, result)
