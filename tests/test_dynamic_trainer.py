"""`DynamicTrainer` against a loop twin and against `DistillationTrainer`: steps, logs, scores, and what is refused."""

import copy
import functools
import json
import random
import statistics

import pytest
import torch
from helpers import method_reference as slow
from helpers.reference import contextual_relation_losses as slow_relation_losses
from helpers.tiny import no_dropout, tiny_model
from helpers.training import ALL_TERMS, CONTROL, examples, logs, pad, trainer
from torch.nn import functional as F

from ckd_trainer import CKDArguments, DistillationTrainer, DynamicArguments, DynamicTrainer
from ckd_trainer.methods import (
    AttributionArguments,
    DistilBERTArguments,
    GramArguments,
    MiniLMv2Arguments,
    PKDArguments,
    RankingArguments,
    TinyBERTArguments,
)
from ckd_trainer.models.importance import importance, rewire
from ckd_trainer.models.linear_layers import linear_layers
from ckd_trainer.models.subnetworks import SubNetwork, record_subnetworks, subnetworks_of
from ckd_trainer.utils.errors import InputError

FOUR = DynamicArguments(student_widths="1.0,0.5", student_depths="1.0,0.5")
TEACHES = DynamicArguments(student_widths="1.0,0.5", student_depths="1.0,0.5", whole_student_teaches=True)
WEIGHTS = {"wr_distance": 3.0, "wr_angle": 5.0, "ltr_distance": 7.0, "ltr_angle": 11.0}
LOSS = ALL_TERMS | {f"{term}_weight": weight for term, weight in WEIGHTS.items()}
LOSS |= {"term_balance": "none", "alpha": 0.3, "temperature": 2.0, "window_size": 5}
METHODS = {
    "pkd": PKDArguments(pkd_weight=3.0),
    "distilbert_cosine": DistilBERTArguments(distilbert_cosine_weight=3.0),
    "gram": GramArguments(gram_weight=3.0),
    "attribution": AttributionArguments(attribution_weight=3.0, attribution_top_k=10),
    "listwise": RankingArguments(listwise_weight=3.0, listwise_temperature=2.0),
    "margin_mse": RankingArguments(margin_mse_weight=3.0),
}
DESCENT = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0, "lr_scheduler_type": "constant"}


def student_of(layers=4, ordered=True, **kwargs):
    """A student without dropout; an ordered one has had several widths, so that its heads and neurons stay."""
    model = no_dropout(layers=layers, width=16, **kwargs)
    if ordered:
        record_subnetworks(model.config, [SubNetwork(), SubNetwork(width=0.5)])
    return model


def dynamic(folder, student=None, dynamic_args=FOUR, **kwargs):
    kwargs.setdefault("teacher_model", tiny_model(layers=4, seed=1))
    kwargs.setdefault("ckd_args", CKDArguments(**LOSS))
    return trainer(DynamicTrainer, folder, student or student_of(), dynamic_args=dynamic_args, **kwargs)


def masked(model, part):
    """Returns a function that runs a sub-network by hand: the kept layers, with zeros for other heads and neurons.

    The twin of slices: products with masks, through which gradients reach the kept weights alone.
    """
    size = model.config.hidden_size // model.config.num_attention_heads
    dims, neurons = part.heads(model.config) * size, part.neurons(model.config)
    weights = dict(model.named_parameters())
    for layer in linear_layers(model):
        for name, kept in ((f"{layer.out}.weight", dims), (f"{layer.down}.weight", neurons)):
            mask = torch.zeros_like(weights[name])
            mask[:, :kept] = 1
            weights[name] = weights[name] * mask

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, ids, mask):
            bert = self.inner.bert
            hidden = [bert.embeddings(input_ids=ids)]
            blocked = torch.where(mask[:, None, None, :] > 0, 0.0, -1e9).to(hidden[0])
            for number in part.layers(model.config):
                output = bert.encoder.layer[number - 1](hidden[-1], attention_mask=blocked)
                hidden.append(output[0] if isinstance(output, tuple) else output)
            return self.inner.classifier(bert.pooler(hidden[-1])), hidden

    weights = {f"inner.{name}": value for name, value in weights.items()}
    return lambda batch: torch.func.functional_call(Twin(), weights, (batch["input_ids"], batch["attention_mask"]))


