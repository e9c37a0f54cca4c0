"""What all pictures share: colors, axes, and how a picture is saved."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import input_errors_about

TEACHER_COLOR = "#444b54"
# Distinguishable with any color vision (Okabe and Ito). With more lines than colors, colors repeat.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
TEXT_COLOR, NOTE_COLOR, GRID_COLOR = "#24292f", "#6e7781", "#e6e8eb"


def set_up_axes(axes: Any, *, grid: Literal["x", "y"] = "y") -> None:
    """Leaves only the axes themselves and the grid lines across one of them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(NOTE_COLOR)
    axes.tick_params(which="both", colors=NOTE_COLOR)
    axes.grid(axis=grid, color=GRID_COLOR)
    axes.set_axisbelow(True)


def label_axes(axes: Any, title: str, unit: str) -> None:
    """Writes a title above the axes, and what they show below."""
    axes.set_title(title, loc="left", color=TEXT_COLOR, fontsize=10, fontweight="bold")
    axes.set_xlabel(unit, color=TEXT_COLOR)


def check_matplotlib() -> None:
    """Raises InputError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "the picture needs matplotlib, which is not installed: run pip install 'ckd-trainer[plots]', or leave out "
            "the picture's file to print only the table."
        )


def save_picture(figure: Any, path: str | Path) -> None:
    """Writes a picture; raises InputError for an unknown suffix, or if the file cannot be written."""
    suffix = Path(path).suffix.lower()
    if suffix.removeprefix(".") not in figure.canvas.get_supported_filetypes():
        raise InputError(
            f"{path} cannot be drawn (its suffix is {suffix!r}): give a file name ending in .png, .svg or .pdf."
        )
    with input_errors_about(path):
        figure.savefig(path)
