"""`DistillationTrainer` against the slow twin, against `Trainer`, and what it keeps apart."""

import functools
import math

import pytest
import torch
from helpers.reference import contextual_relation_losses as slow_relation_losses
from helpers.tiny import no_dropout, tiny_model
from helpers.training import ALL_TERMS, CONTROL, examples, logs, pad, trainer
from transformers import (
    DataCollatorWithFlattening,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
)

from ckd_trainer import CKDArguments, DistillationTrainer, DynamicArguments, DynamicTrainer
from ckd_trainer.heads import Classes
from ckd_trainer.methods import PKDArguments
from ckd_trainer.utils.errors import InputError


def test_control_run_is_trainer_bit_for_bit(tmp_path):
    plain = trainer(Trainer, tmp_path / "plain", tiny_model(layers=2), steps=20)
    plain.train()
    teacher = tiny_model(layers=4, seed=1)
    teacher.forward = None  # must not be called
    control = trainer(
        DistillationTrainer,
        tmp_path / "control",
        tiny_model(layers=2),
        steps=20,
        teacher_model=teacher,
        ckd_args=CKDArguments.fine_tuning(),
    )
    control.train()
    assert [entry["loss"] for entry in logs(plain)] == [entry["loss"] for entry in logs(control)]
    assert len(logs(plain)) == 20
    for ours, theirs in zip(control.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert plain.evaluate()["eval_loss"] == control.evaluate()["eval_loss"]


@pytest.mark.parametrize("regression", [False, True])
def test_one_step_is_the_twins_total(tmp_path, regression):
    labels = ("score",) if regression else ("bad", "good")
    student, teacher = no_dropout(layers=2, width=8, labels=labels), tiny_model(layers=4, seed=1, labels=labels)
    weights = {"wr_distance": 3.0, "wr_angle": 5.0, "ltr_distance": 7.0, "ltr_angle": 11.0}
    options = {f"{term}_weight": weight for term, weight in weights.items()} | {"term_balance": "none"}
    options |= {"alpha": 0.3, "temperature": 2.0, "window_size": 5}
    ckd_args = CKDArguments(**ALL_TERMS | options)
    data = examples(4, seed=3)
    if regression:
        data = data.map(lambda row: {"labels": row["labels"] + 0.5})
    run = trainer(DistillationTrainer, tmp_path, student, teacher_model=teacher, ckd_args=ckd_args, train=data)
    student.double().train()
    teacher.double()
    batch = pad(list(data))
    if regression:
        batch["labels"] = batch["labels"].double()
    loss = run.compute_loss(student, batch)
    loss.backward()
    gradient = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]

    student.zero_grad()
    out = student(**batch, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher.eval()(**batch, output_hidden_states=True)
    if regression:
        soft = ((out.logits - theirs.logits) / 2).pow(2).mean()
    else:
        p, q = (theirs.logits / 2).softmax(-1), (out.logits / 2).softmax(-1)
        soft = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    terms = slow_relation_losses(
        out.hidden_states,
        theirs.hidden_states,
        batch["attention_mask"],
        pairs=[(0, 0), (1, 2), (2, 4)],
        window_size=5,
    )
    expected = 0.7 * out.loss + 0.3 * soft + sum(weight * terms[term] for term, weight in weights.items())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    expected_gradient = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    for ours, theirs in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def test_log_holds_every_term_unweighted_and_averaged(tmp_path):
    weights = {"wr_distance_weight": 1.0, "wr_angle_weight": 2.0, "ltr_distance_weight": 1.0, "ltr_angle_weight": 0.0}
    ckd_args = CKDArguments(**ALL_TERMS | weights | {"alpha": 0.25, "term_balance": "none"})
    options = {"logging_steps": 2, "learning_rate": 0.0}
    runs = {}
    for steps in (1, 2):
        runs[steps] = trainer(
            DistillationTrainer,
            tmp_path / str(steps),
            no_dropout(layers=2),
            steps=2,
            teacher_model=tiny_model(seed=1),
            ckd_args=ckd_args,
            options=options | {"logging_steps": steps},
        )
        runs[steps].train()
    (pair,), singles = logs(runs[2]), logs(runs[1])
    terms = ["loss_task", "loss_logits", "loss_wr_distance", "loss_wr_angle", "loss_ltr_distance"]
    assert {name for name in pair if name.startswith("loss_")} == set(terms)  # ltr_angle has no weight
    for name in terms:
        assert pair[name] == pytest.approx(sum(entry[name] for entry in singles) / 2, rel=1e-5)
        assert pair[name] > 0
    weights = {
        "loss_task": 0.75,
        "loss_logits": 0.25,
        "loss_wr_distance": 1,
        "loss_wr_angle": 2,
        "loss_ltr_distance": 1,
    }
    assert pair["loss"] == pytest.approx(sum(weight * pair[name] for name, weight in weights.items()), rel=1e-5)
    assert pair["nonfinite_steps"] == 0


def test_nonfinite_steps_are_counted_and_kept_out_of_the_means(tmp_path):
    run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=tiny_model(seed=1))
    names = ["task", *run.distillation_objective.weights]
    run._running_means.add(torch.tensor(2.0), dict.fromkeys(names, torch.tensor(2.0)))
    run._running_means.add(torch.tensor(math.inf), dict.fromkeys(names, torch.tensor(math.nan)))
    means = run._running_means.drain(run.accelerator)
    assert means.pop("nonfinite_steps") == 1
    assert set(means.values()) == {2.0}


