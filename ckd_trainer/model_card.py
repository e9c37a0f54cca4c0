"""The model card of a student: its teacher, the losses, the recipe and the results."""

import json
import numbers
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel, Trainer

from ckd_trainer.arguments import CKDArguments, weight_names
from ckd_trainer.metrics.names import is_score
from ckd_trainer.models.adapters import adapter_facts
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.utils.files import RECIPE, public, recorded_stages, write_atomically
from ckd_trainer.utils.versions import versions
from ckd_trainer.utils.wrapped_models import config_of, has_adapters, inner_models, unwrapped

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_OF_CKD = {name.removesuffix("_weight") for name in weight_names(CKDArguments)}  # the terms
_RESULTS = re.compile(r"(?s)(?<=## Results\n\n).*?(?=\n\n## Training\n)")


def write_model_card(
    trainer: Trainer,
    model_name: str | None = None,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    **_: Any,
) -> None:
    """Writes README.md into the output folder of a `DistillationTrainer`, from what it and the folder know.

    Where this trainer has not trained, the card of the call that did stays, with the new results in it.

    Args:
        model_name, language, license, tags, dataset_tags: as for `Trainer.create_model_card`, whose other arguments
            are not used.
    """
    folder = Path(trainer.args.output_dir)
    path, results = folder / "README.md", _results(folder, trainer.state.log_history)
    if trainer.state.global_step == 0 and path.is_file():
        card = _RESULTS.sub(lambda _: results, path.read_text(encoding="utf-8"))
        write_atomically(path, card)
        return
    model_name = model_name or folder.resolve().name
    model_id = trainer.hub_model_id or model_name
    stages, objective = recorded_stages(folder), trainer.distillation_objective
    # The last stage may be one without a teacher.
    student, teacher = unwrapped(trainer.model), trainer.given_teacher if stages else trainer.teacher_model
    adapts = has_adapters(student)  # PEFT loads what was trained into the model that it was put on
    card = ModelCard.from_template(
        _metadata(student, teacher, _listed(tags), _listed(dataset_tags), language=language, license=license),
        template_path=str(TEMPLATE),
        name=model_name,
        model_id=model_id,
        teacher=_description(teacher) if teacher is not None else None,
        models=[_row("this model", student)] + ([_row("teacher", teacher)] if teacher is not None else []),
        loss=_of_stages(stages) if stages else trainer.describe_loss(),
        head=trainer.describe_head(),
        wrapper=None if adapts or isinstance(student, PreTrainedModel) else type(student).__name__,
        relations=not _OF_CKD.isdisjoint({*objective.weights, *(term for one in stages for term in one["weights"])}),
        adapter=_adapter(student) if adapts else None,
        usage=_adapter_usage(trainer, model_id) if adapts else trainer.head.usage(model_id),
        results=results,
        recipe=_recipe(folder / RECIPE),
        versions=", ".join(f"{package} {number}" for package, number in versions().items()),
    )
    write_atomically(path, str(card).rstrip() + "\n")


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])


def _metadata(student: Any, teacher: Any, tags: list[str], datasets: list[str], **options: Any) -> ModelCardData:
    """Returns what the Hub shows of a student, and by which it is found."""
    adapts = has_adapters(student)
    return ModelCardData(
        library_name="peft" if adapts else "transformers",
        tags=["ckd-trainer", *(["knowledge-distillation"] if teacher is not None else []), *tags],
        datasets=datasets or None,
        base_model=_hub_id(student if adapts or teacher is None else teacher),
        **options,
    )


def _adapter(student: Any) -> str:
    """Returns what of a PEFT student is trained and saved."""
    facts = adapter_facts(student)
    name = public(str(student.name_or_path)) or "its base model"
    return (
        f"The files hold an adapter for `{name}`, not a whole model: {facts['trained_parameters']:,} trained "
        f"parameters, {facts['adapter_size_mb']:.1f} MB."
    )


def _adapter_usage(trainer: Trainer, model_id: str) -> str:
    """Returns Python code that loads an adapter onto its base model."""
    auto_class = trainer.head.auto_class
    base = public(str(unwrapped(trainer.model).name_or_path)) or "base-model"
    return (
        f"from peft import PeftModel\nfrom transformers import AutoConfig, {auto_class}\n\n"
        f'config = AutoConfig.from_pretrained("{model_id}")  # with the labels\n'
        f'base = {auto_class}.from_pretrained("{base}", config=config, ignore_mismatched_sizes=True)\n'
        f'model = PeftModel.from_pretrained(base, "{model_id}")  # .merge_and_unload() makes it an ordinary model'
    )


def _results(folder: Path, log_history: list[dict]) -> str:
    """Returns a table of the latest value of each metric, without timings, counts and what is not a number."""
    latest: dict[str, Any] = {}
    for entry in log_history:
        latest |= entry
    path = folder / "all_results.json"
    if path.is_file():  # the final evaluation, of the best checkpoint
        latest |= json.loads(path.read_text(encoding="utf-8"))
    rows = [
        f"| {name.removeprefix('eval_')} | {value:.4f} |"
        for name, value in sorted(latest.items())
        if name.startswith("eval_") and is_score(name) and isinstance(value, numbers.Real)
    ]
    return "\n".join(["| metric | value |", "| --- | ---: |", *rows]) if rows else "The model was not evaluated."


def _of_stages(stages: list[dict]) -> str:
    """Returns a list of the options and the loss of each stage."""
    lines = [f"Trained in {len(stages)} stages, each starting from the weights of the previous one:", ""]
    for number, stage in enumerate(stages, start=1):
        options = ", ".join(f"{name} {value}" for name, value in stage["options"].items())
        lines.append(f"{number}. {f'With {options}: ' if options else ''}{stage['loss']}")
    return "\n".join(lines)


def _recipe(path: Path) -> str | None:
    """Returns the text of the run's resolved recipe without unset options; None for a trainer used without scripts."""
    if not path.is_file():
        return None
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = {key: public(value) for key, value in options.items() if value is not None}
    return yaml.safe_dump(options, sort_keys=False)


def _row(name: str, model: Any) -> dict:
    config = config_of(model)
    parameters = (
        model.num_parameters()
        if hasattr(model, "num_parameters")
        else sum(parameter.numel() for parameter in model.parameters())
    )
    return {
        "name": name,
        "parameters": f"{parameters:,}",
        "layers": config.num_hidden_layers,
        "width": getattr(config, "hidden_size", "unknown"),
    }


def _description(teacher: Any) -> str:
    """Returns what the teacher is, for "Distilled from ...": its name, or its architecture where it has none."""
    if isinstance(teacher, StoredTeacher):
        return f"`{public(str(teacher.name_or_path))}`"
    teacher = unwrapped(teacher)
    name = getattr(teacher, "name_or_path", "")
    if isinstance(teacher, PreTrainedModel):
        return f"`{public(name)}`" if name else f"a `{type(teacher).__name__}`"
    inner = " and ".join(_description(model) for model in inner_models(teacher))
    return f"a `{type(teacher).__name__}`" + (f" around {inner}" if inner else "")


def _hub_id(model: Any) -> str | None:
    """Returns the model's id on the Hub, None where it came from a local folder, from nowhere, or is a wrapper."""
    if not isinstance(model, StoredTeacher):
        model = unwrapped(model)
        if not isinstance(model, PreTrainedModel) and not has_adapters(model):
            return None
    name = str(model.name_or_path)
    return name if name and not Path(name).exists() and not Path(name).is_absolute() else None
