"""The steps that all scripts share: start a run, train, evaluate, predict, and leave a record."""

import contextlib
import functools
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import huggingface_hub
import numpy as np
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_model
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ckd_trainer.arguments import RunArguments
from ckd_trainer.models.adapters import adapter_facts, load_adapter_weights
from ckd_trainer.runs.best_model import SaveBestModel
from ckd_trainer.runs.checkpoints import ends_training, is_whole, step_of
from ckd_trainer.runs.folder import Start, check_place, look_into
from ckd_trainer.runs.interruption import LogWhereSaved, StopOnDivergence, StopOnSignal
from ckd_trainer.runs.lock import run_lock
from ckd_trainer.runs.recipe import one_of, resolved_recipe
from ckd_trainer.runs.record import has_record, write_record
from ckd_trainer.runs.results import Contributions, evaluate, save_results
from ckd_trainer.runs.resuming import check_resumes_exactly, steps_of
from ckd_trainer.runs.stage_records import record_stage, save_whole_log, whole_metrics
from ckd_trainer.runs.stages import Stage
from ckd_trainer.runs.training_options import check_optimizer
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.training.balance import TermBalance
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import told_without_room
from ckd_trainer.utils.network import hub_errors
from ckd_trainer.utils.processes import broadcast_from_main, check_one_device
from ckd_trainer.utils.wrapped_models import has_adapters

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def start(*arguments: Any, stages: Sequence[Stage]) -> Iterator[Start]:
    """Sets up logging and seeds, and looks into the output folder.

    The output folder is locked for this run until the context ends. Nothing else is written yet. The main process
    decides for all, as the others may not see its disk.

    Args:
        arguments: the run's dataclass instances, `TrainingArguments` and `RunArguments` among them.
        stages: its stages.

    Raises:
        InputError: the folder holds something else, another run writes there, or this process has several GPUs.
    """
    args = one_of(TrainingArguments, arguments)
    run_args = one_of(RunArguments, arguments)
    _set_up_logging(args)
    if args.output_dir == "trainer_output":  # the default of TrainingArguments
        logger.warning("The run writes to trainer_output, the default output_dir: give each run a folder of its own.")
    check_one_device(args)
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
        if args.push_to_hub and not (args.do_train or begin.is_trained):
            raise InputError(
                f"push_to_hub is set, but this call does not train, and {args.output_dir} holds no trained model: set "
                "do_train, or give the output_dir of the run."
            )
        if args.do_train and args.save_only_model and not begin.is_trained:
            logger.warning("save_only_model leaves the optimizer out of checkpoints: this run cannot be resumed.")
        yield begin


def run(
    trainers: Iterator[DistillationTrainer],
    stages: Sequence[Stage],
    *,
    start: Start,
    evaluation: dict[str, Dataset],
    contributions: Contributions,
    settle: Callable[[EvalPrediction], Mapping[str, Any]],
    examples: Mapping[str, Dataset],
    prediction: dict[str, Dataset],
    write_predictions: Callable[[str, np.ndarray | tuple[np.ndarray, ...], Path], Path],
    dataset_tags: list[str],
    merges_adapters: bool,
) -> dict[str, float]:
    """Trains, evaluates and predicts as requested, and leaves a complete run folder.

    Args:
        trainers: yields the trainer of each stage, with its datasets. The next one is requested when a stage has left
            its model in its folder.
        stages: the stages that are left to train; the last one for a call that does not train.
        start: the result of `start`.
        evaluation: labeled datasets by name; the metrics of "" are called eval_*, those of others eval_<name>_*.
        contributions: called with the predictions for a labeled dataset, and the dataset; returns what each example
            contributes to the scores, by their names.
        settle: called with the predictions for the first of these datasets; returns entries of the model's
            configuration.
        examples: the rows that became `evaluation`, by its names.
        prediction: datasets to predict, by name.
        write_predictions: called with a name, its logits in the dataset's order, and a folder; writes the file.
        dataset_tags: the names of data sets on the Hub, for the model card.
        merges_adapters: whether the trained adapters are added to the weights.

    Returns:
        all metrics of this call, as in all_results.json.
    """
    trainer, args, metrics = next(trainers), stages[-1].args, dict[str, float]()
    with told_without_room(args.output_dir, "output_dir", "the last whole checkpoint"):
        if start.is_trained or not args.do_train:
            _place_whole(trainer)
        if start.is_trained:
            state = TrainerState.load_from_json(str(Path(args.output_dir) / "trainer_state.json"))
            trainer.state.epoch, trainer.state.num_input_tokens_seen = state.epoch, state.num_input_tokens_seen
            if trainer.balance is not None and (saved := state.stateful_callbacks.get(TermBalance.__name__)):
                trainer.balance.take_over(saved)  # evaluation reports the terms with these weights
        else:
            if args.do_train:
                for stage in stages:
                    with stage.naming_errors():
                        check_optimizer(trainer, stage.args)
                if start.checkpoint is not None:
                    check_resumes_exactly(trainer, start.checkpoint, trains_on=start.trains_on)
            if args.should_save and (args.do_train or start.overwrites or not has_record(args.output_dir)):
                write_record(args, start, stages[0])
            if args.do_train:
                for stage in stages[:-1]:
                    _train(trainer, start, stage, dataset_tags, merges_adapters)
                    trainer.accelerator.wait_for_everyone()  # the main process has saved the model
                    del trainer  # frees its memory for the next
                    trainer, start = next(trainers), start.at_next_stage()
                metrics |= _train(trainer, start, stages[-1], dataset_tags, merges_adapters)
        if args.do_eval:
            metrics |= evaluate(
                trainer,
                evaluation,
                contributions,
                examples,
                settle,
                saves_settled=start.is_trained or args.do_train,
            )
        for name, dataset in prediction.items() if args.do_predict else ():
            logits = trainer.predict(dataset).predictions
            if args.should_save:
                path = write_predictions(name, logits, Path(args.output_dir) / "predictions")
                logger.info("Predictions written to %s", path)
        if args.do_train or start.is_trained:  # the card of another model is not ours to write
            trainer.create_model_card(dataset_tags=dataset_tags)
        if args.push_to_hub:
            what = f"the model in {args.output_dir} cannot be uploaded to the Hub"
            with hub_errors(what, "check the network and the token (HF_TOKEN); the same command then uploads it"):
                trainer.push_to_hub(dataset_tags=dataset_tags)
    return metrics


