"""No row of the tables beside this file has got lost, or lacks what it is checked for."""

import runpy
from pathlib import Path

from helpers.hostile_input import AGREEMENT, COMMANDS, ENTITIES, READING, REPORT, SUBMISSION

FILES = sorted(set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)})


def test_the_tables_are_whole():
    """All of them, also where pytest was asked for this file alone."""
    tables = {path.stem: runpy.run_path(str(path))["ROWS"] for path in FILES}
    legal = tables.pop("test_odd_input")
    rows = [row for table in tables.values() for row in table]
    assert len(rows) >= 295 and len({row.name for row in [*rows, *legal]}) == len(rows) + len(legal)
    assert {row.main for row in rows} == {*COMMANDS, AGREEMENT, ENTITIES, READING, SUBMISSION, REPORT}
    assert all(row.words for row in rows)
