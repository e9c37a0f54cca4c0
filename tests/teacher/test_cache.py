"""The teacher cache: what it says is what the teacher says, wherever, whenever and by whomever it was built."""

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.chaos import context_of
from helpers.launching import launch
from helpers.tiny import no_dropout, tiny_model
from helpers.training import ALL_TERMS, examples, logs, pad, trainer

import ckd_trainer.teacher.cache
import ckd_trainer.teacher.writer
import run_glue_ckd
from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.heads import Classes, Tokens
from ckd_trainer.methods import Term
from ckd_trainer.teacher.cache import Contents
from ckd_trainer.teacher.fingerprint import examples_fingerprint
from ckd_trainer.teacher.live import LiveTeacher
from ckd_trainer.teacher.signals import FirstToken, HiddenStates, LayerGram, Logits, WordGram
from ckd_trainer.utils.errors import InputError


@pytest.fixture(autouse=True)
def small_parts(monkeypatch, unmeasured):
    """Several parts for a few examples."""
    monkeypatch.setattr(ckd_trainer.teacher.writer, "_PART_ROWS", 20)


@pytest.fixture
def teacher_runs(monkeypatch):
    """Counts the batches that any teacher reads."""
    calls, run = [], LiveTeacher.__call__
    monkeypatch.setattr(
        LiveTeacher, "__call__", lambda self, batch: calls.append(len(batch["input_ids"])) or run(self, batch)
    )
    return calls


def distill(folder, cache, *, teacher=None, ckd=None, student=None, **kwargs):
    """A trained trainer; weights that let every term count."""
    weights = {
        "wr_distance_weight": 50.0,
        "wr_angle_weight": 5.0,
        "ltr_distance_weight": 50.0,
        "ltr_angle_weight": 5.0,
    }
    weights |= {"term_balance": "none", "relation_normalization": "pairs", "relation_temperature": 1.0}
    ckd = weights | {"window_size": 5, "teacher_cache_dir": str(cache) if cache else None} | (ckd or {})
    run = trainer(
        DistillationTrainer,
        folder,
        student or no_dropout(layers=2, width=16),
        teacher_model=teacher or tiny_model(seed=1),
        ckd_args=CKDArguments(**ckd),
        **kwargs,
    )
    run.train()
    return run


def caches(folder):
    return sorted(path for path in Path(folder).iterdir() if path.is_dir())


def test_caches_of_earlier_versions_stay_valid():
    """The name of a cache follows from its contents alone, which mean the same as ever."""
    examples = Dataset.from_dict({"input_ids": [[2, 5, 3], [2, 3]], "attention_mask": [[1, 1, 1], [1, 1]]})
    signals = [
        Logits(Classes(), 2),
        Logits(Tokens(), 3),
        WordGram((0, 2)),
        LayerGram((0, 1, 2)),
        FirstToken((1,), width=4),
    ]
    contents = Contents(
        teacher="t",
        examples=examples_fingerprint(examples, examples.column_names),
        precision="no",
        signals=tuple(sorted(signal.key for signal in signals)),
    )
    assert contents.key == "3371cebef2a0e23fab2e"


# ------------------------------------------------------------------------------------------------- cached = live


@pytest.mark.parametrize("options", [
    {},
    {"train_sampling_strategy": "group_by_length"},
    {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4},
    {"dataloader_num_workers": 2, "data_seed": 5},
], ids=str)  # fmt: skip
def test_cached_is_live(tmp_path, options):
    """Logged terms within 1e-3 of the live ones over two epochs and more, in the same order of examples."""
    live, cached = (
        distill(tmp_path / name, cache, steps=15, options=options)
        for name, cache in (("live", None), ("cached", tmp_path / "cache"))
    )
    assert len(logs(live)) == len(logs(cached)) == 15
    for ours, theirs in zip(logs(cached), logs(live), strict=True):
        for name in (
            "loss",
            "loss_logits",
            "loss_wr_distance",
            "loss_wr_angle",
            "loss_ltr_distance",
            "loss_ltr_angle",
        ):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name


