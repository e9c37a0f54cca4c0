"""LoRA students: small trained adapters beside frozen linear layers (Hu et al. 2022, arXiv 2106.09685), by peft."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from ckd_trainer.arguments import ModelArguments
from ckd_trainer.utils.errors import InputError

ADAPTER = "adapter_model.safetensors"  # the file in which peft saves weights

_TASKS = {
    AutoModelForSequenceClassification: "SEQ_CLS",
    AutoModelForTokenClassification: "TOKEN_CLS",
    AutoModelForQuestionAnswering: "QUESTION_ANS",
}


def add_adapter(model: PreTrainedModel, args: ModelArguments, model_class: type[Any]) -> Any:
    """Returns a `PeftModel` whose adapters and head are trained.

    Args:
        model_class: the Auto class of the model's task.

    Raises:
        InputError: the model has no modules of these names, or adapters do not fit them.
    """
    import peft

    heads, rank = _head_modules(model), args.lora_rank or 0
    given = args.lora_target_modules
    names = given and [name.strip() for name in given.split(",")]
    linear = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and not set(name.split(".")) & set(heads)
    }
    if names and not linear.issuperset(names):
        raise InputError(
            f"lora_target_modules is {given}, but {model.config.model_type} models have no such linear layers in the "
            f"encoder: give some of {', '.join(sorted(linear))}, or leave it out for all of them."
        )
    config = peft.LoraConfig(
        task_type=_TASKS[model_class],
        r=rank,
        lora_alpha=2 * rank,  # a common choice: the learning rate then hardly depends on the rank
        target_modules=names or "all-linear",
        exclude_modules=rf"(.*\.)?({'|'.join(heads)})(\..*)?",
        # All of them are trained and saved: a new pooler or head is in no other file.
        modules_to_save=heads,
    )
    return peft.get_peft_model(model, config)


def config_of_adapter(folder: str, **options: Any) -> PreTrainedConfig:
    """Returns the configuration that `DistillationTrainer` has saved beside an adapter."""
    return AutoConfig.from_pretrained(folder, **options)


def load_adapter(model: PreTrainedModel, folder: str) -> Any:
    """Returns the `PeftModel` of a base model and the adapter in a folder."""
    import peft

    return peft.PeftModel.from_pretrained(model, folder)


def load_adapter_weights(model: Any, folder: str | Path) -> None:
    """Loads the weights of an adapter into a `PeftModel` that has one of the same form."""
    import peft

    peft.set_peft_model_state_dict(model, load_file(Path(folder) / ADAPTER))


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Returns what is saved of a `PeftModel`, by the names in the file."""
    import peft

    return peft.get_peft_model_state_dict(model)


def adapter_facts(model: Any) -> dict[str, float]:
    """Returns the number of trained parameters, and the size of the adapter in MB (10^6 bytes)."""
    weights = adapter_weights(model).values()
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return {
        "trained_parameters": sum(weight.numel() for weight in weights),
        "adapter_size_mb": round(size / 1e6, 3),
    }


def _head_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules of the head, and of the pooler."""
    # In some families, the pooler is in the base model.
    parts = {"pooler": getattr(model.base_model, "pooler", None), **dict(model.named_children())}
    return [
        name
        for name, module in parts.items()
        if name != model.base_model_prefix and module is not None and next(module.parameters(), None) is not None
    ]