def slow_terms(name, ours, theirs, batch, pairs):
    """Returns CKD's terms, or that of another method, by their names.

    ours, theirs: (logits, hidden states).
    pairs: the matched layers, of which the first are the embeddings and the last the last.
    """
    (logits, states), (their_logits, their_states), mask = ours, theirs, batch["attention_mask"]
    if name == "ckd":
        return slow_relation_losses(states, their_states, mask, pairs=pairs, window_size=5)
    if name == "attribution":  # of the first class: the second has the same
        log_p, their_log_p = (values.log_softmax(-1)[:, :1] for values in (logits, their_logits))
        found = slow.attributions(log_p, states[0], mask)
        wanted = slow.attributions(their_log_p, their_states[0], mask, 10).detach()
        return {name: slow.attribution_loss(found, wanted, mask)}
    if name in ("listwise", "margin_mse"):
        scores = [values[:, 1] - values[:, 0] for values in (logits, their_logits)]
        more = [2.0] if name == "listwise" else []
        return {name: getattr(slow, f"{name}_loss")(*scores, batch["group"], *more)}
    first = torch.zeros_like(mask)
    first[:, 0] = 1
    pairs, loss, *more = {
        "pkd": (pairs[1:-1], slow.normalized_state_loss, first),
        "distilbert_cosine": (pairs[-1:], slow.cosine_loss, mask),
        "gram": (pairs, slow.gram_matrix_loss, mask, False),
    }[name]
    return {name: sum(loss(states[i], their_states[j], *more) for i, j in pairs) / len(pairs)}