def test_gradient_is_the_live_one(tmp_path):
    student, teacher = no_dropout(layers=2, width=16), tiny_model(seed=1)
    runs = [
        trainer(
            DistillationTrainer,
            tmp_path / name,
            student,
            teacher_model=teacher,
            ckd_args=CKDArguments(**ALL_TERMS, teacher_cache_dir=cache),
        )
        for name, cache in (("live", None), ("cached", str(tmp_path / "cache")))
    ]
    batch = next(iter(runs[1].get_train_dataloader()))
    student.train()
    gradients = []
    for run in runs:
        student.zero_grad()
        run.compute_loss(
            student, batch if run.caches_teacher else {k: v for k, v in batch.items() if not k.startswith("cached_")}
        ).backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None])
        )
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9999
    torch.testing.assert_close(gradients[0].norm(), gradients[1].norm(), rtol=1e-3, atol=0)


def test_labels_in_another_order_and_inputs_of_the_teacher_alone(tmp_path):
    """The cache holds what the teacher says; a student with other labels first reads it in its own order."""
    data = examples(types=True)
    results = {}
    for labels in (("bad", "good"), ("good", "bad")):
        for cache in (None, tmp_path / "cache"):
            student = no_dropout(layers=2, width=16, labels=labels)
            run = distill(tmp_path / "out", cache, train=data, student=student)
            results[labels, bool(cache)] = logs(run)[0]["loss_logits"]
        assert results[labels, True] == pytest.approx(results[labels, False], rel=1e-3)
    assert len(caches(tmp_path / "cache")) == 1
    assert results[("bad", "good"), False] != pytest.approx(results[("good", "bad"), False], rel=1e-3)


# ------------------------------------------------------------------------------------------------------ what is reused


def test_teacher_runs_once_for_all_that_has_the_same_key(tmp_path, teacher_runs):
    cache = tmp_path / "cache"
    distill(tmp_path / "1", cache, steps=14)  # more than two epochs
    assert sum(teacher_runs) == len(examples())
    distill(
        tmp_path / "2",
        cache,
        options={"seed": 7},
        ckd={"wr_angle_weight": 1.0, "alpha": 0.1, "window_size": 3},
    )
    distill(tmp_path / "3", cache, student=tiny_model(layers=2, width=8))
    distill(tmp_path / "4", cache, ckd={"wr_distance_weight": 0, "wr_angle_weight": 0})
    distill(
        tmp_path / "5",
        cache,
        ckd={"wr_distance_weight": 0, "wr_angle_weight": 0, "ltr_distance_weight": 0, "ltr_angle_weight": 0},
    )
    assert sum(teacher_runs) == len(examples()) and len(caches(cache)) == 1


@pytest.mark.parametrize("change", ["teacher weight", "row", "order of rows", "layers", "precision"])
def test_another_key_is_another_cache(tmp_path, teacher_runs, change):
    cache, data, teacher = tmp_path / "cache", examples(), tiny_model(seed=1)
    distill(tmp_path / "1", cache, teacher=teacher, train=data)
    options, ckd = {}, {}
    if change == "teacher weight":
        with torch.no_grad():
            teacher.bert.encoder.layer[0].attention.self.query.weight[0, 0] += 1e-3
    elif change == "row":
        rows = data.to_list()
        rows[5]["input_ids"][1] = 6 if rows[5]["input_ids"][1] != 6 else 7
        data = data.from_list(rows)
    elif change == "order of rows":
        data = data.shuffle(seed=1)
    elif change == "layers":
        ckd = {"wr_layer_mapping": "0:0,1:1,2:4"}
    else:
        options = {"bf16": True}
    distill(tmp_path / "2", cache, teacher=teacher, train=data, options=options, ckd=ckd)
    assert len(caches(cache)) == 2 and sum(teacher_runs) == 2 * len(data)


def test_another_training_set_after_the_first(tmp_path):
    """A trainer that is given other examples reads their signals, not those of the first ones."""
    run = distill(tmp_path / "out", tmp_path / "cache")
    run.train_dataset = examples(seed=9)
    run.train()
    assert len(caches(tmp_path / "cache")) == 2


# ------------------------------------------------------------------------------------------------- damage and mistakes


