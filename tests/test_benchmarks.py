"""The scripts of benchmarks/ start: they import what they need and describe their options."""

import os
import subprocess
import sys

import pytest
from helpers.files import PROJECT

SCRIPTS = sorted({path.name for path in (PROJECT / "benchmarks").glob("*.py")} - {"measure.py", "floor.py"})


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_starts(script):
    command = [sys.executable, str(PROJECT / "benchmarks" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)})
    assert done.returncode == 0, done.stderr
    assert f"usage: {script}" in done.stdout
