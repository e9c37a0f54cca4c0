"""READMEs and docs/: links lead somewhere, options exist, Python compiles."""

import re
import textwrap

import pytest
from helpers.files import PROJECT
from transformers import HfArgumentParser, TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.commands.augment import AugmentArguments
from ckd_trainer.commands.options import option_types
from ckd_trainer.commands.recombine import RecombineArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.text_arguments import TextArguments
from ckd_trainer.methods import METHODS
from ckd_trainer.models.subnetworks import DynamicArguments

PAGES = [
    *(PROJECT / folder / "README.md" for folder in (".", "benchmarks", "recipes")),
    *sorted((PROJECT / "docs").glob("*.md")),
]
# of accelerate, of the tools, and of the example of a user's method
OTHERS = {"config_file", "help", "output", "overwrite", "threads", "repeats", "metric", "terms", "patient_weight"}
OTHERS |= {"methods", "seeds", "students", "baseline", "jobs", "search", "ranges"}
OTHERS |= {"model", "widths", "depths", "max_latency_ms", "max_parameters", "max_size_mb", "min_score", "batch_size"}


def anchors(text):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options_of(*groups):
    parser = HfArgumentParser(groups, conflict_handler="resolve")
    return {option for action in parser._actions for option in action.option_strings}


def test_the_front_door_fits_on_a_few_screens():
    assert len(PAGES) >= 12
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150


def test_the_keys_of_recipes_are_named():
    text = (PROJECT / "recipes" / "README.md").read_text()
    kinds = {kind for data in (GlueArguments, NerArguments, SquadArguments) for kind in option_types(data, [])}
    assert [kind for kind in kinds - {*METHODS} if f"{kind.__name__}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES[:1] + PAGES[3:], ids=lambda page: str(page.relative_to(PROJECT)))
def test_options_and_code(page):
    text = page.read_text()
    groups = (ModelArguments, RunArguments, TrainingArguments, CKDArguments, *METHODS, DynamicArguments)
    data = (GlueArguments, NerArguments, SquadArguments, TextArguments)
    known = set().union(*(options_of(*groups, kind) for kind in data))
    known |= options_of(AugmentArguments, RecombineArguments) | {f"--{name}" for name in OTHERS}
    used = set(re.findall(r"(?<![\w-])(--[a-z]\w+)", text))
    assert used <= known, used - known
    for code in re.findall(r"^ *```python\n(.*?)```", text, re.DOTALL | re.MULTILINE):
        compile(textwrap.dedent(code), str(page), "exec")
