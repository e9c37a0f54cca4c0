"""Distillation methods, one file each, with a function `terms(args, pair)` that returns the terms of a run."""

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.methods import ckd, logits
from ckd_trainer.methods.base import Pair, Term

__all__ = ["METHODS", "Pair", "Term", "terms_of"]

METHODS = (logits, ckd)


def terms_of(args: CKDArguments, pair: Pair) -> list[Term]:
    """Returns the terms with a weight above 0, of all methods."""
    return [term for method in METHODS for term in method.terms(args, pair)]
