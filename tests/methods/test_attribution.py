"""AD-KD: its attributions against the formula, whatever the head, the models and the way that they are trained."""

import copy
from types import SimpleNamespace

import accelerate
import pytest
import torch
from accelerate.utils import DistributedType, DynamoBackend
from helpers import method_reference as slow
from helpers.commands import STUDENT
from helpers.files import sentences, write_tsv
from helpers.launching import launch, logged, without_dropout
from helpers.tiny import no_dropout, qa_model, tiny_config, tiny_model
from helpers.training import examples, logs, pad, trainer
from helpers.wrapping import PassesOn, compiled, lora
from packaging.version import Version
from safetensors.torch import load_file
from transformers import (
    BertForMaskedLM,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
)

import run_glue_ckd
from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.heads import Classes, MultiLabel, Score
from ckd_trainer.methods import AttributionArguments, Term
from ckd_trainer.teacher.attributions import Attributions
from ckd_trainer.teacher.signals import HiddenStates, Logits
from ckd_trainer.training.double_backward import check_double_backward
from ckd_trainer.utils.errors import InputError

THREE = ("bad", "good", "neither")
HEADS = {
    "two classes": ({}, Classes, 1),
    "three classes": ({"labels": THREE}, Classes, 3),
    "three labels": ({"labels": THREE, "problem_type": "multi_label_classification"}, MultiLabel, 3),
    "a score": ({"labels": ("score",), "problem_type": "regression"}, Score, 1),
}


def distil(folder, student=None, teacher=None, *, top_k=None, weight=0.5, ckd=None, **kwargs):
    ckd = {"alpha": 0.5} | (ckd or {})
    return trainer(
        DistillationTrainer,
        folder,
        no_dropout(layers=2, width=16) if student is None else student,
        teacher_model=tiny_model(seed=1) if teacher is None else teacher,
        ckd_args=CKDArguments.without_relations(**ckd),
        methods=[AttributionArguments(attribution_weight=weight, attribution_top_k=top_k)],
        **kwargs,
    )


def texts(count=4):
    return {name: column for name, column in pad(list(examples(count))).items() if name != "labels"}


def term_of(run, batch):
    terms, _ = run._terms(run.model.train(), batch, None)
    return terms["attribution"]


# --------------------------------------------------------------------------------------------------------- the formula


def log_probabilities(logits, head):
    """Of all decisions, as the paper has them: of each class, of each label's presence, or the score itself."""
    if head is Classes:
        return (logits.exp() / logits.exp().sum(-1, keepdim=True)).log()
    return logits.sigmoid().log() if head is MultiLabel else logits


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_the_twins(tmp_path, name):
    """Value, and gradient of all the student's weights, from log p; the log odds make the same of each text."""
    options, head, decisions = HEADS[name]
    student, teacher = no_dropout(layers=2, width=16, **options), tiny_model(seed=1, **options)
    run = distil(tmp_path, student, teacher, top_k=20)
    student.double()
    teacher.double()
    batch = texts()
    fast = term_of(run, batch)
    assert not any(weight.requires_grad for weight in teacher.parameters())
    teacher.requires_grad_()
    maps = []
    for model, top_k in ((student, None), (teacher, 20)):
        outputs = model(**batch, output_hidden_states=True)
        values = log_probabilities(outputs.logits, head)
        maps.append(slow.attributions(values, outputs.hidden_states[0], batch["attention_mask"], top_k))
    if name == "two classes":  # both have the same map
        for side in maps:
            units = side / side.norm(dim=-1, keepdim=True)
            torch.testing.assert_close(units[:, 0], units[:, 1])
        maps = [side[:, :1] for side in maps]
    twin = slow.attribution_loss(*maps, batch["attention_mask"])
    assert maps[0].shape[1] == decisions
    torch.testing.assert_close(fast, twin, rtol=1e-9, atol=1e-12)
    weights = list(student.parameters())
    ours, theirs = (
        torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True, retain_graph=True)
        for loss in (fast, twin)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-11)
    assert sum(one.abs().max() > 1e-8 for one in ours) > 30  # embeddings, layers, pooler and classifier


@pytest.mark.parametrize("labels", [("bad", "good"), THREE])
def test_gradients_of_weights_by_finite_differences(tmp_path, rng, labels):
    student = no_dropout(layers=2, width=16, labels=labels)
    run = distil(tmp_path, student, tiny_model(seed=1, labels=labels), top_k=20)
    student.double()
    run.teacher_model.double()
    batch = texts(2)
    term_of(run, batch).backward()
    for name, weight in student.named_parameters():
        if weight.grad is None:
            continue
        direction = torch.randn(weight.shape, generator=rng, dtype=torch.float64)
        with torch.no_grad():
            values = []
            for step in (1e-5, -2e-5):
                weight += step * direction
                with torch.enable_grad():
                    values.append(term_of(run, batch).item())
            weight += 1e-5 * direction
        difference = (values[0] - values[1]) / 2e-5
        assert (weight.grad * direction).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-8), name


