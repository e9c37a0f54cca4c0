"""The head of a masked language model, put back on an encoder that was trained without it.

Relations need no logits, so teacher and student are trained as bare encoders: the logits of a vocabulary would take
most of the time. The student's head is that of the model it was made from.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ckd_trainer.models.compatibility import outline
from ckd_trainer.models.loading import load_weights

HeadWeights = dict[str, Tensor]  # {name of the weight in the masked language model: weight}


def language_head(name: str, config: PreTrainedConfig, **options: Any) -> HeadWeights | None:
    """Returns the weights of a stored model's masked-language head that it does not share with its encoder.

    Args:
        name: folder or Hub id.
        config: its configuration.
        options: passed to `from_pretrained`.

    Returns:
        None if the files hold no such head.
    """
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or not _saved_with_head(config):
        return None
    model, info = load_weights(name, AutoModelForMaskedLM, **options)
    lacking = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    # Copied, as loaded weights may be mapped from a file, which saving the student may overwrite.
    weights = {key: weight.clone() for key, weight in _own_weights(model).items()}
    return None if lacking & weights.keys() else weights


def attach(folder: str | Path, config: PreTrainedConfig, head: HeadWeights) -> None:
    """Replaces the bare encoder in a folder by a masked language model with this head, unless it already is one.

    The file keeps the weights of a pooler, which the masked language model does not have, so that `AutoModel` loads
    the encoder as it was.

    Args:
        folder: of a model saved by `save_pretrained`.
        config: its configuration.
    """
    encoder = {name: weight.clone() for name, weight in load_file(Path(folder) / "model.safetensors").items()}
    model = AutoModelForMaskedLM.from_config(config)
    if any(name.startswith(f"{model.base_model_prefix}.") for name in encoder):
        return
    unused = set(model.base_model.load_state_dict(encoder, strict=False).unexpected_keys)
    model.load_state_dict(head, strict=False)
    model.tie_weights()
    beside = {f"{model.base_model_prefix}.{name}": encoder[name] for name in unused}
    model.save_pretrained(folder, state_dict=model.state_dict() | beside)


def fits(config: PreTrainedConfig, head: HeadWeights) -> bool:
    """Returns whether a head fits an encoder of this configuration."""
    own = _own_weights(outline(config, AutoModelForMaskedLM))
    return own.keys() == head.keys() and all(own[name].shape == weight.shape for name, weight in head.items())


def _saved_with_head(config: PreTrainedConfig) -> bool:
    """Returns whether a model was saved with a head for language, as far as its configuration says."""
    classes = config.architectures
    return classes is None or any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes)


def _own_weights(model: PreTrainedModel) -> HeadWeights:
    """Returns the weights of a model that are not those of its encoder."""
    shared = {id(weight) for weight in [*model.base_model.parameters(), *model.base_model.buffers()]}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    saved = model.state_dict().keys()
    return {name: weight.detach() for name, weight in named if id(weight) not in shared and name in saved}
