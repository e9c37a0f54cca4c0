"""Streamed text through run_mlm_ckd.py: resumed exactly, in two processes, from files and data sets, broken off."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.files import sentences
from helpers.language_models import (
    MASKS,
    NO_RELATIONS,
    QUICK_RUN,
    STUDENT,
    killed_after,
    logs,
    run,
    same_weights,
    weights,
)
from helpers.launching import in_two_processes, launch, resumes
from helpers.streams import Breaks

import run_mlm_ckd
from ckd_trainer.data import documents, streams
from ckd_trainer.utils.errors import InputError, TemporaryError


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """About 60 blocks in 8 parts; pools of 20 blocks."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(documents, "_BYTES", 512)
    monkeypatch.setattr(streams, "POOL", 20)


@pytest.fixture
def held_out(tmp_path):
    path = tmp_path / "held_out.txt"
    path.write_text("\n".join(text for text, _ in sentences(30, seed=9)))
    return path


@pytest.fixture
def base(teacher, held_out):
    """The command without the text to train on."""
    command = ["--teacher_model_name_or_path", str(teacher), "--validation_file", str(held_out), *STUDENT, *QUICK_RUN]
    return [*command, "--streaming", "true"]


@pytest.fixture
def command(base, text):
    return [*base, "--train_file", str(text)]


def named_folder(folder, count=120):
    folder.mkdir()
    for part, (name, rows) in enumerate({"train-0": count, "train-1": count, "validation-0": 40}.items()):
        texts = [text for text, _ in sentences(rows, seed=part)]
        pq.write_table(pa.table({"text": texts}), folder / f"{name}.parquet", row_group_size=50)
    return folder


@pytest.mark.parametrize("options", [[], [*MASKS, "--max_steps", "15"]], ids=["relations", "masks, second pass"])
def test_resumes_exactly(command, tmp_path, options):
    """From the state of the stream; and without it, by reading the text again."""
    run(command, tmp_path / "whole", *options)
    assert not list((tmp_path / "cache").rglob("*.tmp")) and len(list((tmp_path / "cache").rglob("*.arrow"))) == 1
    for name in ("with", "without"):
        folder = killed_after(tmp_path / "whole", tmp_path / name, 3)
        state = folder / "checkpoint-3" / "stream.json"
        assert json.loads(state.read_text())["pool"] == 1  # 24 blocks
        if name == "without":
            state.unlink()
        run(command, folder, *options)
        assert same_weights(folder, tmp_path / "whole")
        assert logs(folder) == logs(tmp_path / "whole")


def test_masks_differ_from_one_pass_to_the_next(command, text, tmp_path):
    """27 words and a separator are the same two blocks in each pass; with other masks, their losses differ."""
    text.write_text(" ".join([*["the cat runs a dog sings"] * 4, "a bird runs"]))
    options = [*MASKS, "--alpha", "0", *NO_RELATIONS, "--learning_rate", "0", "--per_device_train_batch_size", "1"]
    run(command, tmp_path / "out", *options, "--lines", "documents")
    losses = {entry["loss"] for entry in logs(tmp_path / "out") if "loss" in entry}
    assert len(losses) > 3


def test_a_data_set_by_name(base, tmp_path):
    """Its training split is not copied, only the blocks to evaluate on are; another process resumes in it."""
    folder = named_folder(tmp_path / "named")
    base = [word for word in base if word != "--validation_file" and "held_out" not in word]
    command = [*base, "--dataset_name", str(folder), "--validation_split_name", "validation", *MASKS]
    results = run(command, tmp_path / "whole", "--max_steps", "21")
    assert results["train_samples"] == 21 * 8 and results["eval_samples"] > 5
    assert [path.parent.name for path in (tmp_path / "cache").rglob("*.arrow")] == ["ckd-trainer-blocks"]
    run(command, killed_after(tmp_path / "whole", tmp_path / "killed", 18), "--max_steps", "21")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    # The finished run is evaluated again.
    again = run([word for word in command if word != "--do_train"], tmp_path / "whole", "--max_steps", "21")
    assert again["eval_loss"] == pytest.approx(results["eval_loss"], rel=1e-5)


