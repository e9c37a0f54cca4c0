"""The steps that all scripts share: start a run, train, evaluate, predict, and leave a record."""

import contextlib
import functools
import json
import logging
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import safetensors.numpy
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_model
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    TrainerState,
    TrainingArguments,
    get_scheduler,
    set_seed,
)
from transformers.utils import is_liger_kernel_available

from ckd_trainer.arguments import RunArguments
from ckd_trainer.runs.best_model import SaveBestModel
from ckd_trainer.runs.checkpoints import ends_training, step_of
from ckd_trainer.runs.folder import Start, check_place, has_record, look_into, write_record
from ckd_trainer.runs.interruption import LogWhereSaved, StopOnDivergence, StopOnSignal
from ckd_trainer.runs.lock import run_lock
from ckd_trainer.runs.recipe import one_of, resolved_recipe
from ckd_trainer.runs.resuming import check_resumes_exactly, steps_of
from ckd_trainer.runs.stage_records import record_stage, save_whole_log, whole_metrics
from ckd_trainer.runs.stages import Stage
from ckd_trainer.runs.training_options import SCHEDULES_BY_METRIC, check_options
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import CONTRIBUTIONS, told_without_room, write_atomically
from ckd_trainer.utils.processes import broadcast_from_main, check_one_device

Result = TypeVar("Result")
Contributions = Callable[[EvalPrediction], Mapping[str, np.ndarray]]

logger = logging.getLogger(__name__)

# Errors of optimizers and schedules about their options and about missing packages.
_OF_OPTIMIZERS = (ValueError, TypeError, ImportError, NotImplementedError)


@contextlib.contextmanager
def start(*arguments: Any, stages: Sequence[Stage]) -> Iterator[Start]:
    """Checks the options that training reads, sets up logging and seeds, and looks into the output folder.

    The output folder is locked for this run until the context ends. Nothing else is written yet. The main process
    decides for all, as the others may not see its disk.

    Args:
        arguments: the run's dataclass instances, `TrainingArguments` and `RunArguments` among them.
        stages: its stages.

    Raises:
        InputError: the folder holds something else, another run writes there, or options contradict each other.
    """
    args = one_of(TrainingArguments, arguments)
    run_args = one_of(RunArguments, arguments)
    _set_up_logging(args)
    _check_training_arguments(args)
    for stage in stages:
        with stage.naming_errors():
            _check_training_arguments(stage.args)
            if stage.early_stopping_patience is not None:
                if not stage.args.load_best_model_at_end:
                    raise InputError(
                        "early_stopping_patience is set, but load_best_model_at_end is not: the run could not return "
                        "to the best checkpoint. Set it, and set eval_strategy and save_strategy to the same value."
                    )
                stage.args.restore_callback_states_from_checkpoint = True  # a resumed run continues the count
    if args.hub_token:  # Trainer would pickle it into training_args.bin and upload it
        os.environ["HF_TOKEN"] = args.hub_token
        for each in (args, *(stage.args for stage in stages)):
            each.hub_token = None
    set_seed(args.seed)
    by_default = {name for group in arguments for name in getattr(group, "by_default", ())}
    broadcast_from_main(lambda: check_place(args.output_dir))
    with run_lock(args.output_dir):
        begin = broadcast_from_main(
            lambda: look_into(
                args,
                resolved_recipe(*arguments),
                stages,
                overwrite=run_args.overwrite_output_dir,
                by_default=by_default,
            )
        )
        if args.do_train and args.save_only_model and not begin.is_trained:
            logger.warning("save_only_model leaves the optimizer out of checkpoints: this run cannot be resumed.")
        yield begin


def use_best_metric(args: TrainingArguments, best_metric: str, metrics: Sequence[str]) -> None:
    """Makes the task's own metric pick the best checkpoint, unless the recipe names another.

    `TrainingArguments` sets `loss` if none is named; `eval_loss` requests it explicitly. For a schedule that reads the
    metric, this also sets whether higher is better; the default of `Trainer` is lower.

    Raises:
        InputError: the recipe names a metric that the evaluation does not report.
    """
    if args.metric_for_best_model is None:
        return
    if args.load_best_model_at_end and args.metric_for_best_model == "loss":
        args.metric_for_best_model, args.greater_is_better = best_metric, True
    name = args.metric_for_best_model.removeprefix("eval_")
    if name == "rmse":
        args.greater_is_better = False  # TrainingArguments does this only for losses
    if args.prediction_loss_only and args.eval_strategy != "no" and name != "loss":
        raise InputError(
            f"prediction_loss_only leaves no scores, but metric_for_best_model is {name}: set that to eval_loss, or "
            "leave prediction_loss_only out."
        )
    if args.lr_scheduler_type in SCHEDULES_BY_METRIC:
        mode = {"mode": "max" if args.greater_is_better else "min"}
        args.lr_scheduler_kwargs = mode | (args.lr_scheduler_kwargs or {})
    if name not in (*metrics, "loss"):
        raise InputError(
            f"metric_for_best_model is {args.metric_for_best_model}, but the evaluation reports {', '.join(metrics)} "
            "and loss: give one of these."
        )


