"""Requirements of methods that compare attentions."""

from ckd_trainer.methods.base import Pair
from ckd_trainer.utils.errors import InputError

QUERY, KEY, VALUE = range(3)  # in the signal `QueryKeyValue`
# Their attention is softmax(Q K^T / sqrt(d)). Others add or rotate positions within the attention.
_PLAIN_ATTENTION = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")


def check_sees_all(pair: Pair, option: str) -> None:
    """Raises InputError for causal models: the terms compare each token with all others."""
    if pair.is_causal:
        raise InputError(
            f"{option} is set, but it compares each token with those after it too, which a causal model does not "
            "see: set it to 0."
        )


def check_equal_heads(pair: Pair, option: str) -> int:
    """Returns the number of attention heads of both models; raises InputError if they differ."""
    ours, theirs = pair.student.num_attention_heads, pair.teacher.num_attention_heads
    if ours != theirs:
        raise InputError(
            f"{option} is set, which compares head with head, but the student has {ours} attention heads and the "
            f"teacher {theirs}: set it to 0, or use minilmv2_weight, whose relation heads only need to divide both "
            "widths."
        )
    return ours


def check_plain_attention(pair: Pair, option: str) -> None:
    """Raises InputError if the attention of a model is more than softmax(Q K^T / sqrt(d))."""
    for config in (pair.student, pair.teacher):
        if config.model_type not in _PLAIN_ATTENTION:
            raise InputError(
                f"{option} is set, but the attention of {config.model_type} models also depends on positions, or is "
                f"unknown: set it to 0, or use {', '.join(_PLAIN_ATTENTION)} models."
            )