def test_accumulation_changes_nothing(command, tmp_path):
    options = [*MASKS, "--max_steps", "9", "--optim", "sgd", "--save_strategy", "no"]
    run(command, tmp_path / "one", *options)
    run(
        command,
        tmp_path / "other",
        *options,
        "--per_device_train_batch_size",
        "4",
        "--gradient_accumulation_steps",
        "2",
    )
    ours, theirs = weights(tmp_path / "other"), weights(tmp_path / "one")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_two_processes(command, tmp_path, monkeypatch):
    """Two batches of 4 in each of two processes are the batches of 8 in one, also where a step needs two of them."""
    monkeypatch.undo()  # of the sizes, which another process would not see
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    options = [*command, *MASKS, "--keep_sentences", "true", "--optim", "sgd", "--max_steps", "3", "--save_steps", "1"]
    one = run(options, tmp_path / "one", "--per_device_train_batch_size", "16")
    two = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    launch("run_mlm_ckd.py", *options, "--output_dir", str(tmp_path / "two"), *two)
    found = json.loads((tmp_path / "two" / "all_results.json").read_text())
    for name in (name for name in one if name.startswith(("eval_loss", "eval_perplexity"))):
        assert found[name] == pytest.approx(one[name], rel=1e-4), name
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    assert (tmp_path / "two" / "checkpoint-1" / "stream.json").is_file()


@pytest.fixture
def long_text(text):
    """More than the beginning, which is read before the models are looked up: about 30 parts and 210 blocks."""
    text.write_text("\n".join(text for text, _ in sentences(500)))
    return text


def test_it_breaks_off_and_recovers(command, long_text, tmp_path, monkeypatch):
    run(command, tmp_path / "whole", "--max_steps", "32")
    breaks = Breaks(monkeypatch, at=23, times=2)
    run(command, tmp_path / "broken", "--max_steps", "32")
    assert breaks.left == 0 and same_weights(tmp_path / "broken", tmp_path / "whole")


def test_it_breaks_off_for_good(command, long_text, tmp_path, monkeypatch):
    """The steps before are in a checkpoint, also those since the last regular one, and the same command resumes."""
    options = [*MASKS, "--max_steps", "32", "--save_steps", "50", "--logging_steps", "5"]
    run(command, tmp_path / "whole", *options)
    breaks = Breaks(monkeypatch, at=23, times=10**9)
    with pytest.raises(
        TemporaryError,
        match=r"text.txt: reading broke off after part 22 .*\(ConnectionError: server disconnected\), and again in 3 "
        r"more attempts: check the network, .*\. All (\d+) steps are in a checkpoint: the same command resumes",
    ) as error:
        run(command, tmp_path / "broken", *options)
    (checkpoint,) = (tmp_path / "broken").glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 0 < step < 32 and f"All {step} steps" in str(error.value)
    assert not (tmp_path / "broken" / "train_results.json").exists()
    with pytest.raises(InputError, match=f"All {step} steps are in a checkpoint"):  # still broken, nothing is lost
        run(command, tmp_path / "broken", *options)
    assert [path.name for path in (tmp_path / "broken").glob("checkpoint-*")] == [checkpoint.name]
    breaks.left = 0
    run(command, tmp_path / "broken", *options)
    assert same_weights(tmp_path / "broken", tmp_path / "whole")


