"""Checks the options of a run on streamed text, and opens its stream."""

import copy
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ckd_trainer.data.blocks import BlockOptions, Packer
from ckd_trainer.data.streams import BlockStream, PackedStream
from ckd_trainer.runs.stages import Stage
from ckd_trainer.tasks.running_text import OpenText
from ckd_trainer.utils.errors import InputError

_IN_ORDER = ("random", "sequential")  # the default, and what a stream is in any case


def check_streamed_stage(stage: Stage) -> None:
    """Raises InputError for options of a stage that a stream of text cannot serve."""
    args = stage.args
    if stage.dynamic_args.is_dynamic:
        raise InputError(
            "streaming is set, but a student of several widths and depths reads its text more than once: leave "
            "student_widths and student_depths out, or streaming."
        )
    if args.max_steps <= 0:
        raise InputError("streaming reads the text without end, but max_steps is not set: give a number of steps.")
    if args.dataloader_num_workers:
        raise InputError(
            f"dataloader_num_workers is {args.dataloader_num_workers}, but with streaming a thread reads ahead, and "
            "each worker would read the whole text: leave it out."
        )
    if args.train_sampling_strategy not in _IN_ORDER:
        raise InputError(
            f"train_sampling_strategy is {args.train_sampling_strategy}, but streamed blocks come in the order of the "
            "stream: leave it out."
        )
    for event in ("logging", "eval", "save"):
        if getattr(args, f"{event}_strategy") == "epoch":
            raise InputError(
                f"{event}_strategy is epoch, but with streaming the training is one pass without epochs: set it to "
                f"steps, and {event}_steps."
            )
    if args.dataloader_drop_last:
        raise InputError("dataloader_drop_last is set, but with streaming every batch is full: leave it out.")
    if args.accelerator_config.dispatch_batches:
        raise InputError(
            "accelerator_config sets dispatch_batches, but with streaming each process reads its own batches: leave "
            "it out."
        )
    if stage.ckd_args.teacher_cache_dir:
        raise InputError(
            "teacher_cache_dir is set, but streamed blocks are not read twice, so a cache would save nothing: leave "
            "it out."
        )


def open_stream(
    sources: Sequence[OpenText], tokenizer: PreTrainedTokenizerBase, options: BlockOptions, *, seed: int
) -> BlockStream:
    """Returns the stream of blocks to train on, of which the first of each source has been read.

    Raises:
        InputError: a source is shorter than a block, or cannot be read.
    """
    tokenizer = copy.deepcopy(tokenizer)  # its own, as the stream is packed in another thread
    streams = [
        PackedStream(opened.streamed, Packer(tokenizer, options)) for opened in sources if opened.streamed is not None
    ]
    stream = BlockStream(streams, [opened.source.weight for opened in sources], seed=seed)
    stream.check()
    return stream
