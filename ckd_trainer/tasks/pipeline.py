"""From arguments to a run folder: the steps that all scripts share."""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import unset_hf_deepspeed_config

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.hub import hub_name
from ckd_trainer.data.unlabeled import check_unlabeled
from ckd_trainer.dynamic_trainer import scores_of
from ckd_trainer.heads.recognition import head_of_auto_class
from ckd_trainer.methods import MethodArguments, Pair, Term
from ckd_trainer.models.adapters import add_adapter, config_of_adapter, load_adapter
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.models.subnetworks import DynamicArguments, check_dynamic, check_trained
from ckd_trainer.objective import check_aligned, check_any_loss
from ckd_trainer.runs.folder import Start, overwritten
from ckd_trainer.runs.inputs import TrainingInputs
from ckd_trainer.runs.recipe import one_of
from ckd_trainer.runs.run import run, start
from ckd_trainer.runs.stages import Stage, stage_folder, stages_of, terms_of_stages, terms_of_teacher
from ckd_trainer.runs.training_options import check_options, check_steps, use_best_metric, use_early_stopping
from ckd_trainer.runs.unlabeled import check_unlabeled_options
from ckd_trainer.tasks.base import Task
from ckd_trainer.tasks.inputs import drawn_texts, encoded_inputs, examples_of_epoch, unlabeled_texts
from ckd_trainer.tasks.trainers import trainers_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import user_path
from ckd_trainer.utils.processes import is_sharded

logger = logging.getLogger(__name__)

CHECKED_TEXTS = 256  # number of texts on which two tokenizers are compared
FITTED_TEXTS = 256  # training texts on which a student narrower than its teacher is fitted to it, or its head centered


def run_task(
    task: Task,
    model_args: ModelArguments,
    data_args: DataArguments,
    run_args: RunArguments,
    args: TrainingArguments,
    ckd_args: CKDArguments | None = None,
    *more: MethodArguments | DynamicArguments,
) -> dict[str, float]:
    """Distills as the arguments say, or fine-tunes if no CKDArguments are given.

    Args:
        data_args: the task's own arguments; they are recorded with the run.
        more: the options of methods beside CKD, and of a dynamic student.

    Returns:
        the metrics of all_results.json that this call measured.

    Raises:
        InputError: before any weights are loaded, if the arguments, the models' configurations and tokenizers, or the
            data are wrong or do not fit together.
    """
    unset_hf_deepspeed_config()  # models are made whole; under ZeRO 3 the student is sharded when training begins
    if run_args.method_file and ckd_args is None:
        raise InputError("method_file is set, but a teacher learns from the labels alone: leave it out.")
    if data_args.has_unlabeled and ckd_args is None:
        raise InputError("unlabeled texts are given, but a teacher learns from the labels alone: leave them out.")
    arguments = [group for group in (model_args, data_args, ckd_args, *more, run_args, args) if group is not None]
    stages = checked_stages(task, arguments)
    with start(*arguments, stages=stages) as begin:
        return _run_started(task, begin, model_args, data_args, args, stages, run_args.method_file)


def checked_stages(task: Task, arguments: Sequence[Any]) -> list[Stage]:
    """Returns the stages of a run, with the score that picks the best checkpoint of each.

    Args:
        arguments: the run's dataclass instances.

    Raises:
        InputError: options that are wrong whatever the models, the data and the machine are.
    """
    args, model_args = one_of(TrainingArguments, arguments), one_of(ModelArguments, arguments)
    stages = stages_of(arguments)
    task.use_stages(stages)
    use_best_metric(args, *_scores(task, stages[-1]))
    check_options(args)
    for stage in stages:
        with stage.naming_errors():
            use_best_metric(stage.args, *_scores(task, stage))
            check_options(stage.args)
            use_early_stopping(stage.args, stage.early_stopping_patience)
            if stage.args.do_train:
                check_any_loss(stage.ckd_args, has_terms=stage.has_terms)
    if model_args.lora_rank is not None:
        _check_adapters(task, stages)
    return stages