def spoil(folder, how):
    part = sorted(folder.glob("*.arrow"))[1]
    if how == "truncated":
        part.write_bytes(part.read_bytes()[:-100])
    elif how == "one bit":
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
    elif how == "missing part":
        part.unlink()
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "manifest is no json":
        (folder / "manifest.json").write_text("{")
    elif how == "a part is not listed":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["parts"].pop()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    elif how == "another cache's":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["contents"]["teacher"] = "0" * 64
        (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "one bit",
        "missing part",
        "no manifest",
        "manifest is no json",
        "a part is not listed",
        "another cache's",
    ],
)
def test_damage_is_named(tmp_path, how):
    distill(tmp_path / "1", tmp_path / "cache")
    (folder,) = caches(tmp_path / "cache")
    spoil(folder, how)
    with pytest.raises(
        InputError,
        match=f"the teacher cache .*{folder.name} is damaged or was not written by ckd-trainer .*delete the folder",
    ):
        distill(tmp_path / "2", tmp_path / "cache")
    shutil.rmtree(folder)
    distill(tmp_path / "2", tmp_path / "cache")


def test_full_disk_is_told_before_the_teacher_runs(tmp_path, monkeypatch, teacher_runs):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(
        InputError, match=r"teacher_cache_dir .* has 0.00 GB free, but the teacher's signals of 48 examples"
    ):
        distill(tmp_path / "out", tmp_path / "cache")
    assert not teacher_runs


def test_estimate_of_the_size(tmp_path):
    """The estimate that the disk is checked with is the size of the files, but for Arrow's frame around each part."""
    run = distill(tmp_path / "out", tmp_path / "cache")
    (folder,) = caches(tmp_path / "cache")
    parts = list(folder.glob("*.arrow"))
    size = sum(path.stat().st_size for path in parts)
    lengths = ckd_trainer.teacher.writer.valid_lengths(run.train_dataset)
    estimate = ckd_trainer.teacher.cache.bytes_of(run.teacher.cached_signals, lengths).sum()
    assert 0 <= size - estimate < 4000 * len(parts)


def test_lengths_are_numbers_of_units():
    """A text may have no unit, or even no token, if its tokenizer adds no special ones."""
    rows = [[0, 1, 1, -1], [], [-1], [0], []]
    examples = Dataset.from_dict({"teacher_units": rows, "attention_mask": [[1] * 9] * 5})
    assert ckd_trainer.teacher.writer.valid_lengths(examples).tolist() == [2, 0, 0, 1, 0]


def test_terms_that_read_more_are_refused(tmp_path):
    class StatesTerm(Term):
        name = "states"
        student_signal, teacher_signal = HiddenStates((2,)), HiddenStates((4,))

        def forward(self, student, teacher, batch):
            return (student[0] - teacher[0]).square().mean()

        def count(self, batch):
            return batch["input_ids"].new_tensor(1)

    with pytest.raises(InputError, match="a cache cannot hold the teacher's signal for states: it is too large"):
        trainer(
            DistillationTrainer,
            tmp_path,
            tiny_model(layers=2),
            teacher_model=tiny_model(),
            terms=[StatesTerm()],
            ckd_args=CKDArguments(**ALL_TERMS, teacher_cache_dir=str(tmp_path)),
        )


def test_dataset_without_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="the training set is a list"):
        caching_trainer(tmp_path, train=examples().to_list())


@pytest.mark.parametrize("change", ["length", "order", "other words"])
def test_texts_that_change_are_refused(tmp_path, change):
    """What a batch holds is compared with what the teacher read, not only its length."""
    run = caching_trainer(tmp_path)
    run.get_train_dataloader()

    def spoil(row):
        ids = row["input_ids"]
        ids = {"length": ids[:2], "order": ids[::-1], "other words": [4] * len(ids)}.get(change, ids)
        return {**row, "input_ids": ids, "attention_mask": [1] * len(ids)}

    run.data_collator = lambda rows: pad([spoil(row) for row in rows])
    with pytest.raises(RuntimeError, match="the token ids of a batch differ from those that the teacher read"):
        next(iter(run.get_train_dataloader()))


