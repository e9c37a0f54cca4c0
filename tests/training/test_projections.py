"""Learned projections: trained with the student, saved in its checkpoints, and gone in the end."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny import no_dropout, tiny_model
from helpers.training import examples, logs, trainer
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.heads import Classes
from ckd_trainer.methods import GramArguments, TinyBERTArguments
from ckd_trainer.utils.errors import InputError

TINYBERT = TinyBERTArguments(tinybert_embedding_weight=0.3, tinybert_hidden_weight=0.3)


def distil(folder, *, student=None, methods=(TINYBERT,), options=None, ckd=None, **kwargs):
    return trainer(
        DistillationTrainer,
        folder,
        student or no_dropout(layers=2, width=16),
        teacher_model=tiny_model(seed=1),
        ckd_args=CKDArguments.without_relations(alpha=0.5, **(ckd or {})),
        methods=list(methods),
        options=options or {},
        **kwargs,
    )


class OnStep(TrainerCallback):
    """Calls a function after each step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, **kwargs):
        self.function()


def weights(run):
    return [value.clone() for value in run._projections.module.state_dict().values()]


def test_they_are_trained_and_then_gone(tmp_path):
    run = distil(tmp_path, steps=5, options={"save_steps": 5})
    before, size = weights(run), no_dropout(layers=2, width=16).num_parameters()
    during = []
    run.add_callback(OnStep(lambda: during.append(run.model.num_parameters())))
    run.train()
    assert during[0] == size + 16 * 32 + 32
    for ours, theirs in zip(weights(run), before, strict=True):
        assert (ours - theirs).abs().max() > 1e-3
    first, last = (logs(run)[place]["loss_tinybert_hidden"] for place in (0, -1))
    assert last < first
    assert run.model.num_parameters() == size and not hasattr(run.model, "distillation")
    run.save_model(tmp_path / "student")
    for folder in (tmp_path / "student", tmp_path / "checkpoint-5"):
        assert not any("distillation" in name for name in load_file(folder / "model.safetensors"))
        _, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not (tmp_path / "student" / "projections.safetensors").exists()
    run.evaluate()


def test_a_model_that_is_saved_while_they_are_there_has_none(tmp_path):
    run = distil(tmp_path)
    run.add_callback(OnStep(lambda: run.save_model(tmp_path / "early")))
    run.train()
    assert not any("distillation" in name for name in load_file(tmp_path / "early" / "model.safetensors"))


@pytest.mark.parametrize("rate", [None, 0.01])
def test_a_resumed_run_ends_as_if_it_had_not_been_cut(tmp_path, rate):
    options = {"save_steps": 3, "lr_scheduler_type": "linear"}
    runs = []
    for name in ("whole", "cut"):
        run = distil(tmp_path / name, steps=8, options=options, ckd={"projection_learning_rate": rate})
        if name == "whole":
            run.train()
        else:
            run.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
        runs.append(run)
    for whole, cut in zip(*(list(run.model.parameters()) + weights(run) for run in runs), strict=True):
        assert torch.equal(whole, cut)
    (tmp_path / "whole" / "checkpoint-3" / "projections.safetensors").unlink()
    with pytest.raises(InputError, match="checkpoint-3 has no projections.safetensors"):
        run.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))


def test_the_best_checkpoint_is_loaded_without_them(tmp_path, caplog):
    options = {"save_steps": 2, "eval_steps": 2, "eval_strategy": "steps", "load_best_model_at_end": True}
    run = distil(tmp_path, steps=4, options=options)
    run.train()
    assert "missing keys" not in caplog.text
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    best = load_file(f"{state['best_model_checkpoint']}/model.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in run.model.state_dict().items() if name in best)


def test_another_learning_rate(tmp_path):
    """With 0 they stay as they are, and the student does not learn more slowly for it."""
    for rate, moves in ((0.0, False), (0.1, True)):
        run = distil(tmp_path / str(rate), steps=3, ckd={"projection_learning_rate": rate})
        before = weights(run)
        student = run.model.bert.encoder.layer[0].output.dense.weight
        start = student.detach().clone()
        run.train()
        moved = [(ours - theirs).abs().max() > 1e-2 for ours, theirs in zip(weights(run), before, strict=True)]
        assert all(moved) if moves else not any(moved)
        assert (student - start).abs().max() > 1e-4
    with pytest.raises(InputError, match="projection_learning_rate is -1"):
        CKDArguments(projection_learning_rate=-1)


def test_a_second_training_keeps_the_groups_of_the_optimizer(tmp_path):
    run = distil(tmp_path, steps=2, ckd={"projection_learning_rate": 0.01}, options={"save_steps": 2})
    run.train()
    groups = [len(group["params"]) for group in run.optimizer.param_groups]
    assert len(groups) == 4 and min(groups) > 0 and groups[2:] == [1, 1]
    run.train()
    assert [len(group["params"]) for group in run.optimizer.param_groups] == groups
    with pytest.raises(InputError, match="no term of the loss learns a projection"):
        distil(tmp_path, methods=[GramArguments(gram_weight=1)], ckd={"projection_learning_rate": 0.01})


def test_an_optimizer_of_deepspeeds_configuration(tmp_path, monkeypatch):
    """It has no groups yet, and trains all weights."""
    monkeypatch.setattr(Trainer, "create_optimizer", lambda self, model=None: SimpleNamespace(params=[]))
    distil(tmp_path).create_optimizer()
    with pytest.raises(InputError, match="DeepSpeed's configuration defines the optimizer"):
        distil(tmp_path, ckd={"projection_learning_rate": 0.01}).create_optimizer()


def test_random_numbers_of_training_are_not_touched(tmp_path):
    """The same dropout with and without projections."""
    states = []
    for methods in ((), (TINYBERT,)):
        torch.manual_seed(3)
        distil(tmp_path, methods=methods, student=no_dropout(layers=2, width=16))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    first, second = (weights(distil(tmp_path)) for _ in range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "options", [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}], ids=["bf16", "compiled"]
)
def test_precision_and_compilation(tmp_path, options):
    run = distil(tmp_path, steps=2, options=options)
    before = weights(run)
    run.train()
    assert all((ours - theirs).abs().max() > 1e-4 for ours, theirs in zip(weights(run), before, strict=True))
    assert logs(run)[-1]["nonfinite_steps"] == 0


def test_a_new_student_gets_new_ones(tmp_path):
    run = distil(tmp_path)
    run.model_init = lambda trial: no_dropout(layers=2, width=16)
    run.train()
    run.train()
    assert not hasattr(run.model, "distillation") and len(logs(run)) == 1


def test_what_cannot_work_is_refused(tmp_path):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = no_dropout(layers=2, width=16)
            self.config = self.model.config

        def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
            return self.model(input_ids, attention_mask, labels=labels, **kwargs)

    with pytest.raises(InputError, match="but the student is a Wrapped"):
        distil(tmp_path, student=Wrapped(), head=Classes())
    student = no_dropout(layers=2, width=16)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(InputError, match="does not train the projections"):
        distil(tmp_path, student=student, optimizers=(optimizer, None)).train()


def test_gradients_of_the_balance_are_the_encoders(tmp_path):
    run = distil(tmp_path, train=examples(8))
    run.train()
    assert set(run.scales) == {"tinybert_embedding", "tinybert_hidden"}
