"""Laws that hold for any input: of recipes, layer mappings, the geometry of sets, files, and answers from logits.

hypothesis draws fresh inputs in each run, makes those that fail small, and prints the `@reproduce_failure` line that
draws them again. The examples take seconds; a change of what they test deserves more: `HYPOTHESIS_TIMES=20 pytest`.
`make test-all` draws four times as many.
"""

import json
import math
import os
import re
import types
import typing
from fractions import Fraction

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from helpers import fuzz, reference
from helpers.answers import check_answers, slow_answers
from helpers.questions import NO_ANSWER, make_questions
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from ckd_trainer import losses
from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.spans import read_answers
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.table_files import open_table
from ckd_trainer.losses.layer_mapping import (
    STRATEGIES,
    format_pairs,
    parse_layer_mapping,
    resolve_layer_mapping,
    unmatched_layers,
)
from ckd_trainer.runs.recipe import parse_recipe, resolved_recipe
from ckd_trainer.utils.errors import InputError

TIMES = int(os.environ.get("HYPOTHESIS_TIMES", 1))


def draws(examples):
    """Fresh inputs everywhere (hypothesis has fixed ones of its own accord in CI), nothing kept in a folder."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=False,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


# ------------------------------------------------------------------------------------------------------------ recipes

KINDS = (ModelArguments, GlueArguments, CKDArguments, RunArguments)
HINTS = {name: hint for kind in KINDS for name, hint in typing.get_type_hints(kind).items()}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORDS = st.sampled_from(
    ["", "yes", "no", "none", "null", "1e3", "0x1f", "~", "{}", "a=b", "--alpha", "rte", " x", "é: #"]
)
SOUND = {  # values that are often allowed, so that whole sets of options are
    "task_name": st.sampled_from(["rte", "cola", "squad", "RTE"]),
    "alpha": st.floats(0, 1),
    "window_size": st.none() | st.integers(0, 50).map(lambda half: 2 * half + 1),
    "student_layers": st.lists(st.integers(1, 12), min_size=1).map(lambda layers: ",".join(map(str, layers))),
    "wr_layer_mapping": st.sampled_from([*STRATEGIES, "0:0,1:2", "3:4"]),
    "student_config": st.dictionaries(ANY_TEXT, st.integers() | ANY_TEXT | st.none() | st.lists(st.booleans())),
}
SOUND["stages"] = st.none() | st.lists(
    st.dictionaries(st.sampled_from(["alpha", "learning_rate"]), st.floats(0, 1)), min_size=1, max_size=3
)
SOUND["ltr_layer_mapping"] = SOUND["wr_layer_mapping"]


def values_of(name):
    """Values of an option's type, sound ones and others. The word None is how a recipe's null is passed on."""
    kinds = typing.get_args(HINTS[name]) or (HINTS[name],)
    if typing.get_origin(HINTS[name]) is typing.Literal:
        return st.sampled_from(kinds)
    by_kind = {
        bool: st.booleans(),
        int: st.integers(1, 2**70) | st.integers(),
        float: st.floats(0, 1e300) | st.floats(allow_nan=False) | st.integers(0, 5).map(float),
        str: ANY_TEXT | WORDS,
        dict: SOUND["student_config"],
        types.NoneType: st.none(),
    }
    if str in kinds and types.NoneType in kinds:
        by_kind[str] = by_kind[str].filter(lambda text: text != "None")
    return SOUND[name] if name in SOUND else st.one_of(*(by_kind[kind] for kind in kinds))


@st.composite
def some_options(draw, kinds=KINDS, most=5):
    names = [name for kind in kinds for name in kind.__dataclass_fields__]
    return {name: draw(values_of(name)) for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=most))}


def made(kinds, options):
    """The instances that a program would make of these options, or None where one of them refuses."""
    try:
        return tuple(
            kind(**{name: value for name, value in options.items() if name in kind.__dataclass_fields__})
            for kind in kinds
        )
    except InputError:
        event("refused")
        return None


def parsed(kinds, folder, recipe, command_line=()):
    """The same of a recipe (a mapping, text or bytes) and a command line."""
    path = folder / "recipe.yaml"
    if isinstance(recipe, dict):
        recipe = yaml.safe_dump(recipe, allow_unicode=len(recipe) % 2 == 0, default_flow_style=len(recipe) > 3)
    path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    try:
        return parse_recipe(kinds, [str(path), *command_line])
    except InputError as error:
        assert str(error).strip()
        return None


kinds_of_one = st.sampled_from([(kind,) for kind in (*KINDS, SquadArguments)[:4]])


@draws(40)
@given(st.data(), kinds_of_one | st.just(KINDS))
def test_a_recipe_gives_the_arguments_that_it_says(folder, data, kinds):
    """And what they are written as gives them again."""
    options = data.draw(some_options(kinds))
    expected = made(kinds, options)
    assert parsed(kinds, folder, options) == expected
    if expected:
        assert parsed(kinds, folder, resolved_recipe(*expected)) == expected


def test_text_that_begins_like_a_mapping_is_text(folder):
    """Only options that take mappings are read as JSON."""
    assert parsed((ModelArguments,), folder, {"model_name_or_path": "{"}) == made(
        (ModelArguments,), {"model_name_or_path": "{"}
    )


@draws(30)
@given(st.data(), kinds_of_one)
def test_the_command_line_wins_over_the_recipe(folder, data, kinds):
    recipe, options = data.draw(some_options(kinds)), data.draw(some_options(kinds))
    recipe |= {name: data.draw(values_of(name)) for name in list(options)[:2]}  # so that there is something to win
    assume(made(kinds, recipe) is not None)
    line = []
    for name, value in options.items():
        key = name.replace("_", "-") if data.draw(st.booleans()) else name
        word = json.dumps(value) if isinstance(value, dict | list) else str(value)
        apart = data.draw(st.booleans()) and not (isinstance(value, str) and word[:1] in ("", "-"))
        line += [f"--{key}", word] if apart else [f"--{key}={word}"]
    assert parsed(kinds, folder, recipe, line) == made(kinds, recipe | options)


def edits(one, other):
    """The least number of characters to put in, leave out or change that makes one word of another."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@draws(30)
