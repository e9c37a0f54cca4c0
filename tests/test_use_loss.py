"""`use_loss`: a refused loss leaves a trainer as it was, and it trains further as if nothing had been asked."""

import pytest
import torch
from helpers.tiny import tiny_model
from helpers.training import ALL_TERMS, examples, logs, trainer
from transformers.training_args import OptimizerNames

from ckd_trainer import CKDArguments, DistillationTrainer, DynamicArguments, DynamicTrainer
from ckd_trainer.methods import MiniLMv2Arguments, TinyBERTArguments
from ckd_trainer.utils.errors import InputError

FOUR = DynamicArguments(student_widths="1.0,0.5", student_depths="1.0,0.5")
ATTENTION = TinyBERTArguments(tinybert_attention_weight=1.0)
RELATIONS = MiniLMv2Arguments(minilmv2_weight=1.0, minilmv2_heads=2)
PROJECTED = TinyBERTArguments(tinybert_hidden_weight=1.0)


def ckd(**kwargs):
    return CKDArguments(**ALL_TERMS | kwargs)


def make(folder, cls=DistillationTrainer, **kwargs):
    student, teacher = tiny_model(layers=4 if cls is DynamicTrainer else 2, width=16), tiny_model(seed=1)
    kwargs = {"teacher_model": teacher, "ckd_args": ckd()} | kwargs
    return trainer(cls, folder, student, steps=2, **kwargs)


def hooks(model):
    return [len(module._forward_hooks) for module in model.modules()]


def outline(run):
    """What a loss sets: in the trainer, in its source of teacher signals, in both models, and the callbacks."""
    models = [run.model] + ([run.given_teacher] if isinstance(run.given_teacher, torch.nn.Module) else [])
    source = {} if run.teacher is None else dict(vars(run.teacher))
    of_models = [(hooks(model), model.config._attn_implementation, model.config.to_dict()) for model in models]
    return dict(vars(run)), source, of_models, list(run.callback_handler.callbacks), run.describe_loss()


def train(run):
    torch.manual_seed(0)  # dropout and the order of the examples
    run.train()


def check_refused(folder, message, ask, **kwargs):
    """Trains, lets a loss be refused, and trains further; then the same without asking."""
    asked, plain = make(folder / "asked", **kwargs), make(folder / "plain", **kwargs)
    train(asked)
    before = outline(asked)
    with pytest.raises(InputError, match=message):
        ask(asked)
    after = outline(asked)
    for ours, theirs in zip(before[:2], after[:2], strict=True):
        assert {name: id(value) for name, value in ours.items()} == {name: id(value) for name, value in theirs.items()}
    assert before[2:] == after[2:]
    for run in (asked, plain, plain):
        train(run)
    assert logs(asked) == logs(plain) and len(logs(plain)) == 2
    for ours, theirs in zip(asked.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("message", "options", "methods"),
    [
        ("does not predict a score", {"teacher_score_scale": 2.0}, ()),
        ("a cache cannot hold", {"teacher_cache_dir": "cache"}, (ATTENTION,)),
        ("no term of the loss learns a projection", {"projection_learning_rate": 1e-3}, (ATTENTION,)),
    ],
)
@pytest.mark.parametrize("first", [(), (PROJECTED,)], ids=["ckd", "projected"])
def test_a_refused_loss_leaves_the_trainer_as_it_was(tmp_path, message, options, methods, first):
    check_refused(tmp_path, message, lambda run: run.use_loss(ckd(**options), methods), methods=first)


def test_a_loss_that_cannot_be_balanced(tmp_path):
    def ask(run):
        optim, run.args.optim = run.args.optim, OptimizerNames.LOMO
        try:
            run.use_loss(ckd(), [ATTENTION])
        finally:
            run.args.optim = optim

    check_refused(tmp_path, "optim is lomo", ask)


def test_a_loss_whose_teacher_cannot_be_loaded(tmp_path):
    """The weights are gone, but the cache of the first loss is complete."""
    tiny_model(seed=1).save_pretrained(tmp_path / "teacher")
    cached = ckd(teacher_cache_dir=str(tmp_path / "cache"))
    make(tmp_path / "first", teacher_model=tmp_path / "teacher", ckd_args=cached).train()

    def ask(run):
        weights = tmp_path / "teacher" / "model.safetensors"
        content = weights.read_bytes()
        weights.unlink()
        try:
            run.use_loss(ckd(), [ATTENTION])
        finally:
            weights.write_bytes(content)

    check_refused(tmp_path, "model.safetensors", ask, teacher_model=tmp_path / "teacher", ckd_args=cached)


TEACHES = DynamicArguments(student_widths="1.0,0.5", whole_student_teaches=True)
EQUAL = DynamicArguments(student_widths="1.0,0.99")


@pytest.mark.parametrize(
    ("message", "options", "methods", "sizes"),
    [
        ("the same in a student", {}, (), EQUAL),
        ("so the whole student would learn nothing", {"labels_and_logits": False}, (), TEACHES),
        ("no term of the loss learns a projection", {"projection_learning_rate": 1e-3}, (RELATIONS,), TEACHES),
        ("does not work with width 0.5", {}, (ATTENTION,), FOUR),
    ],
)
@pytest.mark.parametrize("first", [FOUR, TEACHES], ids=["teacher", "student"])
def test_a_refused_loss_of_sub_networks(tmp_path, message, options, methods, sizes, first):
    def ask(run):
        run.use_loss(ckd(**options), methods, sizes)

    check_refused(tmp_path, message, ask, cls=DynamicTrainer, dynamic_args=first)


def test_widths_without_labels_to_order_heads_by(tmp_path):
    """Heads and neurons are reordered before the first training with several widths, by labels."""
    train = examples().remove_columns("labels")
    check_refused(
        tmp_path,
        "ordered by their importance",
        lambda run: run.use_loss(ckd(alpha=1.0), [RELATIONS], DynamicArguments(student_widths="1.0,0.5")),
        cls=DynamicTrainer,
        dynamic_args=DynamicArguments(student_depths="1.0,0.5"),
        ckd_args=ckd(alpha=1.0),
        train=train,
    )


def test_a_loss_that_is_assigned(tmp_path):
    """The trainer would train on with the old one."""
    run = make(tmp_path)
    run.ckd_args = ckd(alpha=0.9)
    with pytest.raises(InputError, match=r"ckd_args or methods were replaced .*: call use_loss"):
        run.train()
    run.use_loss(run.ckd_args)
    run.train()
    assert run.term_weights["logits"] == 0.9
