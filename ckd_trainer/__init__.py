"""Contextual Knowledge Distillation for the Hugging Face `Trainer`."""

from ckd_trainer.arguments import CKDArguments, GlueArguments, ModelArguments, RunArguments
from ckd_trainer.trainer import DistillationTrainer

__all__ = ["CKDArguments", "DistillationTrainer", "GlueArguments", "ModelArguments", "RunArguments"]
