"""Distillation methods, one file each."""

import dataclasses
from collections.abc import Sequence

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.methods import ckd, logits
from ckd_trainer.methods.attribution import AttributionArguments
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.methods.distilbert import DistilBERTArguments
from ckd_trainer.methods.gram import GramArguments
from ckd_trainer.methods.minilm import MiniLMArguments, MiniLMv2Arguments
from ckd_trainer.methods.pkd import PKDArguments
from ckd_trainer.methods.ranking import RankingArguments
from ckd_trainer.methods.tinybert import TinyBERTArguments

__all__ = [
    "METHODS",
    "AttributionArguments",
    "DistilBERTArguments",
    "GramArguments",
    "MethodArguments",
    "MiniLMArguments",
    "MiniLMv2Arguments",
    "PKDArguments",
    "Pair",
    "RankingArguments",
    "Term",
    "TinyBERTArguments",
    "terms_of",
]

# The options of the methods beside CKD, for scripts and recipes.
METHODS: tuple[type[MethodArguments], ...] = (
    PKDArguments,
    DistilBERTArguments,
    TinyBERTArguments,
    MiniLMArguments,
    MiniLMv2Arguments,
    GramArguments,
    AttributionArguments,
    RankingArguments,
)


def terms_of(args: CKDArguments, methods: Sequence[MethodArguments], pair: Pair) -> list[Term]:
    """Returns the terms with a weight above 0: the logits, CKD's, and those of the other methods."""
    pair = dataclasses.replace(pair, teacher_score_scale=args.teacher_score_scale)
    return [
        *logits.terms(args, pair),
        *ckd.terms(args, pair),
        *(term for method in methods for term in method.terms(pair)),
    ]
