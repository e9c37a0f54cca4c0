"""Every head in `DistillationTrainer`: a step against loops, whatever the padding and however the step is cut."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    TrainingArguments,
)

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.heads import ANSWER_MASK, Classes, MultiLabel, NoHead, Score, Spans, Tokens, Vocabulary
from ckd_trainer.methods import Term
from ckd_trainer.teacher.signals import Attentions, FirstToken, Logits, QueryKeyValue, WordGram
from ckd_trainer.utils.errors import InputError

VOCABULARY = 24
LOGITS_ALONE = {"term_balance": "none", "alpha": 0.3, "temperature": 2.0} | {
    f"{term}_weight": 0 for term in ("wr_distance", "wr_angle", "ltr_distance", "ltr_angle")
}
RELATIONS = {"alpha": 0.3, "temperature": 2.0, "window_size": 3, "term_balance": "none"} | {
    f"{term}_weight": 2.0 for term in ("wr_distance", "wr_angle", "ltr_distance", "ltr_angle")
}
HEADS = ["classes", "multi-label", "score", "tokens", "spans", "masked", "causal"]
KINDS = dict(zip(HEADS, [Classes, MultiLabel, Score, Tokens, Spans, Vocabulary, Vocabulary], strict=True), none=NoHead)


def model(head, seed=0, layers=4, width=16):
    torch.manual_seed(seed)
    if head == "causal":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        sizes = {"n_layer": layers, "n_embd": width, "n_head": 2, "n_positions": 32, "vocab_size": VOCABULARY}
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **ids, initializer_range=0.3))
    labels = {"score": 1, "classes": 3, "multi-label": 3, "tokens": 4}.get(head, 2)
    problem = {"multi-label": "multi_label_classification"}.get(head)
    classes = {"tokens": BertForTokenClassification, "spans": BertForQuestionAnswering, "masked": BertForMaskedLM}
    classes["none"] = BertModel
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
        initializer_range=0.3,
        num_labels=labels,
        problem_type=problem,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return classes.get(head, BertForSequenceClassification)(config)


def examples(head, count=8, seed=0, unlabeled=()):
    """Texts of 4 to 11 tokens; some rows have no label where `unlabeled` names them."""
    draw = torch.Generator().manual_seed(seed)

    def numbers(low, high, *shape):
        return torch.randint(low, high, shape, generator=draw).tolist()

    rows = []
    for index in range(count):
        length = 4 + numbers(0, 8, 1)[0]
        ids = numbers(5, VOCABULARY, length)
        row = {"input_ids": ids, "attention_mask": [1] * length}
        per_token = [-100 if flag else label for flag, label in zip(numbers(0, 2, length), ids, strict=True)]
        row |= {
            "classes": {"labels": numbers(0, 3, 1)[0]},
            "multi-label": {"labels": [float(flag) for flag in numbers(0, 2, 3)]},
            "score": {"labels": float(numbers(0, 50, 1)[0]) / 10},
            "tokens": {"labels": [label % 4 if label >= 0 else label for label in per_token]},
            "masked": {"labels": per_token},
            "causal": {"labels": list(ids)},
            "spans": {"start_positions": 1, "end_positions": 2, ANSWER_MASK: [1] + [0] + [1] * (length - 2)},
        }.get(head, {})
        if index in unlabeled:
            nothing = {"classes": -100, "multi-label": [-100.0] * 3, "score": math.nan}
            if head == "spans":
                row |= {"start_positions": -100, "end_positions": -100}
            else:
                row["labels"] = nothing.get(head, [-100] * length)
        rows.append(row)
    return Dataset.from_list(rows)


def pad(rows, more=0):
    """Padding on the right, with `more` columns of it."""
    length = max(len(row["input_ids"]) for row in rows) + more
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in ("input_ids", "attention_mask", ANSWER_MASK):
            values = [value + [0] * (length - len(value)) for value in values]
        elif name == "labels" and isinstance(values[0], list) and not isinstance(values[0][0], float):
            values = [value + [-100] * (length - len(value)) for value in values]
        batch[name] = torch.tensor(values)
    return batch


def trainer(folder, name, data, *, student=None, ckd_args=None, options=None, **kwargs):
    args = TrainingArguments(
        folder,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        **{"max_steps": 2, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0} | (options or {}),
    )
    student = student or model(name, layers=2, width=8)
    kwargs.setdefault("teacher_model", model(name, seed=1))
    kwargs.setdefault("ckd_args", ckd_args or CKDArguments(**LOGITS_ALONE))
    return DistillationTrainer(model=student, args=args, train_dataset=data, data_collator=pad, **kwargs)


# ------------------------------------------------------------------------------------------------------------ the twin


def kl(student, teacher, temperature):
    """T^2 KL of two vectors of logits, label by label."""
    p, q = ((logits / temperature).softmax(-1) for logits in (teacher, student))
    return temperature**2 * sum(p[i] * (p[i].log() - q[i].log()) for i in range(len(p)))


def slow_losses(head, batch, ours, theirs, temperature):
    """The means of task and logit loss over a batch, item by item; `ours` and `theirs` are outputs of the models."""
    task, logits = [], []
    for row in range(len(batch["input_ids"])):
        tokens = int(batch["attention_mask"][row].sum())
        if head in ("classes", "score", "multi-label"):
            mine, other, label = ours.logits[row], theirs.logits[row], batch["labels"][row]
        if head == "classes":
            task += [-mine.log_softmax(-1)[label]] if label >= 0 else []
            logits += [kl(mine, other, temperature)]
        elif head == "score":
            task += [] if label.isnan() else [(mine[0] - label) ** 2]
            logits += [((mine[0] - other[0]) / temperature) ** 2]
        elif head == "multi-label":
            for one, its, flag in zip(mine, other, label, strict=True):
                if flag != -100:
                    task += [-(one if flag else -one).sigmoid().log()]
                p, q = (its / temperature).sigmoid(), (one / temperature).sigmoid()
                logits += [temperature**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())]
        elif head == "spans":
            valid = batch[ANSWER_MASK][row].bool()
            for name in ("start", "end"):
                mine, other = (outputs[f"{name}_logits"][row] for outputs in (ours, theirs))
                position = batch[f"{name}_positions"][row]
                task += [-mine[:tokens].log_softmax(-1)[position]] if position >= 0 else []
                logits += [kl(mine[valid], other[valid], temperature)]
        else:
            shift = int(head == "causal")
            has_label = bool((batch["labels"][row, shift:] >= 0).any())
            for place in range(tokens - shift):
                label = batch["labels"][row, place + shift]
                mine, other = ours.logits[row, place], theirs.logits[row, place]
                task += [-mine.log_softmax(-1)[label]] if label >= 0 else []
                if head == "tokens" or label >= 0 or not has_label:
                    logits += [kl(mine, other, temperature)]
    return [torch.stack(values).mean() for values in (task, logits)]


@pytest.mark.parametrize("unlabeled", [(), (1, 4)], ids=["all labeled", "some not"])
@pytest.mark.parametrize("head", HEADS)
def test_one_step_is_the_twins(tmp_path, head, unlabeled):
    data = examples(head, unlabeled=unlabeled)
    run = trainer(tmp_path, head, data)
    assert type(run.head) is KINDS[head]
    student, teacher = run.model.double().train(), run.teacher_model.double()
    batch = pad(list(data))
    if batch.get("labels", batch["input_ids"]).is_floating_point():
        batch["labels"] = batch["labels"].double()
    loss = run.compute_loss(student, dict(batch))
    loss.backward()
    gradients = [weight.grad.clone() for weight in student.parameters() if weight.grad is not None]
    student.zero_grad()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        theirs = teacher(**inputs)
    task, logits = slow_losses(head, batch, student(**inputs), theirs, 2.0)
    expected = 0.7 * task + 0.3 * logits
    # transformers takes the logits of causal models to float32.
    torch.testing.assert_close(loss, expected, rtol=1e-6 if head == "causal" else 1e-9, atol=1e-9)
    expected.backward()
    found = [weight.grad for weight in student.parameters() if weight.grad is not None]
    for ours, slow in zip(gradients, found, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-5, atol=1e-7 if head == "causal" else 1e-9)


@pytest.mark.parametrize("head", [*HEADS, "none"])
def test_columns_of_padding_change_nothing(tmp_path, head):
    data = examples(head)
    student = model(head, layers=2, width=8)
    alpha = {"alpha": 0.0} if head == "none" else {}
    run = trainer(tmp_path, head, data, student=student, ckd_args=CKDArguments(**RELATIONS | alpha))
    losses = [run.compute_loss(student.train(), pad(list(data), more)) for more in (0, 6)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("left, right", [(0, 3), (2, 0), (2, 3)])
@pytest.mark.parametrize("head", ["tokens", "spans", "masked", "causal"])
def test_logits_of_padding_may_be_anything(rng, head, left, right):
    """On either side: causal models, for one, are padded on the left."""
    kind = Vocabulary(causal=True) if head == "causal" else KINDS[head]()
    outputs = {"tokens": 4, "spans": 2}.get(head, VOCABULARY)
    batch = pad(list(examples(head)))
    shape = batch["input_ids"].shape

    def logits(*, more):
        values = torch.randn(*shape, outputs, generator=rng)
        wider = torch.nn.functional.pad(values, (0, 0, left, right), value=99.0) if more else values
        return wider.movedim(-1, 1) if head == "spans" else wider

    state = rng.get_state()
    before = kind.logit_loss(logits(more=False), logits(more=False), batch, temperature=2.0, scale_by_temperature=True)
    rng.set_state(state)
    fill = {"labels": -100}
    padded = {
        name: torch.nn.functional.pad(values, (left, right), value=fill.get(name, 0)) if values.dim() == 2 else values
        for name, values in batch.items()
    }
    after = kind.logit_loss(logits(more=True), logits(more=True), padded, temperature=2.0, scale_by_temperature=True)
    torch.testing.assert_close(before, after)
    assert kind.logit_count(padded) == kind.logit_count(batch)
    if head != "spans":  # whose positions move with the padding
        assert kind.task_count(padded) == kind.task_count(batch)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("head", [*HEADS, "none"])
def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path, head):
    """1 x 8 = 2 x 4 = 8 x 1, with rows without a label among them, of which some batches have no other."""
    unlabeled = () if head == "none" else (0, 1, 2, 3, 6)
    data, weights = examples(head, unlabeled=unlabeled), []
    ckd_args = CKDArguments(**RELATIONS | ({"alpha": 0.0} if head == "none" else {}))
    for size in (8, 4, 1):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        run = trainer(tmp_path / str(size), head, data, ckd_args=ckd_args, options=options)
        run.train()
        weights.append(list(run.model.parameters()))
    for whole, *parts in zip(*weights, strict=True):
        for part in parts:
            torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [*HEADS[:5], "none"])
def test_cached_is_live(tmp_path, head):
    data, logs = examples(head, count=24), []
    for cache in (None, str(tmp_path / "cache")):
        alpha = {"alpha": 0.0} if head == "none" else {}
        ckd_args = CKDArguments(**RELATIONS | alpha, teacher_cache_dir=cache)
        run = trainer(tmp_path / str(bool(cache)), head, data, ckd_args=ckd_args)
        run.train()
        logs.append([entry for entry in run.state.log_history if "loss" in entry])
    for live, cached in zip(*logs, strict=True):
        terms = [name for name in live if name.startswith("loss")]
        assert {name: cached[name] for name in terms} == pytest.approx({name: live[name] for name in terms}, rel=2e-3)


def test_logits_of_a_vocabulary_are_not_cached(tmp_path):
    args = CKDArguments(**LOGITS_ALONE, teacher_cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError, match="teacher's signal for logits.* vocabulary are too large .*Leave"):
        trainer(tmp_path, "masked", examples("masked"), ckd_args=args)
    relations = CKDArguments(**RELATIONS | {"alpha": 0.0}, teacher_cache_dir=str(tmp_path / "cache"))
    trainer(tmp_path, "masked", examples("masked"), ckd_args=relations).train()  # but relations are
    assert list((tmp_path / "cache").glob("*/*.arrow"))


@pytest.mark.parametrize("head", ["classes", "score", "tokens", "masked"])
def test_text_without_labels(tmp_path, head):
    """No column of labels: everything but the task loss is learned, which then may have no weight."""
    data = examples(head).remove_columns("labels")
    run = trainer(tmp_path, head, data, ckd_args=CKDArguments(**RELATIONS | {"alpha": 1.0}))
    run.train()
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logs) == 2 and all(entry["loss_task"] == 0 < entry["loss_logits"] for entry in logs)
    with pytest.raises(
        InputError, match=r"no labels, but with alpha 0\.3 .* give the labels that name .* or set alpha to 1"
    ):
        trainer(tmp_path, head, data).train()


def test_a_vocabulary_with_rows_that_are_no_words(rng):
    """Embeddings are often padded to a multiple of 8: BERT's 30,522 to 30,528."""
    batch, head = pad(list(examples("masked"))), Vocabulary()
    shape = batch["input_ids"].shape
    ours, theirs = (torch.randn(*shape, size, generator=rng) for size in (VOCABULARY, VOCABULARY + 8))
    scale = {"temperature": 2.0, "scale_by_temperature": True}
    same = head.logit_loss(ours, theirs[..., :VOCABULARY], batch, **scale)
    assert head.logit_loss(ours, theirs, batch, **scale) == same > 0


