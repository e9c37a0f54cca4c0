"""CoNLL files as they come: columns, separators, ends of sentences, comments; and what is refused with its line."""

import pytest

from ckd_trainer.data.conll import read_conll, write_conll
from ckd_trainer.utils.errors import InputError

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP I-ORG
rejects VBZ B-VP O

-DOCSTART- -X- -X- O
Peter NNP B-NP I-PER
Blackburn NNP I-NP I-PER
"""


def written(tmp_path, content):
    path = tmp_path / "a.conll"
    path.write_bytes(content.encode())
    return path


def pairs(tmp_path, content, **options):
    found = read_conll(written(tmp_path, content), labeled=True, **options)
    return [list(zip(*sentence, strict=True)) for sentence in zip(found.tokens, found.tags, strict=True)]


def test_conll_2003(tmp_path):
    expected = [[("EU", "I-ORG"), ("rejects", "O")], [("Peter", "I-PER"), ("Blackburn", "I-PER")]]
    assert pairs(tmp_path, CONLL_2003) == expected
    assert pairs(tmp_path, CONLL_2003.replace("\n", "\r\n")) == expected
    assert pairs(tmp_path, CONLL_2003, tag_column=4) == expected
    chunks = read_conll(written(tmp_path, CONLL_2003), labeled=True, token_column=2, tag_column=3)
    assert chunks.tokens[0] == ["NNP", "VBZ"] and chunks.tags[0] == ["B-NP", "B-VP"]
    assert [chunks.place(0, 1), chunks.place(1, 0)] == [f"{tmp_path}/a.conll, line {line}" for line in (4, 7)]


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        ("a\tO\n\t\nb\tO", [["a"], ["b"]]),  # a lone tab between sentences, no line break at the end
        ("\n\na  B-X\n \n\n\nb  O\n\n", [["a"], ["b"]]),
        ("two words\tO\nb\tB-X\n", [["two words", "b"]]),  # a tab separates, so a space is text
        ("a\u00a0b O\n\u2028\tO\n\x85\tO\n", [["a\u00a0b", "\u2028", "\x85"]]),  # other spaces are text
        ("# id = 1\n# text = a\na\tO\n", [["a"]]),
        ("#\thttp://a.org/\t[2009-10-17]\n1\tO\tO\n", [["1"]]),  # as in GermEval
        ("#\tO\n#tag\tB-X\n\n#\tO\n", [["#", "#tag"], ["#"]]),  # tokens
        ("-DOCSTART- O\n\na O\n", [["a"]]),
        ("-DOCSTART-\na\tO\n", [["a"]]),
    ],
)
def test_odd_files(tmp_path, content, sentences):
    assert read_conll(written(tmp_path, content), labeled=True).tokens == sentences
    assert read_conll(written(tmp_path, content), labeled=False).tokens == sentences


def test_tokens_without_tags(tmp_path):
    found = read_conll(written(tmp_path, "# text = a\na\n#b\n\n#c\n#\n"), labeled=False)
    assert found.tokens == [["a", "#b"], ["#c", "#"]] and found.tags is None


@pytest.mark.parametrize("comment", ["", "# id = 1\n", "#\tVB\n", "#begin document (a)\n"])
def test_hashtags_without_tags_beside_other_columns(tmp_path, comment):
    content = f"{comment}#MeToo\tNN\nis\tVB\n\n{comment}#1\tNN\n"
    assert read_conll(written(tmp_path, content), labeled=False).tokens == [["#MeToo", "is"], ["#1"]]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "a.conll has no rows"),
        ("-DOCSTART- O\n\n", {}, "a.conll has no sentences: give a file with a token"),
        ("a O\nb\n", {}, "line 2: the line has 1 column, but line 1 has 2"),
        ("a O\nb\tx\tO\n", {}, "line 2: the line has 3 columns"),
        ("a\nb\n", {}, "line 1: the line 'a' has one column: add the tags"),
        ("a,O\n", {}, "line 1: the line 'a,O' has one column: separate .* not by a comma"),
        ("a O\nb X\n", {}, "line 2: 'X' is not a tag: give O, or B- or I- .*set tag_column_number"),
        ("a O\nb b-PER\n", {}, "line 2: 'b-PER' is not a tag"),
        ("a O\n\tO\n", {}, "line 2: the token is empty"),
        ("a O\n", {"tag_column": 3}, "line 1: tag_column_number is 3, but the line has 2 columns"),
        ("a O\n", {"token_column": 5}, "line 1: token_column_number is 5"),
        ("a O\nb\x00 O\n", {}, "line 2: there is a NUL"),
    ],
)
def test_refused_with_the_line(tmp_path, content, options, message):
    with pytest.raises(InputError, match=message):
        read_conll(written(tmp_path, content), labeled=True, **options)


def test_a_file_without_empty_lines_is_warned_of(tmp_path, caplog):
    read_conll(written(tmp_path, "a O\n" * 400 + "\n" + "a O\n" * 600), labeled=True)
    assert not caplog.records
    read_conll(written(tmp_path, "a O\n" * 600), labeled=True)
    assert "a.conll is read as one sentence of 600 tokens: put an empty line" in caplog.text


def test_files_that_are_not_there(tmp_path):
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "b.conll", "is missing")):
        with pytest.raises(InputError, match=message):
            read_conll(path, labeled=True)
    (tmp_path / "c.conll").write_bytes(b"a O\n\xff O\n")
    with pytest.raises(InputError, match="c.conll, line 2: not UTF-8"):
        read_conll(tmp_path / "c.conll", labeled=True)


def test_what_is_written_is_read(tmp_path):
    sentences = [(["a", "#", "two words", "", "t\tn\n"], ["O", "B-X", "I-X", "O", "B-Y"]), (["b"], ["O"])]
    write_conll(tmp_path / "a.conll", sentences)
    found = read_conll(tmp_path / "a.conll", labeled=True)
    assert found.tokens == [["a", "#", "two_words", "_", "t_n"], ["b"]]
    assert found.tags == [tags for _, tags in sentences]


def test_wnut_as_it_is(shared_data):
    folder = shared_data / "ner" / "wnut17"
    sizes = {"train": (3394, 62730), "dev": (1009, 15733), "test": (1287, 23394)}
    for name, (sentences, tokens) in sizes.items():
        found = read_conll(folder / f"{name}.conll", labeled=True)
        assert (len(found.tokens), sum(map(len, found.tokens))) == (sentences, tokens)
        assert read_conll(folder / f"{name}.conll", labeled=False).tokens == found.tokens


def test_plain_text_is_not_taken_for_tokens_in_silence(tmp_path, caplog):
    """A line of a test file has a token, but its words look like columns."""
    (tmp_path / "plain.txt").write_text("Ann Lee went\nto Paris today\nin group O\n")
    assert read_conll(tmp_path / "plain.txt", labeled=False).tokens == [["Ann", "to", "in"]]
    assert "Only column 1 of 3 is read, such as 'Ann'; few lines end in a tag." in caplog.text
    caplog.clear()
    (tmp_path / "tagged.txt").write_text("Ann NNP B-PER\nwent VBD O\n")
    (tmp_path / "bare.txt").write_text("Ann\nwent\n")
    for name in ("tagged.txt", "bare.txt"):
        assert read_conll(tmp_path / name, labeled=False).tokens == [["Ann", "went"]]
    assert not caplog.text
    (tmp_path / "uneven.txt").write_text("Ann Lee went\nto Paris\n")
    with pytest.raises(InputError, match=r"2 columns, but line 1 has 3: .*give whole texts as \.jsonl or \.parquet"):
        read_conll(tmp_path / "uneven.txt", labeled=False)
