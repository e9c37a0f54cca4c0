"""Dynamic models: sub-networks as slices, the order of heads and neurons, and plain models made from them."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.extraction import extract, padded_heads
from ckd_trainer.models.importance import Importance, importance, rewire
from ckd_trainer.models.linear_layers import linear_layers
from ckd_trainer.models.student import student_from_layers
from ckd_trainer.models.subnetworks import (
    DYNAMIC,
    DynamicArguments,
    SubNetwork,
    check_dynamic,
    record_subnetworks,
    subnetworks_of,
)
from ckd_trainer.utils.errors import InputError

LENGTHS = {"vocab_size": 50, "max_position_embeddings": 40, "initializer_range": 0.3}
SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 32} | LENGTHS
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "camembert": CamembertConfig(**SIZES),
    "distilbert": DistilBertConfig(dim=24, n_layers=4, n_heads=4, hidden_dim=32, **LENGTHS),
    "electra": ElectraConfig(**SIZES, embedding_size=12),
    "mpnet": MPNetConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "xlm-roberta": XLMRobertaConfig(**SIZES),
}
PARTS = [
    SubNetwork(0.75, 1.0),  # 3 of 4 heads
    SubNetwork(0.5, 0.5),
    SubNetwork(0.25, 0.75),
    SubNetwork(0.1, 0.1),  # one head and one layer
]
families = pytest.mark.parametrize("family", CONFIGS)
parts = pytest.mark.parametrize("part", PARTS, ids=str)


def model_of(family="bert", auto_class=AutoModelForSequenceClassification):
    torch.manual_seed(0)
    model = auto_class.from_config(CONFIGS[family]).eval()
    with torch.no_grad():  # biases are zero at first
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model.double()  # of weights that float32 holds, in which new models are made


def batch_of():
    ids = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def loss_of(model):
    return lambda: model(**batch_of(), labels=torch.tensor([0, 1, 1])).loss


def importance_of(model):
    return importance(model, [loss_of(model)])


def outputs_of(model, part=None):
    """Logits, and all hidden states."""
    if part is not None:
        with DynamicModel(model).running(part):
            return outputs_of(model)
    outputs = model(**batch_of(), output_hidden_states=True)
    logits = outputs["logits"] if "logits" in outputs else torch.stack([outputs.start_logits, outputs.end_logits])
    return [logits, *outputs.hidden_states]


def test_every_family_is_tested():
    assert {config.model_type for config in CONFIGS.values()} == set(DYNAMIC)


@pytest.mark.parametrize(
    ("depth", "layers", "kept"),
    [
        (1.0, 12, list(range(1, 13))),
        (0.75, 12, [1, 2, 3, 4, 5, 6, 7, 8, 12]),
        (0.5, 12, [1, 2, 3, 4, 5, 12]),
        (0.5, 6, [1, 2, 6]),
        (0.55, 20, [*range(1, 11), 20]),
        (0.01, 6, [6]),
    ],
)
def test_the_first_layers_and_the_last_are_kept(depth, layers, kept):
    assert SubNetwork(depth=depth).layers(BertConfig(num_hidden_layers=layers)) == kept


@pytest.mark.parametrize("recorded", [[1, 0.5], [1, 0.5, [1, 3]]])
def test_other_layers_are_not_taken_for_these(recorded):
    config = BertConfig(num_hidden_layers=4)
    record_subnetworks(config, [SubNetwork(), SubNetwork(depth=0.5)])
    assert subnetworks_of(config) == [SubNetwork(), SubNetwork(depth=0.5)]
    config.subnetworks[1] = recorded
    with pytest.raises(InputError, match=r"w1_d0.5 was trained by a version .* other layers than \[1, 4\]"):
        subnetworks_of(config)


def test_every_depth_has_layers_that_exist():
    for layers in range(1, 30):
        for percent in range(1, 101):
            kept = SubNetwork(depth=percent / 100).layers(BertConfig(num_hidden_layers=layers))
            assert len(set(kept)) == len(kept) == max(1, round(percent / 100 * layers))
            assert 1 <= kept[0] and kept[-1] <= layers


def test_widths_have_at_least_one_head_and_neuron():
    config = BertConfig(num_attention_heads=12, intermediate_size=3072)
    sizes = [(SubNetwork(width).heads(config), SubNetwork(width).neurons(config)) for width in (1, 0.75, 0.25, 1e-9)]
    assert sizes == [(12, 3072), (9, 2304), (3, 768), (1, 1)]


def test_the_largest_sub_network_comes_first():
    parts = DynamicArguments("0.5, 1.0", "0.5,1").subnetworks
    assert list(map(str, parts)) == ["w1_d1", "w1_d0.5", "w0.5_d1", "w0.5_d0.5"]
    assert DynamicArguments().subnetworks == [SubNetwork()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_widths": "1.0,half"}, "student_widths is '1.0,half': give numbers such as"),
        ({"student_widths": ""}, "student_widths is ''"),
        ({"student_widths": "1.0,0"}, "student_widths has 0, but it is a share"),
        ({"student_depths": "1.0,nan"}, "student_depths has nan"),
        ({"student_depths": "2.0,1.0"}, "student_depths has 2"),
        ({"student_depths": "1.0,0.5,.5"}, "names a number twice"),
        ({"student_widths": "0.5,0.25"}, "the whole student is trained too: add 1.0"),
        ({"student_widths": "1.0,0.5", "subnetworks_per_step": 1}, "subnetworks_per_step is 1, .* give 2 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DynamicArguments(**options)


@families
def test_the_whole_model_is_unchanged(family):
    plain, model = model_of(family), model_of(family)
    DynamicModel(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(outputs_of(model, SubNetwork()), outputs_of(plain), strict=True):
        assert torch.equal(ours, theirs)


@families
@parts
def test_a_sub_network_is_the_model_without_the_other_heads_neurons_and_layers(family, part):
    """Zeros in the columns after heads and neurons, in a model with the kept layers, are a twin without slices."""
    model = model_of(family)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(part.layers(config))
    twin = student_from_layers(model, part.layers(model.config), config).double().eval()
    size = model.config.hidden_size // model.config.num_attention_heads
    with torch.no_grad():
        for layer in linear_layers(twin):
            twin.get_submodule(layer.out).weight[:, part.heads(config) * size :] = 0
            twin.get_submodule(layer.down).weight[:, part.neurons(config) :] = 0
    for ours, theirs in zip(outputs_of(model, part), outputs_of(twin), strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(outputs_of(model), outputs_of(model_of(family)), strict=True):
        assert torch.equal(ours, theirs)  # it runs whole again


@families
def test_the_gradient_of_a_sub_network_touches_its_slice_alone(family):
    model, part = model_of(family), SubNetwork(0.5, 0.5)
    with DynamicModel(model).running(part):
        model(**batch_of()).logits.square().sum().backward()
    kept = set(part.layers(model.config))
    for number, layer in enumerate(linear_layers(model), start=1):
        gradients = {name: model.get_submodule(name).weight.grad for name in (*layer.projections, *layer[1:])}
        if number not in kept:
            assert all(gradient is None for gradient in gradients.values())
            continue
        for name, gradient in gradients.items():
            rows, columns = gradient.shape
            inside = gradient[: rows // 2] if name in (*layer.projections, layer.up) else gradient[:, : columns // 2]
            outside = gradient[rows // 2 :] if name in (*layer.projections, layer.up) else gradient[:, columns // 2 :]
            assert inside.abs().sum() > 0 and outside.abs().max() == 0


def used(model, part):
    """Returns where the states that a sub-network computes have a gradient: {parameter: booleans}.

    That of biases of keys is 0, but for rounding.
    """
    model.zero_grad()
    with DynamicModel(model).running(part):
        model.base_model(**batch_of()).last_hidden_state.pow(3).sum().backward()
    return {
        name: torch.zeros_like(weight, dtype=torch.bool) if weight.grad is None else weight.grad.abs() > 1e-12
        for name, weight in model.named_parameters()
    }


@families
def test_sub_networks_nest(family):
    """All that a narrower or shallower sub-network uses is in the wider or deeper one, which uses more."""
    model = model_of(family)
    found = {part: used(model, part) for part in (SubNetwork(), *PARTS, SubNetwork(0.25, 0.5))}
    pairs = [
        (inner, outer)
        for inner, outer in itertools.permutations(found, 2)
        if inner.width <= outer.width and inner.depth <= outer.depth
    ]
    assert len(pairs) == 14
    for inner, outer in pairs:
        both = [(found[inner][name], found[outer][name]) for name in found[outer]]
        assert not any((ours & ~theirs).any() for ours, theirs in both), (inner, outer)
        assert sum(ours.sum() for ours, _ in both) < sum(theirs.sum() for _, theirs in both), (inner, outer)


def test_layers_nest():
    for layers in range(1, 30):
        config = BertConfig(num_hidden_layers=layers)
        kept = [set(SubNetwork(depth=percent / 100).layers(config)) for percent in range(1, 101)]
        assert all(inner <= outer for inner, outer in itertools.pairwise(kept))


@families
@parts
def test_slices_are_not_copied(family, part, monkeypatch):
    """The weights that linear layers compute with lie in the memory of the whole ones."""
    model, computed_with, linear = model_of(family), [], F.linear

    def recorded(inputs, weight, bias=None):
        computed_with.extend([weight] if bias is None else [weight, bias])
        return linear(inputs, weight, bias)

    monkeypatch.setattr(F, "linear", recorded)
    outputs_of(model, part)
    whole = {weight.untyped_storage().data_ptr(): weight for weight in model.parameters()}
    cut = 0
    for weight in computed_with:
        cut += weight.numel() < whole[weight.untyped_storage().data_ptr()].numel()
    # Of each layer, four projections and two linear layers are cut, and the biases of four of them.
    assert cut == 10 * len(part.layers(model.config))


@families
def test_rewiring_changes_no_output(family):
    model = model_of(family)
    before, weights = outputs_of(model), copy.deepcopy(model.state_dict())
    rewire(model, importance_of(model))
    assert any(not torch.equal(weights[name], value) for name, value in model.state_dict().items())
    for ours, theirs in zip(outputs_of(model), before, strict=True):
        torch.testing.assert_close(ours, theirs)


@families
def test_after_rewiring_the_most_important_come_first(family):
    model = model_of(family)
    rewire(model, importance_of(model))
    found = importance_of(model)
    for each in found:
        assert torch.equal(each.neurons, each.neurons.sort(descending=True).values)
    heads = [each.heads for each in found]
    for values in [sum(heads)] if family == "mpnet" else heads:
        assert torch.equal(values, values.sort(descending=True).values)


def test_importance_is_the_derivative_by_a_mask_of_heads_and_neurons():
    """By finite differences: the outputs of a head are multiplied by x, and a neuron's weights before or after it."""
    model, step = model_of(), 1e-6
    (found, *_), layer = importance_of(model), linear_layers(model)[0]
    out, up, down = (model.get_submodule(name) for name in layer[1:])

    def derivative(change):
        losses = []
        for factor in (1 + step, 1 - step):
            kept = copy.deepcopy(model.state_dict())
            with torch.no_grad():
                change(factor)
                losses.append(loss_of(model)().item())
            model.load_state_dict(kept)
        return (losses[0] - losses[1]) / (2 * step)

    for head in range(4):
        assert found.heads[head].item() == pytest.approx(
            abs(derivative(lambda x, head=head: out.weight[:, 6 * head : 6 * head + 6].mul_(x))), rel=1e-4, abs=1e-9
        )
    for neuron in (0, 7):
        before = derivative(lambda x, neuron=neuron: (up.weight[neuron].mul_(x), up.bias[neuron].mul_(x)))
        after = derivative(lambda x, neuron=neuron: down.weight[:, neuron].mul_(x))
        assert found.neurons[neuron].item() == pytest.approx(abs(before) + abs(after), rel=1e-4, abs=1e-9)


