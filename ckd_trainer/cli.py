"""The console command `ckd-trainer`: the scripts and the tools as sub-commands.

    ckd-trainer demo agreement runs/quickstart/data
    ckd-trainer teacher recipes/quickstart_teacher.yaml
    ckd-trainer glue recipes/quickstart_ckd.yaml
    ckd-trainer report runs/quickstart/teacher runs/quickstart/ckd --metric accuracy
    ckd-trainer compare recipes/glue_mrpc_ckd.yaml --methods fine_tuned ckd --output runs/compare

`ckd-trainer glue ...` is the same as `python run_glue_ckd.py ...`. To start several processes, use
`accelerate launch -m ckd_trainer glue ...`.
"""

import importlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple

from ckd_trainer.utils.errors import InputError, command_line, short
from ckd_trainer.utils.nearest import nearest


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        summary: one line for `--help`.
        module: the module whose `main(argv)` is called. It is imported only when the command is chosen, as torch and
            transformers take seconds to import.
        trains: whether the command may run in several processes.
    """

    summary: str
    module: str
    trains: bool = False


class Group(NamedTuple):
    """Sub-commands by name, and one line for `--help`."""

    summary: str
    commands: Mapping[str, "Command | Group"]


DEMOS = {
    "agreement": Command("sentences to classify as grammatical or ungrammatical", "ckd_trainer.data.demo.agreement"),
    "entities": Command("names, places, dates and email addresses in sentences", "ckd_trainer.data.demo.entities"),
    "reading": Command("questions about texts, as SQuAD files", "ckd_trainer.data.demo.reading"),
}
COMMANDS: dict[str, Command | Group] = {
    "teacher": Command("fine-tune a pre-trained encoder: the teacher", "ckd_trainer.commands.teacher", trains=True),
    "glue": Command("distill a student on GLUE or your own labeled texts", "ckd_trainer.commands.glue", trains=True),
    "squad": Command("distill a student on SQuAD or your own questions", "ckd_trainer.commands.squad", trains=True),
    "ner": Command("distill a student that finds named entities", "ckd_trainer.commands.ner", trains=True),
    "mlm": Command(
        "distill a language model into a small general-purpose encoder", "ckd_trainer.commands.mlm", trains=True
    ),
    "compare": Command("methods and seeds under equal conditions, with intervals", "ckd_trainer.commands.compare"),
    "report": Command("a table and pictures from finished runs", "ckd_trainer.commands.report"),
    "export-subnets": Command(
        "sub-networks of a dynamic student as plain models", "ckd_trainer.commands.export_subnets"
    ),
    "search": Command("the best student for a budget of latency or size", "ckd_trainer.commands.search"),
    "augment": Command("variants of training texts, for a teacher to answer", "ckd_trainer.commands.augment"),
    "recombine": Command("new pairs of training texts, for a teacher to answer", "ckd_trainer.commands.recombine"),
    "submission": Command("zip the prediction files of runs for the GLUE server", "ckd_trainer.data.submission"),
    "demo": Group(f"generate the data of a demo task: {', '.join(DEMOS)}", DEMOS),
}


@command_line
def main(argv: list[str]) -> None:
    """Runs the sub-command that the first word names, with the words after it.

    Raises:
        InputError: there is no such sub-command.
    """
    if argv[:1] == ["--version"]:
        print(f"ckd-trainer {version('ckd-trainer')}")
    else:
        _run("ckd-trainer", COMMANDS, argv)


def _run(prog: str, commands: Mapping[str, Command | Group], argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(prog, commands))
        return
    name, *words = argv
    if name not in commands:
        likely = nearest(name, commands)
        hint = f"did you mean {likely}?" if likely else f"choose from {', '.join(commands)}."
        raise InputError(f"{prog} has no command {short(name)}: {hint}")
    command = commands[name]
    if isinstance(command, Group):
        _run(f"{prog} {name}", command.commands, words)
        return
    importlib.import_module(command.module).main(words)
    if command.trains:
        from ckd_trainer.utils.processes import destroy_process_group  # which imports torch

        destroy_process_group()


def _help(prog: str, commands: Mapping[str, Command | Group]) -> str:
    lines = [
        f"usage: {prog} COMMAND ...",
        "",
        *(f"  {name:16}{command.summary}" for name, command in commands.items()),
    ]
    return "\n".join([*lines, "", f"For the options of a command: {prog} COMMAND --help"])
