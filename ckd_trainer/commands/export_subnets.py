"""Writes sub-networks of a dynamic student as plain models: `ckd-trainer export-subnets`.

    ckd-trainer export-subnets runs/dynamic --widths 0.5 --depths 0.5 --output small
    ckd-trainer export-subnets runs/dynamic --widths 0.5 0.25 --depths 1.0 0.5 --output students

A single sub-network is written to the output folder itself, several to folders such as w0.5_d1 in it. They load with
transformers alone.
"""

from pathlib import Path

from ckd_trainer.export.subnetworks import chosen, export, largest_difference, load_dynamic
from ckd_trainer.utils.errors import ArgumentParser, command_line
from ckd_trainer.utils.files import check_new, expanded


@command_line
def main(argv: list[str]) -> None:
    parser = ArgumentParser(
        prog="ckd-trainer export-subnets", description="Writes sub-networks of a dynamic student as plain models."
    )
    parser.add_argument("run", metavar="RUN_DIR", type=expanded, help="output_dir of a run with student_widths")
    parser.add_argument("--widths", nargs="+", type=float, default=[1.0], help="widths, such as 0.5 0.25 (default: 1)")
    parser.add_argument("--depths", nargs="+", type=float, default=[1.0], help="depths, such as 1.0 0.5 (default: 1)")
    parser.add_argument("--output", required=True, type=expanded, help="a new folder for the models")
    options = parser.parse_args(argv)
    output = Path(options.output)
    check_new(output)
    dynamic = load_dynamic(Path(options.run))
    parts = chosen(dynamic, options.widths, options.depths)
    for part in parts:
        folder = output if len(parts) == 1 else output / str(part)
        plain = export(dynamic, part, folder)
        difference = largest_difference(dynamic, part, plain)
        print(
            f"{folder}: {plain.num_parameters():,} parameters; its outputs differ from those of the sub-network by at "
            f"most {difference:.0e}."
        )


if __name__ == "__main__":
    main()
