"""What a run records about each stage: an entry in run.json, its log in trainer_state.json, and its time."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState

from ckd_trainer.runs.stages import Stage, stage_folder
from ckd_trainer.utils.files import RECORD, recorded_stages, write_atomically

STATE, RESULTS = "trainer_state.json", "train_results.json"
_SUMS = ("train_runtime", "total_flos", "num_input_tokens_seen")
_RATES = ("train_samples_per_second", "train_steps_per_second", "train_tokens_per_second")


def record_stage(trainer: Any, stage: Stage, metrics: dict[str, float]) -> None:
    """Adds a trained stage to the record in run.json: what it set, its loss, where it ended, and its metrics."""
    path, state = stage.output_dir / RECORD, trainer.state
    entry = {
        "options": stage.options,
        "loss": trainer.describe_loss(),
        "weights": trainer.distillation_objective.weights,
        "steps": state.global_step,
        "epochs": state.epoch,
        "best_step": state.best_global_step,
        "best_metric": state.best_metric,
        "metrics": metrics,
    }
    before = recorded_stages(stage.output_dir)[: stage.number - 1]
    record = json.loads(path.read_text(encoding="utf-8"))
    write_atomically(path, json.dumps(record | {"stages": [*before, entry]}, indent=2) + "\n")


def save_whole_log(trainer: Trainer, stage: Stage) -> None:
    """Writes trainer_state.json of the last stage with the logs of all stages, each entry with its `stage`."""
    if not trainer.args.should_save:
        return
    histories = [TrainerState.load_from_json(str(folder / STATE)).log_history for folder in _earlier(stage)]
    histories.append(trainer.state.log_history)
    whole = [{**entry, "stage": number} for number, log in enumerate(histories, start=1) for entry in log]
    dataclasses.replace(trainer.state, log_history=whole).save_to_json(str(stage.output_dir / STATE))


def whole_metrics(stage: Stage, metrics: dict[str, float]) -> dict[str, float]:
    """Returns the metrics of the last stage with the time, operations and tokens of all stages."""
    parts = [json.loads((folder / RESULTS).read_text(encoding="utf-8")) for folder in _earlier(stage)] + [metrics]
    whole = {name: sum(part.get(name, 0) for part in parts) for name in _SUMS if name in metrics}
    if whole["train_runtime"] > 0:
        for rate in (rate for rate in _RATES if all(rate in part for part in parts)):
            done = sum(part[rate] * part["train_runtime"] for part in parts)
            whole[rate] = round(done / whole["train_runtime"], 3)
    return metrics | whole


def _earlier(stage: Stage) -> Sequence[Path]:
    return [stage_folder(stage.output_dir, number) for number in range(1, stage.number)]
