"""Tokenized inputs and metrics of tasks on texts."""

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import EvalPrediction, PreTrainedTokenizerFast

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.labeled_texts import TextTask
from ckd_trainer.data.text_tasks import compute_metrics_for, tokenize


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def text_task(text_columns=("text",), label_names=("no", "yes"), name="own_files"):
    return TextTask(name, None, {}, {}, text_columns, label_names and list(label_names))


def test_tokenize_does_not_pad(tokenizer):
    data = Dataset.from_dict({"text": ["a b c a b c", "c"], "label": [1, 0]})
    inputs = tokenize(data, text_task(), tokenizer, GlueArguments(task_name="rte", max_seq_length=5))
    assert inputs["input_ids"][:] == [[2, 4, 5, 6, 3], [2, 6, 3]]
    assert inputs["labels"][:] == [1, 0]
    assert set(inputs.column_names) == {"input_ids", "attention_mask", "token_type_ids", "labels"}


def test_tokenize_pairs_and_pads_when_asked(tokenizer):
    data = Dataset.from_dict({"one": ["a"], "two": ["b c"]})
    arguments = GlueArguments(task_name="rte", max_seq_length=8, pad_to_max_length=True)
    inputs = tokenize(data, text_task(("one", "two")), tokenizer, arguments)
    assert inputs["input_ids"][:] == [[2, 4, 3, 5, 6, 3, 0, 0]]
    assert inputs["attention_mask"][:] == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert inputs["token_type_ids"][0][:6] == [0, 0, 0, 1, 1, 1]
    assert "labels" not in inputs.column_names


def test_tokenize_cuts_the_longer_text_of_a_pair(tokenizer):
    data = Dataset.from_dict({"one": ["a"], "two": ["b b b b b b"], "label": [0.5]})
    task = text_task(("one", "two"), None)
    inputs = tokenize(data, task, tokenizer, GlueArguments(task_name="rte", max_seq_length=6))
    assert inputs[0]["input_ids"] == [2, 4, 3, 5, 5, 3] and inputs[0]["labels"] == 0.5


def test_compute_metrics(tokenizer):
    logits = np.array([[0.1, 0.9], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    scores = compute_metrics_for(text_task(name="mrpc"))(EvalPrediction(logits, np.array([1, 0, 1, 0])))
    assert scores == {"accuracy": 0.75, "f1": pytest.approx(0.8)}
    own = compute_metrics_for(text_task())(EvalPrediction(logits, np.array([1, 0, 1, 0])))
    # F1 of class 0: precision 1, recall 1/2: 2/3; of class 1: 0.8.
    assert own == {"accuracy": 0.75, "f1": pytest.approx((2 / 3 + 0.8) / 2)}
    for name in ("stsb", "own_files"):
        task = text_task(label_names=None, name=name)
        scores = compute_metrics_for(task)(EvalPrediction(np.array([[1.0], [2.0], [3.0]]), np.array([3.0, 2.0, 1.0])))
        assert scores == {
            "pearson": pytest.approx(-1.0),
            "spearmanr": pytest.approx(-1.0),
            "rmse": pytest.approx((8 / 3) ** 0.5),
        }