def test_it_breaks_off_beside_the_best_checkpoint(command, long_text, tmp_path, monkeypatch):
    """`Trainer` ends a training with save_total_limit 1 by deleting all checkpoints but the best."""
    options = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "4", "--save_steps", "4"]
    options += ["--save_total_limit", "1", "--max_steps", "32", "--learning_rate", "0.5", "--max_grad_norm", "0"]
    run(command, tmp_path / "whole", *options)
    breaks = Breaks(monkeypatch, at=23, times=10**9)
    for _ in range(2):
        with pytest.raises(InputError, match=r"All \d+ steps are in a checkpoint") as error:
            run(command, tmp_path / "broken", *options)
        steps = {int(path.name[11:]) for path in (tmp_path / "broken").glob("checkpoint-*")}
        assert f"All {max(steps)} steps" in str(error.value) and len(steps) == 2
    breaks.left = 0
    run(command, tmp_path / "broken", *options)
    assert same_weights(tmp_path / "broken", tmp_path / "whole")


BREAKS_IN_ONE_PROCESS = """
import os, sys
from ckd_trainer.data import documents, streamed_documents, streams
import run_mlm_ckd

documents._BYTES, streams.POOL = 512, 20
read = streamed_documents.StreamedFile._read

def breaks(self, number, place):
    for part, after in read(self, number, place):
        if after == 23 and os.environ["RANK"] == "1" and sys.argv[1] == "breaks":
            raise ConnectionError("server disconnected")
        yield part, after

streamed_documents.StreamedFile._read, streamed_documents._WAITS = breaks, ()
run_mlm_ckd.main(sys.argv[2:])
"""


@resumes
def test_it_breaks_off_in_one_of_two_processes(command, long_text, tmp_path):
    """Both stop after the same step, with a checkpoint of which both resume."""
    command = [*command, *MASKS, "--per_device_train_batch_size", "4", "--max_steps", "32", "--save_steps", "50"]

    def in_two(how, folder):
        ranks = in_two_processes(BREAKS_IN_ONE_PROCESS, how, *command, "--output_dir", tmp_path / folder)
        assert [rank.returncode for rank in ranks] == ([75, 75] if how == "breaks" else [0, 0]), ranks[0].stderr
        return ranks

    in_two("reads", "whole")
    ranks = in_two("breaks", "broken")
    (checkpoint,) = (tmp_path / "broken").glob("checkpoint-*")
    assert "server disconnected" in ranks[1].stderr and f"All {checkpoint.name[11:]} steps are" in ranks[1].stderr
    assert "error:" not in ranks[0].stderr
    in_two("reads", "broken")
    assert same_weights(tmp_path / "broken", tmp_path / "whole")


def test_it_breaks_off_in_the_first_step(command, tmp_path, monkeypatch):
    Breaks(monkeypatch, at=2, times=10**9, spared=1)  # when the beginning is read
    with pytest.raises(InputError, match=r"broke off after part 1 .* No step was completed\."):
        run(command, tmp_path / "out")
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_damage_far_into_the_text(command, long_text, tmp_path):
    long_text.write_bytes(long_text.read_bytes() + b"\nthe cat\n\xff\n")
    with pytest.raises(InputError, match=r"text.txt, line 502: not UTF-8 .*The model of step \d+ is in a checkpoint"):
        run(command, tmp_path / "out", "--max_steps", "40")


def test_sources_and_their_weights(base, text, tmp_path):
    folder = named_folder(tmp_path / "named")
    sources = [{"train_file": str(text)}, {"dataset_name": str(folder), "weight": 2.5}]
    command = [*base, "--sources", json.dumps(sources)]
    run(command, tmp_path / "whole", "--max_steps", "12")
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert {"sources 1", "sources 2"} <= record["inputs"].keys() and str(tmp_path) not in json.dumps(record["inputs"])
    run(command, killed_after(tmp_path / "whole", tmp_path / "killed", 9), "--max_steps", "12")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    killed_after(tmp_path / "whole", tmp_path / "changed", 9)
    text.write_text(text.read_text() + "\nthe cat")
    with pytest.raises(InputError, match=r"sources 1 \(text.txt\) has changed"):
        run(command, tmp_path / "changed", "--max_steps", "12")