@pytest.mark.parametrize("change", ["collator", "transform"])
def test_texts_that_change_each_time_are_refused_before_the_teacher_runs(tmp_path, teacher_runs, change):
    """As masked language modeling changes them; a complete cache, built with other options, does not help."""

    def mask(ids):
        return [4 if random.random() < 0.5 else token for token in ids]

    run = caching_trainer(tmp_path)
    run.get_train_dataloader()
    teacher_runs.clear()
    if change == "collator":
        run = caching_trainer(tmp_path)
        run.data_collator = lambda rows: pad([{**row, "input_ids": mask(row["input_ids"])} for row in rows])
    else:
        data = run.train_dataset.with_transform(lambda rows: {**rows, "input_ids": list(map(mask, rows["input_ids"]))})
        run = caching_trainer(tmp_path, train=data)
    with pytest.raises(InputError, match="change from one time to the next.*leave teacher_cache_dir out"):
        run.train()
    assert not teacher_runs


def test_texts_that_are_encoded_when_they_are_read_are_refused(tmp_path):
    data = examples().rename_columns({"input_ids": "words", "attention_mask": "mask"})
    data.set_transform(lambda rows: {"input_ids": rows["words"], "attention_mask": rows["mask"], **rows})
    with pytest.raises(InputError, match="the training set stores no input_ids.*with map instead of a transform"):
        caching_trainer(tmp_path, train=data)


def test_building_draws_no_random_numbers(tmp_path):
    """Not every run builds a cache, nor every process, and a collator may draw what does not change the texts."""

    def collate(rows):
        random.random(), np.random.rand(), torch.rand(())
        return pad(rows)

    def next_numbers():
        return random.random(), np.random.rand(), torch.rand(()).item()

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    expected = next_numbers()
    run = caching_trainer(tmp_path, data_collator=collate)
    seed()
    run.open_teacher_cache()
    assert caches(tmp_path / "cache") and next_numbers() == expected


def test_a_cache_without_access_is_one_line_or_passed_over(tmp_path, monkeypatch):
    run = caching_trainer(tmp_path)
    run.get_train_dataloader()
    (folder,) = caches(tmp_path / "cache")

    def closed(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / "manifest.json"))

    monkeypatch.setattr(ckd_trainer.teacher.cache, "_read_manifest", closed)
    with pytest.raises(InputError, match="manifest.json: Permission denied: .*allow access to this one"):
        caching_trainer(tmp_path).get_train_dataloader()
    folder.rename(folder.with_name("another"))
    run = caching_trainer(tmp_path)
    assert not run.teacher.has_cache(run.train_dataset)


def caching_trainer(folder, **kwargs):
    ckd_args = CKDArguments(**ALL_TERMS, teacher_cache_dir=str(folder / "cache"))
    return trainer(
        DistillationTrainer,
        folder / "out",
        tiny_model(layers=2),
        teacher_model=tiny_model(),
        ckd_args=ckd_args,
        **kwargs,
    )


def test_columns_that_only_the_collator_reads(tmp_path):
    data = examples().add_column("weight", [1.0] * len(examples()))

    def collate(rows):
        assert all("weight" in row for row in rows)
        return pad([{name: value for name, value in row.items() if name != "weight"} for row in rows])

    run = caching_trainer(tmp_path, train=data, options={"remove_unused_columns": False})
    run.data_collator = collate
    run.train()


def test_boolean_attention_mask(tmp_path):
    data = examples()
    data = data.remove_columns("attention_mask").add_column(
        "attention_mask", [[True] * len(ids) for ids in data["input_ids"]]
    )
    caching_trainer(tmp_path, train=data).train()


def test_complete_cache_needs_no_writing(tmp_path):
    """A finished cache is read without its lock, as from a disk that may only be read or while others use it."""
    distill(tmp_path / "1", tmp_path / "cache")
    for path in (tmp_path / "cache").glob(".*.lock"):
        path.unlink()
    distill(tmp_path / "2", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".*.lock"))


def test_backend_that_rounds_floats_cannot_harm(tmp_path):
    """Some backends turn every floating input of a batch to half precision."""
    run = caching_trainer(tmp_path)
    batch = next(iter(run.get_train_dataloader()))
    assert not any(tensor.is_floating_point() for tensor in batch.values())
    numbers = [
        part for value in run.teacher(batch).values() for part in (value if isinstance(value, tuple) else [value])
    ]
    assert len(numbers) == 5 and all(part.dtype == torch.float32 for part in numbers)  # logits and two Grams