@pytest.mark.parametrize("name", ["ckd", *METHODS])
@pytest.mark.parametrize("whole_student_teaches", [False, True])
def test_one_step_is_the_twins_sum_over_sub_networks(tmp_path, whole_student_teaches, name):
    teacher = tiny_model(layers=4, seed=1, width=32 if name == "ckd" else 16).double()
    student, data = student_of().double(), examples(8, seed=3)
    twin, dynamic_args = copy.deepcopy(student), TEACHES if whole_student_teaches else FOUR
    weights, options = WEIGHTS, {}
    if name != "ckd":
        weights, loss = {name: 3.0}, {key: LOSS[key] for key in ("alpha", "temperature", "term_balance")}
        options = {"ckd_args": CKDArguments.without_relations(**loss), "methods": [METHODS[name]]}
    if name in ("listwise", "margin_mse"):
        data, options = data.add_column("group", [0, 0, 0, 0, 1, 1, 1, 1]), options | {"group_size": 4}
    run = dynamic(tmp_path, student, dynamic_args, teacher_model=teacher, train=data, options=DESCENT, **options)
    run.train()

    batch = pad(list(data))
    twin.set_attn_implementation("eager")
    teaching = (copy.deepcopy(twin) if whole_student_teaches else teacher).requires_grad_(name == "attribution")
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    theirs = teaching.eval()(**inputs, output_hidden_states=True)
    losses = {}
    for part in FOUR.subnetworks:
        ours = logits, _ = masked(twin, part)(batch)
        p, q = (theirs.logits / 2).softmax(-1), (logits / 2).softmax(-1)
        pairs = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)] if part.depth == 1 else [(0, 0), (1, 2), (2, 4)]
        terms = slow_terms(name, ours, (theirs.logits, theirs.hidden_states), batch, pairs)
        terms |= {"task": F.cross_entropy(logits, batch["labels"])}
        terms["logits"] = 4 * (p * (p.log() - q.log())).sum(-1).mean()
        losses[part] = sum(weight * terms[term] for term, weight in weights.items())
        losses[part] += 0.7 * terms["task"] + 0.3 * terms["logits"]
        if whole_student_teaches and part == SubNetwork():
            losses[part] = terms["task"]
            terms = {"task": terms["task"]}
        entry = logs(run)[0]
        for term, value in terms.items():
            assert entry[f"loss_{term}_{part}"] == pytest.approx(value.item(), rel=1e-5), (part, term)
    assert ("loss_logits_w1_d1" in entry) != whole_student_teaches
    for term in terms:
        each = [entry[name] for part in FOUR.subnetworks if (name := f"loss_{term}_{part}") in entry]
        assert entry[f"loss_{term}"] == pytest.approx(statistics.fmean(each))
    assert entry["loss"] == pytest.approx(statistics.fmean(loss.item() for loss in losses.values()), rel=1e-5)

    sum(losses.values()).backward()
    for (name, ours), before in zip(student.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, before - 0.1 * before.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_a_single_sub_network_is_the_plain_student(tmp_path):
    runs = [
        trainer(
            kind, tmp_path / kind.__name__, student_of(), steps=10, teacher_model=tiny_model(layers=4, seed=1), **more
        )
        for kind, more in ((DistillationTrainer, {}), (DynamicTrainer, {"dynamic_args": DynamicArguments()}))
    ]
    for run in runs:
        run.train()
    assert [entry["loss"] for entry in logs(runs[0])] == [entry["loss"] for entry in logs(runs[1])]
    assert logs(runs[0])[0].keys() == logs(runs[1])[0].keys()
    for ours, theirs in zip(runs[1].model.parameters(), runs[0].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    scores = [run.evaluate() for run in runs]
    assert {name for name in scores[0] if "per_second" not in name and "runtime" not in name} <= scores[1].keys()
    assert not any("_mean_" in name for name in scores[1])


@pytest.mark.parametrize("ckd_args", [LOSS, ALL_TERMS | {"term_balance": "gradient"}], ids=["fixed", "balanced"])
def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path, ckd_args):
    """1 x 8, 2 x 4 examples; and live as with the cache."""
    data, results = examples(13, seed=2), []
    for name, batch, cache in (("whole", 8, None), ("cut", 4, None), ("cached", 8, str(tmp_path / "cache"))):
        options = DESCENT | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
        args = CKDArguments(**ckd_args | {"teacher_cache_dir": cache})
        run = dynamic(tmp_path / name, steps=3, train=data, ckd_args=args, options=options)
        run.train()
        results.append(run)
    whole, *others = results
    for run in others:
        for ours, theirs in zip(run.model.parameters(), whole.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(logs(run), logs(whole), strict=True):
            for name in ours.keys() - {"epoch"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name


def test_shares_are_those_of_the_sums_over_sub_networks(tmp_path):
    args = CKDArguments(**ALL_TERMS | {"term_balance": "gradient", "log_gradient_norms": True})
    run = dynamic(tmp_path, ckd_args=args, options={"learning_rate": 0.0})
    run.train()
    entry = logs(run)[0]
    for term in WEIGHTS:
        # At learning rate 0, the gradients at the log are those that were measured before the step.
        assert entry[f"gradient_norm_{term}"] > 0
        assert entry[f"scale_{term}"] > 0
    norms = [entry[f"gradient_norm_{term}"] for term in WEIGHTS]
    assert norms == pytest.approx([norms[0]] * 4, rel=1e-4)  # equal weights: equal shares


def test_the_teacher_runs_once_for_all_sub_networks(tmp_path):
    teacher, calls = tiny_model(layers=4, seed=1), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    args = CKDArguments.without_relations(alpha=0.5)  # without terms whose gradients are measured
    dynamic(tmp_path / "logits", steps=3, teacher_model=teacher, ckd_args=args).train()
    assert len(calls) == 3
    calls.clear()
    args = CKDArguments(**ALL_TERMS | {"term_balance": "gradient", "log_gradient_norms": True})
    dynamic(tmp_path / "relations", steps=3, teacher_model=teacher, ckd_args=args).train()
    assert len(calls) == 8  # of three steps, two are measured, and gradients are logged after all three
    calls.clear()
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    args = CKDArguments(**ALL_TERMS | {"term_balance": "gradient"})
    dynamic(tmp_path / "accumulated", teacher_model=teacher, ckd_args=args, options=options).train()
    assert len(calls) == 2 * (5 + 1)  # of each batch: for each of five gradients, and to train


def test_the_operations_of_a_step_are_those_of_its_sub_networks(tmp_path):
    runs = [dynamic(tmp_path, dynamic_args=dynamic_args) for dynamic_args in (DynamicArguments(), FOUR)]
    for run in runs:
        run.train()
    plain, ours = (run.state.total_flos for run in runs)
    assert ours == pytest.approx(plain * (1 + 0.5 + 0.5 + 0.25)) and plain > 0


def test_every_weight_of_the_whole_student_is_trained(tmp_path):
    student = student_of()
    before = {name: value.clone() for name, value in student.named_parameters()}
    dynamic(tmp_path, student, steps=2).train()
    assert not [name for name, value in student.named_parameters() if torch.equal(value, before[name])]


def test_some_sub_networks_are_drawn_the_same_way_after_a_resume(tmp_path):
    """The sandwich: the largest, the smallest, and one of the others, which changes from step to step."""
    args = DynamicArguments("1.0,0.5", "1.0,0.75,0.5", subnetworks_per_step=3)
    more = {"options": {"save_steps": 3, "seed": 7}, "steps": 6}
    more["ckd_args"] = CKDArguments(**LOSS | {"wr_layer_mapping": "uniform", "ltr_layer_mapping": "uniform"})
    whole = dynamic(tmp_path / "whole", student_of(ordered=False), args, **more)
    whole.train()
    steps = [{name for name in entry if name.startswith("loss_task_")} for entry in logs(whole)]
    assert all({"loss_task_w1_d1", "loss_task_w0.5_d0.5"} < names and len(names) == 3 for names in steps)
    assert len(set().union(*steps)) > 3
    resumed = dynamic(tmp_path / "resumed", student_of(ordered=False), args, **more)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert logs(resumed)[3:] == logs(whole)[3:]


def test_heads_and_neurons_are_ordered_once_before_training(tmp_path):
    student, twin = student_of(ordered=False), student_of(ordered=False)
    options = {"learning_rate": 0.0}
    run = dynamic(tmp_path, student, options=options)
    run.train()
    twin.eval()
    rows = random.Random(42).sample(range(48), 48)  # all examples, in batches of 8
    batches = [pad([examples()[row] for row in rows[start : start + 8]]) for start in range(0, 48, 8)]
    rewire(twin, importance(twin, [functools.partial(lambda batch: twin(**batch).loss, batch) for batch in batches]))
    for (name, ours), theirs in zip(student.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert subnetworks_of(student.config) == FOUR.subnetworks
    with torch.no_grad():
        student.bert.encoder.layer[0].output.dense.weight[:, 0] = 0  # less important than before
    weights = copy.deepcopy(student.state_dict())
    dynamic(tmp_path / "again", student, options=options).train()
    assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())


def test_evaluation_scores_every_sub_network(tmp_path):
    def scores(prediction):
        return {"right": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    run = dynamic(tmp_path, student_of(ordered=False), steps=2, compute_metrics=scores)
    run.train()
    found, batch = run.evaluate(), pad(list(examples()))
    by_hand = {}
    for part in FOUR.subnetworks:
        with run.running(part), torch.no_grad():
            by_hand[part] = run.model.eval()(**batch)
        name = "" if part == SubNetwork() else f"_{part}"
        accuracy = (by_hand[part].logits.argmax(-1) == batch["labels"]).double().mean().item()
        assert found[f"eval_right{name}"] == pytest.approx(accuracy)
        assert found[f"eval_loss{name}"] == pytest.approx(by_hand[part].loss.item(), rel=1e-4)
    losses = [output.loss.item() for output in by_hand.values()]
    assert len({round(loss, 6) for loss in losses}) == 4
    assert found["eval_mean_loss"] == pytest.approx(statistics.fmean(losses), rel=1e-4)
    # Predictions are those of the whole student.
    assert torch.equal(
        torch.from_numpy(run.predict(examples()).predictions).argmax(-1), by_hand[SubNetwork()].logits.argmax(-1)
    )


def test_scores_that_only_some_sub_networks_have(tmp_path):
    """Such as those of a type of entity that the others never predict and no text has."""
    *others, smallest = FOUR.subnetworks[1:]
    scores = [{"all": 0.5}] * len(others) + [{"all": 0.5, "small": 0.2}, {"all": 0.5, "whole": 1.0}]
    in_order = iter(scores)  # the whole student is evaluated last
    found = dynamic(tmp_path, compute_metrics=lambda prediction: next(in_order)).evaluate()
    assert found["eval_mean_all"] == 0.5 and found["eval_whole"] == 1.0 and found[f"eval_small_{smallest}"] == 0.2
    assert not any("mean_whole" in name or "mean_small" in name or name.startswith("eval_whole_") for name in found)


def test_metrics_that_are_not_numbers_have_no_mean(tmp_path):
    *others, _ = FOUR.subnetworks[1:]
    same = {"report": "good", "each": [0.5, 0.7], "none": None, "half": 0.5}
    scores = [same | {"some": 0.2}] * len(others) + [same | {"some": None}, same | {"some": 0.2}]
    in_order = iter(scores)
    found = dynamic(tmp_path, compute_metrics=lambda prediction: next(in_order)).evaluate()
    assert found["eval_mean_half"] == 0.5
    for name in ("report", "each", "none", "some"):
        assert found[f"eval_{name}"] == found[f"eval_{name}_{others[0]}"] == scores[0][name]
        assert f"eval_mean_{name}" not in found


def test_timings_of_an_evaluation_are_not_scores_of_sub_networks(tmp_path):
    found = dynamic(tmp_path).evaluate(examples(4))
    assert [name for name in found if "preparation_time" in name] == ["eval_model_preparation_time"]


def test_a_checkpoint_is_that_of_a_plain_model(tmp_path):
    run = dynamic(tmp_path, steps=2)
    run.train()
    run.save_model()
    assert json.loads((tmp_path / "config.json").read_text())["subnetworks"] == [
        [1, 1, [1, 2, 3, 4]],
        [1, 0.5, [1, 4]],
        [0.5, 1, [1, 2, 3, 4]],
        [0.5, 0.5, [1, 4]],
    ]
    loaded = type(run.model).from_pretrained(tmp_path).eval()
    batch = pad(list(examples()))
    assert torch.equal(loaded(**batch).logits, run.model.eval()(**batch).logits)


@pytest.mark.parametrize("kwargs", [{"gradient_checkpointing": True}, {"bf16": True}])
def test_options_that_work(tmp_path, kwargs):
    args = CKDArguments(**ALL_TERMS | {"term_balance": "gradient"})
    run = dynamic(tmp_path, student_of(ordered=False), steps=3, ckd_args=args, options=kwargs)
    run.train()
    assert all(entry["loss"] == pytest.approx(entry["loss"]) and entry["grad_norm"] > 0 for entry in logs(run))
    plain = dynamic(tmp_path / "plain", student_of(ordered=False), steps=3, ckd_args=args)
    plain.train()
    rel = 0.05 if "bf16" in kwargs else 1e-4
    assert logs(run)[-1]["loss"] == pytest.approx(logs(plain)[-1]["loss"], rel=rel)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"methods": [TinyBERTArguments(tinybert_attention_weight=1.0)], "student": no_dropout(layers=4, width=32)},
            "tinybert_attention does not work with width 0.5, because it compares attention heads",
        ),
        (
            {"methods": [MiniLMv2Arguments(minilmv2_weight=1.0, minilmv2_heads=16)]},
            "its 16 relation heads do not divide the 8 dimensions of w0.5_d1",
        ),
        (
            {"methods": [TinyBERTArguments(tinybert_hidden_weight=1.0)], "dynamic_args": TEACHES},
            "tinybert_hidden learns a projection, but the student has its teacher's width",
        ),
        ({"options": {"torch_compile": True}}, "torch_compile"),
        ({"student": student_of(layers=2)}, "ltr_layer_mapping emb.skip matches 2 layers"),
        ({"dynamic_args": DynamicArguments("1.0,0.99")}, "student_widths has 1 and 0.99, which are the same"),
        ({"options": {"optim": "galore_adamw_layerwise", "optim_target_modules": ["attn"]}}, "in every backward pass"),
        ({"options": {"optim": "lomo"}}, "in every backward pass"),
        ({"dynamic_args": DynamicArguments(whole_student_teaches=True)}, "the student has no other sub-networks"),
        (
            {"dynamic_args": TEACHES, "ckd_args": CKDArguments(**LOSS | {"labels_and_logits": False})},
            "the whole student would learn nothing",
        ),
        (
            {"dynamic_args": TEACHES, "ckd_args": CKDArguments.fine_tuning()},
            "no term of the loss has a weight, so it would teach nothing",
        ),
    ],
)
def test_what_does_not_work_is_refused(tmp_path, kwargs, message):
    with pytest.raises(InputError, match=message):
        dynamic(tmp_path, **kwargs)


