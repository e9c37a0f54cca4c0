"""The sizes of a dynamic student's sub-networks, as in DynaBERT (Hou et al., NeurIPS 2020, arXiv 2004.04037)."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from ckd_trainer.arguments import option
from ckd_trainer.models.sizes import size_of
from ckd_trainer.models.student import config_of_layers, first_and_last
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.option_types import check_types

# Families that compute the number of heads from the sizes of the projections, and iterate over their list of layers.
DYNAMIC = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")

# The field of a configuration that lists the sub-networks for which a model was trained,
# [[width, depth, layers], ...]. transformers ignores it.
SUBNETWORKS = "subnetworks"


@dataclass
class DynamicArguments:
    """A dynamic student: one training for students of several widths and depths.

    Example::

        DynamicArguments(student_widths="1.0,0.75,0.5,0.25", student_depths="1.0,0.75,0.5")
    """

    student_widths: str = option(
        "1.0",
        "The shares of attention heads and neurons of the student's sub-networks, such as 1.0,0.5,0.25: each step "
        "trains a sub-network for each width and depth. By default, the student is not dynamic.",
    )
    student_depths: str = option("1.0", "The shares of layers of the student's sub-networks, such as 1.0,0.75,0.5.")
    subnetworks_per_step: int | None = option(
        None,
        "Train at most this many sub-networks in each step: the largest, the smallest, and others drawn at random "
        "(the sandwich rule). By default all of them.",
    )

    whole_student_teaches: bool = option(
        False,
        "The whole student teaches its sub-networks, in place of a teacher. It learns from the labels alone.",
    )

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("student_widths", "student_depths"):
            _shares(name, getattr(self, name))
        if self.subnetworks_per_step is not None and self.subnetworks_per_step < 2:
            raise InputError(
                f"subnetworks_per_step is {self.subnetworks_per_step}, but the largest and the smallest are always "
                "trained: give 2 or more."
            )

    @property
    def subnetworks(self) -> list["SubNetwork"]:
        """The sub-networks, the largest first."""
        widths, depths = (_shares(name, getattr(self, name)) for name in ("student_widths", "student_depths"))
        return [SubNetwork(width, depth) for width, depth in itertools.product(widths, depths)]

    @property
    def at_full_width(self) -> list["SubNetwork"]:
        """The sub-network of each depth at full width, the largest first."""
        return [part for part in self.subnetworks if part.width == 1]

    @property
    def is_dynamic(self) -> bool:
        """Whether there are several sub-networks."""
        return len(self.subnetworks) > 1


@dataclass(frozen=True)
class SubNetwork:
    """The part of a dynamic model with a share of its width and of its depth, each above 0 and at most 1.

    Of h heads and n neurons in each of L layers, it has

    - the first max(1, round(width h)) heads and the first max(1, round(width n)) neurons of each layer, and
    - D = max(1, round(depth L)) layers: the first D - 1, and the last.

    Hidden states keep their size. Of 12 layers, depth 0.75 leaves out layers 9 to 11, and depth 0.5 layers 6 to 11.

    DynaBERT spreads the layers evenly instead, and its code leaves out the last one: of 12, depth 0.5 keeps 1, 3, ...,
    11. But head and pooler are made for the output of the last layer, and on STS-B its sub-networks of half the layers
    are 0.3 to 6 points behind (docs/results.md, "Dynamic students").
    """

    width: float = 1.0
    depth: float = 1.0

    def __str__(self) -> str:
        return f"w{self.width:g}_d{self.depth:g}"

    def heads(self, config: PreTrainedConfig) -> int:
        """Returns the number of attention heads in each layer."""
        return max(1, round(self.width * config.num_attention_heads))

    def neurons(self, config: PreTrainedConfig) -> int:
        """Returns the number of neurons in each layer."""
        return max(1, round(self.width * size_of(config, "intermediate_size")))

    def layers(self, config: PreTrainedConfig) -> list[int]:
        """Returns the layers that are run, from 1."""
        count = max(1, round(self.depth * config.num_hidden_layers))
        return first_and_last(count, config.num_hidden_layers)

    def describe(self, config: PreTrainedConfig) -> str:
        """Returns its sizes in words."""
        layers = ", ".join(map(str, self.layers(config)))
        return f"{self.heads(config)} heads and {self.neurons(config)} neurons in layers {layers}"

    def sizes(self, config: PreTrainedConfig) -> tuple[int, ...]:
        """Returns the numbers that define it: of heads and neurons, then the layers."""
        return (self.heads(config), self.neurons(config), *self.layers(config))


def has_widths(parts: Sequence[SubNetwork]) -> bool:
    """Returns whether sub-networks have several widths."""
    return len({part.width for part in parts}) > 1


@contextlib.contextmanager
def at_depth(part: SubNetwork) -> Iterator[None]:
    """Adds the depth of a sub-network to the messages of InputErrors."""
    try:
        yield
    except InputError as error:
        if part.depth == 1:
            raise
        raise InputError(f"at depth {part.depth:g}: {error}") from error


def check_dynamic(config: PreTrainedConfig, parts: Sequence[SubNetwork]) -> None:
    """Raises InputError if a model cannot be dynamic, or if two of these sub-networks would be the same."""
    if config.model_type not in DYNAMIC:
        raise InputError(
            f"{config.model_type} students cannot have several widths and depths: give one of {', '.join(DYNAMIC)}, "
            "or leave student_widths and student_depths out."
        )
    if getattr(config, "is_decoder", False):
        raise InputError(
            "a decoder cannot have several widths and depths: leave student_widths and student_depths out."
        )
    known: dict[tuple[int, ...], SubNetwork] = {}
    for part in parts:
        other = known.setdefault(part.sizes(config), part)
        if other is not part:
            name = "student_widths" if other.width != part.width else "student_depths"
            values = (other.width, part.width) if other.width != part.width else (other.depth, part.depth)
            raise InputError(
                f"{name} has {values[0]:g} and {values[1]:g}, which are the same in a student of "
                f"{config.num_hidden_layers} layers with {config.num_attention_heads} heads and "
                f"{size_of(config, 'intermediate_size')} neurons each: leave one out."
            )


def subnetworks_of(config: PreTrainedConfig) -> list[SubNetwork]:
    """Returns the sub-networks for which a model was trained, the whole one first; empty if it is not dynamic.

    Raises:
        InputError: one of them had other layers.
    """
    parts = []
    for width, depth, *layers in getattr(config, SUBNETWORKS, []):
        part = SubNetwork(width, depth)
        if layers != [part.layers(config)]:
            raise InputError(
                f"the student's sub-network {part} was trained by a version of ckd-trainer that chose other layers "
                f"than {part.layers(config)}: train it again."
            )
        parts.append(part)
    return parts


def record_subnetworks(config: PreTrainedConfig, parts: Sequence[SubNetwork]) -> None:
    """Records in a configuration for which sub-networks the model is trained."""
    setattr(config, SUBNETWORKS, [[part.width, part.depth, part.layers(config)] for part in parts])


def check_trained(config: PreTrainedConfig, parts: Sequence[SubNetwork]) -> None:
    """Raises InputError for a sub-network for which a model was not trained."""
    known = subnetworks_of(config)
    for part in parts:
        if part not in known:
            there = f"its sub-networks are {', '.join(map(str, known))}" if known else "it is not dynamic"
            raise InputError(
                f"the student was not trained for {part}, width {part.width:g} and depth {part.depth:g} ({there}): "
                "give other student_widths and student_depths, or set do_train."
            )


def config_at_depth(config: PreTrainedConfig, part: SubNetwork) -> PreTrainedConfig:
    """Returns the configuration of a model with the layers of a sub-network, in full width."""
    return config_of_layers(config, part.layers(config))


def _shares(name: str, text: str) -> list[float]:
    """Returns the numbers of an option, the largest first."""
    try:
        values = sorted(map(float, text.split(",")), reverse=True)
    except ValueError:
        raise InputError(f"{name} is {text!r}: give numbers such as 1.0,0.5.") from None
    for value in values:
        if not 0 < value <= 1:
            raise InputError(f"{name} has {value:g}, but it is a share of the student: give numbers above 0, up to 1.")
    if len(set(values)) < len(values):
        raise InputError(f"{name} is {text}, which names a number twice: leave one out.")
    if values[0] != 1:
        raise InputError(f"{name} is {text}, but the whole student is trained too: add 1.0.")
    return values