@given(st.data(), st.sampled_from(sorted(HINTS)), st.booleans())
def test_a_typing_error_in_a_key_is_refused_with_the_key_that_was_meant(folder, data, key, on_the_command_line):
    place, letter = data.draw(st.integers(0, len(key) - 1)), data.draw(st.sampled_from("aeqx_1"))
    wrong = key[:place] + data.draw(st.sampled_from(["", letter, letter + key[place]])) + key[place + 1 :]
    assume(wrong not in HINTS)
    line = [f"--{wrong}", "1"] if on_the_command_line else []
    (folder / "recipe.yaml").write_text("task_name: rte" if line else json.dumps({"task_name": "rte", wrong: 1}))
    with pytest.raises(InputError, match=f"{wrong} is not a known option: did you mean ") as refusal:
        parse_recipe(KINDS, [str(folder / "recipe.yaml"), *line])
    meant = re.search(r"did you mean (\w+)\?", str(refusal.value))[1]
    assert edits(wrong, meant) == min(edits(wrong, name) for name in HINTS)


@draws(20)
@given(st.dictionaries(ANY_TEXT, st.integers(), min_size=1))
def test_no_unknown_key_is_let_pass(folder, recipe):
    assume(not recipe.keys() <= HINTS.keys())
    with pytest.raises(InputError):
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"task_name": "rte"} | recipe))
        parse_recipe(KINDS, [str(folder / "recipe.yaml")])


SCALARS = [
    "1",
    "x",
    "''",
    "~",
    ".inf",
    "-.nan",
    "0x" + "f" * 4000,
    "2026-11-30",
    "12:30:45",
    "yes",
    "1_0",
    "aGk=",
    "=",
]
SCALARS += [
    "[1, [2]]",
    "{a: 1}",
    "{a: 2026-11-30}",
    "{1: x}",
    "*a",
    "[*a]",
    "{b: *a}",
    "{<<: *a}",
    "|\n  x",
    "@",
    "'{'",
]
TAGS = [
    "bool",
    "int",
    "float",
    "null",
    "binary",
    "timestamp",
    "omap",
    "pairs",
    "set",
    "str",
    "seq",
    "map",
    "python/tuple",
]
FRAGMENTS = st.tuples(
    st.sampled_from(["", "", "&a ", "! "]),
    st.just("") | st.sampled_from(TAGS).map("!!{} ".format),
    st.sampled_from(SCALARS) | ANY_TEXT,
).map("".join)
LINES = st.tuples(st.sampled_from([*sorted(HINTS), "<<", "!!int '-'", "? [a]"]), FRAGMENTS).map(": ".join)