def checked_terms(task: Task, pair: ModelPair, stages: Sequence[Stage], *, trains: bool) -> list[Term]:
    """Returns the terms of all stages.

    Args:
        trains: whether the student will be trained.

    Raises:
        InputError: configurations or tokenizers that do not fit the task, each other or the terms.
    """
    _check_tokenizers(task, pair)
    task.check(pair)
    for stage in stages:
        if stage.dynamic_args.is_dynamic:
            with stage.naming_errors():
                check_dynamic(pair.student_config, stage.dynamic_args.subnetworks)
                if not trains:
                    check_trained(pair.student_config, stage.dynamic_args.subnetworks)
    if not any(stage.has_terms for stage in stages):
        return []
    head = head_of_auto_class(task.model_class, pair.student_config)
    terms = terms_of_stages(stages, Pair(pair.student_config, pair.teacher_config, head))
    _check_tokenizers(task, pair, terms)
    return terms


def _check_tokenizers(task: Task, pair: ModelPair, terms: Sequence[Term] = ()) -> None:
    """Raises InputError if teacher and student have different tokenizers, and the task or a term does not allow it."""
    if pair.tokenizers is None:
        return
    if task.one_tokenizer_because is not None:
        raise InputError(
            f"{pair.difference}, but {task.one_tokenizer_because}: give a student of the teacher's family, or use "
            "student_init teacher_layers."
        )
    check_aligned(terms, pair.tokenizers)


def _check_adapters(task: Task, stages: Sequence[Stage]) -> None:
    """Raises InputError if a student with adapters cannot be trained in these stages."""
    obstacle = None
    if not task.has_labels:
        obstacle = "a language model is saved whole"
    elif len(stages) > 1:
        obstacle = "each of the stages starts from a whole model"
    elif stages[0].dynamic_args.is_dynamic:
        obstacle = "a student of several widths or depths has plain layers"
    elif is_sharded(stages[0].args):
        obstacle = "adapters are not supported with FSDP and DeepSpeed"
    if obstacle is not None:
        raise InputError(f"lora_rank is set, but {obstacle}: leave lora_rank out.")


def _scores(task: Task, stage: Stage) -> tuple[str, Sequence[str]]:
    """Returns the score that picks the best checkpoint of a stage, and the names of all scores."""
    if not stage.dynamic_args.is_dynamic:
        return task.best_metric, task.metrics
    return f"mean_{task.best_metric}", scores_of(stage.dynamic_args.subnetworks, [*task.metrics, "loss"])


def _check_overwritten(output_dir: str, models: Iterable[Path], data: Iterable[str | Path]) -> None:
    """Raises InputError if a run that overwrites its output_dir would delete what it reads."""
    folder = Path(output_dir).resolve()
    deleted = {path.resolve() for path in overwritten(folder)}

    def is_deleted(path: Path) -> bool:
        return not deleted.isdisjoint((path.resolve(), *path.resolve().parents))

    if any(path.resolve() == folder or is_deleted(path) for path in models):
        raise InputError(f"output_dir {output_dir} holds a model that this run reads: give another output_dir.")
    read = next(filter(is_deleted, map(user_path, data)), None)
    if read is not None:
        raise InputError(
            f"output_dir {output_dir} would be overwritten, but this run reads {read} in it: give another output_dir."
        )


def _data_read(task: Task, data_args: DataArguments, *own: str | None) -> Iterator[str | Path]:
    """Yields the files and folders of a run's data, and its `own` other files; names on the Hub may be among them."""
    yield from itertools.chain(*task.files(("train", "validation")).values())
    names = ("test_file", "dataset_name", "unlabeled_dataset_name")
    yield from filter(None, (*own, *(getattr(data_args, name, None) for name in names)))
    for source in getattr(data_args, "training_sources", ()):  # `task.files` lacks those that are streamed
        if source.path is not None:
            yield source.path


