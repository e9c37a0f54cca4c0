"""Runs that are killed at any moment end exactly like one that never was; see `chaos`."""

import functools
import os
import random
import shutil
import signal

import pytest
from helpers.chaos import HALF, OUTPUT, SAVE_STEPS, Chaos

# Moments that are easily missed by chance.
EARLY_STOPPING = ("--max_steps", "-1", "--num_train_epochs", "4", "--early_stopping_patience", "2")
DYNAMIC = ("--student_widths", "1.0,0.75,0.5,0.25", "--subnetworks_per_step", "3")
MASKED = ("--mlm_probability", "0.3", "--labels_and_logits", "true", "--teacher_cache_dir", "")
STREAMED = (*MASKED, "--streaming", "true")
MOMENTS = {
    "in the second epoch": ("glue", (), "step 22: begins"),
    "in a dynamic student": ("glue", DYNAMIC, "step 12: begins"),
    "between two logs": ("glue", ("--logging_steps", "2"), "step 17: begins"),
    "after the last checkpoint": ("glue", (), rf"{OUTPUT}/\.?config.json.*: not written"),
    "after early stopping": ("glue", EARLY_STOPPING, rf"{OUTPUT}/\.?config.json.*: not written"),
    "in the metrics of training": ("glue", (), rf"{OUTPUT}/\.?train_results.json.*: {HALF}"),
    "in all metrics": ("glue", (), rf"{OUTPUT}/\.?all_results.json.*: {HALF}"),
    "after the training": ("glue", (), rf"{OUTPUT}/\.?eval_results.json.*: not written"),
    "in the card": ("glue", (), rf"{OUTPUT}/\.?README.md.*: {HALF}"),
    "in the last deletion": ("glue", (), r"checkpoint-\d+/optimizer.pt: deleted"),
    "in a deletion": ("glue", ("--load_best_model_at_end", "false"), r"checkpoint-10/optimizer.pt: deleted"),
    # Its cache is complete, so it goes on without the teacher.
    "in a language model's first step": ("mlm", (), "step 1: begins"),
    "in a streamed text's third pass": ("mlm", STREAMED, "step 18: begins"),
    "in the state of a stream": ("mlm", STREAMED, rf"checkpoint-20/\.?stream.json.*: {HALF}"),
}
# As others, which are quicker or come before them.
ALIKE = (
    "after the last checkpoint",
    "after the training",
    "in all metrics",
    "in the card",
    "in the last deletion",
    "in the metrics of training",
    "in the state of a stream",
)


@pytest.fixture(scope="module")
def of_task(tmp_path_factory):
    """Returns the reference run of a task with more options, made once, and what starts others like it."""
    return functools.cache(
        lambda task, options=(): Chaos(tmp_path_factory.mktemp("chaos"), forks=True, task=task, more=options)
    )


@pytest.fixture(scope="module")
def chaos(of_task):
    """Distillations of a classifier."""
    return of_task("glue")


@pytest.fixture
def seed():
    """A fresh seed, shown where a test fails; `CHAOS_SEED=... pytest` draws the same moments again."""
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(2**32)))
    print(f"CHAOS_SEED={seed}")
    return seed


@pytest.mark.slow
def test_three_kills(chaos, seed):
    assert chaos.kill(3, seed).total() == 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), MASKED, STREAMED], ids=["relations", "masks", "streamed"])
def test_three_kills_of_a_language_model(of_task, seed, options):
    assert of_task("mlm", options).kill(3, seed).total() == 3


@pytest.mark.slow
def test_twenty_kills_of_fresh_interpreters(tmp_path, seed):
    """As by hand: every start imports everything anew, with other hashes of words."""
    assert len(Chaos(tmp_path, forks=False).kill(20, seed)) >= 5  # of seven phases


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in MOMENTS]
)
def test_one_kill(of_task, moment):
    task, options, pattern = MOMENTS[moment]
    chaos, name = of_task(task, options), moment.replace(" ", "-")
    assert chaos.launch(name, target=chaos.last(pattern)).code == -signal.SIGKILL
    process = chaos.launch(name)
    assert process.code == 0, process.text[-3000:]
    assert chaos.difference(name) is None


# ------------------------------------------------------------------------------------- checkpoints that are not whole


def half(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def missing(path):
    path.unlink()


@pytest.fixture(scope="module")
def killed(chaos):
    """The name of a run that was killed right after its third checkpoint, before it deleted one."""
    newest = f"{OUTPUT}/checkpoint-{3 * SAVE_STEPS}"
    process = chaos.launch("killed-after-saving", target=f"{newest}/trainer_state.json: written")
    assert process.code == -signal.SIGKILL
    return "killed-after-saving"


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("model.safetensors", half),
        pytest.param("optimizer.pt", half, marks=pytest.mark.slow),
        pytest.param("rng_state.pth", missing, marks=pytest.mark.slow),
        ("trainer_state.json", empty),
    ],
)
def test_checkpoint_that_is_not_whole_is_passed_over_with_a_warning(chaos, killed, file, spoil):
    """The run goes on from the one before, and ends as if nothing had been."""
    name = f"{spoil.__name__}-{file}"
    shutil.copytree(chaos.folder / killed, chaos.folder / name)
    spoil(chaos.folder / name / OUTPUT / f"checkpoint-{3 * SAVE_STEPS}" / file)
    process = chaos.launch(name)
    assert process.code == 0, process.text[-3000:]
    assert process.resumed_from == f"checkpoint-{2 * SAVE_STEPS}"
    assert any(f"checkpoint-{3 * SAVE_STEPS}" in warning for warning in process.warnings)
    assert chaos.difference(name) is None
