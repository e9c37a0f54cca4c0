"""Measures a step of a dynamic student, next to bare models of the sizes of its sub-networks.

    python benchmarks/dynamic.py --model MODEL

MODEL, a folder or an id on the Hub, is teacher and student. Sides, all of which run the forward and backward passes of
every sub-network on the same batch of random tokens, without the optimizer's step:

- "bare": plain models with exactly the heads, neurons and layers of the sub-networks, one after another;
- "slices": the same loss, by sub-networks of a dynamic model;
- "labels": a step of `DynamicTrainer` with the loss on the labels alone;
- "ckd": a step with logits and relations too, and the teacher's forward pass;
- "teacher": that forward pass alone.

A second group of rows has the same sides for a single student, the whole one, by `DistillationTrainer`. The sides take
turns. Appends to benchmarks/results/dynamic.csv.
"""

import argparse
import tempfile
from pathlib import Path

import datasets
import measure
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, TrainingArguments

from ckd_trainer import CKDArguments, DistillationTrainer, DynamicArguments, DynamicTrainer
from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.linear_layers import linear_layers
from ckd_trainer.models.sizes import head_size
from ckd_trainer.models.student import student_from_layers
from ckd_trainer.models.subnetworks import config_at_depth


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--widths", default="1.0,0.75,0.5,0.25")
    parser.add_argument("--depths", default="1.0,0.75,0.5")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=measure.RESULTS / "dynamic.csv")
    return parser.parse_args()


def main():
    options = parse()
    dynamic_args = DynamicArguments(options.widths, options.depths)
    found = []
    for name, args in (("dynamic", dynamic_args), ("one student", DynamicArguments())):
        seconds = measured(options, args)
        for side, taken in seconds.items():
            row = {"student": name, "side": side, "subnetworks": len(args.subnetworks), **measure.spread(taken)}
            row["to_bare"] = f"{measure.ratio(taken, seconds['bare']):.3f}"
            row["repeats"] = options.repeats
            print("{student}, {side}: {median_s} s, {to_bare} of bare models".format(**row))
            found.append(row)
    config = AutoConfig.from_pretrained(options.model)
    sizes = {"length": options.length, "batch_size": options.batch_size}
    sizes |= {"width": config.hidden_size, "layers": config.num_hidden_layers}
    measure.append_rows(options.output, [row | sizes | measure.conditions() for row in found])


def measured(options, dynamic_args):
    """Returns the seconds of each round of each side."""
    config = AutoConfig.from_pretrained(options.model, num_labels=2)

    def model():
        return AutoModelForSequenceClassification.from_pretrained(options.model, config=config)

    ids = torch.randint(1000, 20000, (options.batch_size, options.length))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.randint(0, 2, (options.batch_size,)),
    }
    teacher, sliced, parts = model().eval(), model().train(), dynamic_args.subnetworks
    whole, dynamic = DynamicModel(sliced), [bare_model(sliced, part).train() for part in parts]

    def bare():
        for each in dynamic:
            each(**batch).loss.backward()
            each.zero_grad()

    def slices():
        for part in parts:
            with whole.running(part):
                sliced(**batch).loss.backward()
        sliced.zero_grad()

    def forward():
        with torch.no_grad():
            teacher(**batch, output_hidden_states=True)

    with tempfile.TemporaryDirectory() as folder:
        mapping = {"wr_layer_mapping": "uniform", "ltr_layer_mapping": "uniform"}  # exists at every depth
        ckd = CKDArguments(term_balance="none", **measure.ALL_RELATIONS, **mapping)
        losses = {"labels": CKDArguments.fine_tuning(), "ckd": ckd}
        steps = {
            name: trained_step(folder, model(), model(), loss, dynamic_args, batch) for name, loss in losses.items()
        }
        sides = {"bare": bare, "slices": slices, **steps, "teacher": forward}
        for side in sides.values():
            side()  # warm-up
        return measure.in_turns(sides, options.repeats)


def bare_model(model, part):
    """Returns a plain model with the heads, neurons and layers of a sub-network, by smaller linear layers."""
    plain = student_from_layers(model, part.layers(model.config), config_at_depth(model.config, part))
    dims, neurons = part.heads(model.config) * head_size(model.config), part.neurons(model.config)
    for layer in linear_layers(plain):
        sizes = {name: (dims, None) for name in layer.projections}
        sizes |= {layer.out: (None, dims), layer.up: (neurons, None), layer.down: (None, neurons)}
        for name, (rows, columns) in sizes.items():
            old = plain.get_submodule(name)
            new = torch.nn.Linear(columns or old.in_features, rows or old.out_features)
            new.load_state_dict({"weight": old.weight[:rows, :columns], "bias": old.bias[:rows]})
            plain.set_submodule(name, new)
    return plain


def trained_step(folder, student, teacher, loss, dynamic_args, batch):
    """Returns a function that runs a training step, without the optimizer's."""
    kwargs = {
        "model": student,
        "teacher_model": teacher,
        "ckd_args": loss,
        "args": TrainingArguments(folder, report_to="none"),
        "train_dataset": datasets.Dataset.from_dict({name: value.tolist() for name, value in batch.items()}),
    }
    if dynamic_args.is_dynamic:
        trainer = DynamicTrainer(dynamic_args=dynamic_args, **kwargs)
    else:
        trainer = DistillationTrainer(**kwargs)
    trainer.create_optimizer_and_scheduler(1000)

    def step():
        _, items = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        trainer.training_step(trainer.model, dict(batch), items)
        trainer.model.zero_grad()

    trainer.current_gradient_accumulation_steps = 1
    trainer.state.global_step = 1000  # after the first steps, which measure gradients
    return step


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