def run(
    trainers: Iterator[DistillationTrainer],
    stages: Sequence[Stage],
    *,
    start: Start,
    evaluation: dict[str, Dataset],
    contributions: Contributions,
    evaluated_rows: Mapping[str, str],
    prediction: dict[str, Dataset],
    write_predictions: Callable[[str, np.ndarray | tuple[np.ndarray, ...], Path], Path],
    dataset_tags: str | None = None,
) -> dict[str, float]:
    """Trains, evaluates and predicts as requested, and leaves a complete run folder.

    Args:
        trainers: yields the trainer of each stage, with its datasets. The next one is requested when a stage has left
            its model in its folder.
        stages: the stages that are left to train; the last one for a call that does not train.
        start: the result of `start`.
        evaluation: labeled datasets by name; the metrics of "" are called eval_*, those of others eval_<name>_*.
        contributions: called with the predictions for a labeled dataset; returns what each example contributes to the
            scores, by their names.
        evaluated_rows: fingerprints of the data that became `evaluation`, by its names.
        prediction: datasets to predict, by name.
        write_predictions: called with a name, its logits in the dataset's order, and a folder; writes the file.
        dataset_tags: the data set's name on the Hub, for the model card.

    Returns:
        all metrics of this call, as in all_results.json.
    """
    trainer, args, metrics = next(trainers), stages[-1].args, dict[str, float]()
    with told_without_room(args.output_dir, "output_dir", "the last whole checkpoint"):
        if start.is_trained or not args.do_train:
            _place_whole(trainer)
        if start.is_trained:
            trainer.state.epoch = TrainerState.load_from_json(str(Path(args.output_dir) / "trainer_state.json")).epoch
        else:
            if args.do_train:
                for stage in stages:
                    with stage.naming_errors():
                        _check_optimizer(trainer, stage.args)
                if start.checkpoint is not None:
                    check_resumes_exactly(trainer, start.checkpoint, trains_on=start.trains_on)
            if args.should_save and (args.do_train or start.overwrites or not has_record(args.output_dir)):
                write_record(args, start, stages[0])
            if args.do_train:
                for stage in stages[:-1]:
                    _train(trainer, start, stage, dataset_tags)
                    trainer.accelerator.wait_for_everyone()  # the main process has saved the model
                    del trainer  # frees its memory for the next
                    trainer, start = next(trainers), start.at_next_stage()
                metrics |= _train(trainer, start, stages[-1], dataset_tags)
        if args.do_eval:
            metrics |= _evaluate(trainer, evaluation, contributions, evaluated_rows)
        for name, dataset in prediction.items() if args.do_predict else ():
            logits = trainer.predict(dataset).predictions
            if args.should_save:
                path = write_predictions(name, logits, Path(args.output_dir) / "predictions")
                logger.info("Predictions written to %s", path)
        trainer.create_model_card(dataset_tags=dataset_tags)
        if args.push_to_hub:
            trainer.push_to_hub(dataset_tags=dataset_tags)
    return metrics


def model_facts(model: torch.nn.Module, inputs: dict[str, torch.Tensor], repeats: int = 30) -> dict[str, float]:
    """Returns the model's costs in production: parameters, size of the weights in MB (10^6 bytes), latency.

    Args:
        inputs: one example as a batch; `latency_ms` is the median time of its forward pass.
    """
    parameters = list(model.parameters())
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
        "parameters": sum(parameter.numel() for parameter in parameters),
        "model_size_mb": round(sum(parameter.numel() * parameter.element_size() for parameter in parameters) / 1e6, 3),
        "latency_ms": round(1000 * float(np.median(times)), 3),
    }


