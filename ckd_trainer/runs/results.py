"""The results of a run: its scores, what its model costs in production, and the files that record both."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from datasets import Dataset
from transformers import EvalPrediction
from transformers.utils import CONFIG_NAME

from ckd_trainer.models.sizes import size_of_weights
from ckd_trainer.runs.inputs import rows_fingerprint
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.utils.files import CONTRIBUTIONS, write_atomically
from ckd_trainer.utils.wrapped_models import inner_model

Contributions = Callable[[EvalPrediction, Dataset], Mapping[str, np.ndarray]]


def evaluate(
    trainer: DistillationTrainer,
    evaluation: dict[str, Dataset],
    contributions: Contributions,
    examples: Mapping[str, Dataset],
    settle: Callable[[EvalPrediction], Mapping[str, Any]],
    *,
    saves_settled: bool,
) -> dict[str, float]:
    """Evaluates the model and writes its results, and what each example contributes to its scores.

    Args:
        evaluation, contributions, examples, settle: see `ckd_trainer.runs.run.run`.
        saves_settled: whether the output folder holds the model: what `settle` returns is saved there.
    """
    metrics: dict[str, float] = {}
    values: dict[str, np.ndarray] = {}
    rows: dict[str, str] = {}
    for name, dataset in evaluation.items():
        prefix = f"eval_{name}" if name else "eval"
        with _kept_predictions(trainer) as kept:
            metrics |= trainer.evaluate(dataset, metric_key_prefix=prefix)
        if kept and not name and (settled := settle(kept[-1])) and saves_settled:
            _save_settled(trainer, settled)
        metrics[f"{prefix}_samples"] = len(dataset)
        metrics.pop("num_input_tokens_seen", None)  # `Trainer` adds that of the last training
        if trainer.is_world_process_zero():
            found = {
                f"{prefix}_{score}": value for one in kept[-1:] for score, value in contributions(one, dataset).items()
            }
            values |= found
            rows |= dict.fromkeys(found, rows_fingerprint(examples[name]))
    example = trainer.data_collator([_model_inputs(trainer, next(iter(evaluation.values()))[0])])
    metrics |= model_facts(trainer.model, {name: value.to(trainer.model.device) for name, value in example.items()})
    trainer.log_metrics("eval", metrics)
    if values:
        # A single entry: safetensors writes several in any order, and equal runs would leave other files.
        content = safetensors.numpy.save(values, {"rows": json.dumps(rows)})
        write_atomically(Path(trainer.args.output_dir) / CONTRIBUTIONS, content)
    save_results(trainer, "eval", metrics)
    return metrics


def _save_settled(trainer: DistillationTrainer, settled: Mapping[str, Any]) -> None:
    config = inner_model(trainer.model).config
    config.update(settled)
    if trainer.args.should_save:
        write_atomically(Path(trainer.args.output_dir) / CONFIG_NAME, config.to_json_string())


def save_results(trainer: DistillationTrainer, split: str, metrics: dict[str, float]) -> None:
    """Writes `<split>_results.json` and updates all_results.json, like `Trainer.save_metrics`, but atomically."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    everything = folder / "all_results.json"
    before = json.loads(everything.read_text(encoding="utf-8")) if everything.is_file() else {}
    for path, content in ((everything, before | metrics), (folder / f"{split}_results.json", metrics)):
        write_atomically(path, json.dumps(content, indent=4, sort_keys=True))


def model_facts(model: torch.nn.Module, inputs: dict[str, torch.Tensor], repeats: int = 30) -> dict[str, float]:
    """Returns the model's costs in production: parameters, size of the weights in MB (10^6 bytes), latency.

    Args:
        inputs: one example as a batch; `latency_ms` is the median time of its forward pass.
    """
    parameters, size_mb = size_of_weights(model)
    training, times = model.training, []
    model.eval()
    with torch.inference_mode():
        for _ in range(repeats):
            started = time.perf_counter()
            model(**inputs)
            if model.device.type != "cpu":
                torch.accelerator.synchronize()
            times.append(time.perf_counter() - started)
    model.train(training)
    return {
        "parameters": parameters,
        "model_size_mb": round(size_mb, 3),
        "latency_ms": round(1000 * float(np.median(times)), 3),
    }


@contextlib.contextmanager
def _kept_predictions(trainer: DistillationTrainer) -> Iterator[list[EvalPrediction]]:
    """Yields a list to which each evaluation in this context adds its predictions, if it computes scores at all."""
    compute, kept = trainer.compute_metrics, list[EvalPrediction]()

    def keep(prediction: EvalPrediction) -> dict[str, float]:
        kept.append(prediction)
        return compute(prediction)

    trainer.compute_metrics = keep
    try:
        yield kept
    finally:
        trainer.compute_metrics = compute


def _model_inputs(trainer: DistillationTrainer, row: dict) -> dict:
    names = trainer.processing_class.model_input_names
    return {name: value for name, value in row.items() if name in names}
