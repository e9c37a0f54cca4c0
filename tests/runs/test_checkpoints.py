"""A run resumes from a checkpoint exactly, or the message names what is missing or different."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.commands import SHORT_RUN
from helpers.files import sentences, write_tsv
from helpers.tiny import ARGUMENTS, save_tokenizer, tiny_model
from safetensors.torch import load_file, save_file

import run_glue_ckd
from ckd_trainer.runs.checkpoints import tidy_up, what_is_missing

QUICK = ["--student_init", "teacher_layers", "--student_num_layers", "2", "--max_seq_length", "32"]
QUICK += [*SHORT_RUN, "--alpha", "0.1", "--per_device_train_batch_size", "8", "--learning_rate", "3e-3"]
QUICK += ["--logging_steps", "2"]
QUICK += ["--report_to", "none", "--disable_tqdm", "true", "--do_train", "--max_steps", "16"]
BEST = ["--eval_strategy", "steps", "--eval_steps", "4", "--save_strategy", "steps", "--save_steps", "4"]
BEST += ["--load_best_model_at_end", "--metric_for_best_model", "eval_loss", "--greater_is_better", "false"]
RESULTS = ("model.safetensors", "config.json", "trainer_state.json", "train_results.json", "all_results.json")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with a teacher, files, and in `whole` a run of 16 steps whose best model is that of step 4."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_model().save_pretrained(folder / "teacher")
    save_tokenizer(folder / "teacher")
    swapped = {"good": "bad", "bad": "good"}  # so that training makes the evaluation worse
    write_tsv(folder / "train.tsv", sentences(96))
    write_tsv(folder / "validation.tsv", [(text, swapped[label]) for text, label in sentences(22, seed=1)])
    distill(folder, folder / "whole", *BEST)
    state = json.loads((folder / "whole" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 4 and state["global_step"] == 16
    return folder


def distill(folder, output, *options):
    given = {"teacher_model_name_or_path": folder / "teacher", "output_dir": output}
    given |= {f"{name}_file": folder / f"{name}.tsv" for name in ("train", "validation")}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return run_glue_ckd.main([*words, *QUICK, *options])


@pytest.fixture
def killed(once, tmp_path):
    """A copy of the run as it was after its checkpoint of step 12."""
    return cut(shutil.copytree(once / "whole", tmp_path / "killed"))


def cut(folder):
    for name in RESULTS:
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-16")
    return folder


def refused(capsys, once, output, *options):
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} if output.exists() else None
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        distill(once, output, *options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error
    assert error.count("error: ") == 1  # before it, progress bars at most
    after = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} if output.exists() else None
    assert after == before
    return error


def is_like(folder, other):
    """Whether two runs left the same weights and logs."""
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs) and logged(folder) == logged(other)


def logged(folder):
    times = ("runtime", "per_second", "train_loss")
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if not name.endswith(times)} for entry in history]


# ------------------------------------------------------------------------------------------ what a checkpoint lacks


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_a_checkpoint_without_a_file_is_passed_over(once, killed, caplog, name):
    (killed / "checkpoint-12" / name).unlink()
    distill(once, killed, *BEST)
    assert f"checkpoint-12 is skipped: it has no {name}." in caplog.messages
    assert f"Resuming the run in {killed} from checkpoint-8." in caplog.messages
    assert is_like(killed, once / "whole")


def test_a_checkpoint_of_float16_needs_its_scaler(killed):
    args = SimpleNamespace(fp16=True, bf16=False, save_only_model=False, load_best_model_at_end=False)
    assert what_is_missing(killed / "checkpoint-12", args) == "it has no scaler.pt"
    torch.save({}, killed / "checkpoint-12" / "scaler.pt")
    assert what_is_missing(killed / "checkpoint-12", args) is None


@pytest.mark.parametrize("limit", [None, 1])
def test_of_a_checkpoint_that_is_a_link_only_the_link_is_deleted(once, killed, tmp_path, limit):
    """An incomplete one, and with a limit a surplus one."""
    (tmp_path / "mine").mkdir()
    (killed / "checkpoint-2").symlink_to(tmp_path / "mine")
    (killed / "checkpoint-8").rename(tmp_path / "checkpoint-8")
    (killed / "checkpoint-8").symlink_to(tmp_path / "checkpoint-8")
    tidy_up(
        killed,
        str(killed / "checkpoint-12"),
        SimpleNamespace(save_total_limit=limit, save_only_model=False, fp16=False, bf16=False),
    )
    left = {path.name for path in killed.glob("checkpoint-*")}
    assert left == {"checkpoint-4", "checkpoint-12"} | (set() if limit else {"checkpoint-8"})
    assert (tmp_path / "mine").is_dir() and (tmp_path / "checkpoint-8" / "optimizer.pt").is_file()


def test_shards_in_folders_of_their_own_are_not_looked_into(once, killed, capsys):
    """DeepSpeed keeps optimizer and schedule there, FSDP the optimizer. They take the same launcher again."""
    checkpoint = killed / "checkpoint-12"
    for name in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    (checkpoint / "global_step12").mkdir()
    assert what_is_missing(checkpoint, ARGUMENTS) is None
    assert "was saved with DeepSpeed, but this run is without" in refused(capsys, once, killed, *BEST)
    (checkpoint / "global_step12").rename(checkpoint / "pytorch_model_fsdp_0")
    assert what_is_missing(checkpoint, ARGUMENTS) == "it has no optimizer.pt"
    (checkpoint / "optimizer_0").mkdir()
    assert what_is_missing(checkpoint, ARGUMENTS) == "it has no scheduler.pt"
    torch.save({}, checkpoint / "scheduler.pt")
    assert "was saved with FSDP, but this run is without" in refused(capsys, once, killed, *BEST)


def test_a_run_that_cannot_be_resumed_exactly_is_refused(once, killed, capsys):
    for path in killed.glob("checkpoint-*/optimizer.pt"):
        path.unlink()
    error = refused(capsys, once, killed, *BEST)
    assert "cannot be resumed exactly (checkpoint-12: it has no optimizer.pt)" in error
    assert "overwrite_output_dir" in error and "model_name_or_path" in error
    distill(once, killed, *BEST, "--overwrite_output_dir")
    assert is_like(killed, once / "whole")


def test_a_named_checkpoint_that_lacks_something_is_refused(once, killed, tmp_path, capsys):
    (killed / "checkpoint-12" / "scheduler.pt").unlink()
    error = refused(capsys, once, tmp_path / "new", *BEST, "--resume_from_checkpoint", str(killed / "checkpoint-12"))
    assert "no complete checkpoint" in error and "it has no scheduler.pt" in error
    (killed / "checkpoint-8").rename(killed / "mine")
    error = refused(capsys, once, tmp_path / "new", *BEST, "--resume_from_checkpoint", str(killed / "mine"))
    assert "it was renamed: its run called it checkpoint-8" in error


def test_save_only_model_says_that_it_cannot_be_resumed(once, tmp_path, capsys, caplog):
    options = ["--save_only_model", "--save_steps", "4", "--max_steps", "8"]
    distill(once, tmp_path / "out", *options)
    assert "save_only_model leaves the optimizer out of checkpoints: this run cannot be resumed." in caplog.messages
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    for name in RESULTS:
        (tmp_path / "out" / name).unlink()
    distill(once, tmp_path / "out", *options)  # killed before its end, but after its last checkpoint
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    for name in RESULTS:
        (tmp_path / "out" / name).unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoint-8")
    assert "checkpoint-4: it has no optimizer.pt" in refused(capsys, once, tmp_path / "out", *options)


def test_old_checkpoints_without_an_optimizer_are_kept(once, killed):
    """They were deleted to save room; one of them is the best."""
    for step in (4, 8):
        (killed / f"checkpoint-{step}" / "optimizer.pt").unlink()
    distill(once, killed, *BEST)
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (12, 16, 4, 8)]
    assert is_like(killed, once / "whole")


# ------------------------------------------------------------------------------------------------ the best checkpoint


@pytest.mark.parametrize("way", ["renamed", "another working directory"])
def test_the_best_is_found_beside_a_checkpoint_that_was_moved(once, tmp_path, monkeypatch, way):
    """No checkpoint is saved any more that would remind `Trainer` of it."""
    old = cut(shutil.copytree(once / "whole", tmp_path / "old"))
    old.rename(tmp_path / "new")
    for path in (tmp_path / "new").glob("checkpoint-*/trainer_state.json"):
        state = json.loads(path.read_text())
        state["best_model_checkpoint"] = str(old / "checkpoint-4") if way == "renamed" else "whole/checkpoint-4"
        path.write_text(json.dumps(state))
    monkeypatch.chdir(tmp_path)
    distill(once, "new", *BEST)
    assert is_like(tmp_path / "new", once / "whole")
    assert json.loads(open("new/trainer_state.json").read())["best_model_checkpoint"] == "new/checkpoint-4"


def test_a_newest_checkpoint_without_the_best_is_refused(once, killed, tmp_path, capsys):
    for step in (4, 8):
        shutil.rmtree(killed / f"checkpoint-{step}")
    error = refused(capsys, once, killed, *BEST)
    assert "checkpoint-12: checkpoint-4, the best model so far, is not in the same folder" in error
    error = refused(capsys, once, tmp_path / "new", *BEST, "--resume_from_checkpoint", str(killed / "checkpoint-12"))
    assert "checkpoint-4, the best model so far, is not in the same folder" in error


def test_a_best_checkpoint_that_is_damaged_is_refused(once, killed, capsys):
    weights = killed / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "checkpoint-4, the best model so far, cannot be used: its weights cannot be read" in refused(
        capsys, once, killed, *BEST
    )


@pytest.mark.parametrize("limit", [[], ["--save_total_limit", "1"]], ids=["all checkpoints", "one checkpoint"])
def test_the_best_comes_along_from_the_folder_of_a_named_checkpoint(once, tmp_path, limit):
    old = cut(shutil.copytree(once / "whole", tmp_path / "old"))
    old = old.rename(tmp_path / "renamed")
    new = tmp_path / "new"
    distill(once, new, *BEST, *limit, "--resume_from_checkpoint", str(old / "checkpoint-12"))
    assert is_like(new, once / "whole")
    assert json.loads((new / "trainer_state.json").read_text())["best_model_checkpoint"] == str(new / "checkpoint-4")
    assert (old / "checkpoint-4" / "optimizer.pt").is_file()


# ---------------------------------------------------------------------------------------- what has to be as it was


def test_a_named_checkpoint_of_another_model_is_refused(once, killed, tmp_path, capsys):
    """Also where its record is not beside it, so that only the model itself tells."""
    for name in ("recipe.yaml", "run.json"):
        (killed / name).unlink()
    named = [*BEST, "--resume_from_checkpoint", str(killed / "checkpoint-4")]
    error = refused(capsys, once, tmp_path / "new", *named, "--student_num_layers", "4")
    assert "from another model than the student (num_hidden_layers 2 there, 4 here)" in error
    for name in ("train", "validation"):
        rows = [(text, {"good": "fine", "bad": "awful"}[label]) for text, label in sentences(96)]
        write_tsv(tmp_path / f"{name}.tsv", rows)
    tiny_model(labels=("awful", "fine")).save_pretrained(tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher")
    error = refused(capsys, tmp_path, tmp_path / "new", *named)
    assert "id2label {0: 'bad', 1: 'good'} there, {0: 'awful', 1: 'fine'} here" in error


def test_a_named_checkpoint_of_a_run_with_other_options_is_refused(once, killed, tmp_path, capsys):
    """`Trainer` would go on with the learning rate of the checkpoint."""
    named = [*BEST, "--resume_from_checkpoint", str(killed / "checkpoint-12")]
    error = refused(capsys, once, tmp_path / "new", *named, "--learning_rate", "1e-5")
    assert "learning_rate 0.003 there, 1e-05 here" in error and "model_name_or_path" in error


def test_a_run_resumes_where_its_teacher_cache_has_moved(once, tmp_path, capsys):
    """To another folder, or to the same one written in another way. A run without a cache is another run."""
    whole = tmp_path / "whole"
    distill(once, whole, *BEST, "--teacher_cache_dir", str(tmp_path / "cache"))
    broken = cut(shutil.copytree(whole, tmp_path / "broken"))
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert "teacher_cache_dir" in refused(capsys, once, broken, *BEST)
    distill(once, broken, *BEST, "--teacher_cache_dir", str(tmp_path / "moved"))
    assert is_like(broken, whole) and not (tmp_path / "cache").exists()


def test_a_named_checkpoint_of_other_batches_is_refused(once, killed, tmp_path, capsys):
    """Also where its recipe is not beside it: 12 steps of 8 examples are an epoch, of 4 they are half of one."""
    (killed / "recipe.yaml").unlink()
    named = [*BEST, "--resume_from_checkpoint", str(killed / "checkpoint-12")]
    error = refused(capsys, once, tmp_path / "new", *named, "--per_device_train_batch_size", "4")
    assert "checkpoint-12 is at epoch 1 of its run, but step 12 of this one is at epoch 0.5" in error


def test_a_named_checkpoint_does_not_lead_into_the_folder_of_another_run(once, killed, tmp_path, capsys):
    other = tmp_path / "other"
    distill(once, other, "--max_steps", "1", "--seed", "7")
    error = refused(capsys, once, other, *BEST, "--resume_from_checkpoint", str(killed / "checkpoint-12"))
    assert f"output_dir {other} holds another run" in error


def test_a_named_checkpoint_trains_on_and_stops_where_nothing_is_left(once, tmp_path):
    output = shutil.copytree(once / "whole", tmp_path / "out")
    named = [*BEST, "--resume_from_checkpoint", "true"]
    distill(once, output, *named)
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 16
    assert is_like(output, once / "whole")
    distill(once, output, *named, "--max_steps", "20")
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 20


def test_a_run_that_was_killed_after_it_began_from_a_named_checkpoint_goes_on(once, killed, tmp_path, caplog):
    new = tmp_path / "new"
    named = [*BEST, "--resume_from_checkpoint", str(killed / "checkpoint-8")]
    distill(once, new, *named)
    for name in RESULTS:
        (new / name).unlink()
    shutil.rmtree(new / "checkpoint-16")
    caplog.clear()
    distill(once, new, *named)
    assert f"Resuming the run in {new} from checkpoint-12." in caplog.messages
    assert is_like(new, once / "whole")


def of_processes(folder, count):
    """Makes checkpoints look as if that many processes had saved them."""
    for path in folder.glob("checkpoint-*/rng_state.pth"):
        for rank in range(count):
            shutil.copy(path, path.with_name(f"rng_state_{rank}.pth"))
        path.unlink()


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (
            2,
            "--num_processes 2). Or train a new run with 1 process in another output_dir, where "
            "gradient_accumulation_steps 2 keeps",
        ),
        (3, "a step would have 8 examples instead of 24"),
    ],
)
def test_another_number_of_processes_is_refused(once, killed, tmp_path, capsys, count, words):
    of_processes(killed, count)
    named = ["--resume_from_checkpoint", str(killed / "checkpoint-12")]
    for error in (refused(capsys, once, killed, *BEST), refused(capsys, once, tmp_path / "new", *BEST, *named)):
        assert f"checkpoint-12 was saved by {count} processes, but this run has 1" in error and words in error


def test_a_missing_state_of_random_numbers_of_one_process_is_told(once, killed, capsys):
    of_processes(killed, 3)
    for path in killed.glob("checkpoint-*/rng_state_1.pth"):
        path.unlink()
    assert "checkpoint-12: it has no rng_state_1.pth" in refused(capsys, once, killed, *BEST)


def test_what_is_left_to_do_after_a_training_takes_any_number_of_processes(once, tmp_path):
    """To save the model, and to evaluate it."""
    trained = shutil.copytree(once / "whole", tmp_path / "trained")
    of_processes(trained, 2)
    assert "eval_accuracy" in distill(once, trained, *BEST, "--do_eval")
    for name in RESULTS:
        (trained / name).unlink()
    distill(once, trained, *BEST)
    assert is_like(trained, once / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataloader_drop_last"], "dataloader_drop_last at its default there, True here"),
    ],
)
def test_options_that_change_the_steps_are_those_of_another_run(once, killed, capsys, options, words):
    assert words in refused(capsys, once, killed, *BEST, *options)


def test_options_that_change_no_step_may_differ(once, killed):
    options = ["--dataloader_num_workers", "1", "--dataloader_prefetch_factor", "3", "--log_level", "error"]
    options += ["--run_name", "again", "--project", "mine", "--ddp_timeout", "60", "--eval_accumulation_steps", "1"]
    distill(once, killed, *BEST, *options, "--logging_nan_inf_filter", "false", "--hub_strategy", "end")
    assert is_like(killed, once / "whole")


def test_another_precision_of_the_launcher_is_refused(once, killed, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert "mixed precision no, but the launcher sets bf16" in refused(capsys, once, killed, *BEST)


def test_a_model_with_names_of_old_is_resumed_like_any_other(once, tmp_path):
    """transformers would save LayerNorm.gamma under this name again, where `Trainer` does not find it."""
    old = shutil.copytree(once / "teacher", tmp_path / "old")
    weights = load_file(old / "model.safetensors")
    names = {name: name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in weights}
    names = {name: new.replace("LayerNorm.bias", "LayerNorm.beta") for name, new in names.items()}
    save_file({names[name]: tensor for name, tensor in weights.items()}, old / "model.safetensors", {"format": "pt"})
    assert any("gamma" in name for name in names.values())

    def fine_tune(model, output):
        options = ["--student_init", "pretrained", "--student_num_layers", "none", "--model_name_or_path", str(model)]
        distill(once, output, *options, *BEST)

    for model, output in ((once / "teacher", "new"), (old, "whole")):
        fine_tune(model, tmp_path / output)
    assert is_like(tmp_path / "whole", tmp_path / "new")  # the best model is whole, LayerNorms included
    killed = cut(shutil.copytree(tmp_path / "whole", tmp_path / "killed"))
    fine_tune(old, killed)
    assert is_like(killed, tmp_path / "whole")


def test_a_call_that_does_not_train_leaves_checkpoints_and_record_alone(once, killed):
    shutil.rmtree(killed / "checkpoint-12")
    (killed / "checkpoint-8" / "optimizer.pt").unlink()  # which only training would need
    student = {"student_init": "pretrained", "student_num_layers": None}
    student["model_name_or_path"] = str(killed / "checkpoint-8")
    recipe = yaml.safe_load((killed / "recipe.yaml").read_text())
    (killed / "recipe.yaml").write_text(yaml.safe_dump(recipe | student))

    def kept():
        paths = [*killed.glob("checkpoint-*/*"), killed / "recipe.yaml", killed / "run.json"]
        return {path: path.read_bytes() for path in paths}

    before = kept()
    options = [word for name, value in student.items() for word in (f"--{name}", str(value or "none"))]
    distill(once, killed, *options, *BEST, "--do_train", "false", "--do_eval")
    assert kept() == before and (killed / "eval_results.json").is_file()


def test_a_job_that_always_asks_for_the_last_checkpoint_ends_well(once, tmp_path, caplog):
    trained = shutil.copytree(once / "whole", tmp_path / "trained")
    for optimizer in trained.glob("checkpoint-*/optimizer.pt"):
        optimizer.unlink()
    distill(once, trained, *BEST, "--resume_from_checkpoint", "true")
    assert "is already trained" in caplog.text


def test_a_run_of_a_version_with_fewer_options_goes_on(once, killed):
    recipe = yaml.safe_load((killed / "recipe.yaml").read_text())
    for option in ("quoting", "allow_unused_weights", "teacher_score_scale"):
        del recipe[option]
    (killed / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    distill(once, killed, *BEST)
    assert is_like(killed, once / "whole")


def test_a_run_of_a_version_without_balance_is_not_balanced_by_the_way(once, killed, capsys):
    recipe = yaml.safe_load((killed / "recipe.yaml").read_text())
    del recipe["term_balance"]
    (killed / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert "term_balance none there, gradient here" in refused(capsys, once, killed, *BEST)
