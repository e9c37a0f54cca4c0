"""From tokens to units within a batch, against loops over the tokens."""

import math

import pytest
import torch

from ckd_trainer.heads import Spans, Tokens
from ckd_trainer.losses.logits import span_logit_loss, token_logit_loss
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.units import (
    added_up,
    at_first_tokens,
    check_has_units,
    is_of_units,
    item_mask_of,
    pooled,
    pooling_of,
    teachers_view,
)

UNITS = [[-1, 0, 0, 1, -1, 2], [0, 1, 1, 1, -1, -1]]
BATCH = {
    "input_ids": torch.tensor([[9, 5, 6, 7, 9, 8], [9, 5, 6, 7, 9, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]),
    "units": torch.tensor(UNITS),
    "unit_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
    "teacher_input_ids": torch.tensor([[1, 2], [3, 4]]),
    "teacher_units": torch.tensor([[0, 1], [0, 1]]),
}
PLAIN = {name: BATCH[name] for name in ("input_ids", "attention_mask")}


def by_unit(function):
    """What a function of the positions of each unit returns, (2, 4); None where there is no unit."""
    return [
        [function(row, [place for place, its in enumerate(units) if its == unit]) for unit in range(4)]
        for row, units in enumerate(UNITS)
    ]


def test_pooled_is_the_mean(rng):
    states = torch.randn(2, 6, 3, generator=rng, dtype=torch.float64)
    states[BATCH["units"] < 0] = torch.nan
    found = pooled(states, pooling_of(BATCH))
    for row, units in enumerate(by_unit(lambda row, places: states[row, places].mean(0) if places else None)):
        for unit, mean in enumerate(units):
            wanted = torch.zeros(3, dtype=torch.float64) if mean is None else mean
            torch.testing.assert_close(found[row, unit], wanted, rtol=1e-6, atol=1e-9)
    assert pooled(states, pooling_of(PLAIN)) is states


def test_first_tokens(rng):
    values = torch.randn(2, 6, 3, generator=rng)
    found = at_first_tokens(values, BATCH)
    for row, units in enumerate(by_unit(lambda row, places: values[row, places[0]] if places else None)):
        for unit, value in enumerate(units):
            assert value is None or found[row, unit].equal(value)
    assert at_first_tokens(values, PLAIN) is values


def test_probabilities_add_up(rng):
    logits = torch.randn(2, 2, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    found = added_up(logits, BATCH)
    for row, units in enumerate(by_unit(lambda row, places: places)):
        for unit, places in enumerate(units):
            for side in range(2):
                total = sum(math.exp(logits[row, side, place].item()) for place in places)
                assert found[row, side, unit].exp().item() == pytest.approx(total)
    gradient = torch.autograd.grad((found * BATCH["unit_mask"][:, None]).sum(), logits)[0]
    assert gradient.isfinite().all() and not gradient[(BATCH["units"] < 0)[:, None].expand(-1, 2, -1)].any()
    assert added_up(logits, PLAIN) is logits


def test_views_and_masks():
    view = teachers_view(BATCH)
    assert view.keys() == {"input_ids", "units", "unit_mask"} and view["input_ids"] is BATCH["teacher_input_ids"]
    assert teachers_view(PLAIN) is PLAIN
    assert item_mask_of(BATCH) is BATCH["unit_mask"] and item_mask_of(PLAIN) is PLAIN["attention_mask"]
    assert [name for name in BATCH if is_of_units(name)] == [
        "units",
        "unit_mask",
        "teacher_input_ids",
        "teacher_units",
    ]
    check_has_units(BATCH)
    with pytest.raises(InputError, match="no column teacher_input_ids"):
        check_has_units(PLAIN)


def test_logits_of_tokens_are_those_of_first_tokens(rng):
    head = Tokens()
    head.learn_special_tokens([9])
    student, teacher = (torch.randn(2, 6, 3, generator=rng) for _ in range(2))
    # In the second text, unit 0 is a special token, which does not count.
    places = [(0, 1), (0, 3), (0, 5), (1, 1)]
    mask = torch.zeros(2, 6)
    for place in places:
        mask[place] = 1
    options = {"temperature": 2.0, "scale_by_temperature": True}
    found = head.logit_loss(student, head.of_units(teacher, BATCH), BATCH, **options)
    torch.testing.assert_close(found, token_logit_loss(student, teacher, mask, **options))
    assert head.logit_count(BATCH) == 4 and head.logit_count(PLAIN) == 7


def test_spans_are_compared_at_the_outer_tokens_of_words(rng):
    """The mass of a word of the teacher, added up, is that of the student's first or last token of it."""
    head = Spans()
    student, teacher = (torch.randn(2, 2, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    answers = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    options = {"temperature": 1.5, "scale_by_temperature": False}
    theirs = head.of_units(teacher, BATCH)
    found = head.logit_loss(student, theirs, BATCH | {"answer_mask": answers}, **options)
    mapped = torch.empty_like(student)
    for row, units in enumerate(UNITS):
        for side in range(2):
            count = 1 + max(units)
            total = [
                sum(teacher[row, side, place].exp() for place in range(6) if units[place] == unit)
                for unit in range(count)
            ]
            for place, unit in enumerate(units):
                own = [other for other in range(6) if units[other] == unit]
                is_outer = unit >= 0 and place == (own[0] if side == 0 else own[-1])
                mapped[row, side, place] = (total[unit] if is_outer else min(total)).log()
    mask = answers * (BATCH["units"] >= 0)
    sides = [part for logits in (student, mapped) for part in logits.unbind(1)]
    torch.testing.assert_close(found, span_logit_loss(*sides, mask, **options))
    assert found > 0


def test_probability_of_spans_that_cannot_be_mapped(rng):
    """It is what the units lack of 1; padding has none."""
    head, logits = Spans(), torch.randn(2, 2, 6, generator=rng, dtype=torch.float64)
    logits[1, :, 5] = 100.0  # padding
    found = head.unmapped(logits, BATCH)
    for row, units in enumerate(UNITS):
        valid = [place for place in range(6) if BATCH["attention_mask"][row, place]]
        shares = []
        for side in range(2):
            total = sum(math.exp(logits[row, side, place]) for place in valid)
            shares.append(sum(math.exp(logits[row, side, place]) for place in valid if units[place] < 0) / total)
        assert 0 < shares[0] != shares[1] and found[row].item() == pytest.approx(sum(shares) / 2)
    assert head.unmapped(logits, PLAIN) is None and Tokens().unmapped(logits, BATCH) is None
