"""Every pair of model families trains, and docs/families.md says what else each family supports."""

import copy
import math

import pytest
import torch
from helpers.families import FAMILIES, family_model
from helpers.files import PROJECT
from helpers.tokenizers import different_tokenizers, encoded_sentences
from helpers.training import CONTROL, examples, logs, pad, trainer
from transformers import AutoTokenizer, BigBirdConfig, DataCollatorWithPadding

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.methods import AttributionArguments, MiniLMArguments, MiniLMv2Arguments, PKDArguments
from ckd_trainer.models.compatibility import check_encoder
from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.narrowing import narrow
from ckd_trainer.models.sizes import narrowed_config
from ckd_trainer.models.student import config_of_layers, student_from_layers
from ckd_trainer.models.subnetworks import SubNetwork
from ckd_trainer.teacher.live import LiveTeacher
from ckd_trainer.teacher.signals import Attentions
from ckd_trainer.training.balance import TermBalance
from ckd_trainer.training.gradients import encoder_weights
from ckd_trainer.utils.errors import InputError

RELATIONS = ("wr_distance", "wr_angle", "ltr_distance", "ltr_angle")
NAMES = list(FAMILIES)


@pytest.fixture(scope="module")
def teachers():
    return {family: family_model(family, seed=1) for family in FAMILIES}


@pytest.fixture(scope="module")
def students():
    return {family: family_model(family, layers=2, width=16) for family in FAMILIES}


def pairs():
    """All pairs. In the quick tests, each family learns from the next one."""
    for place, teacher in enumerate(NAMES):
        for student in NAMES:
            quick = student == NAMES[place - 1]
            yield pytest.param(teacher, student, marks=() if quick else pytest.mark.slow, id=f"{teacher}-{student}")


@pytest.mark.parametrize(("teacher", "student"), list(pairs()))
def test_a_pair_trains(teacher, student, teachers, students, tmp_path, monkeypatch):
    check_training(copy.deepcopy(students[student]), teachers[teacher], tmp_path, monkeypatch)


def check_training(model, frozen, folder, monkeypatch, **kwargs):
    """All four relations reach the encoder, beside labels and logits; the teacher is as before."""
    monkeypatch.setattr(TermBalance, "is_due", lambda self, step: step == 0)  # further measurements take half the time
    before = copy.deepcopy(frozen.state_dict())
    start = [weight.detach().clone() for weight in encoder_weights(model)]
    options = {"save_strategy": "no"}
    run = trainer(DistillationTrainer, folder, model, steps=5, teacher_model=frozen, options=options, **kwargs)
    run.train()
    losses = [entry["loss"] for entry in logs(run)]
    assert len(set(losses)) == 5 and all(map(math.isfinite, losses)) and logs(run)[-1]["nonfinite_steps"] == 0
    assert all(run.balance.norms[term] > 1e-5 for term in RELATIONS)
    moved = [not torch.equal(*weights) for weights in zip(encoder_weights(model), start, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert all(torch.equal(frozen.state_dict()[name], value) for name, value in before.items())


@pytest.fixture(scope="module")
def tokenizers():
    return different_tokenizers()


def with_other_tokenizers():
    """Each family as a teacher of BERT and as a student of RoBERTa, whose tokenizers differ."""
    for teacher, student in dict.fromkeys(
        pair for family in NAMES for pair in ((family, "BERT"), ("RoBERTa", family))
    ):
        marks = () if "Llama" in (teacher, student) else pytest.mark.slow
        yield pytest.param(teacher, student, marks=marks, id=f"{teacher}-{student}")


@pytest.mark.parametrize(("teacher", "student"), list(with_other_tokenizers()))
def test_a_pair_with_different_tokenizers_trains(teacher, student, tokenizers, tmp_path, monkeypatch):
    sides = ((student, tokenizers.student), (teacher, tokenizers.teacher))
    models = [
        family_model(
            family,
            layers=depth,
            width=width,
            seed=depth,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            max_position_embeddings=80,
        )
        for (family, tokenizer), depth, width in zip(sides, (2, 4), (16, 32), strict=True)
    ]
    data, collator = encoded_sentences(tokenizers, count=40), DataCollatorWithPadding(tokenizers)
    check_training(*models, tmp_path, monkeypatch, train=data, data_collator=collator)


# ----------------------------------------------------------------------------------------------------------- the table


def batch_of(rows=6):
    return {name: values for name, values in pad(list(examples(rows))).items() if name != "labels"}


def layers(family, folder):
    """All layers are the same function; some are a student."""
    teacher, batch = family_model(family).eval(), batch_of()
    whole, part = (
        student_from_layers(teacher, chosen, config_of_layers(teacher.config, chosen)).eval()
        for chosen in ([1, 2, 3, 4], [1, 4])
    )
    with torch.no_grad():
        torch.testing.assert_close(whole(**batch).logits, teacher(**batch).logits)
        states = part(**batch, output_hidden_states=True).hidden_states
    assert len(states) == 3


def narrower(family, folder):
    model, batch = family_model(family), batch_of()
    student = narrow(model, narrowed_config(model.config, {"hidden_size": 16}), batch)
    assert student(**batch, output_hidden_states=True).hidden_states[-1].shape[-1] == 16


def dynamic(family, folder):
    model, batch = family_model(family).eval(), batch_of()
    with DynamicModel(model).running(SubNetwork(width=0.5, depth=0.5)):
        states = model(**batch, output_hidden_states=True).hidden_states
    assert len(states) == 3


def trains_with(method):
    def train(family, folder):
        student, teacher = (family_model(family, layers=depth, seed=depth) for depth in (2, 4))
        ckd_args = CKDArguments(**CONTROL)
        run = trainer(DistillationTrainer, folder, student, teacher_model=teacher, ckd_args=ckd_args, methods=[method])
        run.train()
        assert all(norm > 1e-5 for norm in run.balance.norms.values())

    return train


def attentions(family, folder):
    batch = batch_of()
    (first, last) = LiveTeacher(family_model(family), [Attentions((1, 4))])(batch)[Attentions((1, 4))]
    assert first.shape == last.shape == (6, 4, *batch["input_ids"].shape[-1:] * 2)


USES = {
    "layers": layers,
    "narrower": narrower,
    "dynamic": dynamic,
    "MiniLMv2": trains_with(MiniLMv2Arguments(minilmv2_weight=1.0, minilmv2_heads=4)),
    "MiniLM": trains_with(MiniLMArguments(minilm_attention_weight=1.0)),
    "AD-KD": trains_with(AttributionArguments(attribution_weight=1.0)),
    "attentions": attentions,
}


def documented():
    """{family: {column: yes or no}} of docs/families.md."""
    lines = (PROJECT / "docs" / "families.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    title = next(row for row in rows if row[0] == "family")
    columns = [name.strip("[").partition("]")[0] for name in title[1:]]
    return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in rows if row[1] in ("yes", "no")}


def test_the_table_has_all_families():
    assert list(documented()) == NAMES and len(NAMES) == 14
    assert all(list(row) == list(USES) for row in documented().values())


@pytest.mark.parametrize("family", NAMES)
def test_a_family_supports_what_the_table_says(family, tmp_path):
    """What it supports works, and all else is refused by name."""
    found = {}
    for column, use in USES.items():
        try:
            use(family, tmp_path)
            found[column] = "yes"
        except InputError as error:
            assert FAMILIES[family][0].model_type in str(error) or "a causal model does not see" in str(error)
            found[column] = "no"
    assert found == documented()[family]


# ------------------------------------------------------------------------------------------------------------ families


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([3, 4], "layer 3 of the modernbert teacher cannot be the student's layer 1, .* give layer 1 there"),
        ([1, 1], "layer 1 of the modernbert teacher cannot be the student's layer 2, .* give one of layers 2, 3, 4 "),
    ],
)
def test_the_first_layer_of_modernbert_is_a_students_first(layers, words):
    teacher = family_model("ModernBERT")
    student_from_layers(teacher, [1, 4], config_of_layers(teacher.config, [1, 4]))
    with pytest.raises(InputError, match=words):
        student_from_layers(teacher, layers, config_of_layers(teacher.config, layers))


