"""The script run_ner.py of transformers with another class of trainer: reduced here to the flow of its data."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.files import WORDS, tagged_sentences
from helpers.tiny import save_tokenizer, tiny_config
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.metrics.entities import EntityMetric
from ckd_trainer.utils.errors import InputError

TAGS = ["O", "B-bad", "I-bad", "B-good", "I-good"]
SHARES = {f"{relation}_{kind}_weight": 0.3 for relation in ("wr", "ltr") for kind in ("distance", "angle")}
# "good" and "ugly" are two pieces each.
PIECES = [{"good": "go", "ugly": "##od"}.get(word, word) for word in WORDS[:-1]] + ["##ly"]


def tokenized(rows, tokenizer, label_all_tokens):
    """The function tokenize_and_align_labels of run_ner.py."""
    label_to_id = {tag: index for index, tag in enumerate(TAGS)}
    b_to_i_label = [TAGS.index(tag.replace("B-", "I-")) for tag in TAGS]

    def tokenize_and_align_labels(examples):
        tokenized_inputs = tokenizer(
            examples["tokens"], padding=False, truncation=True, max_length=32, is_split_into_words=True
        )
        labels = []
        for i, label in enumerate(examples["ner_tags"]):
            previous_word_idx, label_ids = None, []
            for word_idx in tokenized_inputs.word_ids(batch_index=i):
                if word_idx is None:
                    label_ids.append(-100)
                elif word_idx != previous_word_idx:
                    label_ids.append(label_to_id[label[word_idx]])
                else:
                    label_ids.append(b_to_i_label[label_to_id[label[word_idx]]] if label_all_tokens else -100)
                previous_word_idx = word_idx
            labels.append(label_ids)
        tokenized_inputs["labels"] = labels
        return tokenized_inputs

    data = Dataset.from_dict({"tokens": [words for words, _ in rows], "ner_tags": [tags for _, tags in rows]})
    return data.map(tokenize_and_align_labels, batched=True)


def compute_metrics(p):
    """That of run_ner.py; its metric is downloaded there."""
    predictions, labels = p
    predictions = np.argmax(predictions, axis=2)
    true = [
        [
            [TAGS[value] for value, label in zip(*pair, strict=True) if label != -100]
            for pair in zip(kind, labels, strict=True)
        ]
        for kind in (predictions, labels)
    ]
    results = EntityMetric(keep_in_memory=True).compute(predictions=true[0], references=true[1])
    return {name: results[name] for name in ("precision", "recall", "f1", "accuracy")}


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path / "tokenizer", words=PIECES)
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def model(layers, seed, labels=TAGS):
    set_seed(seed)
    return AutoModelForTokenClassification.from_config(tiny_config(layers=layers, labels=labels))


def ner_run(trainer_class, folder, tokenizer, *, label_all_tokens, epochs=2, eval_strategy="epoch", **distillation):
    """What main of run_ner.py does: trains, evaluates and predicts; returns the trainer and all that came out."""
    train, validation = (
        tokenized(tagged_sentences(count, seed), tokenizer, label_all_tokens) for count, seed in ((48, 0), (20, 1))
    )
    assert any(len(row["input_ids"]) > len(row["tokens"]) + 2 for row in train)  # words have several pieces
    args = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        learning_rate=3e-3,
        logging_steps=1,
        eval_strategy=eval_strategy,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = trainer_class(
        model=distillation.pop("student", None) or model(2, seed=0),
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics,
        **distillation,
    )
    trainer.train()
    predictions, labels, metrics = trainer.predict(validation, metric_key_prefix="predict")
    scores = {name: value for name, value in {**trainer.evaluate(), **metrics}.items() if "_per_second" not in name}
    scores = {name: value for name, value in scores.items() if not name.endswith(("runtime", "preparation_time"))}
    log = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
    return trainer, {"log": log, "scores": scores, "labels": labels.tolist(), "predictions": predictions.tolist()}


@pytest.mark.parametrize("label_all_tokens", [False, True])
def test_without_weights_it_is_the_same_bit_for_bit(tokenizer, tmp_path, label_all_tokens):
    """With evaluations in between, `Trainer` draws other random numbers for dropout than without them."""
    options = {"label_all_tokens": label_all_tokens, "eval_strategy": "no"}
    plain, expected = ner_run(Trainer, tmp_path / "a", tokenizer, **options)
    teacher = model(4, seed=1)
    teacher.forward = None  # not called
    run, found = ner_run(
        DistillationTrainer,
        tmp_path / "b",
        tokenizer,
        **options,
        teacher_model=teacher,
        ckd_args=CKDArguments.fine_tuning(),
    )
    assert found == expected and len(expected["log"]) == 12 and "predict_f1" in expected["scores"]
    for ours, theirs in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("label_all_tokens", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_with_a_teacher_it_trains_on_all_terms(tokenizer, tmp_path, label_all_tokens):
    """A student that sees no label learns the task from a teacher that has learned it."""
    options = {"label_all_tokens": label_all_tokens, "epochs": 10}
    teacher, scores = ner_run(Trainer, tmp_path / "teacher", tokenizer, student=model(4, seed=1), **options)
    assert scores["scores"]["eval_f1"] > 0.9
    run, found = ner_run(
        DistillationTrainer,
        tmp_path / "student",
        tokenizer,
        **options,
        teacher_model=teacher.model,
        ckd_args=CKDArguments(alpha=1.0, window_size=3, **SHARES),
    )
    log = [entry for entry in run.state.log_history if "loss" in entry]
    for term in ("logits", "wr_distance", "wr_angle", "ltr_distance", "ltr_angle"):
        assert log[-1][f"loss_{term}"] < log[0][f"loss_{term}"]
    assert found["scores"]["eval_f1"] > 0.6
    assert found["scores"]["eval_f1"] == found["scores"]["predict_f1"]


def test_a_teacher_with_other_tags_is_refused(tokenizer, tmp_path):
    with pytest.raises(InputError, match="labels"):
        ner_run(
            DistillationTrainer,
            tmp_path,
            tokenizer,
            label_all_tokens=False,
            teacher_model=model(4, seed=1, labels=["O", "B-bad", "I-bad", "B-ugly", "I-ugly"]),
        )
