"""Writes sub-networks of a dynamic student as plain models of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from transformers import PreTrainedModel

from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.extraction import extract
from ckd_trainer.models.loading import check_all_weights, load_config, load_weights
from ckd_trainer.models.sizes import head_size
from ckd_trainer.models.subnetworks import SUBNETWORKS, SubNetwork, check_dynamic, subnetworks_of
from ckd_trainer.models.tokenizers import load_tokenizer
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import write_atomically

_CARD = """---
library_name: transformers
tags: [ckd-trainer]
---

# {source} {part}

ckd-trainer cut this {model_type} out of the dynamic student `{source}`: width {width:g}, depth {depth:g}.

| layers | heads in each | dimensions of a head | neurons in each |
| ---: | ---: | ---: | ---: |
| {layers} | {heads} | {size} | {neurons} |

{padding}It loads like any model of transformers:

```python
from transformers import AutoTokenizer, {architecture}

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = {architecture}.from_pretrained("{name}")
```
"""
_PADDING = """In its files, the heads are padded with zeros: their number in `config.json` is {heads}, with {size}
dimensions each, because transformers divides the hidden size evenly among the heads.

"""
# The largest difference between logits that is rounding, as a share of the largest logit. Weights are read in float32,
# whatever the type in the files.
_TOLERANCE = 1e-4


class Dynamic(NamedTuple):
    """A dynamic student that was read from a folder, and the sub-networks for which it was trained."""

    folder: Path
    model: PreTrainedModel
    subnetworks: list[SubNetwork]


def trained_subnetworks(folder: Path) -> list[SubNetwork]:
    """Returns the sub-networks for which a student was trained, the whole one first; empty if it is not dynamic."""
    return subnetworks_of(load_config(str(folder)))


def load_dynamic(folder: Path) -> Dynamic:
    """Reads a dynamic student.

    Raises:
        InputError: the folder holds no model, or one that is not dynamic.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the output_dir of a run with student_widths.")
    parts = trained_subnetworks(folder)
    if not parts:
        raise InputError(
            f"{folder} holds no dynamic student (its config.json has no {SUBNETWORKS}): train one with student_widths "
            "or student_depths."
        )
    model = load_plain(folder)
    check_dynamic(model.config, parts)
    return Dynamic(folder, model, parts)


def load_plain(folder: Path) -> PreTrainedModel:
    """Reads a model of transformers, of the class that it was saved from.

    It returns logits alone, by name, even if its configuration asks for hidden states, attentions or tuples.
    """
    config = load_config(str(folder), output_hidden_states=False, output_attentions=False, return_dict=True)
    model_class = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    model, info = load_weights(str(folder), model_class, config=config)
    check_all_weights(model, info, str(folder))
    return model.eval()


def chosen(dynamic: Dynamic, widths: Sequence[float], depths: Sequence[float]) -> list[SubNetwork]:
    """Returns the sub-networks of these widths and depths; raises InputError for one that was not trained."""
    parts = [SubNetwork(width, depth) for width in widths for depth in depths]
    for part in parts:
        if part not in dynamic.subnetworks:
            there = ", ".join(f"{one.width:g} x {one.depth:g}" for one in dynamic.subnetworks)
            raise InputError(
                f"{dynamic.folder} was not trained for width {part.width:g} with depth {part.depth:g}: its "
                f"sub-networks, width x depth, are {there}."
            )
    return parts


def plain_model(dynamic: Dynamic, part: SubNetwork) -> PreTrainedModel:
    """Returns a sub-network as a plain model.

    Raises:
        RuntimeError: its logits differ from those of the sub-network by more than rounding, which is a bug.
    """
    plain = extract(dynamic.model, part)
    generator = torch.Generator().manual_seed(0)
    length = min(64, dynamic.model.config.max_position_embeddings // 2)
    ids = torch.randint(5, dynamic.model.config.vocab_size, (4, length), generator=generator)
    with torch.no_grad():
        ours = plain(input_ids=ids)
        with DynamicModel(dynamic.model).running(part):
            theirs = dynamic.model(input_ids=ids)
    for name, logits in theirs.items():
        difference = (ours[name] - logits).abs().max().item()
        tolerance = _TOLERANCE * max(1.0, logits.abs().max().item())
        if not difference <= tolerance:
            raise RuntimeError(
                f"the plain model of {part} in {dynamic.folder} is wrong: its {name} differ from those of the "
                f"sub-network by {difference:.1g}, more than {tolerance:.1g}."
            )
    return plain


def export(dynamic: Dynamic, part: SubNetwork, plain: PreTrainedModel, folder: Path) -> None:
    """Writes the plain model of a sub-network, with the tokenizer and a card."""
    config = dynamic.model.config
    plain.save_pretrained(folder)
    load_tokenizer(str(dynamic.folder)).save_pretrained(folder)
    padding = ""
    if part.heads(config) < config.num_attention_heads:
        padding = _PADDING.format(heads=plain.config.num_attention_heads, size=head_size(plain.config))
    card = _CARD.format(
        name=folder.resolve().name,
        part=part,
        source=dynamic.folder.resolve().name,
        model_type=config.model_type,
        layers=len(part.layers(config)),
        heads=part.heads(config),
        size=head_size(config),
        padding=padding,
        neurons=part.neurons(config),
        width=part.width,
        depth=part.depth,
        architecture=type(plain).__name__,
    )
    write_atomically(folder / "README.md", card)
