"""A new head starts at the frequencies of the labels, or at the mean score; a trained one is left as it is."""

import numpy as np
import pytest
import torch
from helpers.families import FAMILIES, family_model
from helpers.tiny import save_base, save_tokenizer, tiny_model
from scipy.special import expit, softmax
from transformers import AutoTokenizer

from ckd_trainer import ModelArguments
from ckd_trainer.models.head_bias import center_at, log_frequencies, log_odds, start_at
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.utils.errors import InputError

NAMES = ["anger", "joy", "fear"]
EXAMPLES = [[1, 0, 0]] + [[0, 1, 0]] * 6 + [[0, 0, 0]] * 3  # 1, 6 and 0 of 10
STARTS = [np.log(1.5 / 9.5), np.log(6.5 / 4.5), np.log(0.5 / 10.5)]
IDS = torch.tensor([[2, 7, 9, 3], [2, 5, 8, 3]])


def load(texts=(), *, labels=NAMES, examples=EXAMPLES, several=True, **models):
    pair = ModelPair(ModelArguments(**models), terms=[], trains=True)
    pair.set_labels(labels, several=several, examples=examples)
    return pair.load(texts)[0].eval()


def classifier(folder, labels=NAMES):
    tiny_model(labels=labels, problem_type="multi_label_classification").save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


def test_log_odds_are_finite_and_give_the_frequencies():
    np.testing.assert_allclose(log_odds(EXAMPLES), STARTS)
    many = np.arange(10_000)[:, None] < [100, 2_500, 9_999]
    np.testing.assert_allclose(expit(log_odds(many)), [0.01, 0.25, 0.9999], atol=1e-4)
    assert np.isfinite(log_odds([[0, 1]])).all()


