"""A model made narrower: what is kept, what is fitted, and what is the same function."""

import math

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LongformerConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from ckd_trainer.models import narrowing
from ckd_trainer.models.narrowing import narrow
from ckd_trainer.models.sizes import NARROWED, narrowed_config
from ckd_trainer.utils.errors import InputError

LENGTHS = {"vocab_size": 50, "max_position_embeddings": 40, "initializer_range": 0.2}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48} | LENGTHS
SPECIAL = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "camembert": CamembertConfig(**SIZES),
    "deberta-v2": DebertaV2Config(**SIZES, **RELATIVE, norm_rel_ebd="layer_norm", share_att_key=True),
    "deberta-v2 with positions of its own": DebertaV2Config(**SIZES, **RELATIVE, attention_head_size=8),
    "distilbert": DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, **LENGTHS),
    "electra": ElectraConfig(**SIZES, embedding_size=12),
    "electra without a projection": ElectraConfig(**SIZES, embedding_size=32),
    "modernbert": ModernBertConfig(**SIZES, **SPECIAL),
    "mpnet": MPNetConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "xlm-roberta": XLMRobertaConfig(**SIZES),
}
TEACHERS = [
    pytest.param(config, auto_class, id=f"{name}, {auto_class.__name__[12:]}")
    for name, config in CONFIGS.items()
    for auto_class in (AutoModelForSequenceClassification, AutoModelForQuestionAnswering)
]


def batch_of(count=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (count, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[::3, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits_of(model, batch):
    with torch.no_grad():
        outputs = model.eval()(**batch)
    return torch.stack([outputs.start_logits, outputs.end_logits]) if "start_logits" in outputs else outputs.logits


def distance(model, other, batch):
    theirs = logits_of(other, batch)
    return ((logits_of(model, batch) - theirs).norm() / (theirs - theirs.mean()).norm()).item()


def teacher_of(config, auto_class=AutoModelForSequenceClassification, seed=0):
    torch.manual_seed(seed)
    return auto_class.from_config(config)


def test_every_family_is_tested():
    assert {config.model_type for config in CONFIGS.values()} == set(NARROWED)


@pytest.mark.parametrize(("config", "auto_class"), TEACHERS)
def test_the_same_sizes_are_the_same_weights(config, auto_class):
    teacher = teacher_of(config, auto_class)
    student = narrow(teacher, narrowed_config(config, {"hidden_size": 32, "num_attention_heads": 4}), batch_of())
    for name, parameter in teacher.named_parameters():
        assert torch.equal(student.get_parameter(name), parameter), name
    assert student.training == teacher.training


@pytest.mark.parametrize(("config", "auto_class"), TEACHERS)
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"hidden_size": 16}, marks=pytest.mark.slow),
        pytest.param({"intermediate_size": 24}, marks=pytest.mark.slow),
        {"num_attention_heads": 2},
        {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24},
    ],
    ids=lambda sizes: ",".join(sizes),
)
def test_each_size_alone_and_all_together(config, auto_class, sizes, tmp_path, monkeypatch):
    """The model has these sizes, and the fit brings it closer to the teacher, on new texts too."""
    if config.model_type == "modernbert" and "num_attention_heads" in sizes:
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    names = {"intermediate_size": "hidden_dim"} if config.model_type == "distilbert" else {}
    wanted = narrowed_config(config, sizes)
    teacher = teacher_of(config, auto_class)
    fresh = auto_class.from_config(wanted)
    student = narrow(teacher, wanted, batch_of(200))
    for name, value in sizes.items():
        assert getattr(student.config, names.get(name, name)) == value
    if "hidden_size" in sizes and "num_attention_heads" not in sizes:
        assert student.config.num_attention_heads == 2
    assert {name: tensor.shape for name, tensor in student.state_dict().items()} == {
        name: tensor.shape for name, tensor in fresh.state_dict().items()
    }
    student.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(loaded, batch_of(seed=1)), logits_of(student, batch_of(seed=1)))
    monkeypatch.setattr(narrowing, "_fit", lambda *args: None)
    projected = narrow(teacher, wanted, batch_of(200))
    new = batch_of(seed=1)
    assert distance(student, teacher, new) < min(0.95, distance(projected, teacher, new))


