"""The tasks of run_teacher.py and run_glue_ckd.py: classes, any number of labels per text, scores, or rankings."""

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.methods import MethodArguments
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.tasks.multi_label import MultiLabelClassification
from ckd_trainer.tasks.pipeline import run_task
from ckd_trainer.tasks.ranking import Ranking
from ckd_trainer.tasks.text_classification import TextClassification
from ckd_trainer.utils.errors import InputError


def text_task(data_args: GlueArguments, seed: int) -> TextClassification:
    """Returns the task that the options name; `seed` selects the training examples if max_train_samples is set."""
    if data_args.multi_label:
        return MultiLabelClassification(data_args, seed)
    return (Ranking if data_args.group_column else TextClassification)(data_args, seed)


def run_text_classification(
    model_args: ModelArguments,
    data_args: GlueArguments,
    run_args: RunArguments,
    args: TrainingArguments,
    ckd_args: CKDArguments | None = None,
    *more: MethodArguments | DynamicArguments,
) -> dict[str, float]:
    """Distills as the arguments say, or fine-tunes if no CKDArguments are given, see `run_task`."""
    task = text_task(data_args, args.seed)
    if args.label_smoothing_factor and not task.classifies:
        why = "a text has several labels" if data_args.multi_label else "the label is a number"
        raise InputError(f"label_smoothing_factor is set, but {why}, not a class: leave it out.")
    return run_task(task, model_args, data_args, run_args, args, ckd_args, *more)
