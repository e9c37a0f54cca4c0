"""A teacher with a tokenizer of its own: both read their own encoding, and relations compare words."""

import pytest
import torch
from datasets import Dataset
from helpers.files import sentences
from helpers.reference import contextual_relation_losses as slow_relation_losses
from helpers.tiny import no_dropout
from helpers.tokenizers import different_tokenizers, encoded_sentences, model_for
from helpers.training import ALL_TERMS, CONTROL, logs, trainer
from tokenizers.processors import TemplateProcessing
from transformers import BertForQuestionAnswering, BertForTokenClassification, DataCollatorWithPadding

import ckd_trainer.teacher.writer
from ckd_trainer import CKDArguments, DistillationTrainer, TokenizerPair
from ckd_trainer.data.squad_features import SpanCollator
from ckd_trainer.data.windows import WindowCollator
from ckd_trainer.methods.attribution import AttributionArguments
from ckd_trainer.methods.distilbert import DistilBERTArguments
from ckd_trainer.methods.gram import GramArguments
from ckd_trainer.methods.minilm import MiniLMv2Arguments
from ckd_trainer.methods.pkd import PKDArguments
from ckd_trainer.methods.tinybert import TinyBERTArguments
from ckd_trainer.utils.errors import InputError

NOTE = "teacher and student have different tokenizers: relations compare words"


@pytest.fixture(scope="module")
def tokenizers():
    return different_tokenizers()


@pytest.fixture
def make(tmp_path, tokenizers, unmeasured):
    """Returns a function that makes a trainer of a student and its teacher, by default with all terms."""

    def make(name="run", *, double=False, **kwargs):
        student = model_for(tokenizers.student, layers=2, width=16)
        teacher = model_for(tokenizers.teacher, seed=1)
        if double:
            student.double(), teacher.double()
        kwargs = {
            "train": encoded_sentences(tokenizers),
            "data_collator": DataCollatorWithPadding(tokenizers),
        } | kwargs
        return trainer(DistillationTrainer, tmp_path / name, student, teacher_model=teacher, **kwargs)

    return make


def equal_weights(one, other, **tolerance):
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def words_by_hand(states, tokenizer, texts):
    """The state of the first token, and the mean of those of each word, (texts, 1 + words, width), and their mask."""
    rows = []
    for place, text in enumerate(texts):
        encoding, end = tokenizer(text), 0
        vectors = [states[place, 0]]
        for word in text.split():
            start = text.index(word, end)
            end = start + len(word)
            own = {encoding.char_to_token(char) for char in range(start, end)}
            vectors.append(torch.stack([states[place, token] for token in sorted(own)]).mean(0))
        rows.append(torch.stack(vectors))
    mask = torch.zeros(len(texts), max(map(len, rows)), dtype=torch.long)
    for row, vectors in zip(mask, rows, strict=True):
        row[: len(vectors)] = 1
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def test_one_step_is_the_twins_total(make, tokenizers):
    weights = {"wr_distance": 3.0, "wr_angle": 5.0, "ltr_distance": 7.0, "ltr_angle": 11.0}
    options = {f"{term}_weight": weight for term, weight in weights.items()} | {"term_balance": "none"}
    options |= {"alpha": 0.3, "temperature": 2.0, "window_size": 5}
    texts, labels = zip(*sentences(4, seed=3), strict=True)
    run = make(double=True, ckd_args=CKDArguments(**ALL_TERMS | options))
    student, teacher = run.model, run.teacher_model
    data = encoded_sentences(tokenizers, 4, seed=3)
    batch = run.data_collator(list(data))
    assert batch["input_ids"].shape[1] != batch["teacher_input_ids"].shape[1] != batch["unit_mask"].shape[1]
    student.train()
    loss = run.compute_loss(student, batch)
    loss.backward()
    gradient = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]

    student.zero_grad()
    out, theirs = (
        model(**tokenizer(list(texts), padding=True, return_tensors="pt"), output_hidden_states=True)
        for model, tokenizer in ((student, tokenizers.student), (teacher.eval(), tokenizers.teacher))
    )
    p, q = (theirs.logits.detach() / 2).softmax(-1), (out.logits / 2).softmax(-1)
    pooled = [
        [words_by_hand(state, tokenizer, texts)[0] for state in outputs.hidden_states]
        for outputs, tokenizer in ((out, tokenizers.student), (theirs, tokenizers.teacher))
    ]
    _, mask = words_by_hand(out.hidden_states[0], tokenizers.student, texts)
    assert mask.equal(batch["unit_mask"])
    terms = slow_relation_losses(*pooled, mask, pairs=[(0, 0), (1, 2), (2, 4)], window_size=5)
    gold = torch.tensor([("bad", "good").index(label) for label in labels])
    expected = 0.7 * torch.nn.functional.cross_entropy(out.logits, gold)
    expected = expected + 0.3 * 4 * (p * (p.log() - q.log())).sum(-1).mean()
    expected = expected + sum(weight * terms[term] for term, weight in weights.items())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)  # 1 / n is in float32
    expected_gradient = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    for ours, theirs in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_same_model_and_tokenizer_teach_nothing(tmp_path, tokenizers, unmeasured):
    """All terms are 0 if both sides are one, and the items are those of the text: its words, and [CLS]."""
    same = TokenizerPair(tokenizers.student, tokenizers.student)
    student, teacher = (model_for(tokenizers.student, layers=2) for _ in range(2))
    run = trainer(
        DistillationTrainer,
        tmp_path,
        student,
        teacher_model=teacher,
        train=encoded_sentences(same),
        data_collator=DataCollatorWithPadding(same),
    )
    run.train()
    first = logs(run)[0]
    assert all(first[f"loss_{term}"] == pytest.approx(0, abs=1e-6) for term in ("logits", "wr_distance", "ltr_angle"))
    assert first["loss_task"] > 0.1