def test_teacher_is_frozen_and_no_part_of_the_student(tmp_path):
    student, teacher = tiny_model(layers=2), tiny_model(seed=1)
    before_student = {name: value.clone() for name, value in student.state_dict().items()}
    before_teacher = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    run = trainer(
        DistillationTrainer,
        tmp_path,
        student,
        steps=6,
        teacher_model=teacher,
        options={"save_steps": 6, "optim": "sgd"},
    )
    run.train()
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(before_teacher[name], value) for name, value in teacher.state_dict().items())
    moved = [name for name, value in student.state_dict().items() if not torch.equal(before_student[name], value)]
    assert set(moved) == set(dict(student.named_parameters()))  # every parameter of the student learns
    assert set(run.model.state_dict()) == set(before_student)
    optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(parameter) for parameter in student.parameters()}
    saved = type(student).from_pretrained(tmp_path / "checkpoint-6")
    assert saved.config.num_hidden_layers == 2 and set(saved.state_dict()) == set(before_student)


@pytest.mark.usefixtures("unmeasured")
def test_distillation_teaches(tmp_path):
    torch.manual_seed(0)
    teacher = tiny_model(seed=1)
    run = trainer(
        DistillationTrainer,
        tmp_path,
        no_dropout(layers=2, seed=2),
        steps=40,
        teacher_model=teacher,
        ckd_args=CKDArguments(**ALL_TERMS | {"alpha": 1.0, "wr_angle_weight": 10.0, "term_balance": "none"}),
        options={"learning_rate": 5e-3},
    )
    run.train()
    first, last = logs(run)[0], logs(run)[-1]
    for term in ("loss_logits", "loss_wr_angle", "loss_wr_distance", "loss_ltr_angle"):
        assert last[term] < 0.7 * first[term], term


