"""Which options may change when a run is resumed, and how two recipes differ."""

from dataclasses import fields

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.text_arguments import TextArguments
from ckd_trainer.methods import METHODS
from ckd_trainer.models.subnetworks import DynamicArguments

# Options that affect neither the data nor the training: they may change when a run is resumed.
MAY_DIFFER = {
    "do_train",
    "do_eval",
    "do_predict",
    "test_file",
    "test_split_name",
    "dataset_revision",  # the rows are compared, see `ckd_trainer.runs.inputs`
    "max_predict_samples",
    "n_best_size",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "save_total_limit",
    # logging, trackers and the Hub
    "disable_tqdm",
    "include_num_input_tokens_seen",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "log_gradient_norms",
    "logging_first_step",
    "logging_nan_inf_filter",
    "logging_steps",
    "logging_strategy",
    "project",
    "report_to",
    "run_name",
    "skip_memory_metrics",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
    "hub_always_push",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "push_to_hub",
    "allow_unused_weights",
    "teacher_cache_dir",  # a cache holds the same wherever it is
    # the speed of data loading. Not dataloader_drop_last, which removes steps, and not dataloader_in_order
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "ddp_timeout",
    "torch_empty_cache_steps",
}
# These may differ only if both runs have one, or neither: contents can be compared only between sources of the same
# kind, and a cache takes the place of the teacher.
_SAME_KIND = {
    "teacher_cache_dir",
    "train_file",
    "data_dir",
    "dataset_name",
    "sources",
    "unlabeled_file",
    "unlabeled_dataset_name",
}
# These affect the choice of the best checkpoint, so they no longer matter once the run is trained.
MAY_DIFFER_ONCE_TRAINED = {"null_score_diff_threshold", "max_answer_length"}
# These set the length of training. They may change if resume_from_checkpoint names the checkpoint.
MAY_DIFFER_WHEN_NAMED = {
    "max_steps",
    "num_train_epochs",
    "early_stopping_patience",
    "eval_delay",
    "eval_steps",
    "save_steps",
    # and these may have moved: they are compared by content, see `ckd_trainer.runs.inputs`
    "train_file",
    "validation_file",
    "data_dir",
    "dataset_name",
    "sources",
    "dataset_config_name",
    "train_split_name",
    "validation_split_name",
    "unlabeled_file",
    "unlabeled_dataset_name",
    "unlabeled_dataset_config_name",
    "unlabeled_dataset_revision",
    "unlabeled_split_name",
    "model_name_or_path",
    "teacher_model_name_or_path",
}

_ARGUMENTS = (
    ModelArguments,
    TextArguments,
    GlueArguments,
    NerArguments,
    SquadArguments,
    CKDArguments,
    RunArguments,
    *METHODS,
    DynamicArguments,
)
# Values of options that the recipes of earlier versions lack.
_DEFAULTS = {
    option.name: option.default for arguments in _ARGUMENTS for option in fields(arguments) if option.init
} | {"term_balance": "none", "relation_normalization": "pairs"}


def difference_of(theirs: dict, ours: dict, may_differ: set[str]) -> str:
    """Returns the first options in which two resolved recipes differ, with their values, as text.

    An option that a recipe lacks has its default there: recipes of older versions lack newer options.
    """

    theirs, ours = _with_stages(theirs), _with_stages(ours)

    def differs(key: str) -> bool:
        there, here = (recipe.get(key, _DEFAULTS.get(key)) for recipe in (theirs, ours))
        may = key in may_differ and (key not in _SAME_KIND or bool(there) == bool(here))
        return there != here and not may

    different = [key for key in {**theirs, **ours} if differs(key)]
    return ", ".join(
        f"{key} {theirs.get(key, default)} there, {ours.get(key, default)} here"
        for key, default in ((key, _DEFAULTS.get(key, "at its default")) for key in different[:3])
    )


def _with_stages(recipe: dict) -> dict:
    """Returns a recipe with the options of its stages beside the others, so that differences name the stage."""
    stages = recipe.get("stages")
    if not (isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages)):
        return recipe
    of_stages = {f"stage {n}: {key}": value for n, stage in enumerate(stages, 1) for key, value in stage.items()}
    return recipe | {"stages": len(stages)} | of_stages
