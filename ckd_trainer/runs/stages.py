"""Stages: trainings one after another in one run, each with some options of its own."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, RunArguments
from ckd_trainer.methods import MethodArguments, Pair, Term, terms_of
from ckd_trainer.models.subnetworks import DynamicArguments, at_depth, config_at_depth
from ckd_trainer.runs.recipe import one_of, parse_options, unknown_option, with_options
from ckd_trainer.training.dynamic_options import check_terms
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)

# What a stage may set beside the options of the loss.
_OF_TRAINING = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "load_best_model_at_end",
)
_OF_RUNS = ("early_stopping_patience",)
# Options of CKDArguments that are about the teacher, which all stages share.
_OF_TEACHER = ("teacher_cache_dir", "teacher_score_scale", "teacher_score_shift")


@dataclass(frozen=True)
class Stage:
    """A training of a run. A run without stages has exactly one.

    Attributes:
        args, ckd_args, methods, dynamic_args, early_stopping_patience: its options; without a teacher, `ckd_args` has
            no weights.
        output_dir: of the run.
        options: those that it sets otherwise than the run; None in a run without stages.
        number, count: it is the stage `number` (from 1) of `count`.
    """

    args: TrainingArguments
    ckd_args: CKDArguments
    methods: Sequence[MethodArguments]
    dynamic_args: DynamicArguments
    early_stopping_patience: int | None
    output_dir: Path
    options: Mapping[str, Any] | None = None
    number: int = 1
    count: int = 1

    @property
    def folder(self) -> Path:
        """The folder of its checkpoints and its model: for the last stage that of the run."""
        return self.output_dir if self.is_last else stage_folder(self.output_dir, self.number)

    @property
    def is_last(self) -> bool:
        return self.number == self.count

    @property
    def distills(self) -> bool:
        """Whether a term of its loss reads the teacher."""
        return self.has_terms and not self.dynamic_args.whole_student_teaches

    @property
    def has_terms(self) -> bool:
        """Whether its loss has terms beside the labels."""
        return bool(self.terms)

    @property
    def terms(self) -> list[str]:
        """The names of its terms beside the labels."""
        return [*self.ckd_args.weights, *(term for method in self.methods for term in method.weights)]

    def without_teacher(self) -> "Stage":
        """Returns the stage for a call that does not train: with the loss on the labels alone."""
        dynamic_args = dataclasses.replace(self.dynamic_args, whole_student_teaches=False)
        ckd_args = CKDArguments.fine_tuning()
        return dataclasses.replace(self, ckd_args=ckd_args, methods=[], dynamic_args=dynamic_args, options=None)

    def log_options(self) -> None:
        """Logs the options that it sets."""
        if self.options is not None:
            said = ", ".join(f"{name} {value}" for name, value in self.options.items())
            logger.info("Stage %d of %d sets %s.", self.number, self.count, said or "nothing")

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Adds the stage to the messages of InputErrors about its options."""
        with _naming_errors(None if self.options is None else self.number):
            yield


def terms_of_teacher(stages: Sequence[Stage]) -> list[str]:
    """Returns the names of the terms of all stages that read the teacher, without duplicates."""
    return list(dict.fromkeys(term for stage in stages if stage.distills for term in stage.terms))


def terms_of_stages(stages: Sequence[Stage], pair: Pair) -> list[Term]:
    """Returns the terms of all stages; raises InputError if those of one do not fit the pair, at any depth."""
    terms: list[Term] = []
    for stage in stages:
        teacher = pair.student if stage.dynamic_args.whole_student_teaches else pair.teacher
        for part in stage.dynamic_args.at_full_width:
            with stage.naming_errors(), at_depth(part):
                shallow = Pair(config_at_depth(pair.student, part), teacher, pair.head)
                found = terms_of(stage.ckd_args, stage.methods, shallow)
                check_terms(found, stage.dynamic_args, pair.student)
                terms += found
    return terms


def stage_folder(output_dir: str | Path, number: int) -> Path:
    """Returns the folder of a stage other than the last."""
    # `Trainer` uploads the output folder, except files whose names begin with an underscore.
    return Path(output_dir) / f"_stage_{number}"


def run_folder(checkpoint: str | Path) -> Path:
    """Returns the output folder of the run that saved a checkpoint."""
    folder = Path(os.path.abspath(checkpoint)).parent
    return folder.parent if folder.name.startswith("_stage_") else folder