def gpt2(layers, width, seed):
    """It classifies by the last token that is not padding, on whichever side that is."""
    torch.manual_seed(seed)
    sizes = {"n_layer": layers, "n_embd": width, "n_head": 2, "n_positions": 32, "vocab_size": 22, "pad_token_id": 0}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, **dropout, initializer_range=0.3))


@pytest.mark.parametrize(("side", "family"), [("right", "bert"), ("right", "gpt2"), ("left", "gpt2")])
def test_padding_changes_nothing(tmp_path, side, family):
    """The term of a batch is the mean of those of its texts, over tokens; one of a single token has none."""
    models = [gpt2(2, 16, 0), gpt2(4, 32, 1)] if family == "gpt2" else []
    run = distil(tmp_path, *models, top_k=20)
    rows = [row["input_ids"] for row in examples(5)] + [[7]]
    length, batch = max(map(len, rows)) + 3, {"input_ids": [], "attention_mask": [], "position_ids": []}
    for ids in rows:
        missing = [0] * (length - len(ids))
        columns = ids, [1] * len(ids), list(range(len(ids)))
        for values, column in zip(batch.values(), columns, strict=True):
            values.append(missing + column if side == "left" else column + missing)
    together = term_of(run, {name: torch.tensor(values) for name, values in batch.items()})
    alone = [
        term_of(run, {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)})
        for ids in rows
    ]
    sizes = [len(ids) for ids in rows]
    mean = sum(size * one for size, one in zip(sizes, alone, strict=True)) / sum(sizes)
    torch.testing.assert_close(together, mean, rtol=1e-4, atol=1e-8)
    assert alone[-1].abs() < 1e-12


def test_a_sure_teacher_still_has_attributions(tmp_path):
    """Where p rounds to 1, log p has no gradient in float32; the log odds have that of a less sure teacher."""
    unsure, sure = tiny_model(seed=1), tiny_model(seed=1)
    with torch.no_grad():
        sure.classifier.weight *= 1e4
    assert sure.eval()(**texts()).logits.softmax(-1).amax(-1).eq(1).any()
    terms = [term_of(distil(tmp_path, teacher=teacher), texts()) for teacher in (unsure, sure)]
    torch.testing.assert_close(*terms, rtol=1e-4, atol=1e-8)


def test_the_teachers_labels_are_put_in_the_students_order(tmp_path):
    student, teacher = no_dropout(layers=2, width=16, labels=THREE), tiny_model(seed=1, labels=THREE)
    moved, order = copy.deepcopy(teacher), [2, 0, 1]
    moved.config.id2label = {place: THREE[label] for place, label in enumerate(order)}
    moved.config.label2id = {THREE[label]: place for place, label in enumerate(order)}
    with torch.no_grad():
        for part in moved.classifier.parameters():
            part.copy_(part[order].clone())
    runs = [distil(tmp_path, student, model, ckd={"alpha": 0}) for model in (teacher, moved)]
    torch.testing.assert_close(*(term_of(run, texts()) for run in runs))
    assert runs[1].label_order == [1, 2, 0]


def test_labels_must_be_the_same(tmp_path):
    """Even if no term compares logits."""
    with pytest.raises(InputError, match="the teacher has 2 labels, but the data has 3"):
        distil(tmp_path, no_dropout(layers=2, labels=THREE), ckd={"alpha": 0})
    score = tiny_model(labels=THREE, problem_type="multi_label_classification")
    with pytest.raises(InputError, match="head is classes, but .* several labels.*: set the weight of attribution to"):
        distil(tmp_path, no_dropout(layers=2, labels=THREE), score, ckd={"alpha": 0})


# ------------------------------------------------------------------------------------------------- models and training


class WithOtherSignals(Term):
    """Reads states and logits of a teacher that also gives attributions."""

    name, weight = "others", 0.1

    def __init__(self, signal):
        super().__init__()
        self.student_signal = self.teacher_signal = signal

    def forward(self, student, teacher, batch):
        for side in teacher if isinstance(teacher, list) else [teacher]:
            assert not side.requires_grad
        return (student[0] if isinstance(student, list) else student).square().mean()

    def count(self, batch):
        return batch["input_ids"].new_full((), len(batch["input_ids"]))


