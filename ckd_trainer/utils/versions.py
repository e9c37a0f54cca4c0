"""The versions of the code that results depend on."""

import functools
import subprocess
from importlib.metadata import version
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[2]
_PACKAGES = ("ckd_trainer", "torch", "transformers", "datasets", "evaluate", "accelerate", "safetensors")
_version = functools.cache(version)  # it parses all of a package's metadata


def versions() -> dict[str, str]:
    """Returns the installed version of each package."""
    return {package: _version(package) for package in _PACKAGES}


def source_commit(folder: Path = _SOURCE) -> str | None:
    """Returns the commit checked out in a folder, by default that of this package.

    None if the folder is not the top of a git checkout, as with an installed wheel: then a repository around it is
    somebody else's.
    """
    try:
        command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    top, commit = result.stdout.splitlines()
    return commit if Path(top).resolve() == folder.resolve() else None
