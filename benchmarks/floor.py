"""The floor of a distillation step: its lowest possible cost, in bare PyTorch.

It has a teacher's forward pass, a student's forward and backward passes, and an optimizer step. There is no Trainer,
there are no hidden states, and the only loss is that on the labels.
"""

import copy

import torch
from transformers import BertConfig, BertForSequenceClassification

from ckd_trainer.models.student import student_from_layers


def bert_pair(teacher_layers, width):
    """Returns a BERT with random weights and heads of size 64, and a student with every other of its layers."""
    config = BertConfig(
        num_hidden_layers=teacher_layers,
        hidden_size=width,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
    )
    teacher = BertForSequenceClassification(config)
    return teacher, half_of(teacher)


def half_of(teacher):
    """Returns a student with the teacher's layers 2, 4, ..., as `skip` matches them."""
    layers = range(2, teacher.config.num_hidden_layers + 1, 2)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    return student_from_layers(teacher, layers, config)


def floor_step(teacher, student, optimizer, batch, bf16=False):
    """Runs one step with a frozen teacher in eval mode and a student in train mode, on a batch with labels."""
    texts = {name: value for name, value in batch.items() if name != "labels"}
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            teacher(**texts)
        loss = student(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