@pytest.mark.parametrize(
    ("ckd_args", "labels"),
    [
        pytest.param(CKDArguments(**ALL_TERMS), 2, marks=pytest.mark.slow),
        (CKDArguments(**ALL_TERMS | {"relation_normalization": "items", "window_size": None}), 2),
        (CKDArguments(**ALL_TERMS | {"distance": "l2", "distance_loss": "mse", "normalize_distances": True}), 3),
        (CKDArguments(**ALL_TERMS), 1),
        (CKDArguments.fine_tuning(), 2),
    ],
    ids=["pairs", "items", "l2", "score", "fine_tuning"],
)
def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path, rng, ckd_args, labels):
    """1 x 8, 2 x 4 and 8 x 1 examples of all lengths train alike; the last of an epoch are 5, one without a label.

    Plain descent, by which weights differ as much as gradients do.
    """
    data = examples(13, seed=rng.initial_seed(), labels=max(2, labels))
    if labels == 1:
        data = data.map(lambda row: {"labels": row["labels"] + 0.5})
    else:
        values = [-100 if place == 10 else label for place, label in enumerate(data["labels"])]
        data = data.remove_columns("labels").add_column("labels", values)
    names = tuple(map(str, range(labels)))
    results = {}
    for batch in (8, 4, 1):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
        options |= {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0}
        run = trainer(
            DistillationTrainer,
            tmp_path / str(batch),
            no_dropout(layers=2, labels=names),
            train=data,
            teacher_model=tiny_model(seed=1, labels=names),
            ckd_args=ckd_args,
            options=options,
        )
        run.train()
        results[batch] = run
    whole = results.pop(8)
    for run in results.values():
        for ours, theirs in zip(run.model.parameters(), whole.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(logs(run), logs(whole), strict=True):
            for name in ours.keys() - {"epoch"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name


def labels_smoothed_by_hand(outputs, labels, num_items_in_batch=None):
    """A loss as users write it for `Trainer`: a sum over the batch, divided by the labels of the whole step."""
    losses = torch.nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.3, reduction="sum")
    return losses / (labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch)


@pytest.mark.parametrize("size", [8, 4, 1])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_compute_loss_func_gets_the_labels_of_the_step(tmp_path, alpha, size):
    """The control run is `Trainer`; with a teacher as well, a step does not depend on how it is cut."""
    data = examples(13)
    values = [-100 if place in (3, 10) else label for place, label in enumerate(data["labels"])]
    data = data.remove_columns("labels").add_column("labels", values)
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(None if num_items_in_batch is None else int(num_items_in_batch))
        return labels_smoothed_by_hand(outputs, labels, num_items_in_batch)

    def train(name, cls, size, **more):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        options |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0}
        student = no_dropout(layers=2)
        run = trainer(
            cls, tmp_path / name, student, steps=3, train=data, compute_loss_func=loss, options=options, **more
        )
        seen.clear()
        run.train()
        return run, list(seen)

    more = {"teacher_model": tiny_model(seed=1), "ckd_args": CKDArguments(**ALL_TERMS)} if alpha else {}
    run, numbers = train("run", DistillationTrainer, size, **({"ckd_args": CKDArguments.fine_tuning()} | more))
    twin, theirs = train("twin", *((DistillationTrainer, 8) if alpha else (Trainer, size)), **more)
    assert set(numbers) == set(theirs) and None not in numbers
    for ours, expected in zip(run.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    for ours, expected in zip(logs(run), logs(twin), strict=True):
        for name in expected.keys() - {"epoch"}:
            assert ours[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    assert run.evaluate()["eval_loss"] == pytest.approx(twin.evaluate()["eval_loss"], rel=1e-5)


def test_random_numbers_of_all_processes_are_there_before_the_state(tmp_path):
    """Whose file says that a checkpoint is whole."""
    run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=tiny_model(seed=1))
    files = []
    run.accelerator.wait_for_everyone = lambda: files.append({path.name for path in tmp_path.glob("*/*")})
    run.train()
    assert any("rng_state.pth" in seen and "trainer_state.json" not in seen for seen in files)


def test_evaluation_is_the_students_task_loss_and_keeps_only_logits(tmp_path):
    student = tiny_model(layers=2, output_hidden_states=True, attn_implementation="eager", output_attentions=True)
    run = trainer(DistillationTrainer, tmp_path, student, teacher_model=tiny_model(seed=1))
    run.compute_metrics = lambda prediction: {"shape": prediction.predictions.shape[1]}
    metrics = run.evaluate()
    assert metrics["eval_shape"] == 2
    expected = Trainer(model=student, args=run.args, eval_dataset=run.eval_dataset, data_collator=pad)
    assert metrics["eval_loss"] == expected.evaluate()["eval_loss"]
    assert run.predict(examples(5).remove_columns("labels")).predictions.shape == (5, 2)


def test_zero_weight_terms_ask_for_nothing(tmp_path):
    student, teacher = tiny_model(layers=2), tiny_model(seed=1)
    asked = {}
    for name, model in (("student", student), ("teacher", teacher)):

        @functools.wraps(model.forward)
        def spy(*args, _name=name, _forward=model.forward, **kwargs):
            asked[_name] = kwargs.get("output_hidden_states"), kwargs.get("output_attentions")
            return _forward(*args, **kwargs)

        model.forward = spy
    logits_only = CKDArguments(**CONTROL | {"alpha": 0.5})
    trainer(DistillationTrainer, tmp_path / "a", student, teacher_model=teacher, ckd_args=logits_only).train()
    assert asked == {"student": (False, False), "teacher": (False, False)}
    relations = CKDArguments(**CONTROL | {"wr_angle_weight": 1.0})
    trainer(DistillationTrainer, tmp_path / "b", student, teacher_model=teacher, ckd_args=relations).train()
    assert asked == {"student": (True, False), "teacher": (True, False)}


def test_a_loss_without_labels_and_logits(tmp_path, caplog):
    """The total is the terms alone, whose shares are of the first one, and the head stays as it is."""
    caplog.set_level("INFO", logger="ckd_trainer")
    ckd_args = CKDArguments(**ALL_TERMS | {"labels_and_logits": False, "wr_angle_weight": 3.0})
    student = no_dropout(layers=2)
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    run = trainer(DistillationTrainer, tmp_path, student, 8, teacher_model=tiny_model(seed=1), ckd_args=ckd_args)
    run.train()
    first, *_ = logs(run)
    terms = {"wr_distance", "wr_angle", "ltr_distance", "ltr_angle"}
    assert {name for name in first if name.startswith("loss_")} == {f"loss_{term}" for term in terms}
    weights = {term: 3.0 if term == "wr_angle" else 2.0 for term in terms}
    total = sum(weights[term] * first[f"scale_{term}"] * first[f"loss_{term}"] for term in terms)
    assert first["loss"] == pytest.approx(total, rel=1e-3)
    assert first["scale_wr_distance"] == pytest.approx(1) and run.balance.norms["rest"] > 0
    changed = {name for name, weight in student.named_parameters() if not torch.equal(weight, before[name])}
    assert all(name.startswith("bert.e") for name in changed) and len(changed) > 20  # embeddings and encoder
    assert "weights are shares of the gradient of wr_distance" in caplog.text
    assert "labels and logits" not in caplog.text

    nothing = CKDArguments(**CONTROL | {"labels_and_logits": False})
    with pytest.raises(InputError, match="labels_and_logits is off and no term of the loss has a weight"):
        trainer(DistillationTrainer, tmp_path, tiny_model(), teacher_model=tiny_model(seed=1), ckd_args=nothing)


def test_teacher_reads_inputs_that_the_student_does_not(tmp_path):
    """DistilBERT takes no token types; its BERT teacher must see them all the same."""
    student = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=22, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    )
    teacher, seen = tiny_model(seed=1), []
    forward = teacher.forward
    teacher.forward = lambda **kwargs: seen.append(kwargs["token_type_ids"].sum().item()) or forward(**kwargs)
    logits = {"ckd_args": CKDArguments(**CONTROL | {"alpha": 0.5})}
    data = examples(types=True)
    run = trainer(DistillationTrainer, tmp_path, student, steps=2, teacher_model=teacher, train=data, **logits)
    run.train()
    assert len(seen) == 2 and min(seen) > 0
    run.evaluate()
    run.predict(examples(4, types=True).remove_columns("labels"))


