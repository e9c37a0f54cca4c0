"""Scripts in two processes, as `accelerate launch` starts them, and what is needed to compare them with one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from helpers.files import PROJECT

PATHS = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, "PYTHONUNBUFFERED": "1"}


def command(script, *options, recipe="cpu_processes.yaml"):
    """Returns what starts a script in two processes, with a recipe of recipes/accelerate."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    launcher += ["--config_file", str(PROJECT / "recipes" / "accelerate" / recipe)]
    launcher += ["--main_process_port", "0"]  # any free one, as other runs on this machine may have the usual one
    return [*launcher, str(PROJECT / script), *options]


def launch(script, *options, recipe="cpu_processes.yaml", **environment):
    """Runs a script in two processes; returns what it says."""
    started = command(script, *options, recipe=recipe)
    result = subprocess.run(started, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def in_two_processes(code):
    """Runs a program as rank 0 and rank 1 of one group; returns both, finished, with what each has printed.

    `launch` is nearer to what users do, but mixes what the ranks print, and its exit code is its own.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = []
    for rank in ("0", "1"):
        environment = ENVIRONMENT | group | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"}
        started.append(subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes))
    try:
        said = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(started, said, strict=True)
    ]


def logged(folder):
    """The losses and scales that a run logged, by step."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    rows = [entry for entry in history if "loss" in entry]
    return [{name: row[name] for name in row if name.startswith(("loss", "scale_"))} for row in rows]


def without_dropout(folder):
    """So that a student sees the same whatever the process draws."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
