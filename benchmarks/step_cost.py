"""Measures a training step: fine-tuning, logits only, CKD with a live and with a cached teacher, and the floor.

    python benchmarks/step_cost.py --data_dir glue --model MODEL
    python benchmarks/step_cost.py --settings bert_base --precisions bf16 --repeats 5
    python benchmarks/step_cost.py --settings bert_base --precisions bf16 --batch 32 --torch_compile  # on a GPU

Settings: "bert_base" distills a random BERT-base to 6 layers, with batches of 8 x 128 tokens. "cola" distills MODEL (a
folder or an id on the Hub; the 6-layer MiniLM by default) to half of its layers on CoLA, in batches of 32 grouped by
length. A student has every other layer of its teacher.

Sides: "floor" is bare PyTorch (see floor.py). All others run the data loader and the `training_step` of a
`DistillationTrainer`, and the optimizer's step. "fine_tuning" has no teacher, and "logits" only the logits, with alpha
0.7. "ckd_live" adds all four relation terms (window 21, emb+skip), and "ckd_cached" reads the teacher's signals from a
cache. "ckd_measured" is "ckd_live" with the gradients of the relations measured first, as before eight steps of a run.
The others are "logits" with the terms of another method.

Time: the sides alternate, step by step, on the same batches. An epoch of ckd_live and one round of all sides warm up.
A step includes drawing the batch, because that reads the cache; the floor's batches are ready in memory. A ratio is
the median over rounds of (side / reference in the same round). The percentiles are over rounds, so with CoLA they also
reflect the lengths of the texts.

Memory: the peak of a fresh process with three steps of one side, including weights and libraries (on a GPU, tensors
only). "ckd_cached" finds a complete cache and keeps no teacher in memory, as in every run but the first.

Appends one row per side to --output, and draws the latest rows of this machine to --plot. On a machine with several
GPUs, select one: CUDA_VISIBLE_DEVICES=0. --torch_compile is for bert_base, whose batches all have the same shape.
"""

import argparse
import functools
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path

import datasets
import measure
import torch
import transformers
from floor import bert_pair, floor_step, half_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.text_tasks import load_task, tokenize
from ckd_trainer.methods import (
    AttributionArguments,
    DistilBERTArguments,
    GramArguments,
    MiniLMArguments,
    MiniLMv2Arguments,
    PKDArguments,
    TinyBERTArguments,
)
from ckd_trainer.models.stored_teacher import StoredTeacher

SETTINGS = {"bert_base": {"batch": 8, "length": 128}, "cola": {"batch": 32, "length": 128}}
PRECISIONS = ("float32", "bf16")
SIDES = {
    "floor": "floor",
    "fine_tuning": "fine-tuning",
    "logits": "logits only",
    "ckd_live": "CKD, live teacher",
    "ckd_cached": "CKD, cached teacher",
    "ckd_measured": "CKD, live teacher, a step whose gradients are measured",
    "pkd": "PKD",
    "cosine": "DistilBERT's cosine",
    "tinybert": "TinyBERT",
    "minilm": "MiniLM",
    "minilmv2": "MiniLMv2",
    "gram": "Gram matrices",
    "attribution": "AD-KD",
}
METHODS = {
    "pkd": PKDArguments(pkd_weight=0.3),
    "cosine": DistilBERTArguments(distilbert_cosine_weight=0.3),
    "tinybert": TinyBERTArguments(
        tinybert_embedding_weight=0.3, tinybert_hidden_weight=0.3, tinybert_attention_weight=0.3
    ),
    "minilm": MiniLMArguments(minilm_attention_weight=0.3, minilm_value_weight=0.3),
    "minilmv2": MiniLMv2Arguments(minilmv2_weight=0.3),
    "gram": GramArguments(gram_weight=0.3),
    "attribution": AttributionArguments(attribution_weight=0.3),
}
REFERENCES = ("fine_tuning", "floor", "logits")
SEED = 0


def ckd_arguments(side, cache):
    if side == "logits" or side in METHODS:
        return CKDArguments.without_relations(alpha=0.7)
    if side in ("ckd_live", "ckd_measured"):
        return CKDArguments(alpha=0.7, **measure.ALL_RELATIONS)
    if side == "ckd_cached":
        return CKDArguments(alpha=0.7, **measure.ALL_RELATIONS, teacher_cache_dir=str(cache))
    return CKDArguments.fine_tuning()


