"""The teacher's answers to a task's examples, before training: are they right, and of which texts is it sure?"""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.utils.data import DataLoader

from ckd_trainer.tasks.base import ModelInputs, Task
from ckd_trainer.tasks.inputs import drawn
from ckd_trainer.tasks.teacher_check import SAMPLE_SIZE
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)


def check_answers(
    task: Task, trainer: DistillationTrainer, inputs: ModelInputs, classes: int, *, reads_logits: bool
) -> None:
    """Lets the task check the teacher's logits for a sample, before the teacher's cache is built."""
    cached = trainer.caches_teacher and trainer.teacher.has_cache(trainer.train_dataset)
    split = "validation" if "" in inputs.validation and not (cached and inputs.train) else "training"
    examples = inputs.validation[""] if split == "validation" else inputs.train
    if examples is None:
        return  # no labels to compare the answers with
    rows = drawn(examples, trainer.args.seed, max(SAMPLE_SIZE, 10 * classes))
    sample = examples.select(rows)
    if split == "training" and cached:
        trainer.open_teacher_cache()
        logits = trainer.teacher.cached_logits(rows)
    else:
        logits, unmapped = _live_logits(trainer, sample)
        if reads_logits and unmapped is not None:
            logger.info(
                "In %d %s examples, at least %.1f%% of the teacher's probability falls on tokens without a "
                "counterpart in the student's encoding, so the student cannot learn it.",
                len(sample),
                split,
                100 * unmapped.mean(),
            )
    try:
        task.check_teacher(trainer.ckd_args.map_scores(logits), sample, split)
    except InputError as error:
        if reads_logits:
            raise
        # Its hidden states may still be useful.
        logger.warning("No term of the loss reads the teacher's logits, but %s", error)


def sure_of(trainer: DistillationTrainer, confidence: float) -> np.ndarray:
    """Returns the rows of the unlabeled examples for which the teacher gives one class at least this probability."""
    rows = trainer.mixture.unlabeled
    blocks = np.array_split(rows, len(rows) // 100_000 + 1)
    surest = np.concatenate(
        [trainer.teacher.cached_logits(block).float().softmax(-1).amax(-1).numpy() for block in blocks]
    )
    kept = rows[surest >= confidence]
    logger.info("The teacher is sure of %d of %d unlabeled texts.", len(kept), len(rows))
    if len(kept) == 0:
        raise InputError(
            f"unlabeled_min_confidence is {confidence:g}, but the teacher's highest is {surest.max():.3f}: give a "
            "lower one."
        )
    return kept


def _live_logits(trainer: DistillationTrainer, sample: Dataset) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns the logits of all examples, and what `Head.unmapped` returns for them."""
    source = trainer.teacher
    teacher = source.live()
    loader = DataLoader(
        sample,
        batch_size=trainer.args.eval_batch_size,
        collate_fn=trainer.data_collator,
        generator=torch.Generator(),  # the default generator is the one that dropout uses
    )
    batches = ({name: value.to(trainer.args.device) for name, value in batch.items()} for batch in loader)
    parts, unmapped = zip(*(source.live_logits(teacher, batch) for batch in batches), strict=True)
    longest = max(part.shape[-1] for part in parts)
    logits = torch.cat([F.pad(part.cpu(), (0, longest - part.shape[-1])) for part in parts])
    return logits, None if unmapped[0] is None else torch.cat(unmapped).cpu()