def orthonormal(rows, columns, generator):
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q.T


def wide_twin(small, heads, size, neurons, generator):
    """Returns a BERT of width 32 that computes exactly what a small BERT does, and has parts that nothing reads.

    Its hidden states are those of the small model in another basis, in which a vector of equal numbers stays one. Each
    head of the small model lies in one of its heads, in a basis of its own. Its other heads, neurons and hidden units
    of the pooler are random, but nothing reads them.
    """
    narrow_size = small.config.hidden_size
    sizes = {"hidden_size": 32, "num_attention_heads": heads, "intermediate_size": neurons}
    wide = BertForSequenceClassification(BertConfig(**SIZES | sizes)).eval()
    turns = [
        torch.linalg.qr(torch.cat([torch.ones(n, 1), torch.randn(n, k, generator=generator)], 1)).Q
        for n, k in ((32, narrow_size - 1), (narrow_size, narrow_size - 1))
    ]
    turns = [turn * turn[0, 0].sign() for turn in turns]
    basis = turns[1] @ turns[0].T  # (narrow, wide): maps ones to equal numbers
    ours, theirs = small.state_dict(), wide.state_dict()

    def places(count, of):
        return torch.randperm(of, generator=generator)[:count]

    with torch.no_grad():
        for name, weight in theirs.items():
            if "embeddings.weight" in name:
                weight.copy_(ours[name] @ basis)
            elif "LayerNorm.bias" in name:
                weight.copy_(ours[name] @ basis)
            elif "LayerNorm.weight" in name:
                weight.fill_(ours[name][0].item() * math.sqrt(narrow_size / 32))
        for layer, own in zip(wide.bert.encoder.layer, small.bert.encoder.layer, strict=True):
            small_heads = small.config.num_attention_heads
            small_size = narrow_size // small_heads
            into, scores = torch.zeros(32, narrow_size), torch.zeros(32, narrow_size)
            for index, head in enumerate(places(small_heads, heads).tolist()):
                rows, columns = (
                    slice(head * size, (head + 1) * size),
                    slice(index * small_size, (index + 1) * small_size),
                )
                into[rows, columns] = orthonormal(small_size, size, generator).T
                scores[rows, columns] = orthonormal(small_size, size, generator).T
            attention, theirs = layer.attention, own.attention
            scale = math.sqrt(size / small_size)  # the scores are divided by the root of the size of a head
            for part, matrix in (("query", scores * scale), ("key", scores), ("value", into)):
                module, source = getattr(attention.self, part), getattr(theirs.self, part)
                used = matrix.abs().sum(1) > 0
                module.weight[used] = (matrix @ source.weight @ basis)[used]
                module.bias[used] = (matrix @ source.bias)[used]
            attention.output.dense.weight.copy_(basis.T @ theirs.output.dense.weight @ into.T)
            attention.output.dense.bias.copy_(basis.T @ theirs.output.dense.bias)
            units = places(small.config.intermediate_size, neurons)
            layer.intermediate.dense.weight[units] = own.intermediate.dense.weight @ basis
            layer.intermediate.dense.bias[units] = own.intermediate.dense.bias
            layer.output.dense.weight.zero_()
            layer.output.dense.weight[:, units] = basis.T @ own.output.dense.weight
            layer.output.dense.bias.copy_(basis.T @ own.output.dense.bias)
        units = places(narrow_size, 32)
        wide.bert.pooler.dense.weight[units] = small.bert.pooler.dense.weight @ basis
        wide.bert.pooler.dense.bias[units] = small.bert.pooler.dense.bias
        wide.classifier.weight.zero_()
        wide.classifier.weight[:, units] = small.classifier.weight
        wide.classifier.bias.copy_(small.classifier.bias)
    return wide