@pytest.mark.parametrize("signal", [HiddenStates((0, 2)), Logits(Classes(), 2)], ids=["states", "logits"])
def test_other_signals_of_the_teacher_hold_no_graph(tmp_path, signal):
    run = distil(tmp_path, terms=[WithOtherSignals(signal)])
    run.train()
    assert all(weight.grad is None for weight in run.teacher_model.parameters())


def test_nothing_changes_without_the_term(tmp_path):
    """The student keeps its attention, and the forward pass of the teacher records nothing."""
    run = distil(tmp_path, weight=0.0)
    assert run.model.config._attn_implementation == "sdpa" and not run._listener._hooks
    assert not run.teacher.live().differentiates and not run.teacher.live().listener._hooks
    run = distil(tmp_path)
    assert run.model.config._attn_implementation == "eager"
    assert run.teacher_model.config._attn_implementation == "sdpa"


def test_evaluation_computes_no_attributions(tmp_path, monkeypatch):
    run = distil(tmp_path, steps=2)
    run.train()
    monkeypatch.setattr(Attributions, "read", lambda *_: pytest.fail("attributions were computed"))
    assert run.evaluate()["eval_loss"] > 0
    assert run.model(**texts()).logits.grad_fn is not None and run._listener._captured is None


def test_it_trains_the_student(tmp_path):
    """Alone with labels of no weight: attributions come close, every encoder weight moves, the teacher stays."""
    student = no_dropout(layers=2, width=16)
    before = [weight.detach().clone() for weight in student.bert.encoder.parameters()]
    run = distil(tmp_path, student, weight=50.0, steps=40, ckd={"alpha": 0, "term_balance": "none"})
    teacher = copy.deepcopy(run.teacher_model.state_dict())
    run.train()
    first, last = (sum(row["loss_attribution"] for row in part) for part in (logs(run)[:5], logs(run)[-5:]))
    assert last < 0.7 * first
    moved = [not torch.equal(*pair) for pair in zip(before, student.bert.encoder.parameters(), strict=True)]
    assert all(moved)
    assert all(torch.equal(value, teacher[name]) for name, value in run.teacher_model.state_dict().items())


def test_bf16_is_close_to_float32(tmp_path):
    found = {}
    for bf16 in (False, True):
        run = distil(tmp_path / str(bf16), options={"bf16": bf16}, steps=2)
        run.train()
        found[bf16] = logs(run)[0]
    assert found[True]["nonfinite_steps"] == 0
    for name in ("loss_attribution", "scale_attribution"):
        assert found[True][name] == pytest.approx(found[False][name], rel=0.1)


def test_models_in_half_precision(tmp_path):
    """Their states are converted on the way out of the prepared model; those inside lead to the logits."""
    models = no_dropout(layers=2, width=16).bfloat16(), tiny_model(seed=1).bfloat16()
    run = distil(tmp_path, *models, options={"bf16": True})
    run.train()
    assert logs(run)[0]["nonfinite_steps"] == 0 and run.scales["attribution"] > 0


@pytest.mark.parametrize("return_dict", [True, False])
def test_frozen_embeddings(tmp_path, return_dict):
    """The gradient reaches the output of the embeddings all the same."""
    terms = []
    for frozen in (False, True):
        student = no_dropout(layers=2, width=16, return_dict=return_dict)
        student.bert.embeddings.requires_grad_(not frozen)
        run = distil(tmp_path, student)
        terms.append(term_of(run, texts()))
        terms[-1].backward()
        assert student.bert.encoder.layer[0].output.dense.weight.grad.any()
        run.train()
    assert torch.equal(*terms)


@pytest.mark.parametrize("wrap", [PassesOn, lora("SEQ_CLS")], ids=["a module", "adapters"])
def test_wrapped_models(tmp_path, wrap):
    if wrap is PassesOn:
        plain = distil(tmp_path, no_dropout(layers=2), tiny_model(seed=1))
    run = distil(tmp_path, wrap(no_dropout(layers=2)), wrap(tiny_model(seed=1)), steps=2)
    if wrap is PassesOn:
        assert torch.equal(term_of(run, texts()), term_of(plain, texts()))
    run.train()
    assert run.scales["attribution"] > 0