def test_decisions_about_a_text(rng):
    """log p - log(1 - p) of each class or label, of two classes one, and a score itself; other heads make none."""
    logits = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    logits[0, 1] = 40.0  # its probability rounds to 1, and 1 - p is that of the others
    for count in (2, 3, 4):
        p = logits[:, :count].softmax(-1)
        others = torch.stack([p[:, [k for k in range(count) if k != c]].sum(-1) for c in range(count)], dim=1)
        odds = (p / others).log()
        torch.testing.assert_close(Classes().decisions(logits[:, :count]), odds[:, 1:] if count == 2 else odds)
    assert torch.equal(MultiLabel().decisions(logits), logits)
    assert torch.equal(Score().decisions(logits[:, :1]), logits[:, :1])
    assert [head.decisions(logits) for head in (Tokens(), Spans(), Vocabulary(), NoHead())] == [None] * 4
    assert torch.autograd.gradgradcheck(Classes().decisions, logits.requires_grad_())


def test_special_tokens_do_not_count(tmp_path):
    """The logits of [CLS] and [SEP] are nobody's labels; an unknown word is one of the text's own."""
    head, batch = Tokens(), pad(list(examples("tokens")))
    everything = head.logit_count(batch)
    marked = batch | {"special_tokens_mask": batch["input_ids"].eq(7).long()}
    head.learn_special_tokens([7])
    assert head.logit_count(batch) == head.logit_count(marked) == everything - batch["input_ids"].eq(7).sum()