@pytest.mark.parametrize("heads", [2, 4], ids=["heads of the same size", "smaller heads"])
def test_a_wide_model_that_computes_a_narrow_one_becomes_it(heads, rng):
    """Exact, although LayerNorm has other statistics: the hidden states lie in a space of the narrow width."""
    sizes = {"hidden_size": 16, "num_attention_heads": heads, "intermediate_size": 24}
    torch.manual_seed(torch.randint(10**6, (1,), generator=rng).item())
    small = BertForSequenceClassification(BertConfig(**SIZES | sizes)).eval()
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if "LayerNorm.weight" in name:
                parameter.fill_(1.3)
            elif "bias" in name:
                parameter.normal_(0, 0.3)
    wide = wide_twin(small, heads=4, size=8, neurons=48, generator=rng)
    new = batch_of(seed=1)
    assert logits_of(small, new).std() > 0.02
    torch.testing.assert_close(logits_of(wide, new), logits_of(small, new), rtol=0, atol=2e-5)
    student = narrow(wide, narrowed_config(wide.config, sizes), batch_of(300))
    torch.testing.assert_close(logits_of(student, new), logits_of(small, new), rtol=0, atol=2e-5)


def test_larger_heads_are_joined_and_their_scores_add_up():
    """The scores of a head without queries are 0, and so add nothing to those of the head beside it."""
    config = CONFIGS["bert"]
    teacher = teacher_of(config)
    with torch.no_grad():
        for layer in teacher.bert.encoder.layer:
            attention = layer.attention.self
            for module in (attention.query, attention.value):
                module.weight.view(2, 2, 8, 32)[:, 1] = 0
    student = narrow(teacher, narrowed_config(config, {"num_attention_heads": 2}), batch_of())
    assert distance(student, teacher, batch_of(seed=1)) < 1e-5


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModel])
def test_positions_of_mpnet_follow_their_heads(auto_class):
    """All layers read one bias per head, so that they keep the same heads."""
    config = CONFIGS["mpnet"]
    teacher = teacher_of(config, auto_class)
    encoder, unused = teacher.base_model.encoder, [0, 2]
    with torch.no_grad():
        for layer in encoder.layer:
            layer.attention.attn.o.weight.view(32, 4, 8)[:, unused] = 0
        # One layer hardly uses a head that the other needs.
        encoder.layer[0].attention.attn.o.weight.view(32, 4, 8)[:, 1] *= 1e-3
    student = narrow(teacher, narrowed_config(config, {"hidden_size": 16}), batch_of())
    bias = student.base_model.encoder.relative_attention_bias.weight
    assert torch.equal(bias, encoder.relative_attention_bias.weight[:, [1, 3]])


def test_neurons_that_nothing_reads_are_dropped_exactly(rng):
    for config in (CONFIGS["bert"], CONFIGS["modernbert"], CONFIGS["distilbert"]):
        teacher = teacher_of(config)
        with torch.no_grad():
            for module in teacher.modules():
                if isinstance(module, torch.nn.Linear) and module.in_features == 48:
                    module.weight[:, torch.randperm(48, generator=rng)[:24]] = 0
        name = "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"
        student = narrow(teacher, narrowed_config(config, {name: 24}), batch_of())
        assert distance(student, teacher, batch_of(seed=1)) < 1e-5


def test_least_squares_against_their_definition(rng):
    """The gradient of the squared error and the ridge is 0."""
    wide, back = torch.randn(60, 7, generator=rng) + 2, torch.randn(7, 4, generator=rng)
    own = wide @ torch.randn(7, 4, generator=rng) + torch.randn(60, 4, generator=rng) - 1
    for centered in (True, False):
        matrix, shift = narrowing._regression(wide, own, back, centered=centered)
        assert centered or not shift.any()
        means = (wide.mean(0), own.mean(0)) if centered else (torch.zeros(7), torch.zeros(4))
        ridge = 0.1 * (own - means[1]).square().mean()
        matrix, shift = matrix.double().requires_grad_(), shift.double().requires_grad_()
        error = (own.double() @ matrix.T + shift - wide.double()).square().sum() / 60
        (error + ridge.double() * (matrix - back.double()).square().sum()).backward()
        assert matrix.grad.abs().max() < 1e-4
        assert not centered or shift.grad.abs().max() < 1e-4


def test_padding_does_not_count():
    config, batch = CONFIGS["bert"], batch_of()
    noise = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 7)
    students = [
        narrow(teacher_of(config), narrowed_config(config, {"hidden_size": 16}), batch | {"input_ids": ids})
        for ids in (batch["input_ids"], noise)
    ]
    torch.testing.assert_close(*(logits_of(student, batch_of(seed=1)) for student in students), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [1, 4])