def _train(trainer: DistillationTrainer, start: Start, stage: Stage, dataset_tags: str | None) -> dict[str, float]:
    """Trains a stage, and leaves its model and results in its folder."""
    if stage.options is not None:
        logger.info("Training stage %d of %d.", stage.number, stage.count)
    if not stage.is_last:
        # Only now: `Trainer` makes its folder and its repository on the Hub at once, which are those of the run.
        trainer.args.output_dir, trainer.args.push_to_hub = str(stage.folder), False
    if stage.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(stage.early_stopping_patience))
    if _is_ended(trainer, start):
        metrics = _end_of(trainer, start)
    else:
        with StopOnSignal(trainer.accelerator, can_resume=not trainer.args.save_only_model) as stop:
            # In this order: the later ones read whether the earlier ones requested a checkpoint.
            trainer.add_callback(stop)
            trainer.add_callback(SaveBestModel(start.best and Path(start.best).name))
            trainer.add_callback(LogWhereSaved)
            trainer.add_callback(StopOnDivergence(trainer.accelerator, _loss_at_chance(trainer)))
            try:
                metrics = trainer.train(resume_from_checkpoint=start.checkpoint).metrics
            except torch.OutOfMemoryError:
                logger.error(
                    "Out of memory. Half of per_device_train_batch_size with twice the gradient_accumulation_steps "
                    "trains alike and takes less memory."
                )
                raise
            except pickle.UnpicklingError as error:  # torch reads only numbers and tensors
                if start.checkpoint is None or "Weights only load failed" not in str(error):
                    raise
                raise InputError(
                    f"{start.checkpoint} is not read: it holds Python objects that could run code, or is damaged. "
                    "Delete it, and the same command resumes from the previous checkpoint."
                ) from error
    if trainer.args.load_best_model_at_end and not trainer.state.best_model_checkpoint:
        logger.warning(
            "load_best_model_at_end is set, but no evaluation during training gave a value of %s: the model of the "
            "last step is kept.",
            trainer.args.metric_for_best_model,
        )
    metrics["train_samples"] = len(trainer.train_dataset)
    metrics |= {f"scale_{term}": scale for term, scale in trainer.scales.items()}
    with _whole_state(trainer):
        trainer.save_model()
    trainer.save_state()
    if stage.options is not None:
        if trainer.is_world_process_zero():
            record_stage(trainer, stage, metrics)
        if stage.is_last:
            save_whole_log(trainer, stage)
            metrics = broadcast_from_main(functools.partial(whole_metrics, stage, metrics))
    if stage.is_last:
        trainer.create_model_card(dataset_tags=dataset_tags)
    trainer.log_metrics("train", metrics)
    _save_results(trainer, "train", metrics)  # last, as it marks training as complete
    return metrics


@contextlib.contextmanager
def _whole_state(trainer: DistillationTrainer) -> Iterator[None]:
    """Under FSDP, a model is saved whole in this context: otherwise nothing would be, as a shard is not a model."""
    if not trainer.is_fsdp_enabled:
        yield
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    before = plugin.state_dict_type
    plugin.set_state_dict_type("FULL_STATE_DICT")
    yield
    plugin.set_state_dict_type(before)  # for the checkpoints of the next stage


def _loss_at_chance(trainer: DistillationTrainer) -> float:
    """Returns the approximate loss on the labels of a model that knows nothing."""
    data = trainer.train_dataset
    labels = data["labels"][:] if trainer.head.is_score and "labels" in data.column_names else None
    return trainer.head.loss_at_chance(trainer.model.config, labels)


def _place_whole(trainer: DistillationTrainer) -> None:
    """Prepares a model that this call does not train: FSDP and ZeRO 2 shard models only for training."""
    trainer.is_fsdp_enabled = trainer.is_deepspeed_enabled = False
    trainer.accelerator.prepare_model(trainer.model, device_placement=True, evaluation_mode=True)


def _is_ended(trainer: DistillationTrainer, start: Start) -> bool:
    """Returns whether no step is left to train after the checkpoint that the run starts from."""
    if start.checkpoint is None:
        return False
    if not start.trains_on:
        return ends_training(start.checkpoint)
    is_whole = (Path(start.checkpoint) / "model.safetensors").is_file()
    return is_whole and step_of(start.checkpoint) >= steps_of(trainer)[2]


def _end_of(trainer: DistillationTrainer, start: Start) -> dict[str, float]:
    """Does what `Trainer.train` does at its end; calling it would first train one more step."""
    trainer.state = state = TrainerState.load_from_json(str(Path(start.checkpoint) / "trainer_state.json"))
    if start.best is not None:
        state.best_model_checkpoint = os.path.join(trainer.args.output_dir, Path(start.best).name)
    load_model(trainer.model, Path(start.best or start.checkpoint) / "model.safetensors")
    _place_whole(trainer)
    if trainer.balance is not None:
        trainer.balance.on_train_begin(trainer.args, state, trainer.control)
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    metrics: dict[str, float] = {"train_runtime": 0.0, "train_samples_per_second": 0.0, "train_steps_per_second": 0.0}
    metrics |= {"total_flos": state.total_flos, "train_loss": float(np.mean(losses)) if losses else 0.0}
    trainer.log(metrics)
    return metrics


