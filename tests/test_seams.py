"""Where the package leans on parts of its libraries that may move with their next release, each seam by its name.

After an upgrade these tests fail first, and say what depends on what has moved. First the private names: which ones
there are, and that there are no others. Then public ones, of which more is relied on than their documentation says.

The last part is about the seams between the rooms of the package itself, and between the files of the tests.
"""

import ast
import contextlib
import functools
import graphlib
import importlib
import inspect
import json
import re
from importlib.metadata import version

import datasets
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from helpers.files import PROJECT
from helpers.tiny import tiny_model
from helpers.training import examples, pad
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedModel,
    T5Config,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    ViTConfig,
)
from transformers.trainer_utils import get_last_checkpoint

from ckd_trainer.runs.recipe import resolved_recipe
from ckd_trainer.tasks.trainers import REFUSED_BY_TRAINER

# ------------------------------------------------------------------------------------------------------ private names

FILES = sorted(path.relative_to(PROJECT) for path in [*PROJECT.glob("ckd_trainer/**/*.py"), *PROJECT.glob("*.py")])
TREES = {path.as_posix(): ast.parse((PROJECT / path).read_text(encoding="utf-8")) for path in FILES}

# All private names of others that the package uses. Those of `Trainer` belong into the two trainers.
PRIVATE = {
    "ckd_trainer/training/sampling_trainer.py": {"_get_train_sampler"},  # nothing public makes the sampler
    "ckd_trainer/trainer.py": {
        "_set_signature_columns_if_needed",  # nothing public says which columns a batch keeps
        "_signature_columns",
        "_prepare_inputs",  # nor places batches as a training step does
        "_save_rng_state",  # nothing public comes between the files of a checkpoint
        "_load_from_checkpoint",  # nor reads one
    },
    "ckd_trainer/metrics/glue.py": {"_info", "_compute"},  # how `evaluate` wants metrics to be written
    "ckd_trainer/metrics/squad.py": {"_info", "_compute"},
    "ckd_trainer/metrics/entities.py": {"_info", "_compute"},
    "ckd_trainer/metrics/multi_label.py": {"_info", "_compute"},
    "ckd_trainer/metrics/ranking.py": {"_info", "_compute"},
    "ckd_trainer/metrics/in_memory.py": {"_build_data_dir", "_data_dir_root"},  # where it makes a folder in any case
    "ckd_trainer/data/table.py": {"_fingerprint"},  # nothing public says whether a data set is the same as before
    "ckd_trainer/models/compatibility.py": {"_model_mapping"},  # nothing public says which models an Auto class has
}