def test_one_text_alone_or_repeated(count):
    config = CONFIGS["bert"]
    batch = {name: tensor[1:2].repeat(count, 1) for name, tensor in batch_of().items()}
    student = narrow(teacher_of(config), narrowed_config(config, {"hidden_size": 16, "intermediate_size": 24}), batch)
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    assert distance(student, teacher_of(config), batch_of(seed=1)) < 10


def test_a_bare_encoder_and_no_language_model():
    config = narrowed_config(CONFIGS["bert"], {"hidden_size": 16})
    assert narrow(BertModel(CONFIGS["bert"]), config, batch_of()).config.hidden_size == 16
    with pytest.raises(InputError, match="BertForMaskedLM is a language model"):
        narrow(BertForMaskedLM(CONFIGS["bert"]), config, batch_of())


def test_names_of_the_family_and_of_all():
    config = narrowed_config(CONFIGS["distilbert"], {"dim": 16, "n_heads": 4, "hidden_dim": 24})
    assert (config.dim, config.n_heads, config.hidden_dim) == (16, 4, 24)
    config = narrowed_config(CONFIGS["distilbert"], {"hidden_size": 16, "intermediate_size": 24})
    assert (config.dim, config.n_heads, config.hidden_dim) == (16, 2, 24)
    assert CONFIGS["distilbert"].dim == 32


@pytest.mark.parametrize(
    ("family", "sizes", "words"),
    [
        ("bert", {"hidden_size": 64}, "hidden_size is 64, but the teacher's is 32"),
        ("bert", {"num_attention_heads": 8}, "num_attention_heads is 8, but the teacher's is 4"),
        ("distilbert", {"hidden_dim": 64}, "hidden_dim is 64, but the teacher's is 48"),
        (
            "bert",
            {"hidden_size": 20},
            "hidden_size is 20, which is not a multiple of the 8 .* or num_attention_heads too",
        ),
        ("distilbert", {"dim": 20}, "dim is 20, which is not a multiple of the 8 .* or n_heads too"),
        ("bert", {"hidden_size": 16, "num_attention_heads": 3}, "16 dimensions .* in 3 heads .* divided evenly"),
        ("bert", {"hidden_size": 24, "num_attention_heads": 2}, "heads of 12, but heads larger than .* give 8"),
        ("modernbert", {"num_attention_heads": 2}, "heads of 16, but heads with rotary positions must keep .* 8"),
        ("electra", {"hidden_size": 12, "num_attention_heads": 4}, "hidden_size is 12, like embedding_size"),
        ("bert", {"hidden_size": "16"}, "hidden_size is '16': give a whole number"),
        ("bert", {"hidden_size": True}, "hidden_size is True: give a whole number"),
        ("bert", {"intermediate_size": 0}, "intermediate_size is 0: give a whole number of 1 or more"),
        ("bert", {"hidden_act": "relu"}, "contains hidden_act, but .* only in its sizes .hidden_size, num_attention"),
        ("distilbert", {"x": 1}, "contains x, but .* only in its sizes .dim, n_heads, hidden_dim.: leave it out"),
        ("bert", {"num_hidden_layers": 1}, "contains num_hidden_layers: give student_num_layers"),
        ("distilbert", {"n_layers": 1}, "contains n_layers: give student_num_layers"),
        ("distilbert", {"dim": 16, "hidden_size": 16}, "contains dim and hidden_size, which are one size"),
    ],
)
def test_sizes_that_cannot_be_made_are_refused(family, sizes, words):
    with pytest.raises(InputError, match=words):
        narrowed_config(CONFIGS[family], sizes)


def test_other_families_are_refused_by_name():
    longformer = LongformerConfig(**SIZES, attention_window=4)
    assert narrowed_config(longformer, {"hidden_size": 32}).hidden_size == 32
    with pytest.raises(InputError, match="longformer models narrower: .* one of bert, camembert, .*, xlm-roberta"):
        narrowed_config(longformer, {"hidden_size": 16})
    config = DebertaV2Config(**SIZES, conv_kernel_size=3)
    with pytest.raises(InputError, match="deberta-v2 teacher has a convolution"):
        narrowed_config(config, {"hidden_size": 16})