@pytest.mark.parametrize("kind", ["fsdp", "deepspeed"])
def test_weights_in_parts_are_refused(tmp_path, kind):
    run = dynamic(tmp_path)
    setattr(run, f"is_{kind}_enabled", True)
    with pytest.raises(InputError, match="needs all of its weights on each device: leave out FSDP and DeepSpeed"):
        run.use_loss(CKDArguments(**LOSS))


def test_states_are_compared_without_projections(tmp_path):
    """DynaBERT's own loss: the squared error of hidden states, for which the teacher has the student's width."""
    states = TinyBERTArguments(
        tinybert_embedding_weight=1.0, tinybert_hidden_weight=1.0, tinybert_projection="identity"
    )
    args = CKDArguments.without_relations(alpha=0.5, term_balance="none")
    run = dynamic(tmp_path, no_dropout(layers=4, width=32), ckd_args=args, methods=[states])
    run.train()
    entry = logs(run)[0]
    assert all(entry[f"loss_tinybert_hidden_{part}"] > 0 for part in FOUR.subnetworks)


def test_projections_are_shared_by_all_sub_networks(tmp_path):
    """TinyBERT's, for a teacher of another width."""
    student, teacher = student_of().double(), tiny_model(layers=4, seed=1).double()
    states = TinyBERTArguments(tinybert_embedding_weight=1.0, tinybert_hidden_weight=1.0)
    args, data = CKDArguments.without_relations(alpha=0.5, term_balance="none"), examples(8, seed=3)
    more = {"teacher_model": teacher, "train": data, "ckd_args": args, "methods": [states]}
    run = dynamic(tmp_path, student, options={"learning_rate": 0.0}, **more)
    run.train()
    entry, batch, (linear,) = logs(run)[0], pad(list(data)), run._projections.module
    with torch.no_grad():
        theirs = teacher.eval()(**batch, output_hidden_states=True).hidden_states
        for part in FOUR.subnetworks:
            ours = [linear.double()(state) for state in masked(student, part)(batch)[1]]
            pairs = [(1, 1), (2, 2), (3, 3), (4, 4)] if part.depth == 1 else [(1, 2), (2, 4)]
            losses = [slow.state_loss(ours[i], theirs[j], batch["attention_mask"]).item() for i, j in pairs]
            assert entry[f"loss_tinybert_hidden_{part}"] == pytest.approx(sum(losses), rel=1e-5), part
    trained = dynamic(tmp_path / "trained", options=DESCENT, **more | {"teacher_model": tiny_model(layers=4, seed=1)})
    before = copy.deepcopy(trained._projections.module.state_dict())
    trained.train()
    after = trained._projections.module.state_dict()
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


