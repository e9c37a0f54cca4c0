"""Students that could go into production: their scores and costs, and the best one for a budget."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ckd_trainer.export.subnetworks import trained_subnetworks
from ckd_trainer.models.sizes import size_of_weights
from ckd_trainer.models.subnetworks import SubNetwork
from ckd_trainer.reports.runs import read_runs
from ckd_trainer.utils.errors import InputError

_ROUNDS = 30  # of timed batches; the median ignores what disturbs some of them


@dataclass
class Candidate:
    """A student, or a sub-network of a dynamic one.

    Attributes:
        name: of the run, and of the sub-network.
        folder: of the run.
        part: the sub-network; None for a student that is not dynamic.
        score: on the validation set; more is better.
        parameters, size_mb: of the plain model; the size is that of its weights, in 10^6 bytes.
        latency_ms: the median time of a batch.
    """

    name: str
    folder: Path
    part: SubNetwork | None
    score: float
    parameters: int = 0
    size_mb: float = 0.0
    latency_ms: float = 0.0


@dataclass(frozen=True)
class Budget:
    """The limits of a search. Without limits, the best-scoring student wins.

    Attributes:
        max_latency_ms, max_parameters, max_size_mb: the most that a student may cost; None for any.
        min_score: the least that it must score. The search is then for the fastest such student.
    """

    max_latency_ms: float | None = None
    max_parameters: int | None = None
    max_size_mb: float | None = None
    min_score: float | None = None

    def allows(self, one: Candidate) -> bool:
        """Returns whether a candidate is within all limits."""
        costs = (
            (one.latency_ms, self.max_latency_ms),
            (one.parameters, self.max_parameters),
            (one.size_mb, self.max_size_mb),
        )
        is_good = self.min_score is None or one.score >= self.min_score
        return is_good and all(limit is None or cost <= limit for cost, limit in costs)

    def check(self, candidates: Sequence[Candidate]) -> None:
        """Raises InputError if no candidate is within the limits. Costs of 0, not measured yet, are within them."""
        if any(map(self.allows, candidates)):
            return
        best = max(candidates, key=lambda one: one.score)
        fastest = min(candidates, key=lambda one: one.latency_ms)
        smallest = min(candidates, key=lambda one: one.parameters)
        lightest = min(candidates, key=lambda one: one.size_mb)
        there = {
            "min_score": f"the best score is {best.score:.4f} ({best.name})",
            "max_latency_ms": f"the lowest latency is {fastest.latency_ms:.2f} ms ({fastest.name})",
            "max_parameters": f"the fewest parameters are {smallest.parameters:,} ({smallest.name})",
            "max_size_mb": f"the smallest size is {lightest.size_mb:.1f} MB ({lightest.name})",
        }
        if fastest.latency_ms == 0:
            del there["max_latency_ms"]
        limits = {name: limit for name in there if (limit := getattr(self, name)) is not None}
        alone = {name: Budget(**{name: limit}) for name, limit in limits.items()}
        missed = [name for name, budget in alone.items() if not any(map(budget.allows, candidates))]
        what = "is within the budget" if missed else "is within all limits of the budget"
        parts = [f"{name} is {limits[name]}, {'but' if missed else 'and'} {there[name]}" for name in missed or limits]
        raise InputError(f"no student {what}: {'; '.join(parts)}.")

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """Returns the best candidate: the fastest one if there is a `min_score`, else the one with the best score.

        Raises:
            InputError: none is within the limits.
        """
        self.check(candidates)
        allowed = [one for one in candidates if self.allows(one)]
        if self.min_score is not None:
            return min(allowed, key=lambda one: (one.latency_ms, -one.score))
        return max(allowed, key=lambda one: (one.score, -one.latency_ms))


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidates that no other beats in both score and latency, the fastest first."""
    found: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.latency_ms, -one.score)):
        if not found or one.score > found[-1].score:
            found.append(one)
    return found


def read_candidates(folders: Sequence[str], metric: str) -> list[Candidate]:
    """Returns the students of finished runs, and the sub-networks of those that are dynamic.

    Raises:
        InputError: a folder has no results, or lacks the metric of a student.
    """
    found = []
    for folder in map(Path, folders):
        parts: Sequence[SubNetwork | None] = trained_subnetworks(folder) or [None]
        for part in parts:
            (run,) = read_runs([folder], metric if part in (None, SubNetwork()) else f"{metric}_{part}")
            names = [Path(other).resolve().name for other in folders]
            name = str(folder) if names.count(run.name) > 1 else run.name
            found.append(Candidate(name if part is None else f"{name} {part}", folder, part, run.score))
    return found


def weigh(candidates: Sequence[Candidate], models: Sequence[torch.nn.Module]) -> None:
    """Sets the sizes of candidates, whose plain models are given."""
    for one, model in zip(candidates, models, strict=True):
        one.parameters, one.size_mb = size_of_weights(model)


def measure(
    candidates: Sequence[Candidate],
    models: Sequence[torch.nn.Module],
    batches: Sequence[Sequence[Mapping[str, Tensor]]],
) -> None:
    """Sets the latencies of candidates, whose plain models and batches are given, on the CPU.

    The models take turns, so a temporary slowdown affects all of them. Batches of one number hold the same texts.
    """
    times, draws = np.zeros((_ROUNDS, len(models))), np.random.default_rng(0)
    with torch.inference_mode():
        for turn in range(-2, _ROUNDS):  # two to warm up
            for place in draws.permutation(len(models)):
                batch = batches[place][turn % len(batches[place])]
                started = time.perf_counter()
                models[place](**batch)
                if turn >= 0:
                    times[turn, place] = 1000 * (time.perf_counter() - started)
    for one, own in zip(candidates, times.T, strict=True):
        one.latency_ms = float(np.median(own))
