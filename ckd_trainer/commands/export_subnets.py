"""Writes sub-networks of a dynamic student as plain models: `ckd-trainer export-subnets`.

    ckd-trainer export-subnets runs/dynamic --widths 0.5 --depths 0.5 --output small
    ckd-trainer export-subnets runs/dynamic --widths 0.5,0.25 --depths 1.0,0.5 --output students

By default all widths and depths of the student are written. A single sub-network is written to the output folder
itself, several to folders such as w0.5_d1 in it. They load with transformers alone.
"""

import argparse
import itertools
from pathlib import Path

from ckd_trainer.export.subnetworks import chosen, export, load_dynamic, plain_model
from ckd_trainer.utils.errors import ArgumentParser, command_line
from ckd_trainer.utils.files import check_new, filling, given_path


@command_line
def main(argv: list[str]) -> None:
    parser = ArgumentParser(
        prog="ckd-trainer export-subnets", description="Writes sub-networks of a dynamic student as plain models."
    )
    parser.add_argument(
        "run", metavar="RUN_DIR", type=given_path, help="output_dir of a run with student_widths or student_depths"
    )
    for name, example in (("widths", "0.5,0.25"), ("depths", "1.0,0.5")):
        help_text = f"{name}, such as {example} (default: all that were trained)"
        parser.add_argument(f"--{name}", nargs="+", type=_numbers, metavar="SHARE", help=help_text)
    parser.add_argument("--output", required=True, type=given_path, help="a new folder for the models")
    options = parser.parse_args(argv)
    output = Path(options.output)
    check_new(output)
    dynamic = load_dynamic(Path(options.run))
    widths = options.widths or [[part.width for part in dynamic.subnetworks]]
    depths = options.depths or [[part.depth for part in dynamic.subnetworks]]
    parts = chosen(dynamic, *(list(dict.fromkeys(itertools.chain(*words))) for words in (widths, depths)))
    models = [plain_model(dynamic, part) for part in parts]  # all are checked before any is written
    with filling(output):
        for part, plain in zip(parts, models, strict=True):
            folder = output if len(parts) == 1 else output / str(part)
            export(dynamic, part, plain, folder)
            print(f"{folder}: {plain.num_parameters():,} parameters.")


def _numbers(text: str) -> list[float]:
    """Returns the numbers in a word of the command line, which commas may separate, too."""
    try:
        numbers = [float(number) for number in text.split(",") if number]
        if not numbers:
            raise ValueError
        return numbers
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers: give some such as 1.0,0.5.") from None


if __name__ == "__main__":
    main()
