"""The losses against their slow twins, by hand, and by the laws they must obey.

Random tests draw from a fresh seed, see the fixture `rng`.
"""

import math

import pytest
import torch
from helpers import reference
from helpers.hidden_states import LENGTH, MASKS, states
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from ckd_trainer import losses
from ckd_trainer.losses import geometry, pairs, triples
from ckd_trainer.losses.logits import LOGIT_LOSSES

PAIR_OPTIONS = [
    *({"distance": "cosine", "distance_loss": "kl", "relation_temperature": tau} for tau in (0.05, 1.0, 3.0)),
    {"distance": "cosine", "distance_loss": "kl", "relation_normalization": "items"},
    *(
        {"distance": "l2", "distance_loss": kind, "normalize_distances": normalize}
        for kind in ("l1", "mse", "smooth_l1")
        for normalize in (False, True)
    ),
]
TRIPLE_OPTIONS = [
    {"angle_loss": kind, "window_size": window}
    for kind in ("mse", "l1", "smooth_l1")
    for window in (1, 3, 5, 9, 21, None)  # 9 is wider than the sentence, but does not reach from end to end
]
# Every named mapping for a student of 4 layers and a teacher of 6 (so skip takes g = 2 pairs), worked out by hand.
MAPPINGS = {
    "skip": [(2, 3), (4, 6)],
    "emb+skip": [(0, 0), (2, 3), (4, 6)],
    "last": [(1, 3), (2, 4), (3, 5), (4, 6)],
    "final": [(4, 6)],
    "emb": [(0, 0)],
    "emb+final": [(0, 0), (4, 6)],
    "triple": [(0, 0), (2, 3), (4, 6)],
    "uniform": [(0, 0), (1, 2), (2, 3), (3, 4), (4, 6)],
    "0:0,1:4,3:4": [(0, 0), (1, 4), (3, 4)],
}
NAMES = ["wr_distance", "wr_angle", "ltr_distance", "ltr_angle"]


def label(options):
    """The name of a test case."""
    return "-".join(map(str, options.values())) if isinstance(options, dict) else None


def pair_of_sides(rng, mask, depths=(3, 3), widths=(5, 4), dtype=torch.float64):
    """Random hidden states of a student and a teacher; the student's want a gradient."""
    student, teacher = (states(rng, *side) for side in zip(depths, (mask, mask), widths, (dtype, dtype), strict=True))
    return [layer.requires_grad_() for layer in student], teacher


def fast_pair(student, teacher, mask, **options):
    return losses.pair_loss(losses.gram(student, mask), losses.gram(teacher, mask), mask, **options)


def fast_triple(student, teacher, mask, **options):
    return losses.triple_loss(losses.gram(student, mask), losses.gram(teacher, mask), mask, **options)


