"""Fingerprints of data, models and revisions, so that a change under the same name is noticed.

`run.json` holds them. A call that resumes the run, or would use its trained model, compares its own with these.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import TrainingArguments

from ckd_trainer.arguments import ModelArguments
from ckd_trainer.models.pair import is_folder
from ckd_trainer.runs.folder import Start
from ckd_trainer.runs.stages import Stage, run_folder
from ckd_trainer.runs.training_options import SCHEDULES_BY_METRIC
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import RECORD, files_fingerprint, input_errors_about
from ckd_trainer.utils.processes import broadcast_from_main

logger = logging.getLogger(__name__)

Inputs = dict[str, dict[str, str]]  # {option: {file name, split or "commit": fingerprint}}

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_BESIDE_WEIGHTS = (  # configuration, code and tokenizer files
    "*config.json",
    "*.py",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.codes",
    "dict.txt",
)


class TrainingInputs:
    """The inputs of a run's training: records them, and refuses to resume if they have changed.

    Every process makes one and calls its methods, but only the main process reads files. Without do_train, nothing is
    compared (but see `holds_out`), and the record stays as it is.

    Args:
        args: the arguments of the run.
        start: how the run starts; its `inputs` are set here.
        model_args: the models of the run.
        stages: all stages of the run.
        holds_out: whether examples are held out of the training data: then these are compared without do_train, too.

    Example::

        inputs = TrainingInputs(args, start, model_args, stages)
        inputs.check_files(task.files(inputs.splits))
        ...  # configurations are loaded, and data from the Hub
        inputs.check_loaded({"dataset_name": {"train": task.data.train}})
    """

    def __init__(
        self,
        args: TrainingArguments,
        start: Start,
        model_args: ModelArguments,
        stages: Sequence[Stage],
        *,
        holds_out: bool = False,
    ) -> None:
        self.args, self.start, self.stages = args, start, stages
        # What a trained run needs to be evaluated: an adapter is added to the weights of its base model.
        self._needs_base = start.is_trained and model_args.saves_adapter
        self._compares = args.do_train or ((holds_out or self._needs_base) and start.is_trained)
        distills = any(stage.distills for stage in stages)
        start.inputs = broadcast_from_main(lambda: _recorded(args, start))
        from_teacher = model_args.student_is_from_teacher
        self._models = {}  # {option: (folder or id, whether its weights are read)}
        if not from_teacher:
            self._models["model_name_or_path"] = model_args.model_name_or_path, model_args.student_init == "pretrained"
        if distills or from_teacher:
            reads_weights = distills or model_args.student_init == "teacher_layers"
            self._models["teacher_model_name_or_path"] = model_args.teacher_model_name_or_path, reads_weights

    @property
    def splits(self) -> list[str]:
        """The sets that training depends on.

        The validation set is one of them if it is evaluated during training. Once the run is trained, it counts only
        if its scores chose the best checkpoint or the learning rate.
        """
        chooses = any(
            stage.args.load_best_model_at_end or stage.args.lr_scheduler_type in SCHEDULES_BY_METRIC
            for stage in self.stages
        )
        evaluates = self.args.eval_strategy != "no" and (chooses or not self.start.is_trained)
        return ["train", "validation"] if evaluates else ["train"]

    def check_files(self, data: Mapping[str, list[Path]]) -> None:
        """Compares and records the files of data and of local models, and DeepSpeed's configuration.

        Args:
            data: the files of `splits` by the option that names them.

        Raises:
            InputError: a file has changed since the run was trained, or cannot be read.
        """
        config = self.args.deepspeed
        settings = {"deepspeed": [Path(config)]} if isinstance(config, str) else {}
        self._check(lambda: _files({**data, **self._model_files(), **settings}))

    def check_loaded(self, data: Mapping[str, Mapping[str, Dataset | None]]) -> None:
        """Compares and records the commits of models and the rows of data sets that come by name.

        Call it after the models' configurations are loaded: then the cache on this machine is at the commit in use.

        Args:
            data: {option: {name: set}} for the sets of `splits`; None for a set that this call does not read.

        Raises:
            InputError: a model or a set has changed since the run was trained.
        """

        def rows() -> Inputs:
            return {
                option: {name: rows_fingerprint(examples) for name, examples in sets.items() if examples is not None}
                for option, sets in data.items()
            }

        self._check(lambda: {**self._commits(), **rows()})

    def _check(self, read: Callable[[], dict]) -> None:
        if self._compares:
            self.start.inputs = broadcast_from_main(lambda: self._unchanged(read()))

    def _unchanged(self, inputs: Inputs) -> Inputs:
        """Returns the recorded inputs and these; raises InputError if they differ."""
        start, changed = self.start, []
        for option, parts in inputs.items():
            before = start.inputs.get(option, parts)
            # A trained model does not need files that are gone, and a named checkpoint may resume without a set.
            names = parts if start.is_trained or start.trains_on else before | parts
            changed += [f"{option} ({name})" for name in names if before.get(name) != parts.get(name)]
        if changed:
            ways = ["restore it", "give another output_dir"]
            if not start.trains_on:
                ways.append("set overwrite_output_dir to train from the beginning")
            if start.is_trained and self.args.do_train and not self._needs_base:
                ways.append("leave do_train out to use the trained model as it is")
            raise InputError(
                f"{', '.join(changed)} has changed since the run in output_dir {self.args.output_dir} was trained: "
                f"{', '.join(ways[:-1])}, or {ways[-1]}."
            )
        return start.inputs | {option: parts for option, parts in inputs.items() if parts}

    def _model_files(self) -> dict[str, list[Path]]:
        files = {}
        for option, (name, reads_weights) in self._models.items():
            # The run itself changes a model in its own output folder.
            if name and is_folder(name) and Path(name).resolve() != Path(self.args.output_dir).resolve():
                patterns = _BESIDE_WEIGHTS + (_WEIGHTS if reads_weights else ())
                files[option] = sorted({path for pattern in patterns for path in Path(name).glob(pattern)})
        return files

    def _commits(self) -> Inputs:
        commits = {}
        for option, (name, _) in self._models.items():
            try:
                path = try_to_load_from_cache(name, "config.json") if name and not is_folder(name) else None
            except HFValidationError:  # a folder that no longer exists
                continue
            if isinstance(path, str):
                commits[option] = {"commit": Path(path).parent.name}  # .../snapshots/<commit>/config.json
        return commits


def _files(files: Mapping[str, list[Path]]) -> Inputs:
    inputs: Inputs = {}
    for option, paths in files.items():
        inputs[option] = {}
        for path in paths:
            with input_errors_about(path):
                if path.is_file():
                    inputs[option][path.name] = files_fingerprint([path])
    return inputs


def rows_fingerprint(examples: Dataset) -> str:
    """Returns a fingerprint of the rows of a data set, in their order."""
    digest = hashlib.sha256()
    for batch in examples.iter(batch_size=1000):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _recorded(args: TrainingArguments, start: Start) -> Inputs:
    """Returns the inputs of the run to resume; empty if training starts from the beginning."""
    if start.is_trained or start.trained_stages:
        folder = Path(args.output_dir)
    elif start.checkpoint is not None:
        folder = run_folder(start.checkpoint)
    else:
        return {}
    try:
        inputs = json.loads((folder / RECORD).read_text(encoding="utf-8"))["inputs"]
        return {option: dict(parts) for option, parts in inputs.items()}
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):  # older than inputs, or damaged
        logger.info("%s has no fingerprints of the run's inputs, so changes cannot be noticed.", folder / RECORD)
        return {}