def _train(
    trainer: DistillationTrainer, start: Start, stage: Stage, dataset_tags: list[str], merges_adapters: bool
) -> dict[str, float]:
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
    mixture = trainer.mixture
    metrics["train_samples"] = len(trainer.train_dataset) if mixture is None else mixture.labeled
    if mixture is not None and trainer.mixes:
        metrics["unlabeled_samples"] = len(mixture.unlabeled)
    metrics |= {f"scale_{term}": scale for term, scale in trainer.scales.items()}
    if has_adapters(trainer.model):
        metrics |= adapter_facts(trainer.model)
        if merges_adapters:
            trainer.model = trainer.model.merge_and_unload()
    with _whole_state(trainer):
        trainer.save_model(_internal_call=True)  # without an upload, which is the last thing that `run` does
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
    save_results(trainer, "train", metrics)  # last, as it marks training as complete
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
    if trainer.mixture is not None:
        data = data.select(range(trainer.mixture.labeled))
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
    return is_whole(start.checkpoint) and step_of(start.checkpoint) >= steps_of(trainer)[2]


def _end_of(trainer: DistillationTrainer, start: Start) -> dict[str, float]:
    """Does what `Trainer.train` does at its end; calling it would first train one more step."""
    trainer.state = state = TrainerState.load_from_json(str(Path(start.checkpoint) / "trainer_state.json"))
    if start.best is not None:
        state.best_model_checkpoint = os.path.join(trainer.args.output_dir, Path(start.best).name)
    if has_adapters(trainer.model):
        load_adapter_weights(trainer.model, start.best or start.checkpoint)
    else:
        load_model(trainer.model, Path(start.best or start.checkpoint) / "model.safetensors")
    _place_whole(trainer)
    if trainer.balance is not None:
        trainer.balance.on_train_begin(trainer.args, state, trainer.control)
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    metrics: dict[str, float] = {"train_runtime": 0.0, "train_samples_per_second": 0.0, "train_steps_per_second": 0.0}
    metrics |= {"total_flos": state.total_flos, "train_loss": float(np.mean(losses)) if losses else 0.0}
    trainer.log(metrics)
    return metrics


def _set_up_logging(args: TrainingArguments) -> None:
    """Sends the logs of this package and of transformers to stdout; only the first process logs everything."""
    logging.basicConfig(
        format="%(asctime)s %(name)s %(levelname)s: %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    level = args.get_process_log_level()
    logging.getLogger("ckd_trainer").setLevel(logging.INFO if args.should_log else logging.ERROR)
    transformers.utils.logging.set_verbosity(level)
    datasets.utils.logging.set_verbosity(level)
    huggingface_hub.utils.logging.disable_propagation()  # it prints each line itself