def gradients(value, inputs):
    """The gradient for each input, behind an upstream factor; zeros where nothing depends on it."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in inputs]
    found = torch.autograd.grad(-2.5 * value, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def assert_same(fast, slow, inputs, rtol=1e-7, atol=1e-10):
    """Equal values and equal gradients, all finite."""
    assert torch.isfinite(fast)
    torch.testing.assert_close(fast, slow, rtol=rtol, atol=atol, check_dtype=False)
    for got, expected in zip(gradients(fast, inputs), gradients(slow, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("triple_loss", [fast_triple, reference.triple_loss])
def test_triangle_by_hand(triple_loss):
    """(0,0), (1,0), (0,1): cosine 0 at the first, 1/sqrt(2) at the others, 1 from a side to itself.

    A student that puts all three in one place has cosine 0 everywhere, so each loss adds up the teacher's cosines.
    """
    teacher, student, mask = torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.ones(3, 2), torch.ones(3)
    # j = k: 3 corners with 2 sides, cosine 1; j != k: two corners twice, cosine 1/sqrt(2)
    by_hand = {"mse": 6 + 4 / 2, "l1": 6 + 4 / math.sqrt(2), "smooth_l1": (6 + 4 / 2) / 2}
    for kind, total in by_hand.items():
        assert triple_loss(student, teacher, mask, angle_loss=kind).item() == pytest.approx(total / 27)
    # window 3 takes from the corners at the ends the one that is two places away: 4 + 9 + 4 triples
    assert triple_loss(student, teacher, mask, window_size=3).item() == pytest.approx((1 + 3 + 1) / 17)
    assert triple_loss(student, teacher, mask, window_size=1).item() == 0
    # on a line the middle corner is straight: cosine -1, and 1 at the ends
    line = torch.tensor([[0.0, 0], [1, 0], [2, 0]])
    expected = 2 * (1 - 0) + 2 * (1 + math.sqrt(0.5)) + 2 * (1 - math.sqrt(0.5))
    assert triple_loss(line, teacher, mask, angle_loss="l1").item() == pytest.approx(expected / 27)


@pytest.mark.parametrize("pair_loss", [fast_pair, reference.pair_loss])
def test_distances_by_hand(pair_loss):
    teacher, student, mask = torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.ones(3, 2), torch.ones(3)
    # squared distances 1, 1 and 2, each counted from both ends; divided by their mean 4/3: 3/4, 3/4 and 3/2
    for kind, total in {"l1": 8, "mse": 12, "smooth_l1": 2 * (0.5 + 0.5 + 1.5)}.items():
        assert pair_loss(student, teacher, mask, distance="l2", distance_loss=kind).item() == pytest.approx(total / 9)
    value = pair_loss(student, teacher, mask, distance="l2", distance_loss="l1", normalize_distances=True)
    assert value.item() == pytest.approx(6 / 9)


@pytest.mark.parametrize("pair_loss", [fast_pair, reference.pair_loss])
@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_cosines_by_hand(pair_loss, tau):
    """(1,0), (0,1), (1,1): the first two see cosines 0 and 1/sqrt(2), the third sees twice 1/sqrt(2): a fair coin."""
    teacher, student, mask = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.ones(3, 2), torch.ones(3)
    p = 1 / (1 + math.exp(math.sqrt(0.5) / tau))
    divergence = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)  # from the student's fair coin
    value = pair_loss(student, teacher, mask, relation_temperature=tau)
    assert value.item() == pytest.approx(2 * divergence / 9, abs=1e-7)


# ----------------------------------------------------------------------------------- value and gradient of the twins


@pytest.mark.parametrize("options", PAIR_OPTIONS, ids=label)
@pytest.mark.parametrize("mask", MASKS)
def test_pair_loss_equals_loops(rng, mask, options):
    mask = torch.tensor(MASKS[mask])
    student, teacher = pair_of_sides(rng, mask)
    for fast_sets, slow_sets in ((losses.word_gram, reference.word_sets), (losses.layer_gram, reference.layer_sets)):
        (fast_student, fast_mask), (fast_teacher, _) = (fast_sets(side, mask) for side in (student, teacher))
        (slow_student, slow_mask), (slow_teacher, _) = (slow_sets(side, mask) for side in (student, teacher))
        fast = losses.pair_loss(fast_student, fast_teacher, fast_mask, **options)
        assert_same(fast, reference.pair_loss(slow_student, slow_teacher, slow_mask, **options), student)


@pytest.mark.parametrize("items", [2, 5, 9])
def test_a_weight_for_pairs_is_n_times_one_for_items(rng, items):
    """Sets of n items each: n times the loss with pairs is the loss with items, gradients too."""
    mask = torch.ones(3, items)
    (student,), (teacher,) = pair_of_sides(rng, mask, depths=(1, 1))
    by_pairs, by_items = (
        fast_pair(student, teacher, mask, relation_normalization=normalization) for normalization in ("pairs", "items")
    )
    assert_same(items * by_pairs, by_items, [student])


def test_per_item_loss_does_not_wear_off_with_length(rng):
    """Random states of 40 and of 384 tokens: with items a loss about as large, with pairs 384 / 40 times smaller."""
    losses_at = {}
    for length in (40, 384):
        mask = torch.ones(4, length)
        (student,), (teacher,) = pair_of_sides(rng, mask, depths=(1, 1), widths=(16, 16))
        losses_at[length] = {
            kind: fast_pair(student.detach(), teacher, mask, relation_normalization=kind).item()
            for kind in ("pairs", "items")
        }
    assert losses_at[384]["items"] == pytest.approx(losses_at[40]["items"], rel=0.2)
    assert losses_at[384]["pairs"] == pytest.approx(losses_at[40]["pairs"] * 40 / 384, rel=0.2)


@pytest.mark.parametrize("options", TRIPLE_OPTIONS, ids=label)
@pytest.mark.parametrize("mask", MASKS)
def test_triple_loss_equals_loops(rng, mask, options):
    mask = torch.tensor(MASKS[mask])[:, None, :]  # (examples, 1 layer, length): leading dimensions are sets
    (student,), (teacher,) = pair_of_sides(rng, mask, depths=(1, 1))
    assert_same(
        fast_triple(student, teacher, mask, **options),
        reference.triple_loss(student, teacher, mask, **options),
        [student],
    )


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_contextual_relation_losses_equal_loops(rng, mapping):
    mask = torch.tensor(MASKS["holes"])
    options = {"window_size": 5, "angle_loss": "smooth_l1", "distance": "l2", "distance_loss": "l1"}
    student, teacher = pair_of_sides(rng, mask, depths=(5, 7), widths=(3, 6))
    fast = losses.contextual_relation_losses(student, teacher, mask, layer_mapping=mapping, **options)
    slow = reference.contextual_relation_losses(student, teacher, mask, pairs=MAPPINGS[mapping], **options)
    as_pairs = losses.contextual_relation_losses(student, teacher, mask, layer_mapping=MAPPINGS[mapping], **options)
    assert list(fast) == NAMES
    for name in NAMES:
        assert_same(fast[name], slow[name], student)
        assert torch.equal(fast[name], as_pairs[name])


def test_contextual_relation_losses_default_options(rng):
    """The defaults: all tokens of a short text in the window, cosine and kl, mse, embeddings and skip."""
    mask = torch.tensor(MASKS["padding on the right"])
    student, teacher = pair_of_sides(rng, mask, depths=(3, 5))
    teacher = [layer.requires_grad_() for layer in teacher]
    fast = losses.contextual_relation_losses(student, teacher, mask)
    slow = reference.contextual_relation_losses(student, teacher, mask, pairs=[(0, 0), (1, 2), (2, 4)])
    for name in NAMES:
        assert_same(fast[name], slow[name], student)
    sum(fast.values()).backward()
    assert all(layer.grad is None for layer in teacher), "the teacher must not get a gradient"


@pytest.mark.parametrize("window", [3, 21])
def test_vectorized_twin_equals_loops(rng, window):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = pair_of_sides(rng, mask)
    options = {"pairs": [(0, 0), (1, 1), (2, 2)], "window_size": window}
    fast = reference.vectorized_relation_losses(student, teacher, mask, **options)
    slow = reference.contextual_relation_losses(student, teacher, mask, **options)
    for name in NAMES:
        assert_same(fast[name], slow[name], student)


@pytest.mark.parametrize("options", [{}, {"distance": "l2", "distance_loss": "mse", "normalize_distances": True}])
def test_float32_keeps_its_digits(rng, options):
    """A common part far larger than the differences, as in real hidden states, costs angles and distances nothing."""
    mask = torch.tensor(MASKS["padding on the right"])
    student, teacher = pair_of_sides(rng, mask, widths=(48, 64), dtype=torch.float32)
    with torch.no_grad():
        for layer in (*student, *teacher):
            layer += 30 * torch.randn(layer.shape[-1], generator=rng)
    options = {"window_size": 5, **options}
    fast = losses.contextual_relation_losses(student, teacher, mask, layer_mapping="0:0,1:1,2:2", **options)
    slow = reference.contextual_relation_losses(
        student, teacher, mask, pairs=[(0, 0), (1, 1), (2, 2)], **{"distance": "cosine", **options}
    )
    for name in NAMES:
        assert_same(fast[name], slow[name], student, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_one_large_vector_does_not_drown_the_others(rng, tau):
    """One token far longer than the rest, as many models have it, pulls the mean along; cosines must not suffer."""
    mask = torch.ones(LENGTH)
    (student,), (teacher,) = pair_of_sides(rng, mask, depths=(1, 1), widths=(32, 32), dtype=torch.float32)
    with torch.no_grad():
        student[0] *= 1000
        teacher[0] *= 1000
    fast = fast_pair(student, teacher, mask, relation_temperature=tau)
    slow = reference.pair_loss(student, teacher, mask, relation_temperature=tau)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("loss, options", [
    *((fast_pair, options) for options in PAIR_OPTIONS),
    *((fast_triple, options) for options in TRIPLE_OPTIONS if options["window_size"] in (3, None)),
], ids=label)  # fmt: skip
def test_gradcheck(rng, loss, options):
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]])
    (student,), (teacher,) = pair_of_sides(rng, mask, depths=(1, 1), widths=(3, 2))
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, mask, **options), student)


# -------------------------------------------------------------------------------------------------- chunks and blocks


def at_once(monkeypatch, numbers):
    """Makes the losses go through so many numbers at a time."""
    for module in (geometry, pairs, triples):
        monkeypatch.setattr(module, "chunk_numel", lambda device: numbers)


@pytest.mark.parametrize("window", [3, 9, None])
def test_chunks_equal_loops(rng, monkeypatch, window):
    """Sets one by one, or a few; angles by j where all of them do not fit in one block."""
    mask = torch.tensor(MASKS["holes"] + MASKS["padding on the left"])
    student, teacher = pair_of_sides(rng, mask)
    slow = reference.contextual_relation_losses(
        student, teacher, mask, pairs=[(0, 0), (1, 1), (2, 2)], window_size=window
    )
    for numbers in (1, 60, 400):
        at_once(monkeypatch, numbers)
        fast = losses.contextual_relation_losses(
            student, teacher, mask, layer_mapping="0:0,1:1,2:2", window_size=window
        )
        for name in NAMES:
            assert_same(fast[name], slow[name], student)


class LiveNumbers(TorchDispatchMode):
    """Counts the numbers that tensors made under it hold at any one time."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes() / 4)
        self.alive = {place: entry for place, entry in self.alive.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


@pytest.mark.parametrize("loss, window", [("pair_loss", None), *(("triple_loss", window) for window in (5, 21, None))])
@pytest.mark.parametrize("share", [0.98, 1.8], ids=["a full chunk", "almost two"])
def test_memory_is_bounded(rng, monkeypatch, share, loss, window):
    """Beside four times the products fewer than 48 chunks, however the sets fill them."""
    options = {} if loss == "pair_loss" else {"window_size": window}
    sets, length = 64, 40
    products = sets * length**2
    filled = sets * length * (window or length)
    numbers = int(filled / 4 / share)
    at_once(monkeypatch, numbers)
    mask = torch.ones(sets, length)
    ours, theirs = (
        losses.Gram(
            *(part.requires_grad_(side == 0) for part in losses.gram(states(rng, 1, mask, 3)[0].float(), mask))
        )
        for side in range(2)
    )
    with LiveNumbers() as live:
        getattr(losses, loss)(ours, theirs, mask, **options).backward()
    assert live.most < 4 * products + 48 * numbers, (live.most - 4 * products) / numbers


# ---------------------------------------------------------------------------------------------------------- laws

LAW_OPTIONS = [
    {"window_size": 3},
    {"relation_normalization": "items"},
    {"window_size": None, "angle_loss": "l1", "distance": "l2", "distance_loss": "l1"},
    {"distance": "l2", "distance_loss": "smooth_l1", "normalize_distances": True, "angle_loss": "smooth_l1"},
]


def all_losses(student, teacher, mask, **options):
    return losses.contextual_relation_losses(student, teacher, mask, layer_mapping="0:0,1:1,2:2", **options)


def rotation(rng, width):
    return torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=torch.float64))[0]