def test_teacher_labels_in_another_order_are_permuted(tmp_path, caplog):
    teacher = tiny_model(seed=1, labels=("GOOD", "bad"))
    run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=teacher)
    assert "matched by name" in caplog.text
    batch = pad(list(examples(4)))
    teacher_logits = teacher.eval()(**batch).logits
    term = run.distillation_objective.terms["logits"]
    (logits,) = (value for signal, value in run.teacher(batch).items() if signal == term.teacher_signal)
    torch.testing.assert_close(logits, teacher_logits[:, [1, 0]])
    assert term(teacher_logits[:, [1, 0]], logits, batch).abs() < 1e-6


def test_torch_compile_keeps_the_teachers_inputs(tmp_path):
    options = {"torch_compile": True, "torch_compile_backend": "eager"}
    # Compiling takes seconds a layer, and less where the process has compiled models of these sizes before.
    student, teacher = no_dropout(layers=2, width=16), tiny_model(layers=2, seed=1)
    run = trainer(DistillationTrainer, tmp_path, student, teacher_model=teacher, options=options)
    run.train()
    assert logs(run)[0]["loss_wr_angle"] > 0


def test_a_log_before_the_first_step(tmp_path):
    run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=tiny_model(seed=1))
    run.log({"loss": 1.0})
    assert logs(run)[0]["loss"] == 1.0


