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
from ckd_trainer.models.subnetworks import SUBNETWORKS, SubNetwork, check_dynamic
from ckd_trainer.models.tokenizers import load_tokenizer
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import write_atomically

_CARD = """---
library_name: transformers
tags: [ckd-trainer]
---

# {source} {part}

A {model_type} of {layers} layers with {heads} attention heads and {neurons} neurons each. ckd-trainer cut it out of
the dynamic student `{source}`: width {width:g}, depth {depth:g}. It loads like any model of transformers:

```python
from transformers import AutoTokenizer, {architecture}

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = {architecture}.from_pretrained("{folder}")
```
"""


class Dynamic(NamedTuple):
    """A dynamic student that was read from a folder, and the sub-networks for which it was trained."""

    folder: Path
    model: PreTrainedModel
    subnetworks: list[SubNetwork]


def trained_subnetworks(folder: Path) -> list[SubNetwork]:
    """Returns the sub-networks for which a student was trained, the whole one first; empty if it is not dynamic."""
    return [SubNetwork(*each) for each in getattr(load_config(str(folder)), SUBNETWORKS, [])]


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
    """Reads a model of transformers, of the class that it was saved from."""
    config = load_config(str(folder))
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


def export(dynamic: Dynamic, part: SubNetwork, folder: Path) -> PreTrainedModel:
    """Writes a sub-network as a plain model, with its tokenizer and a card; returns the model."""
    plain, config = extract(dynamic.model, part), dynamic.model.config
    plain.save_pretrained(folder)
    load_tokenizer(str(dynamic.folder)).save_pretrained(folder)
    card = _CARD.format(
        folder=folder,
        part=part,
        source=dynamic.folder.name,
        model_type=config.model_type,
        layers=len(part.layers(config)),
        heads=part.heads(config),
        neurons=part.neurons(config),
        width=part.width,
        depth=part.depth,
        architecture=type(plain).__name__,
    )
    write_atomically(folder / "README.md", card)
    return plain


def largest_difference(dynamic: Dynamic, part: SubNetwork, plain: PreTrainedModel) -> float:
    """Returns the largest difference between the outputs of a plain model and of the slices that it was made from."""
    generator = torch.Generator().manual_seed(0)
    length = min(64, dynamic.model.config.max_position_embeddings // 2)
    ids = torch.randint(5, dynamic.model.config.vocab_size, (4, length), generator=generator)
    with torch.no_grad():
        ours = plain(input_ids=ids)
        with DynamicModel(dynamic.model).running(part):
            theirs = dynamic.model(input_ids=ids)
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs)
