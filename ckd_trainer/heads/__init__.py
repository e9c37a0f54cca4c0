"""Heads: what the outputs of a model mean. All code that depends on it asks the head."""

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