def test_teacher_and_student_must_be_two(tmp_path):
    model = tiny_model()
    with pytest.raises(InputError, match="the same object"):
        trainer(DistillationTrainer, tmp_path, model, teacher_model=model)


@pytest.mark.parametrize(
    ("teacher", "ckd_args", "words"),
    [
        (None, CKDArguments(**ALL_TERMS), "no teacher is given"),
        ({"labels": ("a", "b", "c")}, CKDArguments(**ALL_TERMS), "the teacher has 3 labels, but the data has 2"),
        ({"labels": ("yes", "no")}, CKDArguments(**ALL_TERMS), "the teacher's labels are 'yes', 'no'"),
        ({"layers": 3}, CKDArguments(**ALL_TERMS), "ltr_layer_mapping emb\\+skip matches 2 layers.*uniform"),
        (
            {"layers": 4},
            CKDArguments(**ALL_TERMS | {"wr_layer_mapping": "0:0,2:5"}),
            "wr_layer_mapping: .*the teacher 0 to 4",
        ),
    ],
)
def test_pairs_that_do_not_fit(tmp_path, teacher, ckd_args, words):
    teacher = tiny_model(**teacher) if teacher else None
    with pytest.raises(InputError, match=words):
        trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=teacher, ckd_args=ckd_args)


def test_a_student_made_of_the_teachers_own_layers_is_refused(tmp_path):
    """They would be frozen with the teacher. Frozen weights may be shared."""
    student, teacher = tiny_model(layers=2), tiny_model(seed=1)
    student.bert.embeddings = teacher.bert.embeddings
    with pytest.raises(InputError, match=r"share weights, such as bert\.embeddings\.word.*copy\.deepcopy"):
        trainer(DistillationTrainer, tmp_path, student, teacher_model=teacher)
    student.bert.embeddings.requires_grad_(False)
    trainer(DistillationTrainer, tmp_path, student, teacher_model=teacher).train()


def llama(layers, seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=100, num_hidden_layers=layers, **sizes))