def test_heads_that_do_not_go_together(tmp_path):
    """A token classifier would broadcast against a sequence classifier. Relations alone ask for no head at all."""
    data, teacher = examples("classes"), model("tokens", seed=1)
    with pytest.raises(InputError, match="student's head is classes, but the teacher's is a class for each token"):
        trainer(tmp_path, "classes", data, teacher_model=teacher)
    with pytest.raises(InputError, match="teacher's is a class for each token"):  # also where a head is given
        trainer(tmp_path, "classes", data, teacher_model=teacher, head=Classes())
    args = CKDArguments(**RELATIONS | {"alpha": 0.0})
    for other in ("tokens", "masked", "none"):
        trainer(tmp_path, "classes", data, teacher_model=model(other, seed=1), ckd_args=args).train()
    stranger = model("classes", seed=1)
    stranger.config.id2label = {0: "x", 1: "y", 2: "z"}
    trainer(tmp_path, "classes", data, teacher_model=stranger, ckd_args=args).train()  # nobody reads its labels


def test_a_bare_encoder(tmp_path):
    """General distillation: relations alone, balanced by the first of them, or beside a loss of the user's."""
    data = examples("none")
    with pytest.raises(InputError, match="a bare encoder has no logits to compare: set alpha to 0"):
        trainer(tmp_path, "none", data, ckd_args=CKDArguments(**RELATIONS))
    run = trainer(
        tmp_path, "none", data, ckd_args=CKDArguments(**RELATIONS | {"alpha": 0, "term_balance": "gradient"})
    )
    run.train()
    assert run.scales["wr_distance"] == pytest.approx(1)
    assert "loss_task" not in run.state.log_history[0]
    with pytest.raises(InputError, match="no loss to train with"):
        trainer(tmp_path, "none", data, ckd_args=CKDArguments.fine_tuning())

    def to_zero(outputs, labels, num_items_in_batch=None):
        return outputs.last_hidden_state.square().mean()

    args = CKDArguments(**RELATIONS | {"alpha": 0})
    run = trainer(tmp_path, "none", data, ckd_args=args, compute_loss_func=to_zero)
    run.train()
    assert run.state.log_history[0]["loss_task"] > 0


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("none", "has no labels to smooth"),
        ("score", "predicts a score"),
        ("multi-label", "several labels"),
        ("spans", "positions in a text"),
    ],
)
def test_smoothing_of_what_has_no_classes(tmp_path, head, reason):
    """Also where a batch has labels for a bare encoder. A loss function of the user's own takes its place."""
    data = examples("classes" if head == "none" else head)
    args = CKDArguments(**RELATIONS | {"alpha": 0})
    options = {"label_smoothing_factor": 0.1, "remove_unused_columns": False}
    with pytest.raises(InputError, match=f"label_smoothing_factor is 0.1, but .* {reason}.*: leave it out"):
        trainer(tmp_path, head, data, ckd_args=args, options=options).train()

    def to_zero(outputs, labels, num_items_in_batch=None):
        return outputs[0].square().mean()

    trainer(tmp_path, head, data, ckd_args=args, options=options, compute_loss_func=to_zero).train()