def stages_of(arguments: Sequence[Any]) -> list[Stage]:
    """Returns the stages of a run with these dataclass instances; converts `stages` to the types of the options.

    Raises:
        InputError: a stage sets an option that does not exist or holds for the whole run, or a value is refused.
    """
    run_args, args = one_of(RunArguments, arguments), one_of(TrainingArguments, arguments)
    ckd_args = next((group for group in arguments if isinstance(group, CKDArguments)), None)
    methods = [group for group in arguments if isinstance(group, MethodArguments)]
    dynamic_args = next((group for group in arguments if isinstance(group, DynamicArguments)), None)
    whole = Stage(
        args,
        ckd_args or CKDArguments.fine_tuning(),
        methods,
        dynamic_args or DynamicArguments(),
        run_args.early_stopping_patience,
        Path(args.output_dir),
    )
    if run_args.stages is None:
        _check_dynamic([whole])
        return [whole]
    if str(args.resume_from_checkpoint or "no").lower() not in ("no", "false", "0"):
        raise InputError(
            f"resume_from_checkpoint is {args.resume_from_checkpoint}, but a run with stages resumes by itself, where "
            "it stopped: leave it out."
        )
    if args.deepspeed_plugin is not None:
        raise InputError(
            "stages is set, but DeepSpeed's configuration is that of a single training: start a run for each stage, "
            "with the output_dir of the one before as its model_name_or_path."
        )
    groups = [group for group in (run_args, args, ckd_args, *methods, dynamic_args) if group is not None]
    stages = []
    for number, options in enumerate(run_args.stages, start=1):
        with _naming_errors(number):
            _check_names(number, options, arguments)
            values = parse_options([type(group) for group in groups], options)
            changed = [_with(group, values) for group in groups]
        run = one_of(RunArguments, changed)
        stages.append(
            Stage(
                one_of(TrainingArguments, changed),
                next((group for group in changed if isinstance(group, CKDArguments)), whole.ckd_args),
                [group for group in changed if isinstance(group, MethodArguments)],
                next((group for group in changed if isinstance(group, DynamicArguments)), whole.dynamic_args),
                run.early_stopping_patience,
                whole.output_dir,
                values,
                number,
                len(run_args.stages),
            )
        )
    _check_dynamic(stages)
    run_args.stages = [dict(stage.options or {}) for stage in stages]  # so 1e-4 and 0.0001 are recorded alike
    return stages


def _check_dynamic(stages: Sequence[Stage]) -> None:
    """Raises InputError for options of dynamic students that have no effect."""
    teaching = [stage for stage in stages if stage.dynamic_args.whole_student_teaches]
    is_dynamic = any(stage.dynamic_args.is_dynamic for stage in stages)
    for stage in teaching if is_dynamic else ():
        with stage.naming_errors():
            if not stage.dynamic_args.is_dynamic:
                raise InputError(
                    "whole_student_teaches is set, but the student has no other sub-networks: set it to false in this "
                    "stage, or give student_widths or student_depths."
                )
            if not stage.has_terms:
                raise InputError(
                    "whole_student_teaches is set, but no term of the loss has a weight, so it would teach nothing: "
                    "give alpha or a term a weight, or set it to false."
                )
    for option in () if is_dynamic else dataclasses.fields(DynamicArguments):
        if any(getattr(stage.dynamic_args, option.name) != option.default for stage in stages):
            raise InputError(
                f"{option.name} is set, but the student has no other sub-networks: give student_widths or "
                "student_depths, or leave it out."
            )


@contextlib.contextmanager
def _naming_errors(number: int | None) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if number is None or str(error).startswith(f"stage {number} "):
            raise
        raise InputError(f"stage {number}: {error}") from error


def _check_names(number: int, options: Mapping[str, Any], arguments: Sequence[Any]) -> None:
    """Raises InputError for an option that a stage may not set."""
    known = [option.name for group in arguments for option in dataclasses.fields(group) if option.init]
    of_loss = (CKDArguments, MethodArguments, DynamicArguments)
    loss = [option.name for group in arguments if isinstance(group, of_loss) for option in dataclasses.fields(group)]
    allowed = {*_OF_TRAINING, *_OF_RUNS, *loss} - {*_OF_TEACHER}
    for name in options:
        if name not in known:
            raise InputError(unknown_option(str(name), sorted(allowed)))
        if name not in allowed:
            raise InputError(
                f"stage {number} sets {name}, which holds for the whole run: a stage sets options of the loss, or "
                f"{', '.join((*_OF_TRAINING, *_OF_RUNS))}."
            )


def _with(group: Any, values: Mapping[str, Any]) -> Any:
    names = {option.name for option in dataclasses.fields(group)}
    return with_options(group, {name: value for name, value in values.items() if name in names})
