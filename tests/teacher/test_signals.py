"""Signals against the model's own numbers, and through the columns of a cache."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification as Auto
from transformers import (
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from ckd_trainer.heads import Classes, MultiLabel, Score, Spans, Tokens
from ckd_trainer.losses import layer_gram, word_gram
from ckd_trainer.teacher.attributions import Attributions
from ckd_trainer.teacher.live import LiveTeacher
from ckd_trainer.teacher.signals import (
    Attentions,
    FirstToken,
    HiddenStates,
    LayerGram,
    Logits,
    QueryKeyValue,
    WordGram,
)
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import use_eager_attention

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 3}
LAYER = "encoder.layer.{}.attention"
FAMILIES = {  # the configuration, and by hand where the queries, keys and values of a layer are made
    "bert": (BertConfig(**SIZES), [f"bert.{LAYER}.self.{part}" for part in ("query", "key", "value")]),
    "roberta": (RobertaConfig(**SIZES), [f"roberta.{LAYER}.self.{part}" for part in ("query", "key", "value")]),
    "xlm-roberta": (XLMRobertaConfig(**SIZES), [f"roberta.{LAYER}.self.{part}" for part in ("query", "key", "value")]),
    "camembert": (CamembertConfig(**SIZES), [f"roberta.{LAYER}.self.{part}" for part in ("query", "key", "value")]),
    "electra": (ElectraConfig(**SIZES), [f"electra.{LAYER}.self.{part}" for part in ("query", "key", "value")]),
    "distilbert": (
        DistilBertConfig(dim=16, n_heads=2, hidden_dim=16, n_layers=3),
        [f"distilbert.transformer.layer.{{}}.attention.{part}_lin" for part in "qkv"],
    ),
    "mpnet": (MPNetConfig(**SIZES), [f"mpnet.{LAYER}.attn.{part}" for part in "qkv"]),
    "deberta-v2": (
        # As in DeBERTa-v3, the same modules project the relative positions, too.
        DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True),
        [f"deberta.{LAYER}.self.{part}_proj" for part in ("query", "key", "value")],
    ),
    "modernbert": (ModernBertConfig(**SIZES, vocab_size=60, pad_token_id=0), ["model.layers.{}.attn.Wqkv"]),
}


def made(config):
    torch.manual_seed(0)
    config.vocab_size = 60
    return Auto.from_config(config).eval()


def batch_of(rng):
    ids = torch.randint(5, 60, (3, 7), generator=rng)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_keys_and_values(rng, family):
    """What the projections make of the state before the layer, normalized first in ModernBERT."""
    config, places = FAMILIES[family]
    model, batch = made(config), batch_of(rng)
    signal = QueryKeyValue((1, 3))
    teacher = LiveTeacher(model, [signal, HiddenStates((0, 2))])
    for _ in range(2):  # what was heard before is forgotten
        read = teacher(batch)
    for place, state, (query, key, value) in zip((0, 2), read[HiddenStates((0, 2))], read[signal], strict=True):
        if family == "modernbert":
            state = model.get_submodule(f"model.layers.{place}.attn_norm")(state)
        made_by_hand = [model.get_submodule(name.format(place))(state) for name in places]
        expected = made_by_hand if len(places) == 3 else [part.contiguous() for part in made_by_hand[0].chunk(3, -1)]
        for ours, theirs in zip((query, key, value), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
            assert ours.shape == (3, 7, 16)


def test_queries_and_keys_make_the_attentions(rng):
    model, batch = made(FAMILIES["bert"][0]), batch_of(rng)
    use_eager_attention(model)
    signals = [Attentions((2,)), QueryKeyValue((2,))]
    read = LiveTeacher(model, signals)(batch)
    (attention,), ((query, key, _),) = (read[signal] for signal in signals)
    query, key = (part.view(3, 7, 2, 8).transpose(1, 2) for part in (query, key))
    scores = query @ key.mT / 8**0.5
    scores = scores.masked_fill(~batch["attention_mask"][:, None, None].bool(), torch.finfo(scores.dtype).min)
    torch.testing.assert_close(attention, scores.softmax(-1))


def test_modernbert_with_eager_attention(rng):
    """As if it had been made with it: also in transformers 5.6, which does not set it."""
    options = SIZES | {"pad_token_id": 0, "local_attention": 4}
    eager = {"attn_implementation": "eager"}
    switched, made_eager = (made(ModernBertConfig(**options, **more)) for more in ({}, eager))
    assert switched.config._attn_implementation == "sdpa"
    use_eager_attention(switched)
    batch = batch_of(rng)
    ours, theirs = (model(**batch, output_attentions=True) for model in (switched, made_eager))
    assert torch.equal(ours.logits, theirs.logits) and len(ours.attentions) == len(theirs.attentions) == 3
    assert all(map(torch.equal, ours.attentions, theirs.attentions))


def test_a_family_whose_modules_are_unknown():
    model = Auto.from_config(GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=60))
    with pytest.raises(
        InputError, match="it is unknown which modules of gpt2 models compute them: give one of bert, camembert"
    ):
        LiveTeacher(model, [QueryKeyValue((1,))])


@pytest.mark.parametrize("family", FAMILIES)
def test_attributions(rng, family):
    """The gradient of the log odds by hidden state 0, times this state: its largest five elements for each token."""
    model, batch = made(FAMILIES[family][0]), batch_of(rng)
    outputs = model(**batch, output_hidden_states=True)
    state, logits = outputs.hidden_states[0], outputs.logits
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), state)
    expected = (gradient * state).abs().sort(-1, descending=True).values[..., :5].square().sum(-1).sqrt()
    signal = Attributions(Classes(), 1, 5)
    read = LiveTeacher(model, [signal])(batch)[signal]
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(read[:, 0][mask], expected[mask])
    assert read.shape == (3, 1, 7) and not read.requires_grad


def test_states_are_the_models_own(rng):
    model, batch = made(FAMILIES["bert"][0]), batch_of(rng)
    states = model(**batch, output_hidden_states=True).hidden_states
    signals = [WordGram((0, 3)), LayerGram((0, 1, 3)), FirstToken((1, 3), width=16), Logits(Classes(), 2)]
    read = LiveTeacher(model, signals)(batch)
    mask = batch["attention_mask"]
    for ours, theirs in (
        (read[signals[0]], word_gram([states[0], states[3]], mask)[0]),
        (read[signals[1]], layer_gram([states[0], states[1], states[3]], mask)[0]),
    ):
        torch.testing.assert_close(tuple(ours), tuple(theirs))
    first = read[signals[2]]
    for row, place in enumerate((0, 0, 2)):  # the last text is padded on the left
        for column, layer in enumerate((1, 3)):
            torch.testing.assert_close(first[row, column], states[layer][row, place])
    torch.testing.assert_close(read[signals[3]], model(**batch).logits)


@pytest.mark.parametrize("name", ["word", "layer", "first", "classes", "score", "tokens", "spans", "attributions"])
def test_columns_of_a_cache(rng, name):
    """Packed, cut to each example's own part, padded again and unpacked, a signal is what it was."""
    batch = batch_of(rng)
    mask = batch["attention_mask"]
    states = [torch.randn(3, 7, 5, generator=rng) for _ in range(4)]
    logits = {"classes": (Classes(), (3, 4)), "score": (Score(), (3, 1)), "tokens": (Tokens(), (3, 7, 4))}
    value = None
    if name == "attributions":
        signal, value = Attributions(Classes(), 3), torch.rand(3, 3, 7, generator=rng)
    elif name == "spans":
        outputs = {f"{end}_logits": torch.randn(3, 7, generator=rng) for end in ("start", "end")}
        signal = Logits(Spans(), 2)
    elif name in logits:
        head, shape = logits[name]
        signal, outputs = Logits(head, shape[-1]), {"logits": torch.randn(shape, generator=rng)}
    else:
        kinds = {"word": WordGram((0, 2)), "layer": LayerGram((0, 1, 3)), "first": FirstToken((1, 2), width=5)}
        signal, outputs = kinds[name], {"hidden_states": states}
    value = signal.read(outputs, batch) if value is None else value
    tokens = mask.sum(-1).numpy()
    stored, read = signal.pack(value, mask), {}
    for column, layout in signal.columns().items():
        sizes, values = layout.sizes(tokens), stored[column].numpy()
        read[column] = np.zeros_like(values)
        count = 0
        for row in range(3):
            own = (row, *(slice(size if isinstance(size, int) else size[row]) for size in sizes))
            read[column][own] = values[own]
            count += values[own].nbytes
        assert values.dtype == layout.dtype and count == layout.bytes(tokens).sum()
    back = signal.unpack({column: torch.from_numpy(values) for column, values in read.items()}, mask)
    if name in ("word", "layer"):
        torch.testing.assert_close(back.products, value.products, atol=2e-3, rtol=1e-3)
        back, value = back.offsets, value.offsets
    if name not in ("first", "classes", "score"):  # what masked tokens hold does not matter
        there = mask[:, None] if name in ("word", "spans", "attributions") else mask[..., None]
        back, value = back * there, value * there
    torch.testing.assert_close(back, value)


def test_keys_know_what_is_stored():
    """Options at their defaults are in no key: one that is added later makes no old cache foreign."""
    later = dataclasses.make_dataclass("WordGram", [("new", int, 3)], bases=(WordGram,), frozen=True)
    assert later((0, 2)).key == WordGram((0, 2)).key != later((0, 2), new=4).key
    assert WordGram((0, 2)).key == "WordGram(layers=(0, 2))" != WordGram((0, 3)).key
    assert Logits(Classes(), 3).key == "Logits(3)"
    assert Logits(Spans(), 2).key == "Logits(2, by token)"
    assert FirstToken((1,), width=8).key == "FirstToken(layers=(1,), width=8)"
    assert Attributions(Classes(), 3).key == "Attributions(3, classes)" != Attributions(MultiLabel(), 3).key
    assert Attributions(Classes(), 3, 700).key == "Attributions(3, classes, top 700)"
