"""Bare encoders in two processes: weights that get no gradient, and layers whose output gets none."""

import json

import pytest
import torch
from helpers.bare_encoders import distill
from helpers.files import PROJECT
from helpers.launching import FSDP_ON_PROCESSORS, launch, logged
from helpers.training import logs
from packaging.version import Version

SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
from helpers.bare_encoders import distill
from ckd_trainer.utils.processes import destroy_process_group

folder, options = sys.argv[1:]
run = distill(folder, 4, **json.loads(options))
if run.is_world_process_zero():
    run.state.save_to_json(folder + "/trainer_state.json")
del run  # its DDP model would wait for the group that is gone
destroy_process_group()
"""
CHECKPOINTING = {"gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("cpu_processes.yaml", {}), ("cpu_processes.yaml", CHECKPOINTING), ("fsdp2.yaml", {})],
    ids=["ddp", "ddp with checkpointing", "fsdp2"],
)
def test_train_like_one_process(tmp_path, recipe, options):
    script, body = tmp_path / "script.py", SCRIPT.format(tests=str(PROJECT / "tests"))
    script.write_text(FSDP_ON_PROCESSORS + body if recipe == "fsdp2.yaml" else body)
    if recipe == "fsdp2.yaml" and Version(torch.__version__) < Version("2.8"):
        pytest.skip("torch 2.7 adds up the gradients of FSDP2 on processors, where it should take their mean")
    launch(script, str(tmp_path), json.dumps(options), recipe=recipe)
    for ours, theirs in zip(logged(tmp_path), logs(distill(tmp_path / "one", 8)), strict=True):
        assert ours["loss_queries"] == pytest.approx(theirs["loss_queries"], rel=1e-4)
