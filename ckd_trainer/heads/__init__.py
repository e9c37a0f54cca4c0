"""What a model's outputs mean: asked of a head in one place, and recognised nowhere else."""

from ckd_trainer.heads.base import Head
from ckd_trainer.heads.kinds import ANSWER_MASK, Classes, MultiLabel, NoHead, Score, Spans, Tokens, Vocabulary
from ckd_trainer.heads.recognition import head_of

__all__ = [
    "ANSWER_MASK",
    "Classes",
    "Head",
    "MultiLabel",
    "NoHead",
    "Score",
    "Spans",
    "Tokens",
    "Vocabulary",
    "head_of",
]