def load(arguments):
    """Returns teacher, student, texts for the timed batches, and the tokenizer (None for random texts)."""
    torch.manual_seed(SEED)  # the same weights in every process, so that all use one cache
    examples = arguments.batch * (arguments.repeats + 1)
    if arguments.setting == "bert_base":
        teacher, student = bert_pair(teacher_layers=12, width=768)
        tokens = torch.randint(1000, teacher.config.vocab_size, (examples, arguments.length))
        columns = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens[:, 0] % 2}
        columns = {name: values.tolist() for name, values in columns.items()}
        return teacher, student, datasets.Dataset.from_dict(columns), None
    data_args = GlueArguments(
        task_name="cola", data_dir=arguments.data_dir, max_seq_length=arguments.length, max_train_samples=examples
    )
    task = load_task(data_args, seed=SEED, splits=("train",))
    if len(task.train) < examples:
        raise SystemExit(f"error: CoLA has {len(task.train)} texts, not {examples}: give fewer --repeats.")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    teacher = AutoModelForSequenceClassification.from_pretrained(arguments.model)
    return teacher, half_of(teacher), tokenize(task.train, task, tokenizer, data_args), tokenizer


def training_steps(side, arguments):
    """Returns a generator that runs one training step per `next` and yields the batch's token ids."""
    model, student, dataset, tokenizer = load(arguments)
    teacher = None if side in ("floor", "fine_tuning") else model
    if side == "ckd_cached":
        folder = arguments.folder / "teacher"
        if not folder.exists():
            model.save_pretrained(folder)
        teacher = StoredTeacher(folder, model.config)
    trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        ckd_args=ckd_arguments(side, arguments.folder / "cache"),
        methods=[METHODS[side]] if side in METHODS else [],
        args=TrainingArguments(
            arguments.folder / side,
            per_device_train_batch_size=arguments.batch,
            train_sampling_strategy="group_by_length",
            bf16=arguments.precision == "bf16",
            torch_compile=arguments.torch_compile,
            use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused without a GPU
            report_to="none",
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    dataloader = trainer.get_train_dataloader()  # builds the cache
    if trainer._projections is not None:
        trainer._projections.attach()  # as `train` does
    trainer.create_optimizer()
    if side == "floor":
        return floor_steps(model, trainer, dataloader)
    if trainer.balance is not None:
        trainer.balance.is_due = lambda step: side == "ckd_measured"
    return trainer_steps(trainer, dataloader)


def trainer_steps(trainer, dataloader):
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model_wrapped = model  # as `Trainer.train` does
    trainer.current_gradient_accumulation_steps = 1  # `Trainer.train` sets it
    torch.manual_seed(SEED)  # for the order of the batches
    for batch in dataloader:
        (batch,), items = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        trainer.training_step(model, batch, items)
        optimizer.step()
        optimizer.zero_grad()
        yield batch["input_ids"]


def floor_steps(teacher, trainer, dataloader):
    torch.manual_seed(SEED)
    batches = list(dataloader)
    teacher, student = teacher.to(trainer.args.device).eval().requires_grad_(False), trainer.model.train()
    if trainer.args.torch_compile:
        teacher, student = torch.compile(teacher), torch.compile(student)
    for batch in batches:
        floor_step(teacher, student, trainer.optimizer, batch, bf16=trainer.args.bf16)
        yield batch["input_ids"]


def measure_time(arguments):
    """Returns the seconds of every step, {side: [...]}, and the median padded length of a batch."""
    # The first batch of a length sets up its kernels, which would be charged to whichever side runs first.
    for _ in training_steps("ckd_live", arguments):
        pass
    steps = {side: training_steps(side, arguments) for side in arguments.sides}
    first = {side: next(side_steps) for side, side_steps in steps.items()}
    for side, tokens in first.items():
        if not torch.equal(tokens, first["floor"]):
            raise SystemExit(f"error: the batches of {side} differ from those of the floor.")
    lengths = []

    def step(side):
        lengths.append(next(steps[side]).shape[1])

    seconds = measure.in_turns({side: functools.partial(step, side) for side in steps}, arguments.repeats)
    return {"seconds": seconds, "tokens": statistics.median(lengths)}


def measure_memory(side, arguments):
    for _ in zip(range(3), training_steps(side, arguments), strict=False):
        pass
    return measure.peak_mb(torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu")


def measure_setting(argv, setting, precision):
    """Measures all sides, each part in its own process, and returns one row per side."""
    arguments = parse([*argv, "--settings", setting, "--precisions", precision])
    with tempfile.TemporaryDirectory() as folder:
        options = [*argv, "--settings", setting, "--precisions", precision, "--folder", folder, "--measure"]
        times = measure.fresh_process(__file__, [*options, "time"])  # also builds the cache for the next part
        memory = {side: measure.fresh_process(__file__, [*options, side]) for side in arguments.sides}
    seconds, rows = times["seconds"], []
    for side in arguments.sides:
        ratios = {f"ratio_{name}": f"{measure.ratio(seconds[side], seconds[name]):.3f}" for name in REFERENCES}
        rows.append(
            {
                "setting": setting,
                "precision": precision,
                "side": side,
                **measure.spread(seconds[side]),
                **ratios,
                "peak_mb": f"{memory[side]:.0f}",
                "batch": arguments.batch,
                "tokens": f"{times['tokens']:g}",
                "repeats": arguments.repeats,
                "torch_compile": arguments.torch_compile,
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                **measure.conditions(),
            }
        )
        print(
            "{setting} {precision} {side}: {median_s} s ({p20_s} to {p80_s}), {ratio_fine_tuning} x fine-tuning, "
            "{ratio_floor} x floor, {ratio_logits} x logits, {peak_mb} MB ({memory:.3f} x logits)".format(
                memory=memory[side] / memory["logits"], **rows[-1]
            ),
            flush=True,
        )
    return rows


def draw(rows, path):
    """Draws one panel per setting and precision, from the latest rows of the machine measured last."""
    from ckd_trainer.reports.style import COLORS, NOTE_COLOR, TEXT_COLOR  # after measuring, as in `measure.panels`

    machine = {name: rows[-1][name] for name in ("device", "cpu", "threads", "torch", "torch_compile")}
    rows = [row for row in rows if machine.items() <= row.items()]
    latest = {(row["setting"], row["precision"], row["side"]): row for row in rows}
    settings, precisions = (list(dict.fromkeys(key[part] for key in latest)) for part in (0, 1))
    compiled = " with torch.compile" if machine["torch_compile"] == "True" else ""
    title = f"Time and peak memory of a training step{compiled}\n{measure.machine(rows[-1])}"
    figure, grid = measure.panels(len(settings), len(precisions), (5.6, 3.1), title)
    for axes, (setting, precision) in zip(grid.flat, itertools.product(settings, precisions), strict=True):
        bars = [latest[setting, precision, side] for side in SIDES if (setting, precision, side) in latest]
        axes.set_visible(bool(bars))
        for place, row in enumerate(bars):
            middle, low, high = (1000 * float(row[name]) for name in ("median_s", "p20_s", "p80_s"))
            color = (
                NOTE_COLOR if row["side"] == "floor" else COLORS[(list(SIDES).index(row["side"]) - 1) % len(COLORS)]
            )
            whisker = [[middle - low], [high - middle]]
            axes.barh(place, middle, 0.62, color=color, xerr=whisker, ecolor=TEXT_COLOR, capsize=2)
            time = f"  {middle:#,.4g} ms".replace(". ms", " ms")
            axes.text(high, place, time, va="bottom", color=TEXT_COLOR, fontsize=9)
            note = f"  {float(row['ratio_fine_tuning']):.2f} × fine-tuning, {float(row['ratio_logits']):.2f} × logits"
            axes.text(high, place, f"{note}, {int(row['peak_mb']):,} MB", va="top", color=NOTE_COLOR, fontsize=7)
        if bars:
            right = 1000 * max(float(row["p80_s"]) for row in bars)
            axes.set_xlim(0, 2.1 * right)  # room for the texts
            axes.set_ylim(len(bars) - 0.5, -0.5)
            axes.set_yticks(range(len(bars)), [SIDES[row["side"]] for row in bars], color=TEXT_COLOR)
            axes.grid(axis="y", visible=False)
            axes.set_xlabel("milliseconds (bar: median; whisker: 20th to 80th percentile)", fontsize=8)
            shape = f"{setting}, {precision}: {bars[0]['batch']} x {bars[0]['tokens']} tokens"
            axes.set_title(shape, loc="left", color=TEXT_COLOR, fontsize=10, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=list(SIDES), help="beside floor, fine_tuning and logits"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--data_dir", help="GLUE folder for cola; the Hub by default")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="teacher for cola")
    parser.add_argument("--batch", type=int, help="texts per step; that of the setting by default")
    parser.add_argument("--length", type=int, help="tokens per text (cola: maximum); that of the setting by default")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps per side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--torch_compile", action="store_true", help="compile all models, also for the floor")
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "step_cost.csv")
    parser.add_argument("--plot", type=Path, default=measure.PROJECT / "docs" / "step_cost.png")
    parser.add_argument("--draw_only", action="store_true", help="draw the rows of --output without measuring")
    # For measure_setting, which passes one setting and one precision:
    parser.add_argument("--measure", choices=("time", *SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.sides = [side for side in SIDES if side in {*REFERENCES, *arguments.sides}]
    if arguments.torch_compile and "attribution" in arguments.sides:
        arguments.sides.remove("attribution")  # compiled models have no second derivatives
    arguments.setting, arguments.precision = arguments.settings[0], arguments.precisions[0]
    for name, value in SETTINGS[arguments.setting].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if arguments.measure == "time":
        print(json.dumps(measure_time(arguments)))
        return
    if arguments.measure:
        print(json.dumps(measure_memory(arguments.measure, arguments)))
        return
    if not arguments.draw_only:
        for setting, precision in itertools.product(arguments.settings, arguments.precisions):
            measure.append_rows(arguments.output, measure_setting(argv, setting, precision))
    draw(measure.read_rows(arguments.output), arguments.plot)


if __name__ == "__main__":
    main()