def test_relation_heads_work_with_several_widths(tmp_path):
    """MiniLMv2 splits the queries, keys and values of the kept heads into relation heads of its own."""
    student, teacher = student_of().double(), tiny_model(layers=4, seed=1).double()
    relations, data = MiniLMv2Arguments(minilmv2_weight=1.0, minilmv2_heads=4), examples(8, seed=3)
    args = CKDArguments.without_relations(alpha=0.5, term_balance="none")
    more = {"teacher_model": teacher, "train": data, "ckd_args": args, "methods": [relations]}
    run = dynamic(tmp_path, student, options={"learning_rate": 0.0}, **more)
    run.train()
    entry, batch = logs(run)[0], pad(list(data))

    def projections(model, layer, state, dims):
        attention = model.bert.encoder.layer[layer - 1].attention.self
        return [getattr(attention, name)(state)[..., :dims] for name in ("query", "key", "value")]

    with torch.no_grad():
        last = teacher.eval()(**batch, output_hidden_states=True).hidden_states[-2]
        theirs = projections(teacher, 4, last, None)
        for part in FOUR.subnetworks:
            state = masked(student, part)(batch)[1][-2]
            dims = 16 if part.width == 1 else 8
            ours = projections(student, part.layers(student.config)[-1], state, dims)
            losses = [
                slow.attention_relation_loss((a, a), (b, b), batch["attention_mask"], 4).item()
                for a, b in zip(ours, theirs, strict=True)
            ]
            assert entry[f"loss_minilmv2_{part}"] == pytest.approx(sum(losses), rel=1e-5), part


