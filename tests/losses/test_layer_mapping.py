"""The layer mappings against DESIGN's table, and what they refuse."""

import pytest

from ckd_trainer.losses.layer_mapping import STRATEGIES, parse_layer_mapping, resolve_layer_mapping, unmatched_layers


@pytest.mark.parametrize(
    ("mapping", "student", "teacher", "pairs"),
    [
        ("skip", 6, 12, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12)]),
        ("emb+skip", 3, 6, [(0, 0), (1, 2), (2, 4), (3, 6)]),
        ("emb+skip", 4, 6, [(0, 0), (2, 3), (4, 6)]),
        ("last", 2, 6, [(1, 5), (2, 6)]),
        ("final", 3, 12, [(3, 12)]),
        ("emb", 3, 12, [(0, 0)]),
        ("emb+final", 3, 12, [(0, 0), (3, 12)]),
        ("triple", 6, 12, [(0, 0), (3, 6), (6, 12)]),
        ("uniform", 5, 12, [(0, 0), (1, 2), (2, 5), (3, 7), (4, 10), (5, 12)]),
        ("0:0,1:5,2:6", 2, 6, [(0, 0), (1, 5), (2, 6)]),
        ([(1, 1), (2, 3)], 2, 3, [(1, 1), (2, 3)]),
    ],
)
def test_pairs(mapping, student, teacher, pairs):
    assert resolve_layer_mapping(mapping, student, teacher) == pairs


@pytest.mark.parametrize("mapping", STRATEGIES)
@pytest.mark.parametrize("student", range(2, 9))
def test_every_strategy_names_layers_that_exist(mapping, student):
    for teacher in range(student, 13):
        pairs = resolve_layer_mapping(mapping, student, teacher)
        assert pairs == sorted(set(pairs))
        assert all(0 <= s <= student and 0 <= t <= teacher for s, t in pairs)


def test_a_small_divisor_leaves_layers_out():
    assert unmatched_layers(resolve_layer_mapping("emb+skip", 5, 12), 5) == [1, 2, 3, 4]
    assert unmatched_layers(resolve_layer_mapping("uniform", 5, 12), 5) == []


@pytest.mark.parametrize(
    ("mapping", "student", "teacher", "words"),
    [
        ("skipp", 3, 6, "not a layer mapping"),
        ("1:2:3", 3, 6, "not a layer mapping"),
        ([], 3, 6, "not a layer mapping"),
        ("1:1,1:1", 3, 6, "a pair twice"),
        ("4:6", 3, 6, "the student has states 0 to 3"),
        ("3:7", 3, 6, "the teacher 0 to 6"),
        ("-1:2", 3, 6, "the student has states 0 to 3"),
        ("last", 6, 3, "needs 6 teacher layers"),
        ("triple", 1, 6, "at least 2 layers"),
    ],
)
def test_refused(mapping, student, teacher, words):
    with pytest.raises(ValueError, match=words):
        resolve_layer_mapping(mapping, student, teacher)


def test_parsing_keeps_a_strategys_name():
    assert parse_layer_mapping("emb+skip") == "emb+skip"
    assert parse_layer_mapping("0:0,2:4") == [(0, 0), (2, 4)]
