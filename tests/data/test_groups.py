"""Groups and relevance as users' files spell them."""

import pytest
from datasets import Dataset

from ckd_trainer.data.classes import class_names
from ckd_trainer.data.groups import check_relevance, group_numbers
from ckd_trainer.data.table_files import open_table
from ckd_trainer.utils.errors import InputError


def table_of(folder, **columns):
    Dataset.from_dict(columns).to_parquet(folder / "train.parquet")
    return open_table(str(folder / "train.parquet"))


def test_spaces_around_the_name_of_a_query_make_no_group(tmp_path):
    table = table_of(tmp_path, query=["q2", "q1", " q2", "q1 ", "q 1"])
    assert group_numbers(table, "query") == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    "labels", [[True, False], ["true", "false"], ["TRUE", "FALSE"], [0, 1], ["1", "0"], [1.0, 0.0], ["1.0", "0.0"]]
)
def test_spellings_of_relevance(tmp_path, labels):
    check_relevance(class_names(table_of(tmp_path, label=labels), "label"), "train.parquet")


@pytest.mark.parametrize("labels", [["yes", "no"], [1, 2], [0, 1, 2]])
def test_unknown_relevance(tmp_path, labels):
    with pytest.raises(InputError, match="it is unknown which of them a relevant candidate has"):
        check_relevance(class_names(table_of(tmp_path, label=labels), "label"), "train.parquet")