def test_attentions_work_with_several_depths(tmp_path):
    student = no_dropout(layers=4, width=32)
    run = dynamic(
        tmp_path,
        student,
        DynamicArguments(student_depths="1.0,0.5"),
        methods=[
            TinyBERTArguments(tinybert_attention_weight=1.0),
            MiniLMv2Arguments(minilmv2_weight=1.0, minilmv2_heads=2),
        ],
    )
    run.train()
    entry = logs(run)[0]
    assert entry["loss_minilmv2_w1_d0.5"] != entry["loss_minilmv2_w1_d1"] > 0
    assert entry["loss_tinybert_attention_w1_d0.5"] > 0


def test_labels_are_needed_to_order_heads(tmp_path):
    """Those of the evaluation set, where the training set has none."""
    data, args = examples(), CKDArguments(**LOSS | {"alpha": 1.0})
    unlabeled = data.remove_columns("labels")
    with pytest.raises(InputError, match="neither the training nor the evaluation set is a datasets.Dataset"):
        dynamic(tmp_path, student_of(ordered=False), train=unlabeled, ckd_args=args)
    found, before = [], student_of(ordered=False)
    for name, train in (("labeled", data), ("unlabeled", unlabeled)):
        student = student_of(ordered=False)
        run = dynamic(tmp_path / name, student, train=data, ckd_args=args, options={"learning_rate": 0.0})
        run.train_dataset = train
        run.train()
        found.append(student)
    assert any(not torch.equal(*pair) for pair in zip(found[0].parameters(), before.parameters(), strict=True))
    for ours, theirs in zip(found[1].parameters(), found[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_student_teaches_without_dropout(tmp_path):
    student = tiny_model(layers=4, seed=2, width=16)
    record_subnetworks(student.config, [SubNetwork(), SubNetwork(width=0.5)])
    assert student.config.hidden_dropout_prob > 0
    run = dynamic(tmp_path, student, TEACHES, teacher_model=None)
    student.train()
    batch = pad(list(examples(8)))
    signals = run._run_teacher(batch)
    assert student.training
    (logits,) = [value for signal, value in signals.items() if type(signal).__name__ == "Logits"]
    with torch.no_grad():
        assert torch.equal(logits, copy.deepcopy(student).eval()(**batch).logits)


def test_a_cache_that_nothing_reads_is_told(tmp_path, caplog):
    """Whether the whole student teaches or nobody does; with a teacher, it is used."""
    caplog.set_level("INFO", logger="ckd_trainer")
    told = "No term of the loss reads the teacher, so teacher_cache_dir is not used."
    for dynamic_args, weights, count in ((TEACHES, ALL_TERMS, 1), (FOUR, CONTROL, 1), (FOUR, ALL_TERMS, 0)):
        caplog.clear()
        args = CKDArguments(**weights, teacher_cache_dir=str(tmp_path / "cache"))
        run = dynamic(tmp_path, None, dynamic_args, ckd_args=args)
        assert caplog.messages.count(told) == count and run.caches_teacher == (not count)


def test_texts_without_labels_are_not_drawn_where_the_whole_student_teaches(tmp_path):
    texts = examples(48, seed=5).remove_columns("labels")
    steps = []
    for name, dynamic_args in (("teacher", FOUR), ("itself", TEACHES)):
        run = dynamic(tmp_path / name, None, dynamic_args, unlabeled_dataset=texts)
        assert run.mixes == (name == "teacher")
        steps.append(len(run.get_train_dataloader()))
    assert steps == [12, 6]


def test_heads_are_ordered_before_the_first_training_with_several_widths(tmp_path):
    """Not before one of several depths, whose labels may be in another state by then."""
    student, options = student_of(ordered=False), {"learning_rate": 0.0}
    before = copy.deepcopy(student.state_dict())
    for name, dynamic_args in (("plain", DynamicArguments()), ("depths", DynamicArguments("1.0", "1.0,0.5"))):
        dynamic(tmp_path / name, student, dynamic_args, options=options).train()
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    dynamic(tmp_path / "widths", student, options=options).train()
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_plain_training_of_a_dynamic_student_removes_its_sub_networks(tmp_path):
    student = student_of(ordered=False)
    dynamic(tmp_path / "dynamic", student).train()
    assert len(student.config.subnetworks) == 4
    trainer(DistillationTrainer, tmp_path / "plain", student, teacher_model=tiny_model(layers=4, seed=1))
    assert not hasattr(student.config, "subnetworks")