@pytest.mark.parametrize("options", LAW_OPTIONS, ids=label)
def test_zero_where_teacher_and_student_agree(rng, options):
    mask = torch.tensor(MASKS["holes"])
    student, _ = pair_of_sides(rng, mask)
    turn = rotation(rng, 5)
    for teacher in (student, [layer.detach() @ turn for layer in student]):
        terms = all_losses(student, teacher, mask, **options)
        for name in NAMES:
            assert terms[name].item() == pytest.approx(0, abs=1e-12)
            if options.get("angle_loss") != "l1" or teacher is student:  # l1 has its corner there
                for gradient in gradients(terms[name], student):
                    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", LAW_OPTIONS, ids=label)
def test_unchanged_by_rotation_shift_and_scale(rng, options):
    mask = torch.tensor(MASKS["padding on the right"])
    student, teacher = pair_of_sides(rng, mask)
    before = all_losses(student, teacher, mask, **options)
    assert all(value > 1e-4 for value in before.values())
    l2, angles = options.get("distance") == "l2", {"wr_angle", "ltr_angle"}
    shift_free = set(NAMES) if l2 else angles
    scale_free = angles if l2 and not options.get("normalize_distances") else set(NAMES)
    turn, shift = rotation(rng, 5), torch.randn(5, generator=rng, dtype=torch.float64)
    turn_teacher = rotation(rng, 4)
    changes = [
        ([layer @ turn for layer in student], teacher, set(NAMES)),
        (student, [layer @ turn_teacher for layer in teacher], set(NAMES)),
        ([layer + shift for layer in student], teacher, shift_free),
        ([0.01 * layer for layer in student], teacher, scale_free),
        (student, [100 * layer for layer in teacher], scale_free),
    ]
    for new_student, new_teacher, unchanged in changes:
        after = all_losses(new_student, new_teacher, mask, **options)
        for name in NAMES:
            same = after[name].item() == pytest.approx(before[name].item(), rel=1e-6)
            assert same == (name in unchanged), name


