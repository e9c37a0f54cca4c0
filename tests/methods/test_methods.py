"""Methods beside CKD in the trainer: their terms, what they need of the models, and how they combine."""

import pytest
import torch
from helpers import method_reference as slow
from helpers.commands import STUDENT
from helpers.reference import classification_logit_loss
from helpers.tiny import no_dropout, tiny_config, tiny_model
from helpers.training import examples, logs, pad, trainer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    TrainingArguments,
)

import run_glue_ckd
from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.methods import (
    METHODS,
    AttributionArguments,
    DistilBERTArguments,
    GramArguments,
    MiniLMArguments,
    MiniLMv2Arguments,
    PKDArguments,
    TinyBERTArguments,
)
from ckd_trainer.utils.errors import InputError

SETTINGS = {
    "pkd": PKDArguments(pkd_weight=0.5),
    "pkd of all tokens": PKDArguments(pkd_weight=0.5, pkd_tokens="all", pkd_layer_mapping="1:2,2:4"),
    "cosine": DistilBERTArguments(distilbert_cosine_weight=0.5),
    "gram": GramArguments(gram_weight=0.5),
    "centered gram": GramArguments(gram_weight=0.5, gram_centered=True, gram_layer_mapping="skip"),
    "tinybert": TinyBERTArguments(
        tinybert_embedding_weight=0.25, tinybert_hidden_weight=0.5, tinybert_attention_weight=0.5
    ),
    "tinybert separate": TinyBERTArguments(
        tinybert_embedding_weight=0.25, tinybert_hidden_weight=0.5, tinybert_projection="separate"
    ),
    "tinybert identity": TinyBERTArguments(
        tinybert_embedding_weight=0.25, tinybert_hidden_weight=0.5, tinybert_projection="identity"
    ),
    "minilm": MiniLMArguments(minilm_attention_weight=0.5, minilm_value_weight=0.25),
    "minilmv2": MiniLMv2Arguments(minilmv2_weight=0.5, minilmv2_heads=4, minilmv2_teacher_layer=3),
    "attribution": AttributionArguments(attribution_weight=0.5, attribution_top_k=20),
}
LIKE_ANOTHER = (
    "pkd of all tokens",
    "centered gram",
    "tinybert separate",
    "tinybert identity",
)  # of which little is their own
each_method = pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name in LIKE_ANOTHER else ()) for name in SETTINGS]
)
LOGITS = CKDArguments.without_relations(alpha=0.5)


def distil(folder, method, *, student=None, teacher=None, ckd_args=LOGITS, **kwargs):
    """Returns a trainer of a student of 2 layers and a teacher of 4."""
    return trainer(
        DistillationTrainer,
        folder,
        student or no_dropout(layers=2),
        teacher_model=teacher or tiny_model(seed=1),
        ckd_args=ckd_args,
        methods=[SETTINGS[method] if isinstance(method, str) else method],
        **kwargs,
    )


def projected(outputs, model, layer):
    """Returns query, key and value of a layer, from the state below it."""
    attention = model.bert.encoder.layer[layer - 1].attention.self
    below = outputs.hidden_states[layer - 1]
    return [getattr(attention, name)(below) for name in ("query", "key", "value")]


def slow_terms(method, ours, theirs, mask, lines):
    """Returns the terms from two models' states, projections and logits (states, {layer: (q, k, v)}, logits).

    lines: the learned linear layers.
    """
    states, projections, logits = zip(ours, theirs, strict=True)

    def of(layers, loss, *more):
        return sum(loss(states[0][s], states[1][t], *more) for s, t in layers) / len(layers)

    def relation(x, y, heads, layers):
        sides = [(side[layer][x], side[layer][y]) for side, layer in zip(projections, layers, strict=True)]
        return slow.attention_relation_loss(*sides, mask, heads)

    first = torch.zeros_like(mask)
    first[:, 0] = 1
    if method == "pkd":
        return {"pkd": of([(1, 2)], slow.normalized_state_loss, first)}
    if method == "pkd of all tokens":
        return {"pkd": of([(1, 2), (2, 4)], slow.normalized_state_loss, mask)}
    if method == "cosine":
        return {"distilbert_cosine": of([(2, 4)], slow.cosine_loss, mask)}
    if method == "gram":
        return {"gram": of([(0, 0), (1, 2), (2, 4)], slow.gram_matrix_loss, mask, False)}
    if method == "centered gram":
        return {"gram": of([(1, 2), (2, 4)], slow.gram_matrix_loss, mask, True)}
    if method.startswith("tinybert"):
        lines = lines or [torch.nn.Identity()]
        hidden = [slow.state_loss(lines[-1](states[0][s]), states[1][t], mask) for s, t in [(1, 2), (2, 4)]]
        embedding = slow.state_loss(lines[0](states[0][0]), states[1][0], mask)
        terms = {"tinybert_embedding": embedding, "tinybert_hidden": sum(hidden)}
        if method == "tinybert":
            sides = [
                [tuple(side[layer][:2]) for side, layer in zip(projections, layers, strict=True)]
                for layers in [(1, 2), (2, 4)]
            ]
            terms["tinybert_attention"] = sum(slow.attention_score_loss(*side, mask, 2) for side in sides)
        return terms
    if method == "attribution":
        # Of the first class: the second has the same.
        maps = [
            slow.attributions(side.log_softmax(-1)[:, :1], state[0], mask, top_k)
            for side, state, top_k in zip(logits, states, (None, 20), strict=True)
        ]
        return {"attribution": slow.attribution_loss(*maps, mask)}
    if method == "minilm":
        return {"minilm_attention": relation(0, 1, 2, (2, 4)), "minilm_value": relation(2, 2, 2, (2, 4))}
    return {"minilmv2": sum(relation(part, part, 4, (2, 3)) for part in range(3))}