def test_the_source_of_a_run_must_stay(command, text, tmp_path):
    run(command, tmp_path / "whole")
    killed_after(tmp_path / "whole", tmp_path / "killed", 3)
    text.write_text(text.read_text() + "\nthe cat")
    with pytest.raises(InputError, match=r"train_file \(text.txt\) has changed"):
        run(command, tmp_path / "killed")
    with pytest.raises(InputError, match="streaming True there, False here"):
        run([*command, "--streaming", "false"], tmp_path / "killed")


def test_a_named_checkpoint_trains_on(command, tmp_path):
    options = ["--lr_scheduler_type", "constant"]
    run(command, tmp_path / "long", *options, "--max_steps", "9")
    run(command, tmp_path / "short", *options)
    checkpoint = tmp_path / "short" / "checkpoint-6"
    run(command, tmp_path / "on", *options, "--max_steps", "9", "--resume_from_checkpoint", checkpoint)
    assert same_weights(tmp_path / "on", tmp_path / "long")


def test_each_stage_reads_from_the_beginning(command, tmp_path):
    stages = '[{"max_steps": 4}, {"labels_and_logits": true, "alpha": 1, "max_steps": 2}]'
    results = run(command, tmp_path / "out", "--stages", stages, "--mlm_probability", "0.3")
    parts = [stage["metrics"] for stage in json.loads((tmp_path / "out" / "run.json").read_text())["stages"]]
    assert [part["train_samples"] for part in parts] == [32, 16]
    assert results["num_input_tokens_seen"] == 48 * 16
    bad = '[{"max_steps": 4}, {"labels_and_logits": true, "alpha": 1, "max_steps": -1}]'
    with pytest.raises(InputError, match="stage 2: streaming reads the text without end, but max_steps is not set"):
        run(command, tmp_path / "bad", "--stages", bad, "--mlm_probability", "0.3")


BAD = [
    (["--max_steps", "-1"], "but max_steps is not set: give a number of steps"),
    (["--validation_share", "0.1"], "validation_share is 0.1, but with streaming .*give a validation_file"),
    (["--max_train_samples", "9"], "max_train_samples is 9, but with streaming .*limit the training with max_steps"),
    (["--dataloader_num_workers", "2"], "dataloader_num_workers is 2, but with streaming a thread reads ahead"),
    (["--student_depths", "1.0,0.5"], "reads its text more than once"),
    (["--train_sampling_strategy", "group_by_length"], "train_sampling_strategy is group_by_length, but streamed"),
    (["--save_strategy", "epoch"], "save_strategy is epoch, but with streaming"),
    (["--logging_strategy", "epoch"], "logging_strategy is epoch, but with streaming"),
    (["--dataloader_drop_last", "true"], "dataloader_drop_last is set, but with streaming every batch is full"),
    (["--accelerator_config", '{"dispatch_batches": true}'], "sets dispatch_batches, but with streaming"),
    (["--teacher_cache_dir", "unused"], "teacher_cache_dir is set, but streamed blocks are not read twice"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[options[0] for options, _ in BAD])
def test_mistakes(command, held_out, tmp_path, options, message):
    if options[0] == "--validation_share":
        command = [word for word in command if word not in ("--validation_file", str(held_out))]
    with pytest.raises(InputError, match=message):
        run_mlm_ckd.main.__wrapped__([*command, "--output_dir", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "has no text"), (" \n\n", "has no text"), ("the cat", "has 2 tokens, but a block holds 14")],
)
def test_too_little_text(command, text, tmp_path, content, message):
    text.write_text(content)
    with pytest.raises(InputError, match=f"text.txt {message}"):
        run(command, tmp_path / "out")


def test_rows_that_are_not_texts(base, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["the cat", None]}), folder / "train.parquet")
    with pytest.raises(InputError, match="shard 1, row 2: there is no 'text'"):
        run([*base, "--dataset_name", str(folder)], tmp_path / "null")
    with pytest.raises(InputError, match="has no column 'body'"):
        run([*base, "--dataset_name", str(folder), "--text_column", "body"], tmp_path / "column")
