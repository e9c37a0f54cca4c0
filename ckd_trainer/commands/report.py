"""Makes a table and pictures from finished runs: `ckd-trainer report`. Reads their output folders and never trains.

    ckd-trainer report runs/teacher runs/fine_tuned runs/ckd --metric accuracy --output picture.png --terms terms.png

The table is printed: name, parameters, size, latency, metric and train time, with the teacher first. The picture shows
the validation metric over the epochs, and the final metric against the latency. The other one shows the terms of the
loss and, of runs with log_gradient_norms, their gradients.
"""

from ckd_trainer.reports.picture import draw
from ckd_trainer.reports.runs import read_runs
from ckd_trainer.reports.table import format_table
from ckd_trainer.reports.terms import draw_terms
from ckd_trainer.utils.errors import ArgumentParser, command_line
from ckd_trainer.utils.files import given_path


@command_line
def main(argv: list[str]) -> None:
    parser = ArgumentParser(prog="ckd-trainer report", description="Makes a table and pictures from finished runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="output_dir of a finished run")
    parser.add_argument("--metric", required=True, help="metric to compare the runs by, such as accuracy")
    parser.add_argument("--output", type=given_path, help="also draw a picture to this file (.png, .svg or .pdf)")
    parser.add_argument(
        "--terms", type=given_path, help="also draw the terms of the loss and their gradients to this file"
    )
    arguments = parser.parse_args(argv)
    runs = read_runs(arguments.runs, arguments.metric)
    print(format_table(runs, arguments.metric))
    if arguments.output:
        draw(runs, arguments.metric, arguments.output)
        print(f"The picture is in {arguments.output}")
    if arguments.terms:
        draw_terms(runs, arguments.terms)
        print(f"The terms of the loss are in {arguments.terms}")


if __name__ == "__main__":
    main()