@draws(125)
@given(
    st.lists(LINES, min_size=1, max_size=3).map("\n".join) | st.binary() | st.text("ab:?-[]{}&*!|>'\"#%,\n\t \ufeff")
)
@example("alpha: !!bool maybe")
@example("alpha: !!timestamp soon")
@example("alpha: !!set [1, [2]]")
@example("alpha: !!map b")
@example("alpha: !!int ''")
@example("student_config: &a {b: *a}")
@example("alpha: 0x" + "f" * 4000)
@example("student_init: random\nstudent_config: '" + "[" * 10**5 + "'")
def test_any_recipe_is_parsed_or_refused(folder, recipe):
    parsed((ModelArguments, CKDArguments), folder, recipe if isinstance(recipe, bytes) else recipe.encode())


# ------------------------------------------------------------------------------------------------------ layer mapping

DEPTHS = st.integers(1, 60)


@draws(75)
@given(DEPTHS, DEPTHS)
def test_skip_mappings_are_all_pairs_at_the_same_share_of_the_depth(student, teacher):
    grid = [(s, t) for s in range(1, student + 1) for t in range(1, teacher + 1)]
    same = [(s, t) for s, t in grid if Fraction(s, student) == Fraction(t, teacher)]
    assert resolve_layer_mapping("skip", student, teacher) == same
    assert resolve_layer_mapping("emb+skip", student, teacher) == [(0, 0), *same]
    assert set(same) <= set(resolve_layer_mapping("uniform", student, teacher))


@draws(75)
@given(DEPTHS, DEPTHS)
def test_every_strategy_is_a_path_from_the_bottom_up(student, teacher):
    for name in STRATEGIES:
        try:
            pairs = resolve_layer_mapping(name, student, teacher)
        except ValueError:
            assert (name == "last" and teacher < student) or (name == "triple" and student == 1)
            continue
        students, teachers = zip(*pairs, strict=True)
        assert list(students) == sorted(set(students)) and list(teachers) == sorted(teachers)
        assert 0 <= students[0] and 0 <= teachers[0]
        assert ((0, 0) in pairs) == (name.startswith(("emb", "triple", "uniform")))
        assert pairs[-1] == ((0, 0) if name == "emb" else (student, teacher))
        matched = set(range(1, student + 1)) - set(unmatched_layers(pairs, student))
        assert matched == set(students) - {0}
        # Written out, a strategy means the same.
        assert resolve_layer_mapping(format_pairs(pairs), student, teacher) == pairs
        if name == "uniform":
            assert all(abs(t * student - s * teacher) * 2 <= student for s, t in pairs) and len(pairs) == student + 1
            assert teacher < student or len(set(teachers)) == len(pairs)
        if name == "last":
            assert {t - s for s, t in pairs} == {teacher - student} and len(pairs) == student


@draws(50)
@given(st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), min_size=1, max_size=8), st.integers(1, 9), DEPTHS)
def test_explicit_pairs_are_taken_as_they_are_or_refused(pairs, student, teacher):
    sound = len(set(pairs)) == len(pairs) and all(0 <= s <= student and 0 <= t <= teacher for s, t in pairs)
    for mapping in (pairs, format_pairs(pairs), tuple(pairs)):
        try:
            assert resolve_layer_mapping(mapping, student, teacher) == pairs and sound
        except ValueError as error:
            assert not sound and format_pairs(pairs) in str(error)


@draws(75)
@given(st.text("0123456789:,-+_ a\u0663") | st.text() | st.sampled_from(STRATEGIES))
def test_any_text_is_a_mapping_or_refused(text):
    try:
        mapping = parse_layer_mapping(text)
    except ValueError as error:
        assert "not a layer mapping" in str(error) or "a pair twice" in str(error)
        return
    assert mapping == text in STRATEGIES or parse_layer_mapping(format_pairs(mapping)) == mapping


# ---------------------------------------------------------------------------------------------------- geometry of sets


class Sets(typing.NamedTuple):
    """Vectors of student and teacher in float64, (sets, items, width), and which of the items count."""

    student: torch.Tensor
    teacher: torch.Tensor
    mask: torch.Tensor
    rng: torch.Generator