@each_method
def test_a_step_is_the_twins(tmp_path, method):
    """Terms and gradient of a batch with padding, from the models' own outputs."""
    run = distil(tmp_path, method)
    if run._projections is not None:
        run._projections.attach()
    student, teacher = run.model.double().train(), run.teacher_model.double()
    batch = pad(list(examples(4)))
    terms, _ = run._terms(student, batch, None)
    sides = []
    teacher.requires_grad_()  # for attributions
    for model in (student, teacher):
        outputs = model(**batch, output_hidden_states=True)
        depth = model.config.num_hidden_layers
        layers = {layer: projected(outputs, model, layer) for layer in range(1, depth + 1)}
        sides.append((outputs.hidden_states, layers, outputs.logits))
    lines = [line for line in getattr(student, "distillation", torch.nn.Module()).modules() if hasattr(line, "bias")]
    expected = slow_terms(method, *sides, batch["attention_mask"], lines)
    assert terms.keys() - {"task", "logits"} == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-6, atol=1e-9)
    weights = [parameter for name, parameter in student.named_parameters() if "encoder" in name]
    fast, twin = (
        torch.autograd.grad(sum(found[name] for name in expected), weights, allow_unused=True, retain_graph=True)
        for found in (terms, expected)
    )
    for ours, theirs in zip(fast, twin, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_minilm_reads_the_models_own_attention(tmp_path):
    """softmax(Q K^T / sqrt(d)) of the captured projections is what the model returns."""
    run = distil(tmp_path, "minilm")
    batch = pad(list(examples(4)))
    (term,) = (term for name, term in run.distillation_objective.terms.items() if name == "minilm_attention")
    ((query, key, _),) = run.teacher(batch)[term.teacher_signal]
    torch.manual_seed(1)
    eager = BertForSequenceClassification._from_config(tiny_config(), attn_implementation="eager").eval()
    eager.load_state_dict(run.teacher_model.state_dict())
    own = eager(**batch, output_attentions=True).attentions[3]
    heads = [side.unflatten(-1, (2, -1)).transpose(1, 2) for side in (query, key)]
    scores = heads[0] @ heads[1].mT / 16**0.5
    mask = batch["attention_mask"].bool()
    found = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    torch.testing.assert_close(found, own)


@pytest.mark.parametrize("method", [name for name in SETTINGS if "tinybert" not in name])
def test_zero_where_student_is_teacher(tmp_path, method):
    student = no_dropout()
    teacher = no_dropout()
    method = {"pkd of all tokens": PKDArguments(pkd_weight=1, pkd_tokens="all", pkd_layer_mapping="last"), "minilmv2":
              MiniLMv2Arguments(minilmv2_weight=1, minilmv2_heads=4),
              "attribution": AttributionArguments(attribution_weight=1)}.get(method, method)  # fmt: skip
    run = distil(tmp_path, method, student=student, teacher=teacher)
    terms, _ = run._terms(run.model.train(), pad(list(examples(4))), None)
    assert all(terms[name].abs() < 1e-6 for name in terms if name != "task")


@each_method
def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path, method):
    """1 x 8 = 2 x 4 = 8 x 1, balanced by the gradient."""
    weights = []
    for size in (8, 4, 1):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        # AdamW would make steps of rounding, where the gradient is 0 as for the biases of keys.
        options |= {"optim": "sgd", "learning_rate": 0.1}
        run = distil(tmp_path / str(size), method, train=examples(8), options=options)
        run.train()
        weights.append(list(run.model.parameters()))
    for whole, *parts in zip(*weights, strict=True):
        for part in parts:
            torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["pkd", "gram", "centered gram", "attribution"])
