"""Contextual Knowledge Distillation for the Hugging Face `Trainer`."""

from ckd_trainer.arguments import CKDArguments, GlueArguments, ModelArguments, RunArguments, SquadArguments
from ckd_trainer.trainer import DistillationTrainer

__all__ = ["CKDArguments", "DistillationTrainer", "GlueArguments", "ModelArguments", "RunArguments", "SquadArguments"]