def own_names(tree):
    """The names that a file makes: functions, classes, variables, and attributes that are set, not added to."""
    changed = {id(node.target) for node in ast.walk(tree) if isinstance(node, ast.AugAssign)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(getattr(node, "ctx", None), ast.Store) and id(node) not in changed:
            yield getattr(node, "attr", None) or getattr(node, "id", "")


def used_names(tree):
    """The attributes that a file reads, also by `getattr`, and what it imports from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            yield from (part.value for part in node.args[1:2] if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Import):
            yield from (name for part in node.names for name in part.name.split("."))
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("ckd_trainer"):
            yield from (*node.module.split("."), *(part.name for part in node.names))


def names_of_bases(cls):
    """The methods and attributes of the classes of others that a class of ours comes from."""
    bases = (base for base in cls.__mro__ if base.__module__.split(".")[0] not in ("ckd_trainer", "builtins"))
    return set().union(*map(names_of, bases))


@functools.cache
def names_of(cls):
    names = set(vars(cls))
    with contextlib.suppress(OSError, TypeError):  # without a source
        names |= set(re.findall(r"\bself\.(\w+)", inspect.getsource(cls)))
    return names


OUR_NAMES = {name for tree in TREES.values() for name in own_names(tree)}


def private_names_of_others(path, tree):
    names = set(used_names(tree)) - OUR_NAMES
    module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    for node in ast.walk(tree):  # a name of ours that a base has as well: overridden, or taken by accident
        if isinstance(node, ast.ClassDef) and hasattr(module, node.name):
            names |= set(names_of_bases(getattr(module, node.name))) & {*own_names(node), *used_names(node)}
    return {name for name in names if name.startswith("_") and not name.endswith("__")}


@pytest.mark.parametrize("path", TREES)
def test_private_names_of_others_are_these_alone(path):
    found = private_names_of_others(path, TREES[path])
    assert found == PRIVATE.get(path, set()), (
        f"{path} uses {sorted(found)}: take a public name where there is one; else keep it in a trainer, and add it "
        "to this table and to a test below."
    )


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import transformers._x", {"_x"}),
        ("from transformers.utils import _y", {"_y"}),
        ("trainer._z()", {"_z"}),
        ("getattr(trainer, '_z')", {"_z"}),
        ("self._signature_columns += ['a']", {"_signature_columns"}),
        ("self._own = 1; other._own", set()),
        ("super().__init__()", set()),
    ],
)
def test_private_names_are_found(code, names):
    tree = ast.parse(code)
    found = set(used_names(tree)) - set(own_names(tree))
    assert {name for name in found if name.startswith("_") and not name.endswith("__")} == names


# -------------------------------------------------------------------------------------------------------- signatures

# What is overridden or called with these arguments, and by whom.
SIGNATURES = [
    (Trainer._get_train_sampler, "self train_dataset", "sampling_trainer.py: an epoch seeds its groups by length"),
    (Trainer._set_signature_columns_if_needed, "self", "trainer.py: the teacher's columns stay in the batch"),
    (Trainer.get_train_dataloader, "self", "trainer.py: batches carry the cached signals of the teacher"),
    (Trainer.get_eval_dataloader, "self eval_dataset", "sampling_trainer.py: rows are evaluated in their order"),
    (Trainer.get_test_dataloader, "self test_dataset", "sampling_trainer.py: predictions in the order of the rows"),
    (Trainer.call_model_init, "self trial", "trainer.py: terms and layers follow each new student"),
    (Trainer.num_examples, "self dataloader", "sampling_trainer.py: an epoch need not be the training set"),
    (Trainer.get_batch_samples, "self epoch_iterator num_batches device", "trainer.py: items of a step are counted"),
    (Trainer.compute_loss, "self model inputs return_outputs num_items_in_batch", "trainer.py: the loss"),
    (Trainer.prediction_step, "self model inputs prediction_loss_only ignore_keys", "trainer.py: logits alone"),
    (Trainer.log, "self logs start_time", "trainer.py: the terms in the log"),
    (Trainer.create_model_card, "self language license tags model_name", "trainer.py, model_card.py: README.md"),
    (Trainer._load_from_checkpoint, "self resume_from_checkpoint model", "trainer.py: projections are read"),
    (Trainer.create_optimizer, "self model", "trainer.py: the learning rate of projections"),
    (Trainer._prepare_inputs, "self inputs", "trainer.py: the batches whose gradients are measured"),
    (Trainer.training_step, "self model inputs num_items_in_batch", "trainer.py: the loss has all terms"),
    (Trainer.get_optimizer_cls_and_kwargs, "args model", "run.py: an optimizer that cannot be made is refused"),
    (Trainer.save_model, "self output_dir _internal_call", "trainer.py: adapters keep their labels; run.py"),
    (TrainerState.load_from_json, "json_path", "run.py: where a training stands"),
    (PreTrainedModel.set_attn_implementation, "self attn_implementation", "wrapped_models.py: eager attention"),
    (Accelerator.prepare_model, "self model device_placement evaluation_mode", "processes.py: places the teacher"),
    (Accelerator.reduce, "self tensor reduction", "running_means.py: means over processes"),
    (broadcast_object_list, "object_list", "processes.py: the main process decides"),
    (gather_object, "object", "processes.py: an error in one process ends all"),
]


@pytest.mark.parametrize(("function", "arguments", "for_what"), SIGNATURES)
def test_it_takes_these_arguments(function, arguments, for_what):
    given = list(inspect.signature(function).parameters)
    assert given[: len(arguments.split())] == arguments.split(), (
        f"{function.__qualname__} takes {given} in transformers {version('transformers')} and accelerate "
        f"{version('accelerate')}; see ckd_trainer/{for_what}"
    )


# --------------------------------------------------------------------------------------------------------- behaviour


class Seen(Trainer):
    """Notes what `Trainer` calls, with what, and in which order."""

    loss_is_scaled_for_ga = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.calls, self.items = [], None

    def named(self, name):
        return [what for call, what in self.calls if call == name]

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.items = torch.tensor(float(len(batches)))
        self.calls.append(("get_batch_samples", len(batches)))
        return batches, self.items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training:
            self.calls.append(("compute_loss", num_items_in_batch is self.items))
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if model.training:
            self.calls.append(("loss", loss.item()))
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.calls.append(("training_step", loss.item()))
        return loss

    def log(self, logs, start_time=None):
        self.calls.append(("log", set(logs)))
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset=None):
        return SeenSampler(super()._get_train_sampler(train_dataset), self)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns += ["extra"]


class SeenSampler(torch.utils.data.Sampler):
    def __init__(self, sampler, trainer):
        self.sampler, self.trainer = sampler, trainer

    def __iter__(self):
        self.trainer.calls.append(("epoch", self.trainer.state.epoch))
        return iter(self.sampler)

    def __len__(self):
        return len(self.sampler)


class WhatIsSaved(TrainerCallback):
    """Notes the files of a checkpoint when `Trainer` says that it is there."""

    def __init__(self):
        self.files = {}

    def on_save(self, args, state, control, **kwargs):
        folder = get_last_checkpoint(args.output_dir)
        self.files[state.global_step] = {path.name for path in PROJECT.joinpath(folder).iterdir()}


def make(folder, **options):
    """A trainer of 7 batches an epoch, 3 of them a step: the last step of an epoch has one."""
    options = {"gradient_accumulation_steps": 3, "num_train_epochs": 2, "save_steps": 2, "logging_steps": 1} | options
    args = TrainingArguments(
        folder, per_device_train_batch_size=4, report_to="none", use_cpu=True, disable_tqdm=True, **options
    )
    return Seen(model=tiny_model(layers=1), args=args, train_dataset=examples(28), data_collator=pad)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training of 6 steps in 2 epochs, and one that went on from its checkpoint 4."""
    folder, callback = tmp_path_factory.mktemp("seams"), WhatIsSaved()
    whole, resumed = make(folder), make(folder)
    whole.add_callback(callback)
    whole.train()
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    return whole, resumed, callback.files


def test_get_batch_samples_is_called_once_a_step(trained):
    """get_batch_samples of trainer.py counts the items of a step there."""
    assert trained[0].named("get_batch_samples") == [3, 3, 1, 3, 3, 1]


def test_compute_loss_gets_what_get_batch_samples_returned(trained):
    """compute_loss of trainer.py divides by it."""
    assert trained[0].named("compute_loss") == [True] * 14


def test_the_loss_is_divided_by_the_batches_of_a_step(trained):
    """loss_is_scaled_for_ga and model_accepts_loss_kwargs of trainer.py ask for it."""
    losses, used = trained[0].named("loss"), trained[0].named("training_step")
    assert used == pytest.approx([loss / n for loss, n in zip(losses, [3] * 6 + [1] + [3] * 6 + [1], strict=True)])


def test_a_training_log_has_the_loss_and_others_have_not(trained):
    """log of trainer.py adds the terms where there is one; run.py and table.py read the history."""
    logs = trained[0].named("log")
    assert len(logs) == 7 and all({"loss", "learning_rate", "grad_norm"} <= names for names in logs[:6])
    assert "loss" not in logs[6] and {"train_loss", "train_runtime", "total_flos"} <= logs[6]
    assert [entry["step"] for entry in trained[0].state.log_history] == [1, 2, 3, 4, 5, 6, 6]


def test_a_sampler_is_asked_once_an_epoch_and_the_state_says_which(trained):
    """LengthGroupedSampler of sampling.py draws the same batches in a resumed run."""
    whole, resumed, _ = trained
    assert whole.named("epoch") == [0, 1]
    assert [int(epoch) for epoch in resumed.named("epoch")] == [1]


def test_the_sampler_of_groups_by_length_knows_lengths_and_batch_size(tmp_path):
    """_get_train_sampler of sampling_trainer.py reads them."""
    sampler = make(tmp_path, train_sampling_strategy="group_by_length")._get_train_sampler().sampler
    assert sampler.batch_size == 12
    assert sampler.lengths == [len(ids) for ids in examples(28)["input_ids"]]


def test_the_columns_of_a_batch_are_the_signature_columns(tmp_path):
    """_set_signature_columns_if_needed of trainer.py adds those that the teacher and losses read."""
    run = make(tmp_path)
    run.train_dataset = run.train_dataset.add_column("extra", [0] * 28).add_column("other", [0] * 28)
    run.data_collator = lambda rows: {"names": sorted(rows[0])}
    batch = next(iter(run.get_train_dataloader()))
    assert batch["names"] == ["attention_mask", "extra", "input_ids", "labels"]


def test_the_sampling_strategy_is_read_when_a_dataloader_is_made(tmp_path):
    """_sequential of sampling_trainer.py sets another one for the length of that call."""

    def lengths(loader):
        return [length for batch in loader for length in batch["attention_mask"].sum(-1).tolist()]

    run, data = make(tmp_path, train_sampling_strategy="group_by_length"), examples(28)
    in_order = [len(ids) for ids in data["input_ids"]]
    assert lengths(run.get_eval_dataloader(data)) != in_order
    run.args.train_sampling_strategy = "sequential"
    loader = run.get_eval_dataloader(data)
    run.args.train_sampling_strategy = "group_by_length"
    assert lengths(loader) == in_order


def test_prediction_step_leaves_out_what_is_to_be_ignored(tmp_path):
    """prediction_step of trainer.py has it keep the logits alone."""
    run = make(tmp_path)
    run.model.config.output_hidden_states = True
    batch = pad(list(examples(4)))
    loss, outputs, labels = run.prediction_step(run.model, dict(batch), False)
    assert loss.dim() == 0 and len(outputs) == 2 and torch.equal(labels, batch["labels"])
    _, logits, _ = run.prediction_step(run.model, dict(batch), False, ignore_keys=["hidden_states"])
    assert logits.shape == (4, 2)


def test_a_checkpoint_is_whole_when_on_save_is_called(trained):
    """checkpoints.py (what_is_missing, last_checkpoint), run.py and interruption.py know these names."""
    names = {"model.safetensors", "config.json", "training_args.bin", "trainer_state.json"}
    names |= {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert trained[2] == {2: names, 4: names, 6: names}


def test_the_state_of_a_checkpoint_says_whether_the_training_was_to_stop(trained):
    """_is_last and _end_of of run.py, tidy_up of checkpoints.py, and table.py read it."""
    whole, resumed, _ = trained
    folder = PROJECT.joinpath(whole.args.output_dir)
    for step, stops in ((4, False), (6, True)):
        state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert {"best_model_checkpoint", "best_metric", "epoch", "log_history", "total_flos"} <= state.keys()
        assert (state["global_step"], state["max_steps"]) == (step, 6)
        assert state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"] is stops


def test_a_recipe_leaves_out_the_default_of_accelerator_config(tmp_path):
    """recipe.py compares what TrainingArguments makes of it with AcceleratorConfig."""
    assert "accelerator_config" not in resolved_recipe(TrainingArguments(str(tmp_path), use_cpu=True))


@pytest.mark.parametrize("words", REFUSED_BY_TRAINER.pattern.split("|"))
def test_what_only_trainer_and_accelerate_can_refuse_is_known_by_these_words(words):
    assert re.search(words, inspect.getsource(Trainer) + inspect.getsource(Accelerator))


def test_an_auto_class_says_which_models_it_has():
    """check_task of compatibility.py asks it."""
    mapping = AutoModelForSequenceClassification._model_mapping
    assert BertConfig in mapping and T5Config in mapping and ViTConfig not in mapping


def test_a_model_of_old_names_is_told_to_save_under_them_again(tmp_path):
    """load_weights of loading.py takes that back: `Trainer` does not find these names when it loads a checkpoint."""
    model = tiny_model(layers=1)
    weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in model.state_dict().items()
    }
    model.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    kept, cleared = (AutoModelForSequenceClassification.from_pretrained(tmp_path) for _ in range(2))
    cleared._weight_conversions = []
    for loaded, name in ((kept, "gamma"), (cleared, "weight")):
        loaded.save_pretrained(tmp_path / name)
        with safe_open(tmp_path / name / "model.safetensors", framework="pt") as file:
            assert f"bert.embeddings.LayerNorm.{name}" in file.keys()


# --------------------------------------------------------------------------------------------------------- structure


def imports_of(tree):
    """What a file imports, also within functions; of `from a import b` it is a.b, be b a module or what it holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (part.name for part in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (module + part.name for part in node.names)


def programs_in(tree):
    """A file, and the texts in it that are programs themselves."""
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            with contextlib.suppress(SyntaxError, ValueError):
                yield ast.parse(node.value)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import a.b, c", {"a.b", "c"}),
        ("from a import b as c", {"a.b"}),
        ("def f():\n    from a.b import c, d", {"a.b.c", "a.b.d"}),
        ("from . import a", {".a"}),
        ("from ..a import b", {"..a.b"}),
        ("text = 'import a'", {"a"}),
        ("text = 'of import to all'", set()),
    ],
)
def test_imports_are_found(code, names):
    assert {name for program in programs_in(ast.parse(code)) for name in imports_of(program)} == names


def test_no_test_file_imports_another():
    """What several need is in tests/helpers, and fixtures in conftest.py; else a test that moves breaks others."""
    found = {}
    for path in sorted(PROJECT.glob("tests/**/*.py")):
        programs = programs_in(ast.parse(path.read_text(encoding="utf-8")))
        names = {part for program in programs for name in imports_of(program) for part in name.split(".")}
        taken = {name for name in names if name == "conftest" or name.startswith("test_")}
        if taken:
            found[path.relative_to(PROJECT).as_posix()] = taken
    assert found == {}


MODULES = {
    path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree
    for path, tree in TREES.items()
    if path.startswith("ckd_trainer/")
}
# The modules of ours that each module names. That Python runs the __init__.py of a package before its modules is left
# out: by that all would import all.
IMPORTS = {
    module: {name if name in MODULES else name.rpartition(".")[0] for name in imports_of(tree)} & MODULES.keys()
    for module, tree in MODULES.items()
}


def room_of(module):
    """losses of ckd_trainer.losses.pairs; trainer of ckd_trainer.trainer; ckd_trainer of itself."""
    return module.split(".")[:2][-1]


ROOMS = {room_of(module) for module in MODULES}
# The library serves who has neither our tasks nor our folders.
SCRIPTS = {"tasks", "runs", "reports", "commands", "cli", "__main__"}
TRAINING = {"ckd_trainer", "trainer", "objective", "training", "model_card"}
ABOVE = {  # what the modules of a room do not import, directly or not
    "utils": ROOMS - {"utils"},
    "losses": ROOMS - {"losses", "utils"},
    "heads": ROOMS - {"heads", "losses", "utils"},
    "teacher": ROOMS - {"teacher", "heads", "losses", "utils"},
    "methods": SCRIPTS | TRAINING | {"models"},
    "data": SCRIPTS | TRAINING | {"teacher", "models"},
    "metrics": SCRIPTS | TRAINING | {"teacher", "models"},
    "trainer": SCRIPTS,
}


def one_way():
    for room, others in ABOVE.items():
        for other in sorted(others):
            yield pytest.param(room, other, id=f"{room} without {other}")


@pytest.mark.parametrize(("room", "other"), list(one_way()))
def test_imports_point_one_way(room, other):
    ways = {module: [module] for module in MODULES if room_of(module) == room}
    left = list(ways)
    for module in left:  # which grows
        new = IMPORTS[module] - ways.keys()
        ways |= {name: [*ways[module], name] for name in new}
        left += new
    found = [" imports ".join(way) for module, way in sorted(ways.items()) if room_of(module) == other]
    assert found == []


def test_no_module_imports_itself_through_others():
    graphlib.TopologicalSorter(IMPORTS).prepare()


def test_no_import_is_relative():
    """The tests above would not see it."""
    assert [path for path, tree in TREES.items() if any(name.startswith(".") for name in imports_of(tree))] == []


def test_the_state_of_a_data_set(tmp_path):
    """It is the same when the data set is loaded again, and another for other rows."""
    for name, words in {"one": ["a", "b"], "other": ["a", "c"]}.items():
        datasets.Dataset.from_dict({"text": words}).save_to_disk(tmp_path / name)
    states = [datasets.load_from_disk(tmp_path / name)._fingerprint for name in ("one", "one", "other")]
    assert states[0] == states[1] != states[2]
