"""Layer mappings: which student layer is compared with which teacher layer.

State 0 is the output of the embeddings, state l the output of layer l. With S student layers, T teacher layers and
g = gcd(S, T), the strategies are

==========  =====================================================================
skip        (k S/g, k T/g) for k = 1..g
emb+skip    (0, 0), then skip
last        (l, T - S + l) for l = 1..S: the last S teacher layers
final       (S, T)
emb         (0, 0)
emb+final   (0, 0), (S, T)
triple      (0, 0), (S // 2, T // 2), (S, T)
uniform     (l, round(l T / S)) for l = 0..S
==========  =====================================================================

Pure arithmetic: no tensors, no models.
"""

import math
from collections.abc import Sequence

Pairs = list[tuple[int, int]]

STRATEGIES = ("skip", "emb+skip", "last", "final", "emb", "emb+final", "triple", "uniform")


def parse_layer_mapping(mapping: str | Sequence[tuple[int, int]]) -> str | Pairs:
    """Returns the strategy's name, or the explicit pairs of a mapping such as `"0:0,1:2,3:6"`.

    Raises:
        ValueError: the mapping is neither a strategy nor pairs, or it repeats a pair.
    """
    if isinstance(mapping, str):
        if mapping in STRATEGIES:
            return mapping
        try:
            given = [tuple(int(layer) for layer in pair.split(":")) for pair in mapping.split(",")]
        except ValueError:
            given = []
    else:
        given = [tuple(pair) for pair in mapping]
    pairs = [(pair[0], pair[1]) for pair in given if len(pair) == 2]
    if not pairs or len(pairs) < len(given):
        raise ValueError(
            f"{mapping!r} is not a layer mapping: give one of {', '.join(STRATEGIES)}, or pairs student:teacher "
            "such as 0:0,1:2,3:6."
        )
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"the layer mapping {format_pairs(pairs)} names a pair twice: remove one.")
    return pairs


def resolve_layer_mapping(mapping: str | Sequence[tuple[int, int]], student_layers: int, teacher_layers: int) -> Pairs:
    """Returns the pairs (student state, teacher state) of a mapping for models of these depths.

    Args:
        mapping: a strategy's name, `"0:0,1:2"`, or a sequence of pairs.
        student_layers, teacher_layers: number of layers, without the embeddings.

    Raises:
        ValueError: the mapping does not exist, or names a layer that a model does not have.

    Example:
        >>> resolve_layer_mapping("emb+skip", 3, 6)
        [(0, 0), (1, 2), (2, 4), (3, 6)]
    """
    student, teacher = student_layers, teacher_layers
    parsed = parse_layer_mapping(mapping)
    divisor = math.gcd(student, teacher)
    skip = [(k * student // divisor, k * teacher // divisor) for k in range(1, divisor + 1)]
    if parsed == "skip":
        return skip
    if parsed == "emb+skip":
        return [(0, 0), *skip]
    if parsed == "last":
        if teacher < student:
            raise ValueError(f"layer mapping last needs {student} teacher layers, but the teacher has {teacher}.")
        return [(layer, teacher - student + layer) for layer in range(1, student + 1)]
    if parsed == "final":
        return [(student, teacher)]
    if parsed == "emb":
        return [(0, 0)]
    if parsed == "emb+final":
        return [(0, 0), (student, teacher)]
    if parsed == "triple":
        if student < 2:
            raise ValueError("layer mapping triple needs a student of at least 2 layers: use emb+final.")
        return [(0, 0), (student // 2, teacher // 2), (student, teacher)]
    if parsed == "uniform":
        return [(layer, round(layer * teacher / student)) for layer in range(student + 1)]
    assert not isinstance(parsed, str)  # all strategies have returned
    for student_state, teacher_state in parsed:
        if not (0 <= student_state <= student and 0 <= teacher_state <= teacher):
            raise ValueError(
                f"layer mapping {format_pairs(parsed)} names {student_state}:{teacher_state}, but the student has "
                f"states 0 to {student} and the teacher 0 to {teacher}."
            )
    return parsed


def unmatched_layers(pairs: Pairs, student_layers: int) -> list[int]:
    """Returns the student layers (from 1) that no pair contains, in order.

    A skip mapping leaves layers out if the depths share no divisor: from 12 to 5, only (5, 12) remains.
    """
    matched = {student for student, _ in pairs}
    return [layer for layer in range(1, student_layers + 1) if layer not in matched]


def format_pairs(pairs: Pairs) -> str:
    """Returns the pairs as a recipe writes them, `"0:0,1:2,3:6"`."""
    return ",".join(f"{student}:{teacher}" for student, teacher in pairs)
