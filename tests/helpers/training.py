"""A trainer for tests: examples of token ids, a collator, and options that activate every term."""

import torch
from datasets import Dataset
from transformers import TrainingArguments

from ckd_trainer import CKDArguments, DistillationTrainer

# Tests do not rely on defaults.
CONTROL = {"alpha": 0, "wr_distance_weight": 0, "wr_angle_weight": 0, "ltr_distance_weight": 0, "ltr_angle_weight": 0}
ALL_TERMS = {"alpha": 0.5, "window_size": 3, "relation_normalization": "pairs", "relation_temperature": 1.0} | {
    name: 2.0 for name in CONTROL if name.endswith("_weight")
}


def examples(count=48, seed=0, labels=2, types=False):
    """Returns rows of 3 to 11 token ids, with balanced labels; `types` divides them into two segments."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        length = int(torch.randint(3, 12, (), generator=draw))
        row = {"input_ids": torch.randint(5, 22, (length,), generator=draw).tolist(), "attention_mask": [1] * length}
        if types:
            row["token_type_ids"] = [0] * (length // 2) + [1] * (length - length // 2)
        rows.append(row | {"labels": index % labels})
    return Dataset.from_list(rows)


def pad(rows):
    """A collator without a tokenizer: zeros on the right."""
    length = max(len(row["input_ids"]) for row in rows)
    return {
        name: torch.tensor(
            [row[name] + [0] * (length - len(row[name])) if isinstance(row[name], list) else row[name] for row in rows]
        )
        for name in rows[0]
    }


def trainer(cls, folder, model, steps=1, train=None, **kwargs):
    """Returns a trainer of class `cls` that logs each step; by default with all terms of the loss."""
    options = {"learning_rate": 1e-3, "max_steps": steps, "logging_steps": 1, "per_device_train_batch_size": 8}
    options |= kwargs.pop("options", {})
    args = TrainingArguments(folder, report_to="none", use_cpu=True, disable_tqdm=True, **options)
    train = train or examples()
    kwargs.setdefault("data_collator", pad)
    if issubclass(cls, DistillationTrainer):
        kwargs.setdefault("ckd_args", CKDArguments(**ALL_TERMS))
    return cls(model=model, args=args, train_dataset=train, eval_dataset=train, **kwargs)


def logs(trainer):
    """Returns the log entries of a training, one per step."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]
