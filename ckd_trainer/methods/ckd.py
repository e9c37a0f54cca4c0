"""Contextual Knowledge Distillation (Park, Kim and Yang, EMNLP 2021, arXiv 2109.08359).

CKD has two relations, each with distances between pairs and angles between triples. In the word relation (WR), a set
is one matched layer of one example, and its items are the tokens. In the layer-transforming relation (LTR), a set is
one token, and its items are the matched layers. `ckd_trainer.losses` has the formulas.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.losses import Gram, pair_count, pair_loss, triple_count, triple_loss
from ckd_trainer.losses.layer_mapping import Pairs, format_pairs, unmatched_layers
from ckd_trainer.methods.base import Pair, Term
from ckd_trainer.teacher.signals import LayerGram, WordGram
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.units import item_mask_of


class Relation(Term):
    """One of CKD's relations, compared by distances or angles.

    Args:
        relation: "wr" or "ltr".
        weight: above 0.
        args: define distances and angles.
        layers: matched pairs (student state, teacher state).
        depths: number of layers of student and teacher.
    """

    def __init__(
        self, relation: str, weight: float, args: CKDArguments, layers: Pairs, depths: tuple[int, int]
    ) -> None:
        super().__init__()
        self.relation, self.weight, self.args, self.layers, self.depths = relation, weight, args, layers, depths
        gram = WordGram if relation == "wr" else LayerGram
        self.student_signal, self.teacher_signal = (gram(tuple(side)) for side in zip(*layers, strict=True))

    def _mask(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the mask of valid items of each set, in the shape of the Gram matrices."""
        mask = item_mask_of(batch)
        count = len(self.layers)
        if self.relation == "wr":
            return mask[:, None, :].expand(-1, count, -1)
        return mask[:, :, None].expand(-1, -1, count)

    def notes(self) -> list[str]:
        name = {"wr": "word relation", "ltr": "layer-transforming relation"}[self.relation]
        return [f"{name} on layers {format_pairs(self.layers)}"]

    def warnings(self) -> list[str]:
        option = f"{self.relation}_layer_mapping"
        mapping, unmatched = getattr(self.args, option), unmatched_layers(self.layers, self.depths[0])
        if not unmatched or mapping not in ("skip", "emb+skip"):
            return []
        return [
            f"{option} {mapping} leaves student layers {', '.join(map(str, unmatched))} without a teacher layer, as "
            f"the common divisor of {self.depths[0]} and {self.depths[1]} layers is too small: uniform matches all."
        ]


class Distances(Relation):
    """Compares distances between pairs of items (see `pair_loss`): `wr_distance` or `ltr_distance`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.name = f"{self.relation}_distance"

    def forward(self, student: Gram, teacher: Gram, batch: Mapping[str, Tensor]) -> Tensor:
        return pair_loss(
            student,
            teacher,
            self._mask(batch),
            distance=self.args.distance,
            distance_loss=self.args.distance_loss,
            relation_temperature=self.args.relation_temperature,
            relation_normalization=self.args.relation_normalization,
            normalize_distances=self.args.normalize_distances,
        )

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        mask = item_mask_of(batch)
        if self.relation == "wr":
            return pair_count(mask, self.args.relation_normalization)
        return mask.count_nonzero()  # each token has the same number of pairs of layers

    def describe(self) -> str:
        return f"{self.name} per item" if self.args.relation_normalization == "items" else self.name


class Angles(Relation):
    """Compares angles between triples of items (see `triple_loss`): `wr_angle` or `ltr_angle`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.name = f"{self.relation}_angle"
        self.window_size = self.args.window_size if self.relation == "wr" else None

    def forward(self, student: Gram, teacher: Gram, batch: Mapping[str, Tensor]) -> Tensor:
        return triple_loss(
            student,
            teacher,
            self._mask(batch),
            angle_loss=self.args.angle_loss,
            window_size=self.window_size,
        )

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        mask = item_mask_of(batch)
        return triple_count(mask, self.window_size) if self.relation == "wr" else mask.count_nonzero()


def terms(args: CKDArguments, pair: Pair) -> list[Term]:
    """Returns the terms with a weight above 0.

    Raises:
        InputError: a layer mapping does not fit the depths, or an active layer-transforming relation has fewer than
            three matched layers.
    """
    found: list[Term] = []
    for relation in ("wr", "ltr"):
        kinds = {Distances: f"{relation}_distance_weight", Angles: f"{relation}_angle_weight"}
        weights = {kind: getattr(args, option) for kind, option in kinds.items() if getattr(args, option) > 0}
        if weights:
            layers = _matched(f"{relation}_layer_mapping", args, pair)
            found += [kind(relation, weight, args, layers, pair.depths) for kind, weight in weights.items()]
    return found


def _matched(option: str, args: CKDArguments, pair: Pair) -> Pairs:
    mapping = getattr(args, option)
    pairs, depths = pair.matched(option, mapping), pair.depths
    if option.startswith("ltr") and len(pairs) < 3:
        raise InputError(
            f"{option} {mapping} matches {len(pairs)} layers ({format_pairs(pairs)}) of a {depths[0]}-layer student "
            f"and a {depths[1]}-layer teacher. With fewer than three, distances are constant and teach nothing: use "
            "uniform, or set ltr_distance_weight and ltr_angle_weight to 0."
        )
    return pairs
