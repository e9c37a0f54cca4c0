"""Measures how fast running text becomes batches, in tokens per second, next to a training step that reads them.

    python benchmarks/text.py --train_file corpus.txt --teacher google-bert/bert-base-uncased

TEACHER is a folder or an id on the Hub. The student has the first half of its layers and learns relations alone, as
with `ckd-trainer mlm`. Cutting blocks, streaming and making batches take turns with the steps, so that other load on
the machine affects all of them alike. Appends to benchmarks/results/text.csv.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import datasets
import measure
import torch
from transformers import AutoModel, AutoTokenizer, TrainingArguments

from ckd_trainer import DistillationTrainer
from ckd_trainer.arguments import LanguageModelCKDArguments
from ckd_trainer.data.blocks import BlockOptions, Packer, blocks_of
from ckd_trainer.data.masking import MaskingCollator
from ckd_trainer.data.streamed_documents import StreamedFile
from ckd_trainer.data.streams import PackedStream
from ckd_trainer.data.text_arguments import TextSource
from ckd_trainer.models.student import config_of_layers, student_from_layers


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--length", type=int, default=128, help="tokens of a block")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "text.csv")
    return parser.parse_args()


def main():
    options = parse()
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    source = TextSource(train_file=options.train_file)
    teacher = AutoModel.from_pretrained(options.teacher)
    layers = list(range(1, teacher.config.num_hidden_layers // 2 + 1))
    student = student_from_layers(teacher, layers, config_of_layers(teacher.config, layers))
    with tempfile.TemporaryDirectory() as folder:
        blocks = cut(source, tokenizer, options, folder)
        rows = [blocks[row] for row in range(options.batch_size)]
        masks = MaskingCollator(tokenizer, 0.15, seed=0)
        trainer = DistillationTrainer(
            model=student,
            teacher_model=teacher,
            ckd_args=LanguageModelCKDArguments(term_balance="none"),  # without measurements in the first steps
            args=TrainingArguments(folder, per_device_train_batch_size=options.batch_size, report_to="none"),
            train_dataset=blocks,
            data_collator=MaskingCollator(tokenizer, 0.0, seed=0),
            processing_class=tokenizer,
        )
        trainer.create_optimizer_and_scheduler(1000)
        batch = trainer.data_collator(rows)
        tokens = {
            "cut text into blocks": sum(map(len, blocks["input_ids"])),
            "stream text": options.length
            * (len(blocks) - 1),  # the last one is not full, but that of a stream would be
            "make a batch": int(batch["attention_mask"].sum()),
            "make a batch with masks": int(batch["attention_mask"].sum()),
            "train a step": int(batch["attention_mask"].sum()),
        }

        def step():
            trainer.model.train()
            trainer.compute_loss(trainer.model, dict(batch)).backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        steps = [
            lambda: cut(source, tokenizer, options, folder),
            lambda: stream(source, tokenizer, options, len(blocks) - 1),
            lambda: trainer.data_collator([blocks[row] for row in range(options.batch_size)]),
            lambda: masks([blocks[row] for row in range(options.batch_size)]),
            step,
        ]
        sides = dict(zip(tokens, steps, strict=True))
        for side in sides.values():
            side()  # warm-up
        seconds = measure.in_turns(sides, options.repeats)
    found = []
    for side, taken in seconds.items():
        row = {"step": side, "tokens": tokens[side], **measure.spread(taken), "repeats": options.repeats}
        row["tokens_per_s"] = round(tokens[side] / float(row["median_s"]))
        steps_ratio = measure.ratio(seconds["train a step"], taken) * tokens[side] / tokens["train a step"]
        row["times_a_step"] = f"{steps_ratio:.1f}"
        print("{step}: {tokens_per_s:,} tokens per second, {times_a_step} times as fast as a step".format(**row))
        found.append(row)
    sizes = {
        "length": options.length,
        "batch_size": options.batch_size,
        "width": teacher.config.hidden_size,
        "layers": f"{teacher.config.num_hidden_layers} to {len(layers)}",
    }
    measure.append_rows(options.output, [row | sizes | measure.conditions() for row in found])


def cut(source, tokenizer, options, folder):
    """Returns the blocks of a text, which it cuts again each time."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        datasets.config.HF_DATASETS_CACHE = cache
        blocks = blocks_of(source, tokenizer, BlockOptions(options.length))
        return datasets.Dataset.from_dict({"input_ids": blocks["input_ids"][:]}, features=blocks.features)


def stream(source, tokenizer, options, count):
    """Returns the first blocks of a streamed text, without reading ahead in another thread."""
    packer = Packer(tokenizer, BlockOptions(options.length))
    return list(itertools.islice(PackedStream(StreamedFile(source), packer), count))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
