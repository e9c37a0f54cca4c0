"""The two versions of SQuAD: names on the Hub, official files and metrics."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SquadTask:
    """A version of SQuAD.

    `null_answers` is set if some questions have no answer. `files` holds the names of the official files by split.
    """

    hub_name: str
    files: dict[str, str]
    null_answers: bool
    metrics: tuple[str, ...]  # each of them can choose the best checkpoint
    best_metric: str = "f1"


SQUAD_TASKS = {
    "squad": SquadTask(
        "rajpurkar/squad",
        {"train": "train-v1.1.json", "validation": "dev-v1.1.json"},
        null_answers=False,
        metrics=("exact_match", "f1"),
    ),
    "squad_v2": SquadTask(
        "rajpurkar/squad_v2",
        {"train": "train-v2.0.json", "validation": "dev-v2.0.json"},
        null_answers=True,
        metrics=("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1"),
    ),
}