def test_torch_compile_with_a_cache(tmp_path):
    results = []
    for compiled in (False, True):
        options = {"torch_compile": compiled, "torch_compile_backend": "eager"} if compiled else {}
        teacher = tiny_model(layers=2, seed=1)
        run = distill(tmp_path / "out", tmp_path / "cache", teacher=teacher, steps=2, options=options)
        results.append([entry["loss"] for entry in logs(run)])
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_batch_without_signals_is_refused(tmp_path):
    run = caching_trainer(tmp_path)
    run.model.train()
    with pytest.raises(ValueError, match="the batch contains no teacher signals"):
        run.compute_loss(run.model, pad(list(run.train_dataset)[:4]))


# -------------------------------------------------------------------------------------------- interrupted and at once


def build(folder, cache, pause=0.0):
    """What a process of its own does: one step with a cache; the teacher takes its time."""
    torch.set_num_threads(1)
    ckd_trainer.teacher.writer._PART_ROWS = 5
    run = LiveTeacher.__call__

    def slow(self, batch):
        time.sleep(pause)
        with open(cache.parent / "read.txt", "a") as file:
            file.write(f"{len(batch['input_ids'])}\n")
        return run(self, batch)

    LiveTeacher.__call__ = slow
    distill(folder, cache)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_killed_build_goes_on(tmp_path, monkeypatch, teacher_runs):
    monkeypatch.setattr(ckd_trainer.teacher.writer, "_PART_ROWS", 5)
    process = context_of(forks=True).Process(target=build, args=(tmp_path / "killed", tmp_path / "cache", 0.3))
    process.start()
    while len(list((tmp_path / "cache").glob("*.building/*.arrow"))) < 2:
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (building,) = caches(tmp_path / "cache")
    assert building.suffix == ".building" and not (building / "manifest.json").exists()
    (building / ".part-00009.arrow.123").write_bytes(b"half")  # as a kill in the middle of a file leaves it
    damaged = sorted(building.glob("part-*"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-64] + bytes(64))  # as when the machine lost power
    distill(tmp_path / "out", tmp_path / "cache")
    assert 0 < sum(teacher_runs) < len(examples())
    distill(tmp_path / "out2", tmp_path / "at once")
    (resumed,), (at_once,) = caches(tmp_path / "cache"), caches(tmp_path / "at once")
    assert resumed.name == at_once.name and files(resumed) == files(at_once)


def test_two_builders_at_once(tmp_path, monkeypatch):
    """The second waits for the first and reads what it built."""
    process = context_of(forks=True).Process
    processes = [process(target=build, args=(tmp_path / name, tmp_path / "cache", 0.05)) for name in ("1", "2")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sum(map(int, (tmp_path / "read.txt").read_text().split())) == len(examples())
    monkeypatch.setattr(ckd_trainer.teacher.writer, "_PART_ROWS", 5)
    distill(tmp_path / "3", tmp_path / "alone")
    (folder,), (alone,) = caches(tmp_path / "cache"), caches(tmp_path / "alone")
    assert folder.name == alone.name and files(folder) == files(alone)


def test_processes_share_the_work(tmp_path, tiny_teacher, text_files):
    """Two processes build the cache that one builds, byte for byte."""
    student = ["--student_init", "teacher_layers", "--student_num_layers", "2", "--max_steps", "1", "--use_cpu"]
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *student, *text_files, "--do_train"]
    options += ["--report_to", "none"]

    def folders(name):
        return ["--output_dir", str(tmp_path / name), "--teacher_cache_dir", str(tmp_path / f"cache_{name}")]

    run_glue_ckd.main([*options, *folders("one")])
    launch("tests/helpers/small_parts.py", *options, *folders("two"))
    (one,), (two,) = (caches(tmp_path / f"cache_{name}") for name in ("one", "two"))
    assert len(list(one.glob("*.arrow"))) == 5 and one.name == two.name and files(one) == files(two)