def test_a_loss_function_without_labels(tmp_path):
    """It need not read any: what it returns is the mean over examples."""

    def spread(outputs, labels, num_items_in_batch=None):
        return outputs.logits.square().mean()

    data = examples("classes").remove_columns("labels")
    args = CKDArguments(**RELATIONS)
    run = trainer(tmp_path, "classes", data, ckd_args=args, compute_loss_func=spread)
    run.train()
    assert run.state.log_history[0]["loss_task"] > 0


@pytest.mark.parametrize("cache", [False, True], ids=["live", "cached"])
def test_labels_that_the_teacher_reads_and_the_student_does_not(tmp_path, cache):
    """They are there for the user's loss function."""
    seen = []

    def own(outputs, labels, num_items_in_batch=None):
        seen.append(labels)
        return outputs.last_hidden_state.square().mean()

    args = {"alpha": 0.0} | ({"teacher_cache_dir": str(tmp_path / "cache")} if cache else {})
    run = trainer(
        tmp_path,
        "none",
        examples("classes"),
        teacher_model=model("classes", seed=1),
        ckd_args=CKDArguments(**RELATIONS | args),
        compute_loss_func=own,
        options={"label_names": ["labels"]},
    )
    run.train()
    assert len(seen) >= 2 and all(labels is not None for labels in seen)