@st.composite
def some_sets(draw, most=6):
    """Vectors at random, of which some are 0, far longer, or copies of others; whatever the mask."""
    sets, items = draw(st.integers(1, 3)), draw(st.integers(1, most))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    sides = [torch.randn(sets, items, draw(st.integers(1, 5)), generator=rng, dtype=torch.float64) for _ in range(2)]
    for side in sides:
        for place in draw(st.lists(st.tuples(st.integers(0, sets - 1), st.integers(0, items - 1)), max_size=3)):
            one = draw(st.sampled_from(["zero", "long", "copy"]))
            side[place] = {"zero": 0 * side[place], "long": 50 * side[place], "copy": side[place[0], 0]}[one]
    mask = draw(st.lists(st.booleans(), min_size=sets * items, max_size=sets * items))
    mask = torch.tensor(mask).view(sets, items) | (torch.rand(sets, items, generator=rng) < 0.5)
    return Sets(*sides, mask, rng)


PAIR_OPTIONS = st.fixed_dictionaries(
    {
        "relation_temperature": st.sampled_from([0.05, 1.0, 4.0]),
        "relation_normalization": st.sampled_from(["pairs", "items"]),
    }
) | st.fixed_dictionaries(
    {
        "distance": st.just("l2"),
        "distance_loss": st.sampled_from(["l1", "mse", "smooth_l1"]),
        "normalize_distances": st.booleans(),
    }
)
TRIPLE_OPTIONS = st.fixed_dictionaries(
    {"angle_loss": st.sampled_from(["mse", "l1", "smooth_l1"]), "window_size": st.sampled_from([None, 1, 3, 5, 7, 21])}
)
RELATIONS = st.tuples(st.just("pair_loss"), PAIR_OPTIONS) | st.tuples(st.just("triple_loss"), TRIPLE_OPTIONS)


def relation(which, student, teacher, mask):
    name, options = which
    return getattr(losses, name)(losses.gram(student, mask), losses.gram(teacher, mask), mask, **options)


def rotated(vectors, rng, more=0):
    """The vectors turned at random, in a space of `more` dimensions more."""
    width = vectors.shape[-1] + more
    turn = torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=vectors.dtype))[0]
    return torch.nn.functional.pad(vectors, (0, more)) @ turn


def same(value, expected):
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9, check_dtype=False)


def gradient_of(value, leaf):
    found = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(leaf) if found is None else found


@draws(30)
@given(some_sets(most=5), RELATIONS)
def test_relations_equal_the_loops(sets, which):
    student = sets.student.requires_grad_()
    fast = relation(which, student, sets.teacher, sets.mask)
    slow = getattr(reference, which[0])(student, sets.teacher, sets.mask, **which[1])
    same(fast, slow)
    # In one dimension all cosines are 1 or -1, up to rounding: where they agree, the gradient of l1 is not defined.
    if which[1].get("angle_loss") != "l1" or student.shape[-1] > 1:
        same(gradient_of(fast, student), gradient_of(slow, student))


