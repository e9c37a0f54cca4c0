"""What the name of a metric says, with or without eval_, mean_ and a sub-network at its end."""

import re

_ERRORS = {"loss", "rmse", "perplexity"}
_OF_LABELS = ("_f1", "_f1_tuned", "_precision", "_recall")  # after the name of a label, which may be weight_loss
_SUBNETWORK = re.compile(r"_w[\d.e-]+_d[\d.e-]+$")
_NOT_SCORES = ("_runtime", "_per_second", "_preparation_time", "_samples", "_number")


def less_is_better(name: str) -> bool:
    """Returns whether less of a metric is better, such as of rmse, mean_loss or eval_perplexity."""
    return not (without_subnetwork(name).endswith(_OF_LABELS) or _ERRORS.isdisjoint(name.split("_")))


def is_score(name: str) -> bool:
    """Returns whether a metric says how good a model is, unlike timings and counts such as eval_runtime."""
    return not without_subnetwork(name).endswith(_NOT_SCORES)


def without_subnetwork(name: str) -> str:
    """Returns a name without the sub-network at its end: accuracy for accuracy_w0.5_d1."""
    return _SUBNETWORK.sub("", name)
