"""The code in docs/ runs as it stands there."""

import re

import pytest
import torch
from helpers.files import PROJECT
from helpers.tiny import tiny_model
from helpers.training import examples, logs, pad
from transformers import TrainingArguments


@pytest.mark.parametrize("cache", [False, True], ids=["live", "cached"])
def test_a_loss_of_ones_own(tmp_path, cache):
    text = (PROJECT / "docs" / "extending.md").read_text()
    code, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code[code.index("class PatientTerm") : code.index("trainer = ")].strip().splitlines()) <= 30
    if cache:
        code = code.replace("CKDArguments()", f"CKDArguments(teacher_cache_dir={str(tmp_path / 'cache')!r})")
    here = {
        "student": tiny_model(layers=2),
        "teacher": tiny_model(layers=4, seed=1),
        "args": TrainingArguments(tmp_path, report_to="none", use_cpu=True, max_steps=3, logging_steps=1),
        "train_dataset": examples(),
        "data_collator": pad,
    }
    exec(code, here)
    run = here["trainer"]
    assert all(0 < entry["loss_patient"] < 8 for entry in logs(run))
    assert run.scales["patient"] > 0
    term, batch = run.distillation_objective.terms["patient"], pad(list(examples(4)))
    states = [model(**batch, output_hidden_states=True).hidden_states for model in (run.model.eval(), here["teacher"])]
    total = 0
    for ours, theirs in ((1, 2), (2, 4)):
        for row in range(4):
            one, other = states[0][ours][row, 0], states[1][theirs][row, 0]
            total += (one / one.norm() - other / other.norm()).square().sum() / 8
    values = [
        torch.stack([side[layer][:, 0] for layer in layers], dim=1)
        for side, layers in zip(states, ((1, 2), (2, 4)), strict=True)
    ]
    torch.testing.assert_close(term(*values, batch), total)