@draws(30)
@given(some_sets(), RELATIONS, st.integers(0, 3), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
def test_what_leaves_angles_and_distances_leaves_the_losses(sets, which, more, scale, shifted):
    """Turns and more dimensions always; shifts of angles and l2; scales of all but l2 as it is."""
    student, teacher, mask, rng = sets
    before = relation(which, student, teacher, mask)
    assert before >= -1e-12
    l2 = which[1].get("distance") == "l2"
    turned = [rotated(side, rng, more) for side in (student, teacher)]
    same(relation(which, *turned, mask), before)
    if l2 or which[0] == "triple_loss":
        moved = [side + shifted * torch.randn(len(mask), 1, side.shape[-1], generator=rng) for side in turned]
        same(relation(which, *moved, mask), before)
    if not l2 or which[1]["normalize_distances"]:
        same(relation(which, student, scale * teacher, mask), before)
        same(relation(which, scale * student, teacher, mask), before)
    elif which[1]["distance_loss"] != "smooth_l1":  # of both sides, as a square of a length, or of that
        power = {"l1": 2, "mse": 4}[which[1]["distance_loss"]]
        same(relation(which, scale * student, scale * teacher, mask), before * scale**power)


@draws(30)
@given(some_sets(), RELATIONS, st.sampled_from([math.nan, math.inf, -1e30, 0.0]))
def test_the_order_of_items_and_what_is_masked_do_not_matter(sets, which, junk):
    """Within a window the order backwards is the same, and masked items may come at either end."""
    student, teacher, mask, rng = sets
    before = relation(which, student, teacher, mask)
    items = mask.shape[-1]
    ordered = which[1].get("window_size") is not None
    order = torch.arange(items).flip(0) if ordered else torch.randperm(items, generator=rng)
    same(relation(which, student[:, order], teacher[:, order], mask[:, order]), before)
    hidden = [side.masked_fill(~mask[..., None], junk) for side in (student, teacher)]
    wider = [torch.nn.functional.pad(side, (0, 0, 2, 1), value=junk) for side in hidden]
    padded = torch.nn.functional.pad(mask, (2, 1))
    same(relation(which, *wider, padded), before)
    if not ordered:  # masked items go anywhere
        order = torch.randperm(items + 3, generator=rng)
        same(relation(which, *(side[:, order] for side in wider), padded[:, order]), before)


@draws(20)
@given(some_sets(), RELATIONS)
def test_a_loss_over_sets_is_the_mean_of_theirs(sets, which):
    """Weighted by what it is divided by: pairs, items or triples."""
    *sides, mask, _ = sets
    alone = [
        relation(which, *(side[one : one + 1] for side in sides), mask[one : one + 1]) for one in range(len(mask))
    ]
    window = which[1].get("window_size") or 99
    near = [[abs(i - j) <= window // 2 for i in range(mask.shape[1])] for j in range(mask.shape[1])]
    triples = ((mask[:, :, None] & mask[:, None]) & torch.tensor(near)).sum(-1).square().sum(-1)
    sizes = mask.sum(-1)
    pairs = sizes if which[1].get("relation_normalization") == "items" else sizes.square()
    weights = triples if which[0] == "triple_loss" else pairs
    same(relation(which, *sides, mask), (torch.stack(alone) * weights).sum() / weights.sum().clamp_min(1))


@draws(20)
@given(some_sets(), RELATIONS)
def test_a_student_like_its_teacher_has_nothing_to_learn(sets, which):
    student, _, mask, rng = sets
    teacher = rotated(student, rng) if which[1].get("angle_loss", which[1].get("distance_loss")) != "l1" else student
    value = relation(which, student.clone().requires_grad_(), teacher, mask)
    assert abs(value.item()) < 1e-9
    leaf = student.clone().requires_grad_()
    gradient = gradient_of(relation(which, leaf, teacher, mask), leaf)
    assert gradient.abs().max() < 1e-6 * max(1, student.abs().max())


@draws(20)
@given(some_sets(), st.sampled_from(["mse", "l1", "smooth_l1"]), st.floats(0.02, 5))
def test_losses_stay_within_their_bounds(sets, angle_loss, tau):
    """Cosines differ by 2 at most; logarithms of probabilities by 4 / tau; a window of all is no window."""
    student, teacher, mask, _ = sets
    most = {"mse": 4, "l1": 2, "smooth_l1": 1.5}[angle_loss]
    values = [
        relation(("triple_loss", {"angle_loss": angle_loss, "window_size": window}), student, teacher, mask)
        for window in (None, 2 * mask.shape[1] - 1, 2 * mask.shape[1] + 1)
    ]
    assert 0 <= values[0] <= most and values[0] == values[1] == values[2]
    divergence = relation(
        ("pair_loss", {"relation_temperature": tau, "relation_normalization": "items"}), student, teacher, mask
    )
    assert -1e-12 <= divergence <= 4 / tau


# Inner products are squares, and mse of squared distances takes those to the fourth power; where a gradient is as
# large as 1 / length, float16 has no room for it.
SIZES = {
    torch.float16: (1e-3, 10),
    torch.bfloat16: (1e-15, 1e8),
    torch.float32: (1e-15, 1e8),
    torch.float64: (1e-100, 1e70),
}


@draws(30)
@given(some_sets(), RELATIONS, st.sampled_from(list(SIZES)))
def test_any_magnitudes_give_finite_numbers(sets, which, dtype):
    *sides, mask, rng = sets
    small, large = SIZES[dtype]
    factors = torch.tensor([0, small, small**0.5, 1, large**0.5, large], dtype=torch.float64)
    student, teacher = (
        (side.clamp(-1, 1) * factors[torch.randint(6, (*mask.shape, 1), generator=rng)]).to(dtype) for side in sides
    )
    value = relation(which, student.requires_grad_(), teacher, mask)
    assert torch.isfinite(value) and torch.isfinite(gradient_of(value, student)).all()


# -------------------------------------------------------------------------------------------------------------- tables

# What a field of a tsv file may hold: everything but what separates fields and lines, which \x85 and \u2028 do not.
FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0")) | st.text(
    ' "\x1c\u2028\x85\ufeff,'
)
TEXTS = FIELDS | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.text('",\r\n x')
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def some_rows(draw, fields):
    """A header of different names, and rows: of two fields or more, as a lone empty one is a blank line."""
    names = draw(st.lists(fields, min_size=2, max_size=4, unique=True))
    assume("".join(names).strip() and not names[0].startswith("\ufeff"))
    rows = draw(st.lists(st.tuples(*[fields] * len(names)), min_size=1, max_size=5))
    # A row that repeats the header is refused.
    assume(all([row[0].removeprefix("\ufeff"), *row[1:]] != names for row in rows))
    return names, rows


def check_table(path, names, rows, **kwargs):
    table = open_table(path, **kwargs)
    assert table.data.column_names == names
    columns = [table.data[name][:] for name in names]
    assert list(zip(*columns, strict=True)) == rows
    for name, column in zip(names, columns, strict=True):
        assert table.texts(name) == column
    return table


@draws(40)
@given(some_rows(FIELDS), ENDS, st.integers(0, 3), st.booleans(), st.booleans())
def test_tsv_files_are_read_as_they_were_written(folder, written, end, more, mark, header):
    names, rows = written
    lines = ["\t".join(row) for row in ([names, *rows] if header else rows)]
    content = "\ufeff" * mark + end.join(lines) + more * end
    assume("".join(lines).strip() and (mark or lines[0][:1] != "\ufeff"))
    (folder / "a.tsv").write_bytes(content.encode())
    table = check_table(folder / "a.tsv", names, rows, columns=None if header else names)
    assert list(table.lines) == [line + header for line in range(1, len(rows) + 1)]


@draws(40)
@given(some_rows(TEXTS), ENDS, st.booleans(), st.booleans())
def test_csv_files_are_read_as_they_were_written(folder, written, end, quote_all, mark):
    names, rows = written
    lines = [
        ",".join(
            f'"{field.replace(chr(34), 2 * chr(34))}"' if quote_all or set(field) & set(',"\r\n') else field
            for field in row
        )
        for row in [names, *rows]
    ]
    assume(mark or lines[0][0] != "\ufeff")
    (folder / "a.csv").write_bytes(("\ufeff" * mark + end.join(lines)).encode())
    table = check_table(folder / "a.csv", names, rows)
    breaks = [len(re.findall("\r\n|\r|\n", "\0".join(row))) for row in [names, *rows]]
    assert list(table.lines) == [1 + number + sum(breaks[:number]) for number in range(1, len(rows) + 1)]


@draws(30)
@given(some_rows(TEXTS), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_json_lines_are_read_as_they_were_written(folder, written, ascii_only, end):
    names, rows = written
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    (folder / "a.jsonl").write_bytes(end.join(lines).encode())
    check_table(folder / "a.jsonl", names, rows)


@draws(30)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_in_words_are_read_to_the_last_digit(folder, numbers):
    (folder / "a.tsv").write_text("\n".join(["label\tx", *(f"{number!r}\t" for number in numbers)]))
    assert open_table(folder / "a.tsv").numbers("label") == [float(number) for number in numbers]


@draws(75)
@given(st.binary() | st.text('ab\t\n\r ",{}[]:0\0\ufeff\u2028').map(str.encode), st.sampled_from(fuzz.SUFFIXES))
def test_any_bytes_are_read_as_a_table_or_refused(folder, content, suffix):
    """Where a tsv file is read, what was read is what the file says."""
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    try:
        data = open_table(path).data
    except InputError as error:
        assert str(path) in str(error)
        return
    assert len(data) and len(data.column_names)
    if suffix == ".tsv":
        lines = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))
        rows = [data.column_names, *zip(*(data[name][:] for name in data.column_names), strict=True)]
        assert ["\t".join(row) for row in rows] == lines[: len(rows)] and not any(lines[len(rows) :])


# ------------------------------------------------------------------------------------------------- answers from logits


@st.composite
def some_features(draw):
    """Questions about contexts of odd characters, and the features of each: pieces of its tokens, in any order."""
    rows, features = [], []
    for number in range(draw(st.integers(1, 3))):
        context = draw(st.text("ab \u00a0\n\u00e9\U0001f408", max_size=10))
        rows.append((f"q{number}", context, "why", NO_ANSWER))
        cuts = sorted(draw(st.lists(st.integers(0, len(context)), max_size=10)))  # some tokens are of no characters
        tokens = list(zip(cuts, cuts[1:], strict=False))
        tokens = [
            token for token in tokens for _ in range(draw(st.sampled_from([1, 1, 1, 2])))
        ]  # bytes of a character
        for _ in range(draw(st.integers(1, 3))):
            first = draw(st.integers(0, len(tokens)))
            piece = tokens[first : first + draw(st.integers(0, 6))]
            # the places of [CLS], and of what is no part of an answer: the question, [SEP], padding
            outside = draw(st.permutations(["cls", *["no"] * draw(st.integers(0, 2))]))
            split = draw(st.integers(0, len(outside)))
            row = [*outside[:split], *piece, *outside[split:]]
            features.append(
                {
                    "question": number,
                    "char_starts": [-1 if isinstance(part, str) else part[0] for part in row],
                    "char_ends": [-1 if isinstance(part, str) else part[1] for part in row],
                    "answer_mask": [int(part != "no") for part in row],
                }
            )
    return make_questions(*rows), Dataset.from_list(draw(st.permutations(features)))


def some_logits(features, numbers):
    """Start and end logits for each token of the features, and what else there is up to the longest."""
    longest = max(len(row) for row in features["answer_mask"])
    one = st.lists(numbers, min_size=longest, max_size=longest)
    return st.tuples(*2 * [st.lists(one, min_size=len(features), max_size=len(features)).map(np.float32)])


SETTINGS = st.fixed_dictionaries(
    {"n_best": st.integers(1, 8), "max_answer_length": st.integers(1, 12), "null_answers": st.booleans()}
)


@draws(60)
@given(st.data(), some_features(), SETTINGS, st.sampled_from([1, 4, 2**10]))
def test_answers_are_those_of_all_spans_one_by_one(data, drawn, given_settings, most):
    """With many equal scores (whole numbers up to 1), and with few."""
    questions, features = drawn
    logits = data.draw(some_logits(features, st.integers(-most, most)))
    answers = read_answers(questions, features, *logits, **given_settings)
    slow = slow_answers(questions, features, *logits, **given_settings)
    check_answers(answers, questions, *slow, null_answers=given_settings["null_answers"], splits=False)


@draws(40)
@given(st.data(), some_features(), SETTINGS)
def test_answers_to_any_numbers_are_sound(data, drawn, given_settings):
    """They are pieces of the context from one token of a feature to another; the best comes first; all is finite."""
    questions, features = drawn
    logits = data.draw(some_logits(features, st.floats(width=32)))
    answers = read_answers(questions, features, *logits, **given_settings)
    pieces = {name: {""} if given_settings["null_answers"] else set() for name in questions["id"]}
    for row in features.to_list():
        name, context = questions[row["question"]]["id"], questions[row["question"]]["context"]
        inside = [place for place, start in enumerate(row["char_starts"]) if start >= 0]
        for first in inside:
            for last in range(first, min(first + given_settings["max_answer_length"], inside[-1] + 1)):
                pieces[name].add(context[row["char_starts"][first] : row["char_ends"][last]].strip())
    for name, entries in answers.nbest.items():
        assert answers.text[name] in pieces[name] | {""}
        assert {entry["text"] for entry in entries} <= pieces[name]
        assert len(entries) <= given_settings["n_best"] + given_settings["null_answers"]
        scores = [np.float32(entry["start_logit"]) + np.float32(entry["end_logit"]) for entry in entries]
        assert scores == sorted(scores, reverse=True)
        assert not entries or sum(entry["probability"] for entry in entries) == pytest.approx(1, rel=1e-5)
    json.dumps([answers.nbest, answers.null_odds], allow_nan=False)


# ---------------------------------------------------------------------------------------------------------------- fuzz


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(seconds, capfd):
    failed = fuzz.main(["--seconds", str(seconds)])
    report = capfd.readouterr()
    assert not failed, report.out + report.err
    for suffix in fuzz.SUFFIXES:
        for end in ("read", "refused"):
            assert re.search(rf"{end} +\{suffix} +\d", report.out), f"nothing was {end}: {report.out}"