def _run_started(
    task: Task,
    begin: Start,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    stages: Sequence[Stage],
    method_file: str | None,
) -> dict[str, float]:
    trains = args.do_train and not begin.is_trained
    task.evaluates_own = args.do_train or begin.is_trained
    own_files = {"method_file": method_file, "unlabeled_file": data_args.unlabeled_file}
    read = TrainingInputs(args, begin, model_args, stages, holds_out=task.holds_out)
    read.check_files(task.files(read.splits) | {name: [user_path(path)] for name, path in own_files.items() if path})
    saves_adapter = model_args.saves_adapter
    if begin.is_trained:
        model_args = ModelArguments(
            model_args.model_name_or_path if saves_adapter else args.output_dir,
            None if task.has_labels else model_args.teacher_model_name_or_path,
            allow_unused_weights=saves_adapter and model_args.allow_unused_weights,
            trust_remote_code=model_args.trust_remote_code,
        )
        for name, value in begin.recorded.items():  # as in training, where a teacher may have lowered it
            if value != getattr(data_args, name):
                logger.info("%s is %s, as when the run in %s was trained.", name, value, args.output_dir)
            setattr(data_args, name, value)
    elif not args.do_train and model_args.lora_rank is not None:
        raise InputError("do_train is off, but lora_rank makes a student with adapters that were never trained.")
    elif not args.do_train and model_args.student_init != "pretrained":
        raise InputError(
            f"do_train is off, but student_init {model_args.student_init} makes a student that was never trained."
        )
    if not trains:
        stages = [stages[-1].without_teacher()] if task.has_labels else stages[-1:]

    # Local files are read before models are looked up, and data on the Hub afterwards: no mistake costs a download.
    reads = {"train": trains, "validation": args.do_eval, "test": args.do_predict}
    splits = [split for split, wanted in reads.items() if wanted]
    if task.hub_dataset is None:
        task.load(splits)
    if trains and data_args.has_unlabeled:
        check_unlabeled_options(data_args, stages, classifies=task.classifies)
        check_unlabeled(data_args, task.unlabeled_columns)
    pair = ModelPair(
        model_args,
        model_class=task.model_class,
        terms=terms_of_teacher(stages),
        trains=trains or saves_adapter,  # an adapter brings the head of its base model
    )
    if saves_adapter and begin.is_trained:  # with the labels of the training, and their thresholds
        pair.student_config = config_of_adapter(args.output_dir, **pair.options)
    if begin.overwrites:
        _check_overwritten(args.output_dir, pair.folders, _data_read(task, data_args, *own_files.values()))
    terms = checked_terms(task, pair, stages, trains=trains)
    begin.settle({name: getattr(data_args, name) for name in data_args.by_default})
    if task.hub_dataset is not None:
        task.load(splits)
    read.check_loaded(task.sets_by_name(read.splits))
    task.set_head(pair)
    with contextlib.ExitStack() as stack:
        unlabeled = None
        if trains and data_args.has_unlabeled and pair.distills:
            unlabeled = stack.enter_context(unlabeled_texts(task))
        elif trains and data_args.has_unlabeled:
            logger.info("No term of the loss reads the teacher, so the unlabeled texts are left out.")
        if data_args.unlabeled_dataset_name and unlabeled is not None:
            read.check_loaded({"unlabeled_dataset_name": {data_args.unlabeled_split_name or "train": unlabeled}})
        sets = [*task.data.validation.values(), *task.data.test.values(), task.data.train, unlabeled]
        read_set = next(filter(None, sets), None)
        if read_set is not None and pair.distills and pair.tokenizer is not pair.teacher_tokenizer:
            pair.compare_encodings(drawn_texts(task.data, read_set, args.seed, CHECKED_TEXTS))
            _check_tokenizers(task, pair, terms)

        trained = stage_folder(args.output_dir, begin.trained_stages) if begin.trained_stages else None
        stages = stages[begin.trained_stages :]  # only now: the pair and its texts are the same in every call
        trained_on = task.data.train or unlabeled
        fitted = list(drawn_texts(task.data, trained_on, args.seed, FITTED_TEXTS)) if trains else ()
        student, teacher = pair.load(fitted, trained)
        if saves_adapter and begin.is_trained:
            student = load_adapter(student, args.output_dir)
        elif model_args.lora_rank is not None:
            student = add_adapter(student, model_args, task.model_class)
        inputs = stack.enter_context(encoded_inputs(task, pair.input_tokenizer, unlabeled))
        for stage in stages if trains else ():
            with stage.naming_errors():
                check_steps(stage.args, examples_of_epoch(task, stage))
        trainers = trainers_of(task, inputs, pair, student, teacher, stages)
        del student  # each stage has its own
        return run(
            trainers,
            stages,
            start=begin,
            evaluation=inputs.validation,
            contributions=task.contributions,
            settle=task.settle,
            examples=task.data.validation,
            prediction=inputs.test,
            write_predictions=task.write_predictions,
            dataset_tags=[
                name for name in (task.hub_dataset, unlabeled and hub_name(data_args, "unlabeled_")) if name
            ],
            merges_adapters=model_args.lora_merge,
        )