class OwnTerm(Term):
    """Reads logits, and keeps what it was given."""

    name = "own"

    def __init__(self, outputs=3):
        super().__init__()
        self.student_signal = self.teacher_signal = Logits(Classes(), outputs)
        self.seen = []

    def forward(self, student, teacher, batch):
        self.seen.append(teacher)
        return (student - teacher).square().mean()

    def count(self, batch):
        return batch["input_ids"].new_full((), len(batch["input_ids"]))


def test_several_labels_may_be_whole_numbers():
    labels = {"labels": torch.tensor([[0, 1], [1, 1]])}
    assert MultiLabel().labels_for_model(labels)["labels"].equal(labels["labels"].float())


def test_a_term_of_the_users_gets_logits_in_the_students_order(tmp_path):
    teacher, term, data = model("classes", seed=1), OwnTerm(), examples("classes")
    teacher.config.id2label = {0: "LABEL_2", 1: "LABEL_0", 2: "LABEL_1"}
    args = CKDArguments(**RELATIONS | {"alpha": 0.0})
    run = trainer(tmp_path, "classes", data, teacher_model=teacher, ckd_args=args, terms=[term])
    batch = pad(list(data))
    run.compute_loss(run.model.train(), dict(batch))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(term.seen[0], teacher(**inputs).logits[:, [1, 2, 0]])
    with pytest.raises(InputError, match="teacher's is a class for each token"):
        trainer(tmp_path, "classes", data, teacher_model=model("tokens"), ckd_args=args, terms=[term])