@pytest.mark.parametrize("family", NAMES)
def test_hidden_states_are_those_of_the_text(family):
    """One state per layer and one of the embeddings, of the tokens alone: more padding changes nothing."""
    model, batch = family_model(family).eval(), batch_of()
    rows, length = batch["input_ids"].shape
    longer = {name: torch.cat([values, values.new_zeros(rows, 6)], dim=1) for name, values in batch.items()}
    with torch.no_grad():
        ours, theirs = (model(**each, output_hidden_states=True) for each in (batch, longer))
    assert len(ours.hidden_states) == 5 and {state.shape for state in ours.hidden_states} == {(rows, length, 32)}
    mask = batch["attention_mask"].bool()
    for state, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(state[mask], other[:, :length][mask], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-4)


def test_the_first_token_of_a_decoder_sees_no_text(tmp_path):
    student, teacher = family_model("Llama", layers=2), family_model("Llama", seed=1)
    with pytest.raises(InputError, match="pkd_tokens is first, but the first token of a causal model does not see"):
        trainer(DistillationTrainer, tmp_path, student, teacher_model=teacher, methods=[PKDArguments(pkd_weight=1.0)])


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_decoder_that_does_not_know_padding(who, tmp_path):
    models = {"student": family_model("Llama", layers=2), "teacher": family_model("Llama", seed=1)}
    models[who].config.pad_token_id = None
    with pytest.raises(InputError, match="the llama model has no pad_token_id"):
        trainer(DistillationTrainer, tmp_path, models["student"], teacher_model=models["teacher"])


def test_a_decoder_and_a_tokenizer_with_another_padding(tiny_teacher, tmp_path):
    student, tokenizer = family_model("Llama", layers=2), AutoTokenizer.from_pretrained(tiny_teacher)
    student.config.pad_token_id = 5
    with pytest.raises(InputError, match="pad_token_id is 5 in the configuration of the llama model, but 0 in the"):
        trainer(
            DistillationTrainer,
            tmp_path,
            student,
            teacher_model=family_model("Llama", seed=1),
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_model_without_the_token_types_of_pairs(who, tmp_path):
    models = {"student": family_model("BERT", layers=2), "teacher": family_model("BERT", seed=1)}
    models[who] = family_model("RoBERTa", layers=4, type_vocab_size=1)
    with pytest.raises(InputError, match="token_type_ids up to 1, but the roberta model has embeddings for 1"):
        trainer(
            DistillationTrainer,
            tmp_path,
            models["student"],
            teacher_model=models["teacher"],
            train=examples(8, types=True),
        )


def test_blocks_of_big_bird():
    check_encoder(BigBirdConfig(attention_type="original_full"))
    with pytest.raises(InputError, match="set attention_type to original_full"):
        check_encoder(BigBirdConfig())