def test_cached_is_live(tmp_path, method):
    both = []
    for cache in (None, str(tmp_path / "cache")):
        ckd_args = CKDArguments.without_relations(alpha=0.5, teacher_cache_dir=cache)
        run = distil(tmp_path / str(bool(cache)), method, ckd_args=ckd_args, steps=4)
        run.train()
        both.append(logs(run))
    for live, cached in zip(*both, strict=True):
        terms = [name for name in live if name.startswith(("loss", "scale"))]
        assert len(terms) == 5
        assert [cached[name] for name in terms] == pytest.approx([live[name] for name in terms], rel=1e-3)


@pytest.mark.parametrize("method", ["pkd of all tokens", "cosine", "tinybert", "minilm", "minilmv2"])
def test_what_is_too_large_for_a_cache_is_refused(tmp_path, method):
    ckd_args = CKDArguments.without_relations(teacher_cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError, match="a cache cannot hold the teacher's signal for .*: it is too large to store"):
        distil(tmp_path, method, ckd_args=ckd_args)


@pytest.mark.parametrize(
    "method", ["gram", "centered gram", "tinybert", "tinybert separate", "minilm", "minilmv2", "attribution"]
)
def test_widths_may_differ(tmp_path, method):
    run = distil(tmp_path, method, student=no_dropout(layers=2, width=16))
    run.train()
    assert logs(run)[0]["nonfinite_steps"] == 0 and all(scale > 0 for scale in run.scales.values())


def mpnet():
    config = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 40}
    torch.manual_seed(0)
    return MPNetForSequenceClassification(MPNetConfig(num_hidden_layers=4, max_position_embeddings=40, **config))


NARROW = {"layers": 2, "width": 16}
REFUSED = {
    "pkd of other widths": (PKDArguments(pkd_weight=1), NARROW, "width 16 .student. and 32 .teacher."),
    "cosine of other widths": (DistilBERTArguments(distilbert_cosine_weight=1), NARROW, "set distilbert_cos"),
    "pkd of one layer": (PKDArguments(pkd_weight=1), {"layers": 1}, "give pairs such as 1:4"),
    "pkd of layers that are not there": (
        PKDArguments(pkd_weight=1, pkd_layer_mapping="1:9"), {"layers": 2}, "pkd_layer_mapping: layer mapping 1:9 na",
    ),
    "gram of layers that are not there": (
        GramArguments(gram_weight=1, gram_layer_mapping="3:4"), {"layers": 2}, "gram_layer_mapping: ",
    ),
    "relation heads": (MiniLMv2Arguments(minilmv2_weight=1), {"layers": 2}, "48, which does not divide the student"),
    "a layer that is not there": (
        MiniLMArguments(minilm_value_weight=1, minilm_teacher_layer=5), {"layers": 2},
        "minilm_teacher_layer is 5, but the teacher has 4 layers",
    ),
    "dimensions that are not there": (
        AttributionArguments(attribution_weight=1, attribution_top_k=33), NARROW,
        "attribution_top_k is 33, but the teacher's embeddings have 32 dimensions: give fewer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_pairs_that_do_not_fit_are_refused(tmp_path, name):
    method, student, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        distil(tmp_path, method, student=no_dropout(**student))


def test_minilm_needs_equal_heads_and_plain_attention(tmp_path):
    student = no_dropout(layers=2)
    student.config.num_attention_heads = 4
    with pytest.raises(InputError, match="the student has 4 attention heads and the teacher 2: set it to 0"):
        distil(tmp_path, "minilm", student=student)
    student = mpnet()
    with pytest.raises(InputError, match="the attention of mpnet models also depends on positions"):
        distil(tmp_path, "minilm", student=student, teacher=mpnet())
    distil(tmp_path, MiniLMArguments(minilm_value_weight=1), student=student, teacher=mpnet())


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (PKDArguments, {"pkd_weight": -1}, "pkd_weight is -1: give 0 to turn the term off"),
        (PKDArguments, {"pkd_layer_mapping": "uniform"}, "pkd_layer_mapping is 'uniform': give skip, last, or pairs"),
        (PKDArguments, {"pkd_layer_mapping": "1-2"}, "pkd_layer_mapping is '1-2': give skip, last, or pairs"),
        (GramArguments, {"gram_weight": float("nan")}, "gram_weight is nan"),
        (GramArguments, {"gram_layer_mapping": "all"}, "gram_layer_mapping: 'all' is not a layer mapping"),
        (TinyBERTArguments, {"tinybert_layer_mapping": "emb+skip"}, "matches embeddings, which tinybert_embedding_w"),
        (TinyBERTArguments, {"tinybert_layer_mapping": "0:0"}, "matches embeddings, which tinybert_embedding_weight"),
        (MiniLMArguments, {"minilm_teacher_layer": 0}, "minilm_teacher_layer is 0: give 1 or more"),
        (AttributionArguments, {"attribution_top_k": 0}, "attribution_top_k is 0: give 1 or more"),
        (MiniLMv2Arguments, {"minilmv2_heads": 0}, "minilmv2_heads is 0: give 1 or more"),
        (DistilBERTArguments, {"distilbert_cosine_weight": float("inf")}, "distilbert_cosine_weight is inf"),
    ],
)
def test_options_are_checked(method, options, words):
    with pytest.raises(InputError, match=words):
        method(**options)


