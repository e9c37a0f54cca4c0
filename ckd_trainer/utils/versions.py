"""The versions of the packages that results depend on."""

from importlib.metadata import version

_PACKAGES = ("ckd_trainer", "torch", "transformers", "datasets", "evaluate", "accelerate", "safetensors")


def versions() -> dict[str, str]:
    """Returns the installed version of each package."""
    return {package: version(package) for package in _PACKAGES}
