"""From arguments to a run folder: the steps that all scripts share. A `Task` holds what differs between tasks."""

import abc
import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments
from transformers.integrations import unset_hf_deepspeed_config

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.hub import hub_name
from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.data.unlabeled import check_unlabeled, load_unlabeled
from ckd_trainer.dynamic_trainer import DynamicTrainer, scores_of
from ckd_trainer.heads.recognition import head_of_auto_class
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.methods import MethodArguments, Pair, Term
from ckd_trainer.models.adapters import add_adapter, config_of_adapter, load_adapter
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.models.subnetworks import DynamicArguments, check_dynamic, check_trained
from ckd_trainer.objective import check_aligned
from ckd_trainer.runs.folder import Start
from ckd_trainer.runs.inputs import TrainingInputs
from ckd_trainer.runs.run import run, start
from ckd_trainer.runs.stages import Stage, stage_folder, stages_of, terms_of_stages
from ckd_trainer.runs.training_options import check_steps, use_best_metric
from ckd_trainer.runs.unlabeled import check_unlabeled_options, mixed_share
from ckd_trainer.tasks.teacher_check import SAMPLE_SIZE
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.training.unlabeled import sizes_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import told_without_room, user_path
from ckd_trainer.utils.processes import in_all_processes, is_sharded, made_once, scratch_folder

logger = logging.getLogger(__name__)

CHECKED_TEXTS = 256  # number of texts on which two tokenizers are compared
FITTED_TEXTS = 256  # number of training texts on which a student narrower than its teacher is fitted to it

_OF_HUB = (HTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, HFValidationError)
# Errors of the constructors of `Trainer` and Accelerate about options, some of which come from the launcher.
REFUSED_BY_TRAINER = re.compile(
    "mixed precision requires|only works in distributed training|`num_steps` is set but|can't (both )?be set|"
    "can't be used with `save_only_model`|save_only_model option is not compatible"
)


class ModelInputs(NamedTuple):
    """The encoded sets of a task. `validation` and `test` hold sets by key: "" for the only or first one.

    `unlabeled` holds training examples without labels; it is None where no term would read them.
    """

    train: Dataset | None
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    unlabeled: Dataset | None = None