def test_smoothed_labels_of_a_decoder_leave_out_what_follows_padding(tmp_path):
    """Padded on the left, the first token is predicted from padding. On the right, all is as in `Trainer`."""
    data = examples(8).map(lambda row: {"labels": row["input_ids"]})

    def collator(side):
        def padded(rows):
            length = max(len(row["input_ids"]) for row in rows)
            batch = {}
            for name, fill in {"input_ids": 0, "attention_mask": 0, "labels": -100}.items():
                fills = [[fill] * (length - len(row[name])) for row in rows]
                both = zip(rows, fills, strict=True)
                batch[name] = torch.tensor(
                    [more + row[name] if side == "left" else row[name] + more for row, more in both]
                )
            return batch | {"position_ids": (batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)}

        return padded

    losses = {}
    for cls, side in ((DistillationTrainer, "left"), (DistillationTrainer, "right"), (Trainer, "right")):
        more, options = {}, {"label_smoothing_factor": 0.3, "per_device_train_batch_size": 8}
        if cls is DistillationTrainer:  # the oldest Trainer logs twice the loss of two half batches
            more = {"ckd_args": CKDArguments.fine_tuning()}
            options |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        run = trainer(cls, tmp_path, llama(1, 0), train=data, data_collator=collator(side), options=options, **more)
        evaluated = run.evaluate()["eval_loss"]
        run.train()
        losses[cls, side] = evaluated, logs(run)[0]["loss"]
    assert losses[DistillationTrainer, "left"] == pytest.approx(losses[Trainer, "right"], rel=1e-5)
    assert losses[DistillationTrainer, "right"] == pytest.approx(losses[Trainer, "right"], rel=1e-5)


def test_texts_packed_into_a_row_are_texts_of_their_own(tmp_path):
    """For the logits of a decoder; what compares tokens is refused."""
    data = examples(16).remove_columns("labels")
    data = data.map(lambda row: {"labels": row["input_ids"]})

    def padded(rows):
        length = max(len(row["input_ids"]) for row in rows)
        fills = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([row[name] + [fill] * (length - len(row[name])) for row in rows])
            for name, fill in fills.items()
        }

    def train(collator, ckd_args):
        run = trainer(
            DistillationTrainer,
            tmp_path,
            llama(1, 0),
            teacher_model=llama(2, 1),
            train=data,
            data_collator=collator,
            ckd_args=ckd_args,
        )
        run.train()
        return logs(run)[0]

    packed = DataCollatorWithFlattening()
    whole, flat = (train(each, CKDArguments.without_relations()) for each in (padded, packed))
    assert flat["loss_logits"] == pytest.approx(whole["loss_logits"], rel=1e-4) and flat["loss_logits"] > 0
    with pytest.raises(InputError, match="pack several texts into a row .* wr_distance would take them for one"):
        train(packed, CKDArguments())


def test_the_first_log_of_a_second_training_holds_that_training_alone(tmp_path):
    run = trainer(
        DistillationTrainer,
        tmp_path,
        tiny_model(layers=2),
        steps=3,
        teacher_model=tiny_model(seed=1),
        ckd_args=CKDArguments.without_relations(alpha=0.5),
        options={"logging_steps": 2, "learning_rate": 0.05},
    )
    for _ in range(2):
        run.train()
        first = logs(run)[0]
        assert 0.5 * first["loss_task"] + 0.5 * first["loss_logits"] == pytest.approx(first["loss"], abs=1e-4)


def test_the_first_log_holds_nothing_of_an_attempt_with_larger_batches(tmp_path):
    student = no_dropout(layers=2)
    forward, sizes = student.forward, []

    def limited(input_ids, **inputs):
        sizes.append(len(input_ids))
        if len(sizes) == 3:
            raise RuntimeError("CUDA out of memory.")
        return forward(input_ids=input_ids, **inputs)

    student.forward = functools.wraps(forward)(limited)
    run = trainer(
        DistillationTrainer,
        tmp_path,
        student,
        steps=3,
        teacher_model=tiny_model(seed=1),
        ckd_args=CKDArguments.without_relations(alpha=0.5),
        options={"logging_steps": 3, "learning_rate": 0.05, "auto_find_batch_size": True},
    )
    run.train()
    assert sizes[:3] == [8, 8, 8] and 8 not in sizes[3:]
    first = logs(run)[0]
    assert 0.5 * first["loss_task"] + 0.5 * first["loss_logits"] == pytest.approx(first["loss"], abs=1e-4)