@pytest.mark.slow
def test_two_processes_train_like_one(tiny_teacher, tmp_path):
    """Two batches of 2 in each, from the teacher and from a cache that both build, are the batch of 8 in one."""
    without_dropout(tiny_teacher)
    train = write_tsv(tmp_path / "train.tsv", sentences(48))
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, "--train_file", str(train)]
    options += ["--max_seq_length", "32", "--do_train", "--max_steps", "5", "--logging_steps", "1"]
    options += ["--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0", "--report_to", "none"]
    options += ["--disable_tqdm", "true", "--attribution_weight", "0.5", "--attribution_top_k", "10"]
    options += [f"--{a}_{b}_weight=0" for a in ("wr", "ltr") for b in ("distance", "angle")]
    one, two, cached = (tmp_path / name for name in ("one", "two", "cached"))
    run_glue_ckd.main([*options, "--per_device_train_batch_size", "8", "--output_dir", str(one)])
    batches = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    launch("run_glue_ckd.py", *options, *batches, "--output_dir", str(two))
    cache = ["--teacher_cache_dir", str(tmp_path / "cache")]
    launch("run_glue_ckd.py", *options, *batches, "--output_dir", str(cached), *cache)
    expected = load_file(one / "model.safetensors")
    for folder in (two, cached):
        for name, tensor in load_file(folder / "model.safetensors").items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
        for mine, other in zip(logged(folder), logged(one), strict=True):
            assert mine == pytest.approx(other, rel=1e-3)
    assert all(row["scale_attribution"] > 0 for row in logged(one))


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kind", "head", "options"),
    [
        (BertForTokenClassification, "a class for each token", {}),
        (BertForMaskedLM, "a vocabulary", {}),
        (BertLMHeadModel, "a vocabulary, for the next token", {"is_decoder": True}),
        (BertModel, "none", {}),
        (type(qa_model()), "spans", {}),
    ],
)
def test_other_heads_are_refused(tmp_path, kind, head, options):
    models = [kind(tiny_config(layers=layers, **options)) for layers in (2, 4)]
    with pytest.raises(InputError, match=f"attribution_weight is set, but a model whose head is {head} decides noth"):
        distil(tmp_path, *models, ckd={"alpha": 0})


@pytest.mark.parametrize("side", ["student", "teacher", "inside", "by option"])
def test_compiled_models_are_refused(tmp_path, side):
    student, teacher, options = no_dropout(layers=2), tiny_model(seed=1), {}
    if side == "student":
        student = compiled(student)
    elif side == "teacher":
        teacher = compiled(teacher)
    elif side == "inside":
        if Version(accelerate.__version__) < Version("1.8"):
            pytest.skip("Trainer fails on a compiled model inside a module: accelerate takes the module for compiled")
        student = PassesOn(compiled(student))
    else:
        options = {"torch_compile": True, "torch_compile_backend": "eager"}
    with pytest.raises(InputError, match="attribution, .* torch.compile does not support: leave it out, or set the w"):
        distil(tmp_path, student, teacher, options=options)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (DistributedType.FSDP, {}, "FSDP does not support: use DDP"),
        (DistributedType.DEEPSPEED, {}, "DeepSpeed does not support: use DDP"),
        (DistributedType.NO, {"use_liger_kernel": True}, "leave use_liger_kernel out"),
        (DistributedType.NO, {"gradient_checkpointing": True}, "use_reentrant does not support: set it to false"),
    ],
)
def test_training_without_second_derivatives_is_refused(kind, options, words):
    plugin = SimpleNamespace(backend=DynamoBackend.NO)
    accelerator = SimpleNamespace(distributed_type=kind, state=SimpleNamespace(dynamo_plugin=plugin))
    args = {"use_liger_kernel": False, "gradient_checkpointing": False}
    args |= {"gradient_checkpointing_kwargs": {"use_reentrant": True}} | options
    with pytest.raises(InputError, match=words):
        check_double_backward(tiny_model(), None, SimpleNamespace(**args), accelerator)


def test_by_script(tiny_teacher, text_files, tmp_path, capsys):
    """The recipe of a run trains the same student again; what does not fit leaves no folder."""
    command = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *text_files, "--do_train"]
    command += ["--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true", "--attribution_weight", "0.3"]
    run_glue_ckd.main([*command, "--output_dir", str(tmp_path / "one"), "--attribution_top_k", "10"])
    run_glue_ckd.main([str(tmp_path / "one" / "recipe.yaml"), "--output_dir", str(tmp_path / "two")])
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "attributions of the teacher's top 10 dimensions" in (tmp_path / "one" / "README.md").read_text()
    capsys.readouterr()
    for more, words in (
        (["--attribution_top_k", "99"], "attribution_top_k is 99, but the teacher's embeddings have 32 dimensions"),
        (["--torch_compile", "true"], "torch.compile does not support"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_glue_ckd.main([*command, "--output_dir", str(tmp_path / "three"), *more])
        assert stopped.value.code == 2 and words in capsys.readouterr().err
        assert not (tmp_path / "three").exists()