def test_log_frequencies_are_finite_and_give_the_frequencies():
    logits = log_frequencies(np.repeat([0, 1, 2], [6_000, 3_990, 10]), 4)
    np.testing.assert_allclose(softmax(logits), [0.6, 0.399, 0.001, 0], atol=1e-4)
    assert np.isfinite(logits).all() and np.mean(logits) == pytest.approx(0)
    assert log_frequencies([0, 1, 1, 0], 2) == [0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_of_every_family_are_shifted(family):
    model = family_model(family, layers=2, id2label=dict(enumerate(NAMES))).eval()
    before = model(IDS).logits
    start_at(model, STARTS)
    shift = model(IDS).logits - before
    wanted = torch.zeros(3) if family == "Llama" else torch.tensor(STARTS, dtype=torch.float32)  # it has no bias
    torch.testing.assert_close(shift, wanted.expand(2, 3), atol=1e-5, rtol=1e-5)


def test_new_heads_start_at_the_frequencies(tmp_path):
    base = str(save_base(tmp_path / "base"))
    other = classifier(tmp_path / "other", labels=["good", "bad"])
    for models in (
        {"model_name_or_path": base},
        {"model_name_or_path": other},
        {"model_name_or_path": base, "student_init": "random"},
        {"teacher_model_name_or_path": other, "student_init": "teacher_layers", "student_num_layers": 2},
    ):
        np.testing.assert_allclose(load(**models).classifier.bias.detach(), STARTS, rtol=1e-6)
        assert (load(examples=None, **models).classifier.bias == 0).all()


def test_a_new_head_of_classes_starts_at_their_frequencies(tmp_path):
    base = str(save_base(tmp_path / "base"))
    start = load(model_name_or_path=base, examples=[0] * 7 + [2] * 3, several=False).classifier.bias.detach()
    np.testing.assert_allclose(softmax(start), np.array([7.5, 0.5, 3.5]) / 11.5, rtol=1e-6)


def test_a_new_head_of_scores_starts_at_their_mean(tmp_path):
    base = str(save_base(tmp_path / "base"))
    options = {"model_name_or_path": base, "labels": None, "several": False}
    assert load(examples=[4.0, 4.5, 5.0], **options).classifier.bias.tolist() == [4.5]
    assert load(examples=None, **options).classifier.bias.tolist() == [0]


def test_trained_heads_are_left_as_they_are(tmp_path):
    trained = classifier(tmp_path / "trained", labels=["fear", "joy", "anger"])
    for models in (
        {"model_name_or_path": trained},
        {"teacher_model_name_or_path": trained, "student_init": "teacher_layers", "student_num_layers": 2},
    ):
        ours, theirs = (load(examples=examples, **models).state_dict() for examples in (EXAMPLES, None))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


TEXTS = [("the film is good",), ("a bad film",), ("it is what it is",)]


def start(folder, kind, layers="1,2", **config):
    """Returns a student of a teacher's layers, its weights without examples of labels, and the inputs of the texts.

    The weights of the teacher's head are so small that its outputs hardly differ between texts.
    """
    labels, outputs, examples = {
        "score": (None, ["score"], [4.0, 4.5, 5.0]),
        "classes": (NAMES, NAMES[::-1], [0] * 60 + [1] * 39 + [2]),  # in another order than the teacher's
        "several labels": (NAMES, NAMES[::-1], EXAMPLES),
    }[kind]
    problem = {"score": "regression", "several labels": "multi_label_classification"}.get(kind)
    teacher = tiny_model(labels=outputs, layers=3, problem_type=problem, **config)
    torch.nn.init.normal_(teacher.classifier.weight, std=1e-4)
    torch.nn.init.normal_(teacher.classifier.bias)
    teacher.save_pretrained(folder)
    save_tokenizer(folder)

    def cut(examples):
        models = {
            "teacher_model_name_or_path": str(folder),
            "student_init": "teacher_layers",
            "student_layers": layers,
        }
        pair = ModelPair(ModelArguments(**models), terms=[], trains=True)
        pair.set_labels(labels, several=kind == "several labels", examples=examples)
        torch.manual_seed(1)
        return pair.load(TEXTS)[0], torch.rand(())

    (student, drawn), (plain, drawn_before) = cut(examples), cut(None)
    assert drawn == drawn_before and student.training == plain.training  # what follows is the same
    batch = AutoTokenizer.from_pretrained(folder)([text for (text,) in TEXTS], padding=True, return_tensors="pt")
    return student.eval(), plain.state_dict(), batch


@pytest.mark.parametrize("kind", ["score", "classes", "several labels"])
@pytest.mark.parametrize("config", [{}, {"return_dict": False}])
def test_a_head_that_gives_all_texts_the_same_outputs_is_centered(tmp_path, kind, config):
    """Only its bias changes, and its predictions are those without reading a text."""
    student, plain, batch = start(tmp_path, kind, **config)
    weights = student.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], plain[name])] == ["classifier.bias"]
    with torch.no_grad():
        logits = student(**batch, return_dict=True).logits
    predictions = {"score": logits, "classes": logits.softmax(-1), "several labels": logits.sigmoid()}[kind]
    expected = {"score": [4.5], "classes": np.array([60.5, 39.5, 1.5]) / 101.5, "several labels": expit(STARTS)}[kind]
    np.testing.assert_allclose(predictions, np.tile(expected, (3, 1)), rtol=1e-2)


@pytest.mark.parametrize("layers", ["1,3", "1,2,3"])
def test_a_head_that_reads_the_last_layer_is_left_as_it_is(tmp_path, layers):
    student, plain, _ = start(tmp_path, "score", layers)
    weights = student.state_dict()
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_a_head_that_tells_texts_apart_is_left_as_it_is(tmp_path):
    student, _, batch = start(tmp_path, "score")
    torch.nn.init.normal_(student.classifier.weight)
    with torch.no_grad():
        scores = student(**batch).logits
    before, mean, spread = student.classifier.bias.item(), scores.mean().item(), scores.std(correction=0).item()
    center_at(student, [mean + 0.9 * spread], batch)
    assert student.classifier.bias.item() == before
    center_at(student, [mean + 1.1 * spread], batch)
    assert student.classifier.bias.item() == pytest.approx(before + 1.1 * spread)


def test_token_types_that_a_model_lacks(tmp_path):
    teacher = family_model("RoBERTa", type_vocab_size=1)
    teacher.config.id2label = {0: "bad", 1: "good"}
    teacher.config.label2id = {"bad": 0, "good": 1}
    teacher.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    models = {"teacher_model_name_or_path": str(tmp_path), "student_init": "teacher_layers", "student_layers": "1,2"}
    with pytest.raises(InputError, match="token_type_ids up to 1, but the roberta model has embeddings for 1"):
        load([("the film", "a film")], labels=["bad", "good"], examples=[0, 1, 1], several=False, **models)