@pytest.mark.parametrize("loss", ["reverse_kl", "skewed_kl", "mse"])
def test_losses_of_logits(tmp_path, loss):
    """The term of a step, its name in the plan, and a score, which has one loss only."""
    run = distil(
        tmp_path, "gram", ckd_args=CKDArguments.without_relations(alpha=0.5, temperature=2.0, logit_loss=loss)
    )
    batch = pad(list(examples(4)))
    terms, outputs = run._terms(run.model.train(), batch, None)
    theirs = run.teacher_model(**batch).logits
    slow_loss = classification_logit_loss(outputs["logits"], theirs, temperature=2.0, loss=loss)
    torch.testing.assert_close(terms["logits"].double(), slow_loss, rtol=1e-5, atol=1e-6)
    assert f"0.5 logits ({loss})" in run.distillation_objective.describe()
    score = {"num_labels": 1, "problem_type": "regression", "num_hidden_layers": 2}
    models = [BertForSequenceClassification(BertConfig(**tiny_config().to_diff_dict() | score)) for _ in range(2)]
    with pytest.raises(InputError, match=f"logit_loss is {loss}, but the model predicts a score"):
        distil(tmp_path, "gram", student=models[0], teacher=models[1], ckd_args=run.ckd_args)


ALL = [
    method for name, method in SETTINGS.items() if name in ("pkd", "cosine", "gram", "tinybert", "minilm", "minilmv2")
]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", [BertForTokenClassification, BertForMaskedLM, BertForQuestionAnswering, BertModel])
def test_other_heads(tmp_path, kind, side):
    """All methods at once; padding on either side changes nothing but the positions of the models."""
    models = []
    for layers, seed in ((2, 0), (4, 1)):
        torch.manual_seed(seed)
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        models.append(kind(tiny_config(layers=layers, **off)))

    def collate(rows):
        length = max(len(row["input_ids"]) for row in rows)
        batch = {name: [] for name in ("input_ids", "attention_mask", "position_ids")}
        for row in rows:
            count, missing = len(row["input_ids"]), [0] * (length - len(row["input_ids"]))
            columns = (row["input_ids"], [1] * count, list(range(count)))
            for name, values in zip(batch, columns, strict=True):
                batch[name].append(missing + values if side == "left" else values + missing)
        batch = {name: torch.tensor(values) for name, values in batch.items()}
        if kind is BertForQuestionAnswering:
            first = batch["attention_mask"].argmax(-1)
            batch |= {"start_positions": first, "end_positions": first + 1, "answer_mask": batch["attention_mask"]}
        elif kind is not BertModel:
            batch["labels"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"] % 2, -100)
        return batch

    ckd_args = CKDArguments.without_relations(alpha=0)
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True, remove_unused_columns=False)
    run = DistillationTrainer(
        model=models[0], teacher_model=models[1], ckd_args=ckd_args, methods=ALL, args=args, data_collator=collate,
        train_dataset=examples(6),
    )  # fmt: skip
    run._projections.attach()
    terms, _ = run._terms(run.model.train(), collate(list(run.train_dataset)), None)
    ones = [run._terms(run.model, collate([row]), None)[0] for row in run.train_dataset]
    assert len(terms) == (9 if kind is BertModel else 10) and all(value.isfinite() for value in terms.values())
    for name in ("pkd", "gram", "minilm_attention", "minilm_value", "minilmv2"):  # means over examples
        torch.testing.assert_close(terms[name], sum(one[name] for one in ones) / len(ones), rtol=1e-4, atol=1e-6)