def _save_results(trainer: DistillationTrainer, split: str, metrics: dict[str, float]) -> None:
    """Writes `<split>_results.json` and updates all_results.json, like `Trainer.save_metrics`, but atomically."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    everything = folder / "all_results.json"
    before = json.loads(everything.read_text(encoding="utf-8")) if everything.is_file() else {}
    for path, content in ((everything, before | metrics), (folder / f"{split}_results.json", metrics)):
        write_atomically(path, json.dumps(content, indent=4, sort_keys=True))


def _evaluate(
    trainer: DistillationTrainer,
    evaluation: dict[str, Dataset],
    contributions: Contributions,
    evaluated_rows: Mapping[str, str],
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    values: dict[str, np.ndarray] = {}
    rows: dict[str, str] = {}
    for name, dataset in evaluation.items():
        prefix = f"eval_{name}" if name else "eval"
        with _kept_predictions(trainer) as kept:
            metrics |= trainer.evaluate(dataset, metric_key_prefix=prefix)
        metrics[f"{prefix}_samples"] = len(dataset)
        if trainer.is_world_process_zero():
            found = {f"{prefix}_{score}": value for one in kept for score, value in contributions(one).items()}
            values |= found
            rows |= dict.fromkeys(found, evaluated_rows[name])
    example = trainer.data_collator([_model_inputs(trainer, next(iter(evaluation.values()))[0])])
    metrics |= model_facts(trainer.model, {name: value.to(trainer.model.device) for name, value in example.items()})
    trainer.log_metrics("eval", metrics)
    if values:
        # A single entry: safetensors writes several in any order, and equal runs would leave other files.
        content = safetensors.numpy.save(values, {"examples": json.dumps(rows)})
        write_atomically(Path(trainer.args.output_dir) / CONTRIBUTIONS, content)
    _save_results(trainer, "eval", metrics)
    return metrics


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


def _check_optimizer(trainer: DistillationTrainer, args: TrainingArguments) -> None:
    """Raises InputError if optimizer or schedule cannot be made: tries it with a single parameter."""
    try:
        optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
        if not {"params", "model", "optimizer_dict"} & options.keys():  # optimizers that need the model itself
            optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1))], **options)
            get_scheduler(
                args.lr_scheduler_type,
                optimizer,
                num_warmup_steps=1,
                num_training_steps=2,
                scheduler_specific_kwargs=args.lr_scheduler_kwargs,
            )
    except (*_OF_OPTIMIZERS, RuntimeError) as error:
        if not isinstance(error, _OF_OPTIMIZERS) and "fused" not in str(error):  # if the device has no such kernel
            raise
        chosen = {
            name: getattr(args, name)
            for name in ("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs")
        }
        words = ", ".join(f"{name} {value}" for name, value in chosen.items() if value is not None)
        raise InputError(
            f"the optimizer or the learning rate schedule cannot be made ({error}) with {words}, lr_scheduler_type "
            f"{args.lr_scheduler_type.value}: change one of them."
        ) from error


def _check_training_arguments(args: TrainingArguments) -> None:
    """Raises InputError for values that `TrainingArguments` accepts but `Trainer` fails on."""
    check_one_device(args)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise InputError("there is nothing to do: give --do_train, --do_eval or --do_predict.")
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise InputError(f"{name} is {getattr(args, name)}: give 1 or more.")
    for name in (
        "seed",
        "learning_rate",
        "weight_decay",
        "num_train_epochs",
        "max_grad_norm",
        "dataloader_num_workers",
        "neftune_noise_alpha",
    ):
        value = getattr(args, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value}: give a number that is not negative.")
    if args.seed >= 2**32:
        raise InputError(f"seed is {args.seed}: give a number below {2**32}, as NumPy's generator requires.")
    if not 0 <= args.label_smoothing_factor < 1:
        raise InputError(f"label_smoothing_factor is {args.label_smoothing_factor}: give a number from 0 to below 1.")
    if args.eval_accumulation_steps is not None and args.eval_accumulation_steps < 1:
        raise InputError(f"eval_accumulation_steps is {args.eval_accumulation_steps}: give 1 or more.")
    if args.label_names:
        raise InputError(f"label_names is {args.label_names}, but the task knows its labels: leave it out.")
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise InputError("use_liger_kernel is set, but liger-kernel is not installed: install it, or leave it out.")
    if not args.eval_do_concat_batches:
        raise InputError("eval_do_concat_batches is off, but scores are computed on whole sets: leave it out.")
    if args.do_predict and args.prediction_loss_only:
        raise InputError("prediction_loss_only keeps no predictions, but do_predict writes them: leave one out.")
    check_options(args)


def _set_up_logging(args: TrainingArguments) -> None:
    """Sends the logs of this package and of transformers to stdout; only the first process logs everything."""
    logging.basicConfig(
        format="%(asctime)s %(name)s %(levelname)s: %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    level = args.get_process_log_level()
    logging.getLogger("ckd_trainer").setLevel(logging.INFO if args.should_log else logging.ERROR)
    transformers.utils.logging.set_verbosity(level)
    datasets.utils.logging.set_verbosity(level)