def test_a_loss_that_leaves_out_the_teacher_is_refused(tmp_path):
    class Ours(DistillationTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    class More(DistillationTrainer):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    teacher = tiny_model(seed=1)
    with pytest.raises(InputError, match=r"compute_loss of Ours did not call super\(\).compute_loss"):
        trainer(Ours, tmp_path, tiny_model(layers=2), teacher_model=teacher).train()
    trainer(More, tmp_path, tiny_model(layers=2), teacher_model=teacher).train()
    trainer(Ours, tmp_path, tiny_model(layers=2), ckd_args=CKDArguments.fine_tuning()).train()


def test_a_loss_function_may_read_labels_of_any_kind(tmp_path):
    """Such as probabilities. `Trainer` counts them for the function, and so do we."""

    def loss(outputs, labels, num_items_in_batch):
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    def collate(rows):
        return pad(rows) | {"labels": torch.tensor([[1 - row["labels"] / 4, row["labels"] / 4] for row in rows])}

    students = []
    for cls in (DistillationTrainer, Trainer):
        more = {"ckd_args": CKDArguments.fine_tuning()} if cls is DistillationTrainer else {}
        run = trainer(cls, tmp_path, no_dropout(layers=2), data_collator=collate, compute_loss_func=loss, **more)
        run.train()
        students.append(run.model)
    for ours, theirs in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_methods_and_terms_are_any_iterables_and_are_copied(tmp_path):
    methods = [PKDArguments(pkd_weight=1.0)]
    for given in (methods, iter(methods)):
        run = trainer(
            DistillationTrainer,
            tmp_path,
            tiny_model(layers=2),
            teacher_model=tiny_model(seed=1),
            methods=given,
            terms=torch.nn.ModuleList(),
        )
        assert "pkd" in run.term_weights and run.methods is not methods


@pytest.mark.parametrize("cls", [DistillationTrainer, DynamicTrainer])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ckd_args": {"alpha": 0.5}}, r"ckd_args is {'alpha': 0.5}: give CKDArguments"),
        ({"methods": ["pkd"]}, "methods holds 'pkd': give a list of options of methods"),
        ({"methods": PKDArguments(pkd_weight=1.0)}, r"methods is PKDArguments\(.*: give a list"),
        ({"terms": "pkd"}, "terms is 'pkd': give a list of instances"),
        ({"terms": [PKDArguments()]}, r"terms holds PKDArguments\(.*: give a list of instances"),
        ({"head": "Classes"}, "head is 'Classes': give an instance"),
        ({"head": Classes}, "head is <class .*: give an instance"),
    ],
)
def test_what_is_given_for_the_loss_is_of_our_classes(tmp_path, cls, options, message):
    options = {"ckd_args": CKDArguments(), "teacher_model": tiny_model(seed=1)} | options
    if cls is DynamicTrainer:
        options["dynamic_args"] = DynamicArguments()
    with pytest.raises(InputError, match=message):
        trainer(cls, tmp_path, tiny_model(layers=2), **options)


def test_a_mapping_that_leaves_layers_out_is_warned_of(tmp_path, caplog):
    ckd_args = CKDArguments(**ALL_TERMS | {"ltr_distance_weight": 0, "ltr_angle_weight": 0})
    trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=tiny_model(layers=3), ckd_args=ckd_args)
    assert "leaves student layers 1 without a teacher layer" in caplog.text and "uniform" in caplog.text


def test_bf16_autocast_trains_and_keeps_the_terms(tmp_path):
    terms = {}
    for bf16 in (False, True):
        run = trainer(
            DistillationTrainer,
            tmp_path / str(bf16),
            no_dropout(layers=2),
            teacher_model=tiny_model(seed=1),
            options={"bf16": bf16},
        )
        run.train()
        terms[bf16] = logs(run)[0]
    for name in ("loss", "loss_task", "loss_wr_angle", "loss_ltr_angle"):
        assert terms[True][name] == pytest.approx(terms[False][name], rel=0.05), name