def test_causal_models(tmp_path):
    """What compares each token with all others, or reads the first alone, is refused."""
    models = [BertLMHeadModel(tiny_config(layers=layers, is_decoder=True)) for layers in (2, 4)]
    for name in ("pkd", "minilm", "minilmv2", "tinybert"):
        with pytest.raises(InputError, match="causal model does not see"):
            distil(tmp_path, name, student=models[0], teacher=models[1])
    for name in ("pkd of all tokens", "cosine", "gram", "tinybert separate"):
        distil(tmp_path, name, student=models[0], teacher=models[1])


@pytest.mark.parametrize("method", ["tinybert", "minilmv2", "attribution"])
def test_gradient_checkpointing_changes_no_step(tmp_path, method):
    weights = []
    for checkpointing in (False, True):
        options = {"gradient_checkpointing": checkpointing, "optim": "sgd", "learning_rate": 0.1}
        options |= {"gradient_checkpointing_kwargs": {"use_reentrant": False}} if checkpointing else {}
        run = distil(tmp_path / str(checkpointing), method, train=examples(8), options=options, steps=2)
        run.train()
        weights.append(list(run.model.parameters()))
    for plain, checkpointed in zip(*weights, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_every_method_is_off_by_default():
    assert [method().weights for method in METHODS] == [{}] * len(METHODS)


def test_published_layers_of_pkd(tmp_path):
    """12 to 6 layers: 1 to 5 with 2, 4, 6, 8, 10, or with 7 to 11."""
    for layers, teacher in (("skip", (2, 4, 6, 8, 10)), ("last", (7, 8, 9, 10, 11))):
        method = PKDArguments(pkd_weight=1, pkd_layer_mapping=layers)
        run = distil(tmp_path, method, student=no_dropout(layers=6), teacher=tiny_model(layers=12))
        term = run.distillation_objective.terms["pkd"]
        assert (term.student_signal.layers, term.teacher_signal.layers) == ((1, 2, 3, 4, 5), teacher)


def test_a_method_alone_needs_a_teacher_and_no_other_term(tmp_path):
    control = CKDArguments.fine_tuning()
    run = distil(tmp_path, "gram", ckd_args=control)
    run.train()
    assert set(run.distillation_objective.weights) == {"task", "gram"} and run.scales["gram"] > 0
    with pytest.raises(InputError, match="no teacher is given, but the terms gram have a weight"):
        trainer(DistillationTrainer, tmp_path, no_dropout(layers=2), ckd_args=control, methods=[SETTINGS["gram"]])


def test_methods_by_script(tiny_teacher, text_files, tmp_path, capsys):
    """All at once, beside CKD; the recipe of the run trains the same student again."""
    options = [
        "--pkd_weight",
        "0.2",
        "--distilbert_cosine_weight",
        "0.2",
        "--gram_weight",
        "0.2",
        "--minilmv2_weight",
        "0.2",
    ]
    options += ["--minilmv2_heads", "2", "--minilm_value_weight", "0.2", "--minilm_attention_weight", "0.2"]
    quick = ["--max_steps", "3", "--logging_steps", "1", "--report_to", "none", "--disable_tqdm", "true"]
    command = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *text_files, *quick, "--do_train"]
    run_glue_ckd.main([*command, "--output_dir", str(tmp_path / "one"), *options])
    recipe = tmp_path / "one" / "recipe.yaml"
    assert "minilmv2_heads: 2" in recipe.read_text()
    run_glue_ckd.main([str(recipe), "--output_dir", str(tmp_path / "two")])
    students = [AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("one", "two")]
    for ours, theirs in zip(*(student.parameters() for student in students), strict=True):
        assert torch.equal(ours, theirs)
    card = (tmp_path / "one" / "README.md").read_text()
    assert "minilmv2" in card and "PKD on layers 1:2" in card

    alone = ["--alpha", "0", *(f"--{a}_{b}_weight=0" for a in ("wr", "ltr") for b in ("distance", "angle"))]
    run_glue_ckd.main([*command, "--output_dir", str(tmp_path / "three"), *alone, "--gram_weight", "1"])
    with pytest.raises(SystemExit):
        run_glue_ckd.main([*command, "--output_dir", str(tmp_path / "four"), "--minilmv2_weight", "1"])
    assert "minilmv2_heads is 48, which does not divide" in capsys.readouterr().err
    assert not (tmp_path / "four").exists()
