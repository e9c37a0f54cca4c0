"""Contextual Knowledge Distillation for the Hugging Face `Trainer`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
    from ckd_trainer.data.glue_arguments import GlueArguments
    from ckd_trainer.data.ner_arguments import NerArguments
    from ckd_trainer.data.squad_arguments import SquadArguments
    from ckd_trainer.data.tokenizer_pair import TokenizerPair
    from ckd_trainer.dynamic_trainer import DynamicTrainer
    from ckd_trainer.models.subnetworks import DynamicArguments
    from ckd_trainer.trainer import DistillationTrainer

__all__ = [
    "CKDArguments",
    "DistillationTrainer",
    "DynamicArguments",
    "DynamicTrainer",
    "GlueArguments",
    "ModelArguments",
    "NerArguments",
    "RunArguments",
    "SquadArguments",
    "TokenizerPair",
]
_MODULES = {
    "DistillationTrainer": "trainer",
    "DynamicArguments": "models.subnetworks",
    "DynamicTrainer": "dynamic_trainer",
    "GlueArguments": "data.glue_arguments",
    "NerArguments": "data.ner_arguments",
    "SquadArguments": "data.squad_arguments",
    "TokenizerPair": "data.tokenizer_pair",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch and transformers take seconds, and `ckd-trainer --help` has no use for them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'arguments')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
