"""Relation terms as shares of the gradient: measured right, resumed, the same however a step is cut, and unnoticed."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from helpers.reference import classification_logit_loss, contextual_relation_losses
from helpers.tiny import no_dropout, tiny_model
from helpers.training import CONTROL, examples, logs, pad, trainer
from helpers.wrapping import compiled, lora
from transformers import TrainerCallback

import run_glue_ckd
from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.training.balance import TermBalance
from ckd_trainer.training.gradients import encoder_weights, gradients
from ckd_trainer.utils.errors import InputError

WEIGHTS = {"wr_distance": 0.5, "wr_angle": 1.0, "ltr_distance": 2.0, "ltr_angle": 3.0}
DEFINITIONS = {"window_size": 5, "relation_temperature": 0.5, "relation_normalization": "items"}


ADD = TermBalance.add


def ckd(weights=WEIGHTS, **kwargs):
    options = {"alpha": 0.3, "temperature": 2.0} | DEFINITIONS
    options |= {f"{term}_weight": weights.get(term, 0.0) for term in WEIGHTS}
    return CKDArguments(**options | kwargs)


def distill(folder, student=None, teacher=None, *, cls=DistillationTrainer, trains=True, double=False, **kwargs):
    """A trained trainer. Plain descent, by which weights differ as much as gradients do."""
    kwargs["options"] = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0} | kwargs.get("options", {})
    student = no_dropout(layers=2, width=16) if student is None else student
    models = {"model": student, "teacher_model": teacher or tiny_model(seed=1)}
    run = trainer(cls, folder, **{"ckd_args": ckd(), **models, **kwargs})
    if double:
        run.model.double()
        models["teacher_model"].double()
    if trains:
        run.train()
    return run


# --------------------------------------------------------------------------------------------------------- the twin


def twin_gradients(student, teacher, batch):
    """{term: gradient by the encoder's weights, as one vector} of a whole step in one batch, and of the rest."""
    student.train()
    out = student(**batch, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher.eval()(**batch, output_hidden_states=True)
    pairs = [(0, 0), (1, 2), (2, 4)]
    losses = contextual_relation_losses(
        out.hidden_states, theirs.hidden_states, batch["attention_mask"], pairs=pairs, **DEFINITIONS
    )
    losses["task"] = torch.nn.functional.cross_entropy(out.logits, batch["labels"])
    losses["logits"] = classification_logit_loss(out.logits, theirs.logits, temperature=2.0)
    losses["rest"] = 0.7 * losses["task"] + 0.3 * losses["logits"]
    encoder = [
        parameter
        for name, parameter in student.named_parameters()
        if parameter.requires_grad and "pooler" not in name and "classifier" not in name
    ]
    found = {}
    for term, loss in losses.items():
        parts = torch.autograd.grad(loss, encoder, retain_graph=True, allow_unused=True, materialize_grads=True)
        found[term] = torch.cat([part.double().flatten() for part in parts])
    return found


def norms_of(found):
    return {term: found[term].norm().item() for term in ("rest", *WEIGHTS)}


class WithTwin(DistillationTrainer):
    """Measures each step once more with the twin. A step has all examples, so the twin takes them in one batch."""

    def _measure(self, step):
        super()._measure(step)
        new = norms_of(twin_gradients(self.model, self.teacher_model, pad(list(self.train_dataset))))
        self.twins = [*getattr(self, "twins", []), (self.state.global_step, new)]


def test_norms_and_scales_are_the_twins(tmp_path):
    """In double precision, over steps of two batches of unequal lengths, as the student moves."""
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run = distill(tmp_path, cls=WithTwin, double=True, train=examples(4), steps=4, options=options)
    assert [step for step, _ in run.twins] == [0, 1, 3]
    mean = run.twins[0][1]
    for _, norms in run.twins[1:]:
        mean = {term: (mean[term] + norm) / 2 for term, norm in norms.items()}
    assert run.twins[0][1] != pytest.approx(run.twins[-1][1], rel=1e-3)
    assert run.balance.norms == pytest.approx(mean, rel=1e-5)
    assert run.scales == pytest.approx({term: mean["rest"] / mean[term] for term in WEIGHTS}, rel=1e-5)


@pytest.mark.parametrize("interval", [None, 100])
def test_steps_that_are_measured_and_their_mean(interval):
    draw, norms = torch.Generator().manual_seed(0), {}
    balance = TermBalance({"wr_angle": 2.0}, interval=interval)
    for step in range(400):
        if balance.is_due(step):
            norms[step + 1] = torch.rand(2, generator=draw, dtype=torch.float64).tolist()
            balance.add(step, norms[step + 1][0], {"wr_angle": norms[step + 1][1]})
    assert list(norms) == [1, 2, 4, 8, 16, 32, 64, 128, *([228, 328] if interval else [])]
    found, *later = norms.values()
    for new in later:
        found = [half / 2 + other / 2 for half, other in zip(found, new, strict=True)]
    assert list(balance.norms.values()) == pytest.approx(found)
    assert balance.scales["wr_angle"] == pytest.approx(found[0] / found[1])


def test_a_measurement_that_is_not_finite_is_passed_over():
    """A later step is taken in its place, and those after it count from the first that was."""
    balance, measured = TermBalance({"wr_angle": 1.0}), []
    for step in range(20):
        if balance.is_due(step):
            measured.append(step)
            balance.add(step, math.inf if step == 0 else 6.0, {"wr_angle": math.nan if step in (2, 3) else 2.0})
    assert measured == [0, 1, 2, 3, 5, 8, 16]
    assert balance.scales == {"wr_angle": 3.0} and balance.norms == {"rest": 6.0, "wr_angle": 2.0}


def test_measurements_that_are_never_finite_get_rare_and_are_told(tmp_path, monkeypatch, caplog):
    """Each one costs some steps."""
    monkeypatch.setattr("ckd_trainer.trainer.norm", lambda gradient: math.nan)
    steps = []
    monkeypatch.setattr(TermBalance, "add", lambda self, step, *norms: (steps.append(step), ADD(self, step, *norms)))
    run = distill(tmp_path, steps=20)
    assert steps == [0, 1, 3, 7, 15] and run.scales == dict.fromkeys(WEIGHTS, 1.0)
    assert "no finite gradient was measured" in warnings_of(caplog)[-1]


def test_weights_are_shares_of_the_gradient(tmp_path):
    """To 1 %; at learning rate 0 and with all examples in each step also of later ones."""
    student, teacher, data = no_dropout(layers=2, width=16), tiny_model(seed=1), examples(4)
    run = distill(tmp_path, student, teacher, train=data, steps=3, options={"learning_rate": 0.0})
    norms = norms_of(twin_gradients(student, teacher, pad(list(data))))
    for term, weight in WEIGHTS.items():
        assert run.term_weights[term] * norms[term] == pytest.approx(weight * norms["rest"], rel=0.01)
    for entry in logs(run):  # from the first step on
        weights = {term: weight * entry[f"scale_{term}"] for term, weight in WEIGHTS.items()} | {"task": 0.7}
        total = sum(weight * entry[f"loss_{term}"] for term, weight in weights.items()) + 0.3 * entry["loss_logits"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


# ------------------------------------------------------------------------------------------------- wherever it is cut


def shown(run):
    """All that training leaves, but times."""
    history = [{name: entry[name] for name in entry if "_per_second" not in name} for entry in logs(run)]
    return history, run.balance.state(), {name: value.clone() for name, value in run.model.state_dict().items()}


def same(one, other):
    assert one[:-1] == other[:-1]
    assert all(torch.equal(one[-1][name], other[-1][name]) for name in other[-1])


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_run_is_balanced_as_if_it_had_not_been_cut(tmp_path, restore):
    """Between two measurements and in mid-epoch, with dropout."""
    options = {"save_steps": 3, "restore_callback_states_from_checkpoint": restore}
    options = {"train": examples(40), "steps": 9, "options": options}
    whole = distill(tmp_path, tiny_model(layers=2), **options)
    assert (
        whole.balance.first_step == 0
        and whole.balance.last_step == 7
        and not whole.balance.is_due(14)
        and whole.balance.is_due(15)
    )
    for step in (3, 6):
        again = distill(tmp_path, tiny_model(layers=2, seed=5), trains=False, **options)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        same(shown(again), shown(whole))


def test_a_checkpoint_of_an_earlier_version_is_measured_from_there(tmp_path):
    options = {"save_steps": 3}
    distill(tmp_path, steps=3, options=options)
    path = tmp_path / "checkpoint-3" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["TermBalance"]
    path.write_text(json.dumps(state))
    again = distill(tmp_path, trains=False, steps=6, options=options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.balance.first_step == 3 and min(again.scales.values()) > 0 and again.balance.norms
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["TermBalance"]["attributes"]["scales"] == again.scales


@pytest.mark.parametrize("before", [ckd({"wr_angle": 1.0}), ckd(term_balance="none")], ids=["one term", "none"])
def test_a_run_that_goes_on_with_other_terms_is_measured_from_there(tmp_path, before):
    distill(tmp_path, steps=9, ckd_args=before, options={"save_steps": 9})
    again = distill(tmp_path, trains=False, steps=11)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    assert again.balance.first_step == 9 and again.scales.keys() == WEIGHTS.keys() and 1.0 not in again.scales.values()


def test_restored_callbacks_do_not_bring_back_other_terms(tmp_path):
    """`Trainer` makes a balance from the checkpoint's then, and puts it in the place of ours."""
    distill(tmp_path, steps=9, ckd_args=ckd({"wr_angle": 1.0}), options={"save_steps": 9})
    options = {"restore_callback_states_from_checkpoint": True}
    again = distill(tmp_path, trains=False, steps=11, options=options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    assert again.balance.first_step == 9 and again.scales.keys() == WEIGHTS.keys() and 1.0 not in again.scales.values()
    state = json.loads((tmp_path / "checkpoint-11" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert state["TermBalance"]["attributes"]["scales"] == again.scales


@pytest.mark.parametrize(
    ("changed", "first_step"),
    [
        ({"relation_temperature": 0.05}, 9),
        pytest.param({"alpha": 0.9}, 9, marks=pytest.mark.slow),
        ({"wr_angle_weight": 9.0}, 0),
        pytest.param({}, 0, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_norms_are_good_as_long_as_they_mean_the_same(tmp_path, changed, first_step):
    """Weights may change: norms are those at weight 1."""
    distill(tmp_path, steps=9, options={"save_steps": 9})
    again = distill(tmp_path, trains=False, steps=10, ckd_args=ckd(**changed))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    assert again.balance.first_step == first_step


def test_an_option_that_a_later_version_adds_changes_no_definition(tmp_path):
    """Else the scales of each checkpoint would be measured again, and a resumed run would not be the same run."""

    @dataclasses.dataclass
    class Later(CKDArguments):
        new_option: int = 3

    now, later, other = (
        distill(tmp_path, trains=False, ckd_args=kind(**DEFINITIONS | more)).balance.definition
        for kind, more in ((CKDArguments, {}), (Later, {}), (Later, {"new_option": 4}))
    )
    assert now == later == {"window_size": 5, "relation_temperature": 0.5}
    assert other == now | {"new_option": 4}


def test_an_interval_may_come_later():
    balance = TermBalance({"wr_angle": 1.0})
    for step in range(200):
        if balance.is_due(step):
            balance.add(step, 1.0, {"wr_angle": 2.0})
    again = TermBalance({"wr_angle": 1.0}, interval=100)
    again.take_over(json.loads(json.dumps(balance.state())))
    assert [step for step in range(200, 240) if again.is_due(step)][0] == 227


def test_a_second_training_begins_anew(tmp_path):
    run = distill(tmp_path, steps=3)
    first = run.scales
    run.train()
    assert run.balance.first_step == 0 and run.balance.last_step == 1 and run.scales != first


def test_the_end_of_a_training_holds_the_scales(tmp_path):
    """Without any checkpoint too."""
    run = distill(tmp_path, steps=3, options={"save_strategy": "no"})
    run.save_state()
    state = json.loads((tmp_path / "trainer_state.json").read_text())["stateful_callbacks"]
    assert state["TermBalance"]["attributes"]["scales"] == run.scales


def test_a_loss_function_of_the_users_is_in_the_rest(tmp_path):
    """It is measured like the loss on the labels that it stands for."""

    def loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    runs = [
        distill(tmp_path / str(own), train=examples(13), steps=2, options=options, compute_loss_func=own)
        for own in (None, loss)
    ]
    assert runs[1].balance.norms == pytest.approx(runs[0].balance.norms, rel=1e-4)


def test_scales_do_not_depend_on_how_a_step_is_cut(tmp_path):
    """A step of 8 examples, and the last one of the epoch, of 5."""
    runs = []
    for size in (8, 4, 1):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        runs.append(distill(tmp_path / str(size), double=True, train=examples(13), steps=2, options=options))
    for run in runs[1:]:
        assert run.scales == pytest.approx(runs[0].scales, rel=1e-5)
        assert run.balance.norms == pytest.approx(runs[0].balance.norms, rel=1e-5)


def test_scales_from_a_cache_are_those_of_the_live_teacher(tmp_path):
    live = distill(tmp_path / "live", steps=4)
    cached = distill(tmp_path / "cached", steps=4, ckd_args=ckd(teacher_cache_dir=str(tmp_path / "cache")))
    assert cached.scales == pytest.approx(live.scales, rel=3e-3)


# ------------------------------------------------------------------------------------- training does not notice it


class Unnoticed(DistillationTrainer):
    """Looks at what measuring leaves behind."""

    def _gradients(self, step, mixtures):
        generator = torch.get_rng_state()
        yield from super()._gradients(step, mixtures)
        self.looked_at = [*getattr(self, "looked_at", []), self.state.global_step]
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(parameter.grad is None for parameter in self.model.parameters())


def test_training_does_not_notice_what_is_measured_for_warnings(tmp_path, monkeypatch):
    """With dropout, bit for bit."""
    runs = []
    for measures in (True, False):
        if not measures:
            monkeypatch.setattr(TermBalance, "is_due", lambda self, step: False)
        args = ckd(term_balance="none")
        run = distill(tmp_path / str(measures), tiny_model(layers=2), cls=Unnoticed, steps=9, ckd_args=args)
        assert getattr(run, "looked_at", []) == ([0, 1, 3, 7] if measures else [])
        assert run.scales == {} and run.balance.last_step == (7 if measures else None)
        assert run.term_weights == {"task": 0.7, "logits": 0.3} | WEIGHTS
        history, _, weights = shown(run)
        runs.append((history, torch.get_rng_state().tolist(), weights))
    same(*runs)
    assert not any(name.startswith("scale_") for entry in runs[0][0] for name in entry)


def test_gradient_norms_in_the_log_are_the_twins_and_change_nothing(tmp_path):
    """Of the weighted terms; the student stands still, so that the twin sees the one that was logged."""
    data, options = examples(4), {"learning_rate": 0.0}
    student, teacher = no_dropout(layers=2, width=16), tiny_model(seed=1)
    args = ckd(log_gradient_norms=True)
    run = distill(tmp_path / "a", student, teacher, double=True, train=data, ckd_args=args, options=options)
    found = twin_gradients(student, teacher, pad(list(data)))
    weighted = {term: weight * found[term] for term, weight in run.term_weights.items()}
    (entry,) = logs(run)
    for term, gradient in weighted.items():
        assert entry[f"gradient_norm_{term}"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    pairs = list(itertools.combinations(weighted, 2))
    for one, other in pairs:
        cosine = torch.nn.functional.cosine_similarity(weighted[one], weighted[other], dim=0).item()
        assert entry[f"cosine_{one}_{other}"] == pytest.approx(cosine, abs=1e-5)
    assert len(pairs) == len([name for name in entry if name.startswith("cosine_")]) == 15


def test_logging_gradient_norms_changes_nothing(tmp_path):
    runs = []
    for wanted in (True, False):
        args = ckd(log_gradient_norms=wanted)
        run = distill(tmp_path / str(wanted), tiny_model(layers=2), cls=Unnoticed, steps=5, ckd_args=args)
        history, state, weights = shown(run)
        added = {name for name in history[0] if name.startswith(("gradient_norm", "cosine"))}
        assert bool(added) == wanted
        ours = [{name: entry[name] for name in entry.keys() - added} for entry in history]
        runs.append((ours, state, weights))
    same(*runs)


def test_a_log_before_the_first_step_has_no_gradients(tmp_path):
    run = distill(tmp_path, trains=False, ckd_args=ckd(log_gradient_norms=True))
    run.log({"loss": 1.0})
    assert logs(run)[0]["loss"] == 1.0


# ------------------------------------------------------------------------------------------- terms that are not there


def test_only_weighted_relations_are_measured(tmp_path):
    """One forward of the student for the rest, one for each of them, and one to train."""
    student, calls = no_dropout(layers=2, width=16), []
    student.register_forward_pre_hook(lambda *_: calls.append(1))
    per_step = []

    class Counts(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            per_step.append(len(calls))
            calls.clear()

    args = ckd({"wr_angle": 1.0, "ltr_angle": 2.0})
    run = distill(tmp_path, student, steps=5, ckd_args=args, callbacks=[Counts()])
    assert per_step == [4, 4, 1, 4, 1] and run.scales.keys() == {"wr_angle", "ltr_angle"}


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_without_relations_there_is_nothing_to_balance(tmp_path, monkeypatch, alpha):
    monkeypatch.setattr("ckd_trainer.trainer.gradients", None)
    run = distill(tmp_path, ckd_args=CKDArguments(**CONTROL | {"alpha": alpha}))
    assert run.balance is None and run.scales == {}
    assert not any(name.startswith("scale_") for name in logs(run)[0])


def test_a_term_in_which_teacher_and_student_agree_is_left_alone(tmp_path, caplog):
    """It is said, and rounding does not train the student."""
    student = no_dropout(layers=4)
    weights = []
    for args in (ckd(alpha=0.0), CKDArguments.fine_tuning()):
        teacher, ours = copy.deepcopy(student), copy.deepcopy(student)
        run = distill(tmp_path, ours, teacher, ckd_args=args)
        weights.append(list(run.model.parameters()))
        if args.weights:
            assert run.scales == dict.fromkeys(WEIGHTS, 1.0)
    for ours, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    for term in WEIGHTS:
        assert any(f"{term} has " in text and "teacher and student agree in it" in text for text in caplog.messages)


def test_what_a_cache_rounds_is_no_gradient(tmp_path):
    student = no_dropout(layers=4)
    args = ckd(alpha=0.0, teacher_cache_dir=str(tmp_path / "cache"))
    run = distill(tmp_path, copy.deepcopy(student), student, ckd_args=args)
    assert run.scales == dict.fromkeys(WEIGHTS, 1.0)


def test_a_student_that_begins_as_its_teacher_trains_on(tmp_path):
    """The term has a gradient as soon as the student moves; nothing blows up."""
    student = no_dropout(layers=4)
    run = distill(tmp_path, copy.deepcopy(student), student, steps=20, ckd_args=ckd(alpha=0.5))
    entries = logs(run)
    assert all(math.isfinite(entry["loss"]) and entry["nonfinite_steps"] == 0 for entry in entries)
    assert entries[-1]["loss_task"] < 2 * entries[0]["loss_task"]


# ---------------------------------------------------------------------------------------------- warnings and options


def warnings_of(caplog):
    """Scripts that ran before may have turned on what is below a warning."""
    records = [record for record in caplog.records if record.name == "ckd_trainer.training.balance"]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_published_weights_that_train_little_or_too_much_are_warned_of(tmp_path, caplog):
    weights = WEIGHTS | {"wr_angle": 1e-4, "ltr_angle": 1e4}
    args = ckd(weights, term_balance="none")
    run = distill(tmp_path, steps=8, ckd_args=args, options={"learning_rate": 0.0})
    shares = {term: weight * run.balance.norms[term] / run.balance.norms["rest"] for term, weight in weights.items()}
    way_out = "with term_balance gradient, the weight would be a share"
    faint, loud = warnings_of(caplog)
    assert faint == (
        f"wr_angle has {shares['wr_angle']:.2g} of the gradient of labels and logits, so it hardly trains the student "
        f"at weight 0.0001: {way_out}."
    )
    assert loud == (
        f"ltr_angle has {shares['ltr_angle']:.3g} times the gradient of labels and logits, and drowns it out "
        f"at weight 10000: {way_out}."
    )


@pytest.mark.parametrize("steps", [3, 8, 9])
def test_a_warning_comes_once_when_all_is_measured_or_training_ends(tmp_path, caplog, steps):
    distill(tmp_path, steps=steps, ckd_args=ckd({"wr_angle": 1e-4}, term_balance="none"))
    assert len(warnings_of(caplog)) == 1


def test_shares_out_of_proportion_are_warned_of(caplog):
    balance = TermBalance({"wr_angle": 0.004, "wr_distance": 0.5, "ltr_angle": 25.0})
    for step in range(130):
        assert not warnings_of(caplog) or step >= 128
        if balance.is_due(step):
            balance.add(step, 1.0, {"wr_angle": 2.0, "wr_distance": 1e-3, "ltr_angle": 1e3})
    faint, loud = warnings_of(caplog)
    assert "wr_angle has 0.004 of the gradient" in faint and "change its weight of 0.004" in faint
    assert "ltr_angle has 25 times the gradient" in loud and "change its weight of 25" in loud


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"balance_interval": 10, "term_balance": "none"}, "term_balance none does not scale weights: leave it out"),
        ({"balance_interval": 0}, "balance_interval is 0: give 1 or more"),
        ({"balance_interval": -3}, "balance_interval is -3: give 1 or more"),
    ],
)
def test_intervals_that_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        CKDArguments(**options)


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(InputError, match="optim is galore_adamw_layerwise, which changes weights in every backward"):
        distill(tmp_path, options={"optim": "galore_adamw_layerwise"})
    run = distill(tmp_path, trains=False)
    run.remove_callback(TermBalance)
    with pytest.raises(InputError, match="the callback TermBalance was removed"):
        run.train()
    sharded = distill(tmp_path, trains=False)
    sharded.model_init = lambda: no_dropout(layers=2, width=16)
    sharded.is_fsdp_enabled = True
    assert not sharded.accelerator.is_fsdp2
    with pytest.raises(InputError, match="cannot be measured under FSDP 1: set fsdp_version to 2"):
        sharded.call_model_init()


def test_nothing_to_balance_against_is_said(caplog):
    balance = TermBalance({"wr_angle": 1.0}, rescales=False)
    for step in range(8):
        balance.add(step, 0.0, {"wr_angle": 0.0})
    (told,) = warnings_of(caplog)
    assert "no gradient of labels and logits was measured" in told


# ----------------------------------------------------------------------------------- precisions, wrappers, and scripts


def small_teacher():
    """Compiling takes seconds a layer."""
    return tiny_model(layers=2, seed=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return distill(tmp_path_factory.mktemp("plain"), teacher=small_teacher())


def test_gradients_are_unscaled():
    """Under float16 the loss is scaled, and the optimizer sees the gradient without the scale."""
    model, batch = no_dropout(layers=1), torch.randn(4, 32)
    accelerator = SimpleNamespace(
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10),
        distributed_type=DistributedType.NO,
        device=torch.device("cpu"),
    )
    weights = encoder_weights(model)

    @contextlib.contextmanager
    def loss(factor, model):
        yield factor * sum(weight.square().sum() for weight in weights) + 0 * batch.sum()

    losses = [[functools.partial(loss, factor) for factor in factors] for factors in ((1.0, 2.0), (0.5,))]
    for found, factor in zip(gradients(model, losses, accelerator, seed=0), (3.0, 0.5), strict=True):
        for gradient, weight in zip(found, weights, strict=True):
            torch.testing.assert_close(gradient, 2 * factor * weight.detach())
    assert all(weight.grad is None for weight in weights)


def test_head_and_pooler_are_left_out():
    model = tiny_model(layers=1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    model.bert.encoder.layer[0].output.dense.bias.requires_grad_(False)
    left = set(names.values()) - {names[id(parameter)] for parameter in encoder_weights(model)}
    head = {f"{name}.{kind}" for name in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")}
    assert left == head | {"bert.encoder.layer.0.output.dense.bias"}


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=["reentrant", "not reentrant", "compile"],
)
def test_options_that_change_no_gradient(tmp_path, plain, options):
    run = distill(tmp_path, teacher=small_teacher(), options=options)
    assert run.scales == pytest.approx(plain.scales, rel=1e-4)


def test_a_compiled_student_is_balanced_as_the_student(tmp_path, plain):
    with torch.compiler.set_stance("force_eager"):
        run = distill(tmp_path, compiled(no_dropout(layers=2, width=16)), small_teacher())
    assert run.scales == pytest.approx(plain.scales, rel=1e-5)


def test_bf16_balances_as_float32(tmp_path, plain):
    run = distill(tmp_path, teacher=small_teacher(), options={"bf16": True})
    assert run.scales == pytest.approx(plain.scales, rel=0.15)


def test_adapters_are_balanced_by_their_own_gradient(tmp_path):
    student, teacher, data = lora("SEQ_CLS")(no_dropout(layers=2, width=16)), tiny_model(seed=1), examples(4)
    run = distill(tmp_path, student, teacher, train=data, options={"learning_rate": 0.0})
    norms = norms_of(twin_gradients(student, teacher, pad(list(data))))
    assert run.scales == pytest.approx({term: norms["rest"] / norms[term] for term in WEIGHTS}, rel=1e-3)


def test_the_scripts_leave_the_scales(tiny_teacher, text_files, tmp_path):
    out = tmp_path / "out"
    options = ["--teacher_model_name_or_path", str(tiny_teacher), "--student_init", "teacher_layers", *text_files]
    options += ["--student_num_layers", "2", "--max_steps", "3", "--logging_steps", "1", "--do_train"]
    options += ["--report_to", "none", "--disable_tqdm", "true", "--output_dir", str(out)]
    run_glue_ckd.main([*options, "--wr_angle_weight", "2", "--ltr_angle_weight", "0.3", "--do_eval"])
    terms = ("wr_distance", "wr_angle", "ltr_angle")
    results = json.loads((out / "train_results.json").read_text())
    rows = json.loads((out / "trainer_state.json").read_text())["log_history"]
    *_, last = (row for row in rows if "loss" in row)
    scales = {term: last[f"scale_{term}"] for term in terms}
    assert {name: value for name, value in results.items() if name.startswith("scale_")} == {
        f"scale_{term}": scale for term, scale in scales.items()
    }
    card = (out / "README.md").read_text()
    assert f"2 x {scales['wr_angle']:.4g} wr_angle" in card
    assert "other weights are shares of the gradient of labels and logits" in card