def test_a_step_does_not_depend_on_how_it_is_cut(make):
    runs = {}
    for batch in (8, 4, 1):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
        options |= {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0}
        runs[batch] = make(str(batch), options=options)
        runs[batch].train()
    for batch in (4, 1):
        equal_weights(runs[batch], runs[8], rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(logs(runs[batch]), logs(runs[8]), strict=True):
            for name in ours.keys() - {"epoch"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name


def test_padding_does_not_matter(make, tokenizers):
    run = make()
    rows = list(encoded_sentences(tokenizers, 4))
    run.model.train()
    short, long = (run.data_collator(rows) for _ in range(2))
    long = DataCollatorWithPadding(tokenizers, padding="max_length", max_length=60)(rows)
    assert long["unit_mask"].shape == long["input_ids"].shape == (4, 60) and short["unit_mask"].shape[1] < 60
    losses = [run.compute_loss(run.model, batch).item() for batch in (short, long)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_cached_is_live(make, tmp_path, monkeypatch):
    monkeypatch.setattr(ckd_trainer.teacher.writer, "_PART_ROWS", 7)
    ckd_args = {**ALL_TERMS, "teacher_cache_dir": str(tmp_path / "cache")}
    live, cached = make("live", steps=7), make("cached", steps=7, ckd_args=CKDArguments(**ckd_args))
    for run in (live, cached):
        run.train()
    assert len(list((tmp_path / "cache").glob("*/part-*"))) == 4
    assert len(logs(live)) == len(logs(cached)) == 7
    for ours, theirs in zip(logs(cached), logs(live), strict=True):
        for name in ("loss", *(f"loss_{term}" for term in ("logits", "wr_distance", "wr_angle", "ltr_distance"))):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3), name


def tagged(pair):
    """Sentences with a label for each token of the student's."""
    columns = pair([text for text, _ in sentences(24)])
    return Dataset.from_dict(
        columns | {"labels": [[-100, *(token % 2 for token in row[1:-1]), -100] for row in columns["input_ids"]]}
    )


def answered(pair):
    """Sentences with an answer: the first token after [CLS], which is the first of its word, up to the last one."""
    columns = pair([text for text, _ in sentences(24)])
    lengths = [len(row) for row in columns["input_ids"]]
    columns["answer_mask"] = [[1] * (length - 1) + [0] for length in lengths]
    return Dataset.from_dict(columns | {"start_positions": [1] * 24, "end_positions": [end - 2 for end in lengths]})


HEADS = {
    "tokens": (BertForTokenClassification, tagged, WindowCollator),
    "spans": (BertForQuestionAnswering, answered, SpanCollator),
}


@pytest.mark.parametrize("head", HEADS)
def test_cuts_and_caches_do_not_matter_to_logits_of_tokens(tmp_path, tokenizers, head):
    model_class, data, collator = HEADS[head]
    runs = {}
    for name, batch in (("8", 8), ("4", 4), ("1", 1), ("cached", 4)):
        student, teacher = (
            model_for(tokenizer, seed, model_class, **sizes)
            for tokenizer, seed, sizes in (
                (tokenizers.student, 0, {"layers": 2, "width": 16}),
                (tokenizers.teacher, 1, {"layers": 3}),
            )
        )
        cache = {"teacher_cache_dir": str(tmp_path / "cache")} if name == "cached" else {}
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
        runs[name] = trainer(
            DistillationTrainer,
            tmp_path / name,
            student,
            steps=3,
            teacher_model=teacher,
            ckd_args=CKDArguments.without_relations(alpha=0.5, **cache),
            train=data(tokenizers),
            data_collator=collator(tokenizers),
            options=options | {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0},
        )
        runs[name].train()
    for name in ("4", "1", "cached"):
        equal_weights(runs[name], runs["8"], rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(logs(runs[name]), logs(runs["8"]), strict=True):
            assert theirs["loss_logits"] > 1e-3
            for term in ("loss_task", "loss_logits"):
                assert ours[term] == pytest.approx(theirs[term], rel=1e-4), term


def test_a_cache_is_one_of_units(make, tmp_path, tokenizers):
    """The same texts with other units, or without, have another cache; the student's own token ids do not matter."""
    ckd_args = CKDArguments(**{**ALL_TERMS, "teacher_cache_dir": str(tmp_path / "cache")})
    data = encoded_sentences(tokenizers)
    runs = [make(name, ckd_args=ckd_args, train=train) for name, train in (
        ("one", data),
        ("other", data.map(lambda row: {"input_ids": [token + 1 for token in row["input_ids"]]})),
        ("units", data.map(lambda row: {"teacher_units": [max(-1, unit - 1) for unit in row["teacher_units"]]})),
    )]  # fmt: skip
    keys = [run.teacher._contents(run._columns_read(run.train_dataset)).key for run in runs]
    assert keys[0] == keys[1] != keys[2]


def test_plan_and_card_say_it(make, caplog):
    run = make()
    run.create_model_card()
    with open(f"{run.args.output_dir}/README.md") as file:
        assert NOTE in file.read()
    assert NOTE in run.describe_loss()


def test_evaluation_and_predictions_need_no_teacher(make, tokenizers):
    run = make()
    alone = Dataset.from_dict(dict(tokenizers.student(["the cat", "a dog sleeps"])) | {"labels": [0, 1]})
    both = encoded_sentences(tokenizers, 2)
    assert run.predict(alone.remove_columns("labels")).predictions.shape == (2, 2)
    assert {"eval_loss"} <= run.evaluate(alone).keys() and run.evaluate(both)["eval_loss"] > 0


def test_a_control_run_is_the_same_with_one_tokenizer(make, tokenizers):
    args = CKDArguments(**CONTROL)
    one = make("one", ckd_args=args, steps=3)
    own = [*tokenizers.student.model_input_names, "labels"]
    columns = [name for name in one.train_dataset.column_names if name in own]
    other = make(
        "other",
        ckd_args=args,
        steps=3,
        train=one.train_dataset.select_columns(columns),
        data_collator=DataCollatorWithPadding(tokenizers.student),
    )
    for run in (one, other):
        run.train()
    equal_weights(one, other, rtol=0, atol=0)


METHODS = {
    "gram": GramArguments(gram_weight=1.0),
    "pkd": PKDArguments(pkd_weight=1.0),
    "pkd of all tokens": PKDArguments(pkd_weight=1.0, pkd_tokens="all"),
    "distilbert": DistilBERTArguments(distilbert_cosine_weight=1.0),
    "tinybert": TinyBERTArguments(tinybert_embedding_weight=1.0, tinybert_hidden_weight=1.0),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods_that_compare_words(tmp_path, tokenizers, unmeasured, method):
    """They learn, and are 0 where both sides are equal."""
    data = encoded_sentences(tokenizers)
    run = trainer(
        DistillationTrainer,
        tmp_path,
        model_for(tokenizers.student, layers=2),
        teacher_model=model_for(tokenizers.teacher, seed=1),
        ckd_args=CKDArguments.without_relations(alpha=0.0, term_balance="none"),
        methods=[method],
        train=data,
        data_collator=DataCollatorWithPadding(tokenizers),
        steps=12,
    )
    run.train()
    for term in method.weights:
        first, last = (entry[f"loss_{term}"] for entry in (logs(run)[0], logs(run)[-1]))
        assert 0 < last < first, term


REFUSED = [
    (MiniLMv2Arguments(minilmv2_weight=1.0, minilmv2_heads=2), "so minilmv2 cannot compare them: queries and keys"),
    (TinyBERTArguments(tinybert_attention_weight=1.0), "so tinybert_attention cannot compare them: queries and keys"),
    (AttributionArguments(attribution_weight=1.0), "so attribution cannot compare them: a word's share"),
]


@pytest.mark.parametrize(("method", "words"), REFUSED)
def test_methods_that_compare_tokens_are_refused(make, method, words):
    with pytest.raises(InputError, match=words):
        make(methods=[method])


def test_examples_of_one_tokenizer_are_refused(make, tokenizers):
    alone = Dataset.from_dict(dict(tokenizers.student(["the cat", "a dog sleeps"])) | {"labels": [0, 1]})
    with pytest.raises(InputError, match="no column teacher_input_ids: encode their texts with .*TokenizerPair"):
        make(train=alone)


@pytest.mark.parametrize("as_processing_class", [False, True])
def test_examples_of_a_pair_need_a_collator_of_the_pair(tmp_path, tokenizers, as_processing_class):
    """Even if the vocabularies are of one size, so that the teacher could read the student's tokens."""
    options = {"data_collator": DataCollatorWithPadding(tokenizers.student)}
    if as_processing_class:
        options = {"data_collator": None, "processing_class": tokenizers}
    student, teacher = (model_for(tokenizers.student, layers=2, seed=seed) for seed in range(2))
    data = encoded_sentences(tokenizers)
    with pytest.raises(InputError, match=r"two tokenizers, .*: give .* data_collator=DataCollatorWithPadding\("):
        trainer(DistillationTrainer, tmp_path, student, teacher_model=teacher, train=data, **options)


def test_token_types_that_a_model_lacks_are_refused(tmp_path, tokenizers):
    """The student's tokenizer makes token types of pairs, and so does the teacher's."""
    for which in ("student", "teacher"):
        pair = different_tokenizers()
        own = getattr(pair, which)
        own.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        own.backend_tokenizer.post_processor = TemplateProcessing(
            single="$A", pair="$A $B:1", special_tokens=[(own.cls_token, own.cls_token_id)]
        )
        texts, labels = zip(*sentences(8), strict=True)
        data = Dataset.from_dict(pair(texts, texts) | {"labels": [label == "good" for label in labels]})
        models = {"student": model_for(pair.student, layers=2), "teacher": model_for(pair.teacher, seed=1)}
        models[which] = model_for(own, layers=2, type_vocab_size=1)
        with pytest.raises(InputError, match="token_type_ids up to 1, but the bert model has embeddings for 1"):
            trainer(
                DistillationTrainer,
                tmp_path,
                models["student"],
                teacher_model=models["teacher"],
                train=data,
                data_collator=DataCollatorWithPadding(pair),
            )


def test_a_first_token_that_is_a_word_is_refused(tmp_path, tokenizers):
    bare = different_tokenizers().teacher
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    plain = TokenizerPair(tokenizers.student, bare)
    assert not plain.begins_with_special and tokenizers.begins_with_special
    with pytest.raises(InputError, match="so pkd cannot compare them: it is about the special token that begins"):
        trainer(
            DistillationTrainer,
            tmp_path,
            model_for(tokenizers.student, layers=2),
            teacher_model=model_for(bare, seed=1),
            methods=[PKDArguments(pkd_weight=1.0)],
            train=encoded_sentences(plain),
            data_collator=DataCollatorWithPadding(plain),
        )


def test_without_a_pair_of_tokenizers_the_vocabularies_must_be_one(tmp_path, tokenizers):
    with pytest.raises(InputError, match="encode the texts with both tokenizers"):
        trainer(
            DistillationTrainer,
            tmp_path,
            no_dropout(layers=2),
            teacher_model=model_for(tokenizers.teacher),
        )