def test_gradients_flow_through_padding_free_batches(tmp_path):
    """A collator that gives no attention mask: nothing is padded."""
    data = examples(8).map(lambda row: {"input_ids": (row["input_ids"] * 5)[:5]}, remove_columns="attention_mask")
    run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=tiny_model(seed=1), train=data)
    run.train()
    assert logs(run)[0]["loss_wr_angle"] > 0


def test_groups_by_length_come_in_random_order_that_differs_between_epochs(tmp_path):
    run = trainer(
        DistillationTrainer,
        tmp_path,
        tiny_model(layers=2),
        teacher_model=tiny_model(seed=1),
        train=examples(256),
        options={"train_sampling_strategy": "group_by_length"},
    )
    orders = []
    for epoch in (0, 1):
        run._epochs.epoch = epoch
        batches = [batch["attention_mask"] for batch in run.get_train_dataloader()]
        assert all(mask.sum(-1).max() - mask.sum(-1).min() <= 4 for mask in batches)  # of 3 to 11 tokens
        orders.append([mask.shape[1] for mask in batches])
    assert orders[0] != orders[1]
    for order in orders:
        falls = sum(later < earlier for earlier, later in zip(order, order[1:], strict=False))
        assert 8 < falls < 24  # of 31 steps; one cycle a pool would rise four times


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_an_epoch_after_one_that_was_ended_early_has_another_order(tmp_path, strategy):
    class EndsEarly(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_epoch_stop = state.global_step in (3, 6)

    seen = []

    def collate(rows):
        seen.append([row["input_ids"] for row in rows])
        return pad(rows)

    options = {"train_sampling_strategy": strategy, "max_steps": -1, "num_train_epochs": 3}
    run = trainer(
        DistillationTrainer,
        tmp_path,
        tiny_model(layers=2),
        ckd_args=CKDArguments.fine_tuning(),
        data_collator=collate,
        callbacks=[EndsEarly()],
        options=options,
    )
    run.train()
    assert run.state.global_step == 3 + 3 + 6
    assert all(seen.count(batch) == 1 for batch in seen)


@pytest.mark.parametrize("control", [False, True])
def test_how_often_is_evaluated_changes_nothing(tmp_path, control):
    """Iterating over a DataLoader draws a number from the generator that dropout uses."""
    counts, found = set(), []
    for steps in (2, 3, 100):
        more = {"ckd_args": CKDArguments.fine_tuning()} if control else {"teacher_model": tiny_model(seed=1)}
        options = {"eval_strategy": "steps", "eval_steps": steps}
        run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), 7, options=options, **more)
        run.train()
        counts.add(len([entry for entry in run.state.log_history if "eval_loss" in entry]))
        found.append(list(run.model.parameters()))
    assert len(counts) == 3
    assert all(torch.equal(*both) for other in found[1:] for both in zip(found[0], other, strict=True))


def test_a_loss_function_that_does_not_count_is_not_called(tmp_path):
    ckd_args = CKDArguments(**ALL_TERMS | {"labels_and_logits": False})
    options = {"gradient_accumulation_steps": 2}
    run = trainer(
        DistillationTrainer,
        tmp_path,
        tiny_model(layers=2),
        teacher_model=tiny_model(seed=1),
        ckd_args=ckd_args,
        options=options,
        compute_loss_func=labels_smoothed_by_hand,
    )
    run.train()
    assert logs(run)[0]["loss"] > 0 and "loss_task" not in logs(run)[0]


def test_missing_labels_do_not_spoil_a_loss_without_labels(tmp_path):
    data = examples(8)
    data = data.remove_columns("labels").add_column("labels", [-100] * 8)
    run = trainer(
        DistillationTrainer,
        tmp_path,
        tiny_model(layers=2),
        2,
        train=data,
        teacher_model=tiny_model(seed=1),
        ckd_args=CKDArguments(**ALL_TERMS | {"labels_and_logits": False}),
    )
    run.train()
    assert all(entry["nonfinite_steps"] == 0 and math.isfinite(entry["loss"]) for entry in logs(run))
