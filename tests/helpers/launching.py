"""Scripts in two processes, and what is needed to compare them with one.

`launch` and `in_two_processes` fork both processes from a server that has already imported the libraries.
`accelerate_launch` starts the real launcher: three processes, each of which imports them again, which takes half a
minute of CPU time instead of a few seconds.
"""

import gc
import json
import multiprocessing.connection
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from packaging.version import Version

from helpers.chaos import context_of
from helpers.files import PROJECT

PATHS = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, "PYTHONUNBUFFERED": "1"}

# A run of several processes resumes.
resumes = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"),
    reason="transformers before 5.20 loads optimizers of several processes onto cpu:0, where torch cannot",
)

# Accelerate knows FSDP for accelerators alone; torch has it for processors too. A script begins with this.
FSDP_ON_PROCESSORS = """
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

init = AcceleratorState.__init__

def with_fsdp(self, *args, **kwargs):
    if PartialState(cpu=True).distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    init(self, *args, **kwargs)

AcceleratorState.__init__ = with_fsdp
"""


def command(script, *options, recipe="cpu_processes.yaml"):
    """Returns the command that starts a script in two processes, with a file of recipes/accelerate."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    launcher += ["--config_file", str(PROJECT / "recipes" / "accelerate" / recipe)]
    launcher += ["--main_process_port", "0"]  # any free port, as other runs on this machine may use the default
    return [*launcher, str(PROJECT / script), *options]


def accelerate_launch(script, *options, recipe="cpu_processes.yaml", **environment):
    """Runs a script in two processes as a user does, and returns its output."""
    started = command(script, *options, recipe=recipe)
    result = subprocess.run(started, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def launch(script, *options, recipe="cpu_processes.yaml"):
    """Runs a script in two forked processes with the environment of `accelerate launch`, and returns their output."""
    arguments = launch_command_parser().parse_args(command(script, *options, recipe=recipe)[3:])
    environment = prepare_multi_gpu_env(_validate_launch_command(arguments)[0]) | {"OMP_NUM_THREADS": "1"}
    with tempfile.NamedTemporaryFile("r") as said:
        processes = [
            forked(run_script, script, options, environment=environment | rank, output=said.name)
            for rank in _group_of_two()
        ]
        running = {process.sentinel for process in processes}
        while running and not any(process.exitcode for process in processes):
            running -= set(multiprocessing.connection.wait(running, timeout=300) or running)
        for process in processes:
            process.kill()  # where the other has failed, or neither ends
            process.join()
        text = said.read()
    assert [process.exitcode for process in processes] == [0, 0], text[-3000:]
    return text


def in_two_processes(code, *arguments):
    """Runs a program as rank 0 and rank 1 of one group; returns both, finished, with what each has printed.

    `launch` is nearer to what users do, but mixes what the ranks print, and stops one where the other has failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for number, rank in enumerate(_group_of_two()):
            files = [Path(folder, f"{name}{number}") for name in ("stdout", "stderr")]
            environment = ENVIRONMENT | rank | {"ACCELERATE_USE_CPU": "true"}
            process = forked(_run_code, code, arguments, environment=environment, output=files[0], errors=files[1])
            ranks.append((process, files))
        for process, _ in ranks:
            process.join(timeout=120)
        for process, _ in ranks:
            process.kill()
            process.join()
        return [
            subprocess.CompletedProcess(arguments, process.exitcode, *(file.read_text() for file in files))
            for process, files in ranks
        ]


def forked(function, *arguments, environment, output, errors=None):
    """Starts a function in a process that has already imported the libraries; returns the process.

    Args:
        environment: all variables of the process.
        output, errors: the files to append to; by default, `errors` is `output`.
    """
    files = [str(output), str(errors or output)]
    process = context_of(forks=True).Process(target=_start, args=(function, arguments, environment, files))
    process.start()
    return process


def _start(function, arguments, environment, files):
    gc.freeze()  # both as in conftest.py
    gc.set_threshold(20_000)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # `TrainingArguments` in helpers have made one process's
    try:
        function(*arguments)
    except Exception:  # as the interpreter does: torch has its own hook
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def run_script(script, options):
    sys.argv = [str(script), *map(str, options)]
    runpy.run_path(str(PROJECT / script), run_name="__main__")


def _run_code(code, arguments):
    sys.argv = ["-c", *map(str, arguments)]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _group_of_two():
    """Returns the variables that make a process rank 0, and those that make it rank 1, of a group of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [group | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


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
