"""Prediction files in the format of the GLUE server, and a zip file with those of several runs.

ckd-trainer submission outputs/glue_*_ckd --output glue_submission.zip
"""

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.utils.errors import ArgumentParser, InputError, command_line, first_of
from ckd_trainer.utils.files import input_errors_about, write_atomically


def write_predictions(task: Any, name: str, logits: ArrayLike, output_dir: str | Path) -> Path:
    """Writes the predictions for a test set, for GLUE tasks in the format of the GLUE server.

    The file has the header `index<tab>prediction` and a row per example in order: the label as GLUE writes it, or for
    STS-B the score, clipped to [0, 5], with 3 decimals. Other tasks get `predictions.tsv` with label names, or scores
    in full precision.

    Args:
        task: A `TextTask`.
        name: The key of the test set in `task.test`.
        logits: Of shape (examples, classes), or (examples,) or (examples, 1) for scores.
        output_dir: The folder; made if missing.

    Returns:
        The path of the file. It is written whole or not at all.
    """
    logits = np.asarray(logits)
    glue = GLUE_TASKS.get(task.name)
    labels = glue.file_labels if glue else task.label_names
    if labels is None:
        scores = logits.reshape(-1)
        words = [f"{score:.3f}" for score in scores.clip(0, 5)] if glue else [str(score) for score in scores]
    else:
        words = [labels[index] for index in logits.argmax(-1)]
    path = Path(output_dir) / (glue.submission[name] if glue else "predictions.tsv")
    lines = ["index\tprediction", *(f"{index}\t{word}" for index, word in enumerate(words))]
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def write_scores(scores: ArrayLike, output_dir: str | Path) -> Path:
    """Writes `predictions.tsv` with the score of each text, in order, and returns its path."""
    path = Path(output_dir) / "predictions.tsv"
    lines = ["index\tscore", *(f"{index}\t{score:.6g}" for index, score in enumerate(np.asarray(scores).tolist()))]
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def zip_submission(
    folders: Iterable[str | Path], output: str | Path, names: Sequence[str], *, overwrite: bool = False
) -> tuple[list[str], list[str]]:
    """Zips every file with one of the names that lies in one of the folders or in its `predictions` folder.

    Args:
        folders: Run folders.
        output: The zip file to write.
        names: The files that a submission may hold, such as "CoLA.tsv".
        overwrite: Replace an existing output.

    Returns:
        The names that went in, and those that were not found, both in the order of `names`.

    Raises:
        InputError: a folder is missing, a file is in two folders, there is nothing to zip, the output exists.
    """
    output = Path(output)
    run_folders = [Path(folder) for folder in folders]
    for folder in run_folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: give run folders that hold prediction files.")
    if output.is_dir():
        raise InputError(f"{output} is a folder: give a file as --output.")
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists: give another --output, or --overwrite to replace it.")
    found = {}
    for name in names:
        places = [folder / inner / name for folder in run_folders for inner in (".", "predictions")]
        paths = [path for path in places if path.is_file()]
        if len(paths) > 1:
            raise InputError(f"{name} is there twice, in {paths[0].parent} and {paths[1].parent}: leave one out.")
        if paths:
            found[name] = paths[0]
    if not found:
        raise InputError(
            f"no prediction file ({', '.join(names)}) in {first_of(run_folders)}: run with --do_predict first."
        )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in found.items():
            archive.write(path, name)
    write_atomically(output, content.getvalue())
    return list(found), [name for name in names if name not in found]


@command_line
def main(argv: list[str]) -> None:
    parser = ArgumentParser(
        prog="ckd-trainer submission", description="Zips the prediction files of runs for the GLUE server."
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a run folder with prediction files")
    parser.add_argument("--output", default="glue_submission.zip", help="the zip file (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing zip file")
    options = parser.parse_args(argv)
    # AX is the server's diagnostic set: optional, predicted by an MNLI model.
    names = [name for task in GLUE_TASKS.values() for name in task.submission.values()] + ["AX.tsv"]
    with input_errors_about(options.output):
        found, missing = zip_submission(options.folders, options.output, names, overwrite=options.overwrite)
    print(f"{options.output}: {len(found)} of {len(names)} files ({', '.join(found)}).")
    if missing:
        print(f"Missing: {', '.join(missing)}. The server requires all but AX.tsv, which is optional.")


if __name__ == "__main__":
    main()