def test_a_term_may_count_with_a_plain_number(tmp_path):
    class Counts(OwnTerm):
        def count(self, batch):
            return len(batch["input_ids"])

    weights = []
    for term in (OwnTerm(), Counts()):
        run = trainer(tmp_path, "classes", examples("classes"), teacher_model=model("classes", seed=1), terms=[term])
        run.train()
        weights.append(run.model.state_dict())
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_columns_of_a_term_stay_in_the_students_batch(tmp_path):
    """A term may name a column that the student reads, too."""
    weights = []
    for columns in ((), ("attention_mask", "place")):
        term, data = OwnTerm(), examples("classes").add_column("place", range(len(examples("classes"))))
        term.columns = columns
        run = trainer(tmp_path, "classes", data, teacher_model=model("classes", seed=1), terms=[term])
        run.train()
        weights.append(run.model.state_dict())
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("method", ["forward", "count"])
def test_a_term_that_returns_no_scalar_is_named(tmp_path, method):
    term = OwnTerm()
    setattr(term, method, lambda *arguments: torch.ones(2))
    run = trainer(tmp_path, "classes", examples("classes"), teacher_model=model("classes", seed=1), terms=[term])
    with pytest.raises(InputError, match=rf"{method} of the term own returns a tensor of shape \(2,\), not a scalar"):
        run.train()


def test_terms_that_cannot_work_are_refused(tmp_path):
    class Projected(OwnTerm):
        def __init__(self):
            super().__init__()
            self.projection = torch.nn.Linear(3, 3)

    class TooDeep(OwnTerm):
        def __init__(self):
            super().__init__()
            self.student_signal = self.teacher_signal = Attentions((0,))

    data = examples("classes")
    with pytest.raises(InputError, match="the term own has parameters, which no optimizer trains"):
        trainer(tmp_path, "classes", data, terms=[Projected()])
    with pytest.raises(InputError, match="Attentions reads layer 0, but the bert model has layers 1 to 2"):
        trainer(tmp_path, "classes", data, terms=[TooDeep()])


def test_a_signal_that_is_not_of_the_size_that_it_says(tmp_path):
    """Stored, it would be cut to that size."""

    class Narrow(OwnTerm):
        def __init__(self):
            super().__init__()
            self.student_signal = self.teacher_signal = FirstToken((1,), width=8)

    args = CKDArguments(**RELATIONS, teacher_cache_dir=str(tmp_path / "cache"))
    run = trainer(tmp_path, "classes", examples("classes"), ckd_args=args, terms=[Narrow()])
    with pytest.raises(InputError, match=r"FirstToken.* has states of shape \(1, 16\) per example, not \(1, 8\)"):
        run.train()


class ProjectionTerm(OwnTerm):
    """Queries of the last layer."""

    def __init__(self):
        super().__init__()
        self.student_signal, self.teacher_signal = QueryKeyValue((2,)), QueryKeyValue((4,))

    def forward(self, student, teacher, batch):
        return student[0][0].square().mean()


@pytest.mark.parametrize("options", [
    {},
    {"bf16": True},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
], ids=["plain", "bf16", "checkpointing"])  # fmt: skip
def test_projections_train_the_student(tmp_path, options):
    args = CKDArguments(**LOGITS_ALONE | {"alpha": 0.0})
    run = trainer(tmp_path, "classes", examples("classes"), ckd_args=args, terms=[ProjectionTerm()], options=options)
    query = run.model.bert.encoder.layer[1].attention.self.query.weight
    before = query.detach().clone()
    run.train()
    assert (query - before).abs().max() > 1e-4
    assert run._listener._captured is None


def test_reentrant_checkpointing_gives_projections_no_gradient(tmp_path):
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(InputError, match="set use_reentrant to false"):
        trainer(tmp_path, "classes", examples("classes"), terms=[ProjectionTerm()], options=options)


def test_a_term_of_the_users(tmp_path):
    class LengthOfTexts(Term):
        name, weight = "length", 0.5

        def __init__(self):
            super().__init__()
            self.student_signal, self.teacher_signal = WordGram((2,)), WordGram((4,))

        def forward(self, student, teacher, batch):
            return student.offsets.new_tensor(1.0) * batch["attention_mask"].sum(-1).float().mean()

        def count(self, batch):
            return batch["input_ids"].new_full((), len(batch["input_ids"]))

    data = examples("classes")
    run = trainer(tmp_path, "classes", data, terms=[LengthOfTexts()])
    run.train()
    lengths = [len(row["input_ids"]) for row in data]
    assert run.state.log_history[0]["loss_length"] == pytest.approx(sum(lengths) / len(lengths))
    with pytest.raises(InputError, match="two terms of the loss are called length"):
        trainer(tmp_path, "classes", data, terms=[LengthOfTexts(), LengthOfTexts()])
