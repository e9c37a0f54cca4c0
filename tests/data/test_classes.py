"""The classes that labels name, and warnings and errors for those that nobody meant."""

import logging

import pytest

from ckd_trainer.data.classes import class_names
from ckd_trainer.data.table_files import open_table
from ckd_trainer.utils.errors import InputError


@pytest.fixture
def classes(tmp_path, caplog):
    """Returns the classes of a file with these labels, and what was warned of."""

    def classes(labels):
        (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"some text\t{label}\n" for label in labels))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ckd_trainer"):
            return class_names(open_table(tmp_path / "a.tsv"), "label"), caplog.messages

    return classes


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["no", "yes"] * 2, ["no", "yes"]),
        (["10", "9", "-1"] * 2, ["-1", "9", "10"]),
        ([f"intent {number}" for number in range(150)] * 2, sorted(f"intent {number}" for number in range(150))),
        (["a", "b", "c", "d"] * 3, ["a", "b", "c", "d"]),
    ],
)
def test_good_labels_are_not_warned_of(classes, labels, names):
    assert classes(labels) == (names, [])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["yes", "yes ", "no"] * 2, "2 of 3 classes ('label') look alike ('yes': 2, 'yes ': 2)"),
        (["YES", "yes", "no", "no", "yes"], "look alike ('YES': 1, 'yes': 2)"),
        (["a b", "a\u00a0 b", "c", "\u200bc"] * 2, "look alike ('a b': 2, 'a\\xa0 b': 2, 'c': 2, '\\u200bc': 2)"),
        (["1", "1.0", "01", "2"] * 2, "look alike ('01': 2, '1': 2, '1.0': 2)"),
        (["yes", "no", "nan"] * 2, "1 of 3 classes ('label') looks like a missing value ('nan': 2)"),
        (["yes", "no", "yes", "no", "maybe"], "1 of 3 classes ('label') has one row ('maybe': 1)"),
        (["a", "b"], "2 of 2 classes ('label') have one row each ('a': 1, 'b': 1)"),
        ([f"{number}.5" for number in range(4)] * 2, "fractions ('0.5', '1.5', '2.5', '3.5'), read as 4 classes"),
    ],
)
def test_accidental_classes_are_warned_of(classes, labels, words):
    names, told = classes(labels)
    assert sorted(names) == sorted(set(labels)) and any(words in message for message in told)
    assert all("a.tsv" in message and len(message) < 1000 for message in told)


def test_long_lists_of_classes_are_cut(classes):
    labels = [f"{'x' * 1000}{number}" for number in range(100)]
    _, told = classes(3 * labels + [label + " " for label in labels])
    assert len(told) == 2 and all(len(message) < 2000 for message in told)


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        ([f"{number / 100}" for number in range(1200)], 1200),
        (["0.5", "3"], 2),  # numbers with fractions name classes in few rows, if ever
        ([str(number) for number in range(11)], 11),
        ([f"word {number}" for number in range(60)] + ["word 1"] * 59, 60),
    ],
)
def test_more_classes_than_half_of_the_rows_are_refused(classes, labels, count):
    with pytest.raises(InputError, match=f"{count} classes .*set regression .* label_column") as error:
        classes(labels)
    assert len(str(error.value)) < 1000


def test_small_files_may_have_a_class_a_row(classes):
    assert len(classes("abcdefghij")[0]) == 10