@pytest.mark.parametrize("junk", [1e4, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", LAW_OPTIONS, ids=label)
def test_padding_may_hold_anything(rng, options, junk):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = pair_of_sides(rng, mask)
    before = all_losses(student, teacher, mask, **options)
    padded = ~mask.bool()[..., None]
    new_student = [layer.detach().masked_fill(padded, junk).requires_grad_() for layer in student]
    after = all_losses(new_student, [layer.masked_fill(padded, junk) for layer in teacher], mask.bool(), **options)
    for name in NAMES:
        assert torch.equal(after[name], before[name])
        for old, new in zip(gradients(before[name], student), gradients(after[name], new_student), strict=True):
            assert torch.equal(old, new)
            assert not new[mask == 0].any()


@pytest.mark.parametrize("options", LAW_OPTIONS, ids=label)
def test_order_of_examples_and_longer_padding_do_not_matter(rng, options):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = pair_of_sides(rng, mask)
    before = all_losses(student, teacher, mask, **options)
    flipped = all_losses([s.flip(0) for s in student], [t.flip(0) for t in teacher], mask.flip(0), **options)
    longer = [[torch.nn.functional.pad(x, (0, 0, 2, 3)) for x in side] for side in (student, teacher)]
    padded = all_losses(*longer, torch.nn.functional.pad(mask, (2, 3)), **options)
    for name in NAMES:
        torch.testing.assert_close(flipped[name], before[name])
        torch.testing.assert_close(padded[name], before[name])


# ------------------------------------------------------------------------------------------------------ finiteness


def identical(layers):
    return [layer.detach()[:, :1].expand_as(layer).clone() for layer in layers]


def zero(layers):
    return [torch.zeros_like(layer) for layer in layers]


def one_zero_token(layers):
    return [layer.detach().index_fill(1, torch.tensor([1]), 0) for layer in layers]


def repeated_layer(layers):
    return [layers[0].detach().clone() for _ in layers]


def pairwise_equal_tokens(layers):
    return [layer.detach()[:, [0, 0, 1, 1]] for layer in layers]


# Both half types are turned into float32 before anything else, so by default each goes with half of the options.
DEGENERATE = [(dtype, options) for dtype in (torch.float64, torch.float32) for options in LAW_OPTIONS]
DEGENERATE += [
    pytest.param(dtype, options, marks=pytest.mark.slow if (place + offset) % 2 else ())
    for offset, dtype in enumerate((torch.bfloat16, torch.float16))
    for place, options in enumerate(LAW_OPTIONS)
]


@pytest.mark.parametrize(("dtype", "options"), DEGENERATE, ids=label)
@pytest.mark.parametrize("form", [identical, zero, one_zero_token, repeated_layer, pairwise_equal_tokens])
def test_degenerate_vectors_equal_loops(rng, form, dtype, options):
    """Directions that do not exist have cosine 0 and no gradient, on either side."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    regular = pair_of_sides(rng, mask, widths=(24, 24), dtype=dtype)
    degenerate = [[layer.requires_grad_() for layer in form(regular[0])], form(regular[1])]
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 2e-5}
    if dtype in (torch.bfloat16, torch.float16):
        tolerance = {"rtol": 1e-2, "atol": 1e-3}  # of the gradients, which have the inputs' type
    for student, teacher in ((degenerate[0], regular[1]), (regular[0], degenerate[1]), degenerate):
        fast = all_losses(student, teacher, mask, **options)
        slow = reference.contextual_relation_losses(student, teacher, mask, pairs=[(0, 0), (1, 1), (2, 2)], **options)
        for name in NAMES:
            assert_same(fast[name], slow[name], student, **tolerance)


@pytest.mark.parametrize("tokens", [[0, 0, 1, 1, 2, 2, 2], 7 * [0]], ids=["some", "all"])
@pytest.mark.parametrize("options", LAW_OPTIONS, ids=label)
def test_equal_up_to_rounding_is_equal(rng, options, tokens):
    """Tokens that differ in the last digits only have no direction between them, as if they were copies."""
    mask = torch.tensor(MASKS["one example"])
    student, teacher = pair_of_sides(rng, mask, widths=(48, 48), dtype=torch.float32)
    copies = [(layer.detach()[:, tokens] + 3).requires_grad_() for layer in student]
    alternating = 1 + torch.finfo(torch.float32).eps * torch.tensor([1.0, 0, 2, 0, 1, 0, 2])[:, None]
    nearly = [(layer.detach() * alternating).requires_grad_() for layer in copies]
    fast = all_losses(nearly, teacher, mask, **options)
    slow = reference.contextual_relation_losses(copies, teacher, mask, pairs=[(0, 0), (1, 1), (2, 2)], **options)
    for name in NAMES:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-4, atol=1e-6, check_dtype=False)
        for got, expected in zip(gradients(fast[name], nearly), gradients(slow[name], copies), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("mapping", ["final", "emb+final", "emb+skip"])
def test_finite_for_any_mask_and_type(rng, mapping, mask, dtype):
    mask = torch.tensor(MASKS[mask])
    student, teacher = pair_of_sides(rng, mask, dtype=dtype)
    for options in LAW_OPTIONS:
        for value in losses.contextual_relation_losses(
            student, teacher, mask, layer_mapping=mapping, **options
        ).values():
            assert value.dtype == torch.float32 and value.shape == () and torch.isfinite(value)
            assert all(torch.isfinite(gradient).all() for gradient in gradients(value, student))


@pytest.mark.parametrize("options", LAW_OPTIONS, ids=label)
def test_autocast_changes_nothing(rng, options):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = pair_of_sides(rng, mask, widths=(32, 48), dtype=torch.float32)
    without = all_losses(student, teacher, mask, **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert (student[0] @ student[0].mT).dtype == torch.bfloat16  # it is on
        within = all_losses(student, teacher, mask, **options)
    for name in NAMES:
        assert within[name].dtype == torch.float32 and torch.equal(within[name], without[name])
        for old, new in zip(gradients(without[name], student), gradients(within[name], student), strict=True):
            assert torch.equal(old, new)


@pytest.mark.parametrize("options, message", [
    ({"window_size": 4}, "window_size is 4"),
    ({"window_size": 0}, "window_size is 0"),
    ({"distance": "l2"}, "distance_loss 'kl'"),
    ({"distance_loss": "mse"}, "distance_loss 'mse'"),
    ({"distance": "manhattan"}, "distance 'manhattan'"),
    ({"relation_normalization": "tokens"}, "relation_normalization 'tokens'"),
    ({"distance": "l2", "distance_loss": "l1", "relation_normalization": "items"}, "does not go with distance 'l2'"),
    ({"angle_loss": "kl"}, "angle_loss 'kl'"),
    ({"layer_mapping": "skipp"}, "skipp"),
    ({"layer_mapping": [(0, 0), (9, 1)]}, "9:1"),
])  # fmt: skip
def test_options_that_do_not_exist(rng, options, message):
    mask = torch.tensor(MASKS["one example"])
    with pytest.raises(ValueError, match=message):
        losses.contextual_relation_losses(*pair_of_sides(rng, mask), mask, **options)


# ---------------------------------------------------------------------------------------------------------- shapes


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that any operation returns, backward included."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tuple(tensor.shape))
        return result

    def differences(self, widths, counts, limit):
        """Shapes with a width beside two counts of items, or with a width and more numbers than the hidden states."""
        found = []
        for shape in self.seen:
            beside = [size for size in shape if size not in widths]
            if len(beside) < len(shape):
                pairs = sum(beside.count(count) for count in counts)
                if pairs > 1 or math.prod(shape) > limit:
                    found.append(shape)
        return found


@pytest.mark.parametrize("window", [5, None])
def test_width_never_meets_pairs_or_triples(rng, window):
    """No tensor with a width and a length-by-window, length-by-length or layer-by-layer dimension is ever made."""
    batch, layers, length, widths = 2, 4, 11, (37, 41)  # telltale numbers: none is a product of others here
    mask = torch.ones(batch, length)
    student, teacher = pair_of_sides(rng, mask, depths=(layers, layers), widths=widths, dtype=torch.float32)
    pairs = [(layer, layer) for layer in range(layers)]

    def made_by(loss, **options):
        with Shapes() as shapes:
            sum(loss(student, teacher, mask, window_size=window, **options).values()).backward()
        assert any(length in shape and widths[0] in shape for shape in shapes.seen), "the recorder saw nothing"
        assert any(shape[-2:] == (layers, layers) for shape in shapes.seen)
        # (length, length) and (length, window) side by side; layers come once beside the width, so twice is a pair
        positions = shapes.differences(widths, (length, 5), limit=batch * layers * length * max(widths))
        return positions + shapes.differences(widths, (layers,), limit=math.inf)

    for distance, distance_loss in (("cosine", "kl"), ("l2", "mse")):
        options = {"distance": distance, "distance_loss": distance_loss, "normalize_distances": distance == "l2"}
        assert not made_by(losses.contextual_relation_losses, layer_mapping=pairs, **options)
    found = made_by(reference.vectorized_relation_losses, pairs=pairs)
    assert any(layers in shape[-3:-1] and shape[-3] == shape[-2] for shape in found), "layer differences go unseen"
    assert any(length in shape and (window or length) in shape[-3:-1] for shape in found), "token differences unseen"


# ---------------------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("scale_by_temperature", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("labels", [1, 2, 7])
@pytest.mark.parametrize("loss", LOGIT_LOSSES)
def test_classification_logits_equal_loops(rng, loss, labels, temperature, scale_by_temperature):
    student, teacher = torch.randn(2, 5, labels, generator=rng, dtype=torch.float64)
    options = {"temperature": temperature, "scale_by_temperature": scale_by_temperature, "loss": loss}
    student.requires_grad_()
    fast = losses.classification_logit_loss(student, teacher, **options)
    assert_same(fast, reference.classification_logit_loss(student, teacher, **options), [student])
    assert torch.autograd.gradcheck(lambda x: losses.classification_logit_loss(x, teacher, **options), student)
    assert losses.classification_logit_loss(teacher, teacher, **options).abs() < 1e-12


@pytest.mark.parametrize("loss", LOGIT_LOSSES)
def test_logits_of_tokens_and_labels_are_those_of_rows(rng, loss):
    """A token is a row of classes; a label is a row of the two classes (z, 0), whose squared error is that of z."""
    student, teacher = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64)
    student.requires_grad_()
    options = {"temperature": 2.0, "loss": loss}
    mask = torch.rand(3, 4, generator=rng) < 0.7
    mask[0, 0] = True
    rows = reference.classification_logit_loss(student[mask], teacher[mask], **options)
    assert_same(losses.token_logit_loss(student, teacher, mask, **options), rows, [student])
    both = [logits.reshape(-1, 1) for logits in (student, teacher)]
    if loss != "mse":
        both = [torch.cat((logits, torch.zeros_like(logits)), 1) for logits in both]
    labels = [logits.flatten(0, 1) for logits in (student, teacher)]
    slow = reference.classification_logit_loss(*both, **options)
    assert_same(losses.multilabel_logit_loss(*labels, **options), slow, [student])


def test_classification_logits_by_hand():
    """Teacher 3/4 to 1/4, student 1/2 to 1/2; T^2 is the only thing that scale_by_temperature changes."""
    teacher, student = torch.tensor([[2 * math.log(3.0), 0]]), torch.zeros(1, 2)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert losses.classification_logit_loss(student, teacher, temperature=2.0).item() == pytest.approx(4 * divergence)
    plain = losses.classification_logit_loss(student, teacher, temperature=2.0, scale_by_temperature=False)
    assert plain.item() == pytest.approx(divergence)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_regression_logits_equal_loops(rng, temperature):
    student, teacher = torch.randn(2, 5, 1, generator=rng, dtype=torch.float64)
    student.requires_grad_()
    fast = losses.regression_logit_loss(student, teacher, temperature=temperature)
    assert_same(fast, reference.regression_logit_loss(student, teacher, temperature=temperature), [student])
    by_hand = losses.regression_logit_loss(torch.tensor([[1.0], [5]]), torch.tensor([[3.0], [5]]), temperature=2.0)
    assert by_hand.item() == 0.5


def test_loss_on_spans_is_that_of_each_text_alone(rng):
    """As transformers has it for a text without padding; a position outside of it does not count."""
    lengths, width = [3, 7, 5, 7], 7
    logits = [torch.randn(4, width, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2)]
    mask = torch.tensor([[place < length for place in range(width)] for length in lengths])
    positions = [torch.tensor([2, 0, 4, 1]), torch.tensor([2, 6, 5, 7])]
    kept = [
        -row[:length].log_softmax(0)[place]
        for scores, places in zip(logits, positions, strict=True)
        for row, length, place in zip(scores, lengths, places, strict=True)
        if place < length
    ]
    assert losses.span_task_count(*positions, mask) == len(kept) == 6
    assert_same(losses.span_task_loss(*logits, *positions, mask), sum(kept) / len(kept), logits)


@pytest.mark.parametrize("scale_by_temperature", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("mask", ["full", "holes", "padding on the left", "one real token"])
@pytest.mark.parametrize("loss", LOGIT_LOSSES)
def test_span_logits_equal_loops(rng, loss, mask, temperature, scale_by_temperature):
    mask = torch.tensor(MASKS[mask])
    start, end, teacher_start, teacher_end = torch.randn(4, *mask.shape, generator=rng, dtype=torch.float64)
    student = [start.requires_grad_(), end.requires_grad_()]
    options = {"temperature": temperature, "scale_by_temperature": scale_by_temperature, "loss": loss}
    fast = losses.span_logit_loss(*student, teacher_start, teacher_end, mask, **options)
    assert_same(fast, reference.span_logit_loss(*student, teacher_start, teacher_end, mask, **options), student)
    junk = [x.detach().masked_fill(mask == 0, math.nan) for x in (*student, teacher_start, teacher_end)]
    assert torch.equal(losses.span_logit_loss(*junk, mask, **options), fast)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_extreme_logits_stay_finite(dtype, temperature):
    student = torch.tensor([[6e4, -6e4, 0], [-6e4, -6e4, -6e4], [0, 1e-7, 6e4]], dtype=dtype, requires_grad=True)
    teacher = student.detach().flip(1)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    sides = (student, student, teacher, teacher)
    for value in (
        *(
            losses.classification_logit_loss(student, teacher, temperature=temperature, loss=kind)
            for kind in LOGIT_LOSSES[:3]
        ),
        losses.regression_logit_loss(student[:, :1] / 1000, teacher[:, :1] / 1000, temperature=temperature),
        *(losses.span_logit_loss(*sides, mask, temperature=temperature, loss=kind) for kind in LOGIT_LOSSES[:3]),
    ):
        assert value.dtype == torch.float32 and torch.isfinite(value) and value > 0
        (gradient,) = torch.autograd.grad(value, student)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_masked_positions_lose_against_any_logit(dtype):
    """Each side is sure of another position, 992 apart; the masked third one is far above both and yet nothing."""
    mask = torch.tensor([[1, 1, 0]])
    student = torch.tensor([[-60000, -59008, 60000]], dtype=dtype)
    teacher = torch.tensor([[-59008, -60000, 60000]], dtype=dtype)
    assert losses.span_logit_loss(student, student, teacher, teacher, mask).item() == pytest.approx(992)


def test_padding_has_no_gradient_where_the_center_nearly_vanishes():
    """Two tiny opposite vectors, whose center is rounding: 1 / |center|^2 is infinite in float32."""
    rng = torch.Generator().manual_seed(0)
    student = 1e-15 * (1 + torch.rand(200, 3, 1, generator=rng))
    student[:, 1] *= -1
    teacher, mask = torch.randn(200, 3, 4, generator=rng), torch.tensor([True, True, False]).expand(200, 3)
    student.requires_grad_()
    fast_pair(student, teacher, mask).backward()
    assert torch.equal(student.grad[:, 2], torch.zeros(200, 1))
