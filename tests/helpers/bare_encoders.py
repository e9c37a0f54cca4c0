"""Training of a bare encoder, the same in one process and in a script for several."""

import torch
from transformers import BertModel, TrainingArguments

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.methods import Term
from ckd_trainer.teacher.signals import QueryKeyValue
from ckd_trainer.utils.padding import attention_mask_of
from helpers.tiny import tiny_config
from helpers.training import CONTROL, examples, pad


class Queries(Term):
    """Queries within the last layer: no loss reaches what that layer returns."""

    name, weight = "queries", 0.1
    student_signal, teacher_signal = QueryKeyValue((2,)), QueryKeyValue((4,))

    def forward(self, student, teacher, batch):
        errors = (student[0][0] - teacher[0][0]).square().mean(-1)
        return errors[attention_mask_of(batch).bool()].mean()

    def count(self, batch):
        return attention_mask_of(batch).sum()


def distill(folder, batch_size, **options):
    """Trains three steps; returns the trainer."""
    args = TrainingArguments(
        folder,
        per_device_train_batch_size=batch_size,
        max_steps=3,
        logging_steps=1,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    torch.manual_seed(0)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    run = DistillationTrainer(
        model=BertModel(tiny_config(layers=2, **no_dropout)),
        teacher_model=BertModel(tiny_config(layers=4, **no_dropout)),
        ckd_args=CKDArguments(**CONTROL),
        terms=[Queries()],
        args=args,
        train_dataset=examples().remove_columns("labels"),
        data_collator=pad,
    )
    run.train()
    return run
