"""docs/onnx.md: its code runs as it stands there, and gives the outputs of the model."""

import re
from pathlib import Path

import pytest
import torch
from helpers.families import FAMILIES, family_model
from helpers.files import PROJECT
from helpers.tiny import qa_model, save_tokenizer, tiny_model

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
EXPORT, QUANTIZE = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "onnx.md").read_text(), re.DOTALL)
TEXTS = [["good film"], ["bad", "a good film , a bad film", "the end"]]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tokenizer("my-student")


def outputs(path, inputs):
    inputs = {name: value.numpy() for name, value in inputs.items()}
    return [torch.from_numpy(value) for value in onnxruntime.InferenceSession(path).run(None, inputs)]


def test_a_classifier_and_its_quantized_twin():
    tiny_model().save_pretrained("my-student")
    exec(EXPORT + QUANTIZE, here := {})
    assert here["logits"].shape == (2, 2)
    for texts in TEXTS:  # other batches and lengths than the exported ones
        inputs = here["tokenizer"](texts, padding=True, return_tensors="pt")
        expected = here["model"](**inputs).logits.detach()
        torch.testing.assert_close(outputs("student.onnx", inputs), [expected], rtol=0, atol=1e-5)
        torch.testing.assert_close(outputs("student.int8.onnx", inputs), [expected], rtol=0, atol=0.05)
    assert b"MatMulInteger" in Path("student.int8.onnx").read_bytes()


def test_questions():
    qa_model().save_pretrained("my-student")
    code = EXPORT.replace("AutoModelForSequenceClassification", "AutoModelForQuestionAnswering")
    exec(code.replace('["logits"]', '["start_logits", "end_logits"]'), here := {})
    inputs = here["tokenizer"](["who", "the end"], ["a good film", "bad"], padding=True, return_tensors="pt")
    given = here["model"](**inputs)
    expected = [given.start_logits.detach(), given.end_logits.detach()]
    torch.testing.assert_close(outputs("student.onnx", inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_families(family):
    """Every family but Longformer and Llama can be exported, as the page says."""
    family_model(family).save_pretrained("my-student")
    save_tokenizer("my-student", model_input_names=["input_ids", "attention_mask"])  # some have no token types
    if family in ("Longformer", "Llama"):
        with pytest.raises(torch.onnx.errors.OnnxExporterError, match="Failed to export the model"):
            exec(EXPORT, {})
        return
    exec(EXPORT, here := {})
    ids = torch.randint(5, 20, (3, 12))
    inputs = {name: ids if name == "input_ids" else torch.ones_like(ids) for name in here["example"]}
    inputs["attention_mask"][1, 4:] = 0
    expected = here["model"](**inputs).logits.detach()
    torch.testing.assert_close(outputs("student.onnx", inputs), [expected], rtol=0, atol=1e-5)