def test_importance_adds_up_batch_by_batch_without_adding_gradients():
    model = model_of()
    losses = [loss_of(model), lambda: -2 * loss_of(model)()]
    once, both = importance(model, losses[:1]), importance(model, losses)
    for one, sum_of_two in zip(once, both, strict=True):
        torch.testing.assert_close(sum_of_two, Importance(3 * one.heads, 3 * one.neurons))
    assert all(parameter.grad is None for parameter in model.parameters())


@families
@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModelForQuestionAnswering])
def test_an_extracted_model_computes_the_same(family, auto_class):
    for part in PARTS:
        model = model_of(family, auto_class)
        expected = outputs_of(model, part)
        plain = extract(model, part)
        assert type(plain) is type(model)
        for ours, theirs in zip(outputs_of(plain), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_bare_encoder_is_extracted(family):
    """Its modules have shorter names than those of the encoder in a model with a head."""
    for part in PARTS:
        model = model_of(family, AutoModel)
        with DynamicModel(model).running(part):
            expected = model(**batch_of()).last_hidden_state
        torch.testing.assert_close(extract(model, part)(**batch_of()).last_hidden_state, expected)


def test_an_extracted_model_loads_without_this_package(tmp_path):
    model, part = model_of().float(), SubNetwork(0.5, 0.5)
    expected = outputs_of(model, part)[0]
    extract(model, part).save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.eval()(**batch_of()).logits, expected, rtol=1e-5, atol=1e-5)
    assert (loaded.config.num_hidden_layers, loaded.config.num_attention_heads) == (2, 2)
    assert loaded.config.intermediate_size == 16