class Task(abc.ABC):
    """The interface between a run and its task.

    Attributes:
        args: its data options.
        has_labels: whether its examples have labels, from which scores are computed. If not, evaluation reports the
            terms of the loss, and the methods from `unlabeled_columns` to `write_predictions` are not called.
        classifies: whether it has classes.
        holds_out: whether the validation set is held out of the training data.
        one_tokenizer_because: why teacher and student need the same tokenizer; None if they do not.
        keeps_inputs: whether `encode` keeps the inputs on disk and returns the same ones when it is called again.
        group_size: how many examples of each group a step takes; None if they are in no groups.
        model_class: the Auto class of its models.
        trainer_class, dynamic_trainer_class: the trainers of its models, and of those with several widths or depths.
        best_metric, metrics: the score that picks the best checkpoint, and the names of all scores.
        hub_dataset: the name of the data set if it comes from the Hub, else None.
        data: the sets `train`, `validation` and `test` as in `ModelInputs`, and the names of its `text_columns`; set
            by `load`.
        inputs: the encoded data, set once `encode` is done.
        evaluates_own: whether the model that is evaluated was trained by this run, in this call or an earlier one.
    """

    args: DataArguments
    has_labels: bool = True
    classifies: bool
    holds_out: bool = False
    one_tokenizer_because: str | None = None
    keeps_inputs: bool = False
    group_size: int | None = None
    model_class: type[Any]
    trainer_class: type[DistillationTrainer] = DistillationTrainer
    dynamic_trainer_class: type[DynamicTrainer] = DynamicTrainer
    best_metric: str
    metrics: Sequence[str]
    hub_dataset: str | None
    data: Any
    inputs: ModelInputs
    evaluates_own: bool = True

    def use_stages(self, stages: Sequence[Stage]) -> None:
        """Fits the task to the losses of the run, before it is used; raises InputError if they do not fit it."""
        return

    @abc.abstractmethod
    def files(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        """Returns the files of these splits (train, validation) by the option that names them."""

    @abc.abstractmethod
    def load(self, splits: Sequence[str]) -> None:
        """Reads the data of these splits (train, validation, test)."""

    @abc.abstractmethod
    def check(self, pair: ModelPair) -> None:
        """Raises InputError if the models' configurations or tokenizers do not fit; called before `load`."""

    @abc.abstractmethod
    def set_head(self, pair: ModelPair) -> None:
        """Gives the student the task's head and checks the teacher's."""

    @abc.abstractmethod
    def encode(self, tokenizer: Tokenizer) -> ModelInputs:
        """Turns the data into model inputs."""

    @abc.abstractmethod
    def collator(self, tokenizer: Tokenizer) -> Callable[[list], Mapping[str, torch.Tensor]]:
        """Returns the function that makes a batch of encoded examples."""

    def prepare(self, trainer: DistillationTrainer, pair: ModelPair) -> None:
        """Sets what a new trainer of the task needs beside its arguments."""
        return

    def sets_by_name(self, splits: Sequence[str]) -> dict[str, dict[str, Dataset | None]]:
        """Returns the sets that training depends on by the option that names them; empty if files do."""
        if self.hub_dataset is None and not self.args.dataset_name:
            return {}
        sets = {"train": self.data.train}
        if "validation" in splits:
            sets |= {f"validation {name}".rstrip(): data for name, data in self.data.validation.items()}
        return {"dataset_name" if self.args.dataset_name else "task_name": sets}

    @property
    def unlabeled_columns(self) -> dict[str, str]:
        """The columns of texts without labels: {its name in `data`: its name in the source}."""
        raise NotImplementedError

    def encode_unlabeled(self, texts: Dataset, tokenizer: Tokenizer) -> Dataset:
        """Turns texts without labels into model inputs."""
        raise NotImplementedError

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Returns the scores of the validation set."""
        raise NotImplementedError

    def contributions(self, prediction: EvalPrediction) -> dict[str, np.ndarray]:
        """Returns what each example of the validation set contributes to the scores, to compare runs by.

        The mean of a score's values is the score, see `ckd_trainer.reports.statistics`. Scores may be left out.
        """
        raise NotImplementedError

    def settle(self, prediction: EvalPrediction) -> dict[str, Any]:
        """Returns entries of the model's configuration that follow from its predictions for the validation set.

        The run saves them with the model, unless it only evaluates a model from elsewhere.
        """
        return {}

    def check_teacher(self, logits: torch.Tensor, examples: Dataset, split: str) -> None:
        """Warns loudly if a teacher's answers to a sample of encoded examples have nothing to do with the labels.

        Args:
            logits: as `Head.logits` returns them, in the data's order of labels and on their scale; for spans, in
                token positions.

        Raises:
            InputError: the answers fit labels in another order or on another scale.
        """
        raise NotImplementedError

    def write_predictions(self, name: str, logits: Any, folder: Path) -> Path:
        """Writes the predictions for the test set `name`; returns the file."""
        raise NotImplementedError


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
    stages = stages_of(arguments)
    task.use_stages(stages)
    use_best_metric(args, *_scores(task, stages[-1]))
    for stage in stages:
        with stage.naming_errors():
            use_best_metric(stage.args, *_scores(task, stage))
    if model_args.lora_rank is not None:
        _check_adapters(task, stages)
    with start(*arguments, stages=stages) as begin:
        return _run_started(task, begin, model_args, data_args, args, stages, run_args.method_file)


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
    elif _is_dynamic(stages[0]):
        obstacle = "a student of several widths or depths has plain layers"
    elif is_sharded(stages[0].args):
        obstacle = "adapters are not supported with FSDP and DeepSpeed"
    if obstacle is not None:
        raise InputError(f"lora_rank is set, but {obstacle}: leave lora_rank out.")


def _scores(task: Task, stage: Stage) -> tuple[str, Sequence[str]]:
    """Returns the score that picks the best checkpoint of a stage, and the names of all scores."""
    if not _is_dynamic(stage):
        return task.best_metric, task.metrics
    return f"mean_{task.best_metric}", scores_of(stage.dynamic_args.subnetworks, task.metrics)


def _is_dynamic(stage: Stage) -> bool:
    return stage.dynamic_args.is_dynamic


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
        distills=any(stage.distills for stage in stages),
        trains=trains or saves_adapter,  # an adapter brings the head of its base model
    )
    if saves_adapter and begin.is_trained:  # with the labels of the training, and their thresholds
        pair.student_config = config_of_adapter(args.output_dir, **pair.options)
    if begin.overwrites and Path(args.output_dir).resolve() in map(Path.resolve, pair.folders):
        raise InputError(f"output_dir {args.output_dir} holds a model that this run reads: give another output_dir.")
    _check_tokenizers(task, pair)
    task.check(pair)
    for stage in stages:
        if _is_dynamic(stage):
            with stage.naming_errors():
                check_dynamic(pair.student_config, stage.dynamic_args.subnetworks)
                if not trains:
                    check_trained(pair.student_config, stage.dynamic_args.subnetworks)
    begin.settle({name: getattr(data_args, name) for name in data_args.by_default})
    terms: list[Term] = []
    if any(stage.has_terms for stage in stages):  # raises if a layer mapping does not fit
        head = head_of_auto_class(task.model_class, pair.student_config)
        terms = terms_of_stages(stages, Pair(pair.student_config, pair.teacher_config, head))
    _check_tokenizers(task, pair, terms)
    if task.hub_dataset is not None:
        task.load(splits)
    read.check_loaded(task.sets_by_name(read.splits))
    task.set_head(pair)
    with contextlib.ExitStack() as stack:
        unlabeled = None
        if trains and data_args.has_unlabeled and pair.distills:
            unlabeled = stack.enter_context(_unlabeled_texts(task))
        elif trains and data_args.has_unlabeled:
            logger.info("No term of the loss reads the teacher, so the unlabeled texts are left out.")
        if data_args.unlabeled_dataset_name and unlabeled is not None:
            read.check_loaded({"unlabeled_dataset_name": {data_args.unlabeled_split_name or "train": unlabeled}})
        sets = [*task.data.validation.values(), *task.data.test.values(), task.data.train, unlabeled]
        read_set = next(filter(None, sets), None)
        if read_set is not None and pair.distills and pair.tokenizer is not pair.teacher_tokenizer:
            pair.compare_encodings(_drawn_texts(task.data, read_set, args.seed, CHECKED_TEXTS))
            _check_tokenizers(task, pair, terms)

        trained = stage_folder(args.output_dir, begin.trained_stages) if begin.trained_stages else None
        stages = stages[begin.trained_stages :]  # only now: the pair and its texts are the same in every call
        trained_on = task.data.train or unlabeled
        fitted = _drawn_texts(task.data, trained_on, args.seed, FITTED_TEXTS) if trains else ()
        student, teacher = pair.load(fitted, trained)
        if saves_adapter and begin.is_trained:
            student = load_adapter(student, args.output_dir)
        elif model_args.lora_rank is not None:
            student = add_adapter(student, model_args, task.model_class)
        inputs = stack.enter_context(_inputs(task, pair.input_tokenizer, unlabeled))
        for stage in stages if trains else ():
            with stage.naming_errors():
                check_steps(stage.args, _examples_of_epoch(task, stage))
        trainers = _trainers(task, inputs, pair, student, teacher, stages)
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


@contextlib.contextmanager
def _unlabeled_texts(task: Task) -> Iterator[Dataset]:
    """Reads the texts without labels once on each machine, and keeps them on disk."""
    with contextlib.ExitStack() as stack:

        def make() -> DatasetDict:
            with told_without_room(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE", "the beginning"):
                folder = stack.enter_context(scratch_folder())
                return DatasetDict({"texts": load_unlabeled(task.args, task.unlabeled_columns, folder)})

        yield stack.enter_context(made_once(make))["texts"]


@contextlib.contextmanager
def _inputs(task: Task, tokenizer: Tokenizer, unlabeled: Dataset | None) -> Iterator[ModelInputs]:
    """Encodes the task's data once on each machine."""
    if task.keeps_inputs:
        task.inputs = in_all_processes(lambda: task.encode(tokenizer))
        yield task.inputs
        return

    def make() -> DatasetDict:
        inputs = task.encode(tokenizer)
        sets = {"train": inputs.train} if inputs.train is not None else {}
        if unlabeled is not None:
            with told_without_room(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE", "the beginning"):
                sets["unlabeled"] = task.encode_unlabeled(unlabeled, tokenizer)
        sets |= {f"validation-{name}": data for name, data in inputs.validation.items()}
        return DatasetDict(sets | {f"test-{name}": data for name, data in inputs.test.items()})

    with made_once(make) as sets:

        def named(split: str) -> dict[str, Dataset]:
            return {key.removeprefix(split): data for key, data in sets.items() if key.startswith(split)}

        task.inputs = ModelInputs(sets.get("train"), named("validation-"), named("test-"), sets.get("unlabeled"))
        yield task.inputs


def _trainers(
    task: Task,
    inputs: ModelInputs,
    pair: ModelPair,
    student: PreTrainedModel | None,
    teacher: StoredTeacher | None,
    stages: Sequence[Stage],
) -> Iterator[DistillationTrainer]:
    """Yields the trainer of each stage. The student of the next one is read from the folder of the one before."""
    kept = None
    for number, stage in enumerate(stages):
        if number == 0:
            stage.log_options()
        else:
            student, _ = pair.load(trained=stages[number - 1].folder)
        with stage.naming_errors():
            trainer = _make_trainer(
                functools.partial(task.dynamic_trainer_class, dynamic_args=stage.dynamic_args)
                if any(map(_is_dynamic, stages))
                else task.trainer_class,
                model=student,
                teacher_model=teacher,
                ckd_args=stage.ckd_args,
                methods=stage.methods,
                args=stage.args,
                train_dataset=inputs.unlabeled if inputs.train is None else inputs.train,
                unlabeled_dataset=None if inputs.train is None else inputs.unlabeled,
                unlabeled_share=None if inputs.unlabeled is None else task.args.unlabeled_share,
                group_size=task.group_size,
                eval_dataset=inputs.validation.get(""),
                data_collator=task.collator(pair.input_tokenizer),
                processing_class=pair.saved_tokenizer,
                compute_metrics=task.compute_metrics if task.has_labels else None,
            )
        task.prepare(trainer, pair)
        if number == 0:
            kept = _prepare(task, trainer, inputs, pair.student_config.num_labels, stages)
        if kept is not None:
            trainer.mixture.unlabeled = kept
        yield trainer
        del trainer, student  # frees their memory for the next


def _prepare(
    task: Task, trainer: DistillationTrainer, inputs: ModelInputs, classes: int, stages: Sequence[Stage]
) -> np.ndarray | None:
    """Checks the losses of all stages, lets the teacher answer a sample of examples, and opens its cache.

    Returns:
        the rows of the unlabeled examples that the teacher is sure of; None without unlabeled_min_confidence.
    """
    first, reader, kept = stages[0], None, None
    signals: list[Signal] = []
    for stage in stages:
        if stage is not first:
            stage.log_options()
            with stage.naming_errors():
                _use(trainer, stage)
        if trainer.teacher is not None:
            reader, signals = stage, [*signals, *trainer.teacher.signals]
    if reader is not None:
        if trainer.ckd_args is not reader.ckd_args:
            _use(trainer, reader)
        trainer.teacher.also_cached = signals
        if task.has_labels:
            reads_logits = any("logits" in stage.ckd_args.weights for stage in stages)
            _check_teacher(task, trainer, inputs, classes, reads_logits=reads_logits)
        if trainer.caches_teacher:
            trainer.open_teacher_cache()  # now: a signal ends the run at once, and a mistake leaves no files
            if task.args.unlabeled_min_confidence is not None:
                kept = _sure_of(trainer, task.args.unlabeled_min_confidence)
    if trainer.ckd_args is not first.ckd_args:
        _use(trainer, first)
    return kept


def _use(trainer: DistillationTrainer, stage: Stage) -> None:
    """Replaces the loss of a trainer by that of a stage."""
    if isinstance(trainer, DynamicTrainer):
        trainer.use_loss(stage.ckd_args, stage.methods, stage.dynamic_args)
    else:
        trainer.use_loss(stage.ckd_args, stage.methods)


def _check_teacher(
    task: Task, trainer: DistillationTrainer, inputs: ModelInputs, classes: int, *, reads_logits: bool
) -> None:
    """Lets the task check the teacher's logits for a sample, before the teacher's cache is built."""
    cached = trainer.caches_teacher and trainer.teacher.has_cache(trainer.train_dataset)
    split = "validation" if "" in inputs.validation and not (cached and inputs.train) else "training"
    examples = inputs.validation[""] if split == "validation" else inputs.train
    if examples is None:
        return  # no labels to compare the answers with
    rows = _drawn(examples, trainer.args.seed, max(SAMPLE_SIZE, 10 * classes))
    sample = examples.select(rows)
    if split == "training" and cached:
        trainer.open_teacher_cache()
        logits = trainer.teacher.cached_logits(rows)
    else:
        logits = _live_logits(trainer, sample)
    try:
        task.check_teacher(trainer.ckd_args.map_scores(logits), sample, split)
    except InputError as error:
        if reads_logits:
            raise
        # Its hidden states may still be useful.
        logger.warning("No term of the loss reads the teacher's logits, but %s", error)


def _sure_of(trainer: DistillationTrainer, confidence: float) -> np.ndarray:
    """Returns the rows of the unlabeled examples for which the teacher gives one class at least this probability."""
    rows = trainer.mixture.unlabeled
    blocks = np.array_split(rows, len(rows) // 100_000 + 1)
    surest = np.concatenate(
        [trainer.teacher.cached_logits(block).float().softmax(-1).amax(-1).numpy() for block in blocks]
    )
    kept = rows[surest >= confidence]
    logger.info("The teacher is sure of %d of %d unlabeled texts.", len(kept), len(rows))
    if len(kept) == 0:
        raise InputError(
            f"unlabeled_min_confidence is {confidence:g}, but the teacher's highest is {surest.max():.3f}: give a "
            "lower one."
        )
    return kept


def _examples_of_epoch(task: Task, stage: Stage) -> int:
    inputs = task.inputs
    if task.group_size is not None:
        return task.group_size * len(set(inputs.train[GROUP][:]))
    share = mixed_share(task.args, distills=stage.distills)
    if share is None:
        return len(inputs.unlabeled if inputs.train is None else inputs.train)
    labeled, unlabeled = sizes_of(share, stage.args)
    return len(inputs.train) + round(len(inputs.train) * unlabeled / labeled)


def _drawn_texts(data: Any, examples: Dataset, seed: int, count: int) -> Iterator[tuple[str, ...]]:
    """Returns a sample of the examples, each with one text per text column."""
    sample = examples.select(_drawn(examples, seed, count))
    return zip(*(sample[name] for name in data.text_columns), strict=True)


def _drawn(examples: Dataset, seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(examples))[:count]


def _make_trainer(trainer_class: Callable[..., DistillationTrainer], **kwargs: Any) -> DistillationTrainer:
    """Returns a trainer.

    Raises:
        InputError: options that contradict those of the launcher, or a Hub that cannot be reached.
    """
    try:
        return trainer_class(**kwargs)
    except _OF_HUB as error:  # push_to_hub creates the repository here
        if not kwargs["args"].push_to_hub:
            raise
        name = kwargs["args"].hub_model_id or kwargs["args"].output_dir
        raise InputError(
            f"push_to_hub is set, but the repository {name} cannot be created on the Hub ({error}): check the "
            "network, the token (HF_TOKEN) and hub_model_id, or leave push_to_hub out."
        ) from error
    except ValueError as error:
        if not REFUSED_BY_TRAINER.search(str(error)):
            raise
        raise InputError(str(error)) from error


def _live_logits(trainer: DistillationTrainer, sample: Dataset) -> torch.Tensor:
    source, parts = trainer.teacher, []
    teacher = source.live()
    loader = DataLoader(
        sample,
        batch_size=trainer.args.eval_batch_size,
        collate_fn=trainer.data_collator,
        generator=torch.Generator(),  # the default generator is the one that dropout uses
    )
    for batch in loader:
        batch = {name: value.to(trainer.args.device) for name, value in batch.items()}
        parts.append(source.live_logits(teacher, batch).cpu())
    longest = max(part.shape[-1] for part in parts)
    return torch.cat([F.pad(part, (0, longest - part.shape[-1])) for part in parts])
