"""What methods that compare attentions need of the models."""

from ckd_trainer.methods.base import Pair
from ckd_trainer.utils.errors import InputError

QUERY, KEY, VALUE = range(3)  # in the signal `QueryKeyValue`
# Their attention is softmax(Q K^T / sqrt(d)). Others add or rotate positions within the attention.
_PLAIN_ATTENTION = ("bert", "distilbert", "electra", "roberta")


def check_equal_heads(pair: Pair, method: str) -> int:
    """Returns the number of attention heads of both models; raises InputError if they differ."""
    ours, theirs = pair.student.num_attention_heads, pair.teacher.num_attention_heads
    if ours != theirs:
        raise InputError(
            f"{method} compares head with head, but the student has {ours} attention heads and the teacher {theirs}: "
            "use minilmv2_weight, which takes any."
        )
    return ours


def check_plain_attention(pair: Pair, option: str) -> None:
    """Raises InputError if the attention of a model is more than softmax(Q K^T / sqrt(d))."""
    for config in (pair.student, pair.teacher):
        if config.model_type not in _PLAIN_ATTENTION:
            raise InputError(
                f"{option} is set, but the attention of a {config.model_type} model also depends on positions, which "
                f"the term does not read: set it to 0, or use {', '.join(_PLAIN_ATTENTION)} models."
            )