@pytest.mark.parametrize(("width", "heads"), [(1.0, 12), (0.75, 12), (0.5, 6), (5 / 12, 6), (0.25, 3), (0.01, 1)])
def test_heads_are_padded_to_the_next_divisor_of_the_hidden_size(width, heads):
    assert padded_heads(BertConfig(hidden_size=384, num_attention_heads=12), SubNetwork(width)) == heads


def test_other_families_are_refused():
    config = ModernBertConfig(**SIZES, pad_token_id=0)
    with pytest.raises(InputError, match="modernbert students cannot have several widths and depths"):
        check_dynamic(config, [])
    with pytest.raises(InputError, match="modernbert"):
        DynamicModel(AutoModel.from_config(config))
    with pytest.raises(InputError, match="a decoder"):
        check_dynamic(BertConfig(is_decoder=True), [])


def test_sub_networks_of_the_same_size_are_refused():
    config = BertConfig(**SIZES)
    check_dynamic(config, DynamicArguments("1,0.75,0.5,0.25", "1,0.75,0.5").subnetworks)
    config.intermediate_size = 4
    with pytest.raises(InputError, match="student_widths has 0.5 and 0.45, which are the same"):
        check_dynamic(config, DynamicArguments("1,0.5,0.45").subnetworks)
    with pytest.raises(InputError, match="student_depths has 0.5 and 0.45, which are the same"):
        check_dynamic(config, DynamicArguments("1", "1,0.5,0.45").subnetworks)


