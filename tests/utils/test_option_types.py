"""Options from Python have the types of their fields; in a recipe they are converted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ckd_trainer import CKDArguments
from ckd_trainer.methods import AttributionArguments, MethodArguments, PKDArguments
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.option_types import check_types


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CKDArguments(logit_loss="MSE"),
            "logit_loss is 'MSE': give 'kl', 'reverse_kl', 'skewed_kl' or 'mse'.",
        ),
        (lambda: CKDArguments(term_balance="gradients"), "term_balance is 'gradients': give 'gradient' or 'none'."),
        (lambda: CKDArguments(term_balance=None), "term_balance is None: give 'gradient' or 'none'."),
        (lambda: CKDArguments(distance="cos"), "distance is 'cos': give 'cosine' or 'l2'."),
        (lambda: CKDArguments(angle_loss="kl"), "angle_loss is 'kl': give 'mse', 'l1' or 'smooth_l1'."),
        (lambda: CKDArguments(relation_normalization="item"), "relation_normalization is 'item': give 'items'"),
        (lambda: CKDArguments(scale_by_temperature="no"), "scale_by_temperature is 'no': give True or False."),
        (lambda: CKDArguments(labels_and_logits=0), "labels_and_logits is 0: give True or False."),
        (lambda: CKDArguments(alpha="0.5"), "alpha is '0.5': give a number."),
        (lambda: CKDArguments(alpha=True), "alpha is True: give a number."),
        (lambda: CKDArguments(wr_distance_weight=None), "wr_distance_weight is None: give a number."),
        (lambda: CKDArguments(window_size="21"), "window_size is '21': give a whole number or None."),
        (lambda: CKDArguments(window_size=21.0), "window_size is 21.0: give a whole number or None."),
        (lambda: CKDArguments(balance_interval="10"), "balance_interval is '10': give a whole number or None."),
        (lambda: CKDArguments(teacher_cache_dir=3), "teacher_cache_dir is 3: give a string or None."),
        (lambda: PKDArguments(pkd_weight="0.3"), "pkd_weight is '0.3': give a number."),
        (
            lambda: AttributionArguments(attribution_top_k=2.5),
            "attribution_top_k is 2.5: give a whole number or None.",
        ),
        (lambda: DynamicArguments(student_widths=[1.0, 0.5]), r"student_widths is \[1.0, 0.5\]: give a string."),
    ],
)
def test_another_type_is_one_message(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_numbers_of_numpy_and_paths_are_taken(tmp_path):
    args = CKDArguments(
        alpha=np.float32(0.5), window_size=np.int64(3), temperature=2, teacher_cache_dir=tmp_path / "c"
    )
    assert (args.alpha, args.window_size) == (0.5, 3)


def test_types_that_no_recipe_holds_are_not_checked():
    @dataclasses.dataclass
    class Own(MethodArguments):
        own_weight: float = 0.0
        own_layers: list[int] | None = None
        own_file: Path = Path("a")

        def terms(self, pair):
            return []

    check_types(Own(own_layers="anything"))
    with pytest.raises(InputError, match="own_weight is '1': give a number"):
        Own(own_weight="1")
