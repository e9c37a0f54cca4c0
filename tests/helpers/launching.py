"""Runs scripts in two processes, as `accelerate launch` does, and compares them with one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.files import PROJECT

PATHS = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, "PYTHONUNBUFFERED": "1"}


def command(script, *options, recipe="cpu_processes.yaml"):
    """Returns the command that starts a script in two processes, with a file of recipes/accelerate."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    launcher += ["--config_file", str(PROJECT / "recipes" / "accelerate" / recipe)]
    launcher += ["--main_process_port", "0"]  # any free port, as other runs on this machine may use the default
    return [*launcher, str(PROJECT / script), *options]


def launch(script, *options, recipe="cpu_processes.yaml", **environment):
    """Runs a script in two processes, and returns its output."""
    started = command(script, *options, recipe=recipe)
    result = subprocess.run(started, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def logged(folder):
    """Returns the losses and scales that a run logged, by step."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    rows = [entry for entry in history if "loss" in entry]
    return [{name: row[name] for name in row if name.startswith(("loss", "scale_"))} for row in rows]


def without_dropout(folder):
    """Turns dropout off in a model's files, so that results do not depend on a process's random numbers."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