@families
def test_layers_keep_their_classes(family):
    """Other tools, such as dynamic quantization, look for layers of exactly these classes."""
    model, plain = model_of(family), model_of(family)
    sizes = {name: vars(module) for name, module in plain.named_modules()}
    with pytest.raises(RuntimeError, match="while it runs"), DynamicModel(model).running(SubNetwork(0.5, 0.5)):
        raise RuntimeError("while it runs")
    for name, module in model.named_modules():
        assert type(module) is type(plain.get_submodule(name))
        assert vars(module).keys() == sizes[name].keys()
        assert getattr(module, "all_head_size", None) == sizes[name].get("all_head_size")


def test_linear_layers_that_are_not_plain_are_refused():
    class Quantized(torch.nn.Linear):
        pass

    model = model_of()
    model.bert.encoder.layer[1].intermediate.dense.__class__ = Quantized
    with pytest.raises(InputError, match="a .*Quantized, not a plain layer"):
        DynamicModel(model)


def test_heads_of_a_sub_network_scale_scores_as_before():
    """The size of a head is larger in the extracted model, by which attention divides."""
    model = model_of()
    plain = extract(model, SubNetwork(0.5))
    query = linear_layers(plain)[0].projections[0]
    rows = plain.get_submodule(query).weight[:6]
    torch.testing.assert_close(rows, math.sqrt(2) * model.get_submodule(query).weight[:6])
