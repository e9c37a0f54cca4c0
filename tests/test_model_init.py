"""`model_init` and `hyperparameter_search`: the losses follow each new student."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest
import transformers.trainer
from helpers.tiny import no_dropout, tiny_model
from helpers.training import ALL_TERMS, examples, logs, pad
from transformers import TrainingArguments
from transformers.integrations import integration_utils
from transformers.trainer_utils import HPSearchBackend

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.utils.errors import InputError

PUBLISHED = ALL_TERMS | {"alpha": 0.7, "term_balance": "none"}
TRIALS = [{"layers": 2, "learning_rate": 1e-3}, {"layers": 4, "learning_rate": 1e-3}, {"layers": 2, "seed": 3}]


class Search:
    """A backend that tries these settings, in the way in which those of transformers use a trainer."""

    def ensure_available(self):
        pass

    def run(self, trainer, n_trials, direction, **kwargs):
        found = []
        for trial in TRIALS[:n_trials]:
            trainer.objective = None
            trainer.train(trial=dict(trial))
            if trainer.objective is None:
                trainer.objective = trainer.compute_objective(trainer.evaluate())
            objective, (entry,) = trainer.distillation_objective, logs(trainer)
            found.append((trainer.objective, objective.terms["wr_distance"].layers, entry))
            trainer.model_wrapped = trainer.model = None
        return found


@pytest.fixture
def search(monkeypatch):
    monkeypatch.setitem(transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.WANDB, Search)
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: True)  # its trials are mappings, as these are
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=SimpleNamespace(id="trial")))
    return {"backend": "wandb", "hp_space": lambda trial: trial, "n_trials": 3}


def trainer(folder, model, teacher, ckd_args=None, **options):
    options = {
        "max_steps": 1,
        "logging_steps": 1,
        "data_seed": 0,
        "save_strategy": "no",
        "per_device_train_batch_size": 8,
    } | options
    args = TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **options)
    data = examples(24)
    return DistillationTrainer(
        **model,
        teacher_model=teacher,
        ckd_args=ckd_args or CKDArguments(**PUBLISHED),
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=pad,
    )


def student_of(trial):
    return no_dropout(layers=(trial or {}).get("layers", 2))


@pytest.mark.parametrize(
    ("cache", "strategy"),
    [
        (False, "no"),
        (True, "steps"),
        pytest.param(False, "steps", marks=pytest.mark.slow),
        pytest.param(True, "no", marks=pytest.mark.slow),
    ],
)
def test_a_search_is_a_training_for_each_trial(tmp_path, search, strategy, cache):
    """Whose depth is the trial's: layers, losses and scores are those of a trainer that has this student alone."""
    ckd_args = CKDArguments(**PUBLISHED, teacher_cache_dir=str(tmp_path / "cache") if cache else None)
    run = trainer(
        tmp_path, {"model_init": student_of}, tiny_model(seed=1), ckd_args, eval_strategy=strategy, eval_steps=1
    )
    found = run.hyperparameter_search(**search)
    assert [pairs for _, pairs, _ in found] == [
        [(0, 0), (1, 2), (2, 4)],
        [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)],
        [(0, 0), (1, 2), (2, 4)],
    ]
    for (score, _, entry), trial in zip(found, TRIALS, strict=True):
        options = {"learning_rate": 1e-3} | {name: value for name, value in trial.items() if name != "layers"}
        alone = trainer(tmp_path / "alone", {"model": student_of(trial)}, tiny_model(seed=1), ckd_args, **options)
        alone.train()
        assert score == pytest.approx(alone.evaluate()["eval_loss"], rel=1e-6)
        for name, value in logs(alone)[0].items():
            assert entry[name] == pytest.approx(value, rel=1e-6), name


def test_a_trial_may_set_the_distillation(tmp_path, search):
    """`ckd_args` belong to the trainer, not to `TrainingArguments`: `model_init` sets them."""

    def student(trial):
        if trial is not None:
            run.ckd_args = dataclasses.replace(run.ckd_args, alpha=trial["layers"] / 4)
        return student_of(None)

    run = trainer(tmp_path, {"model_init": student}, tiny_model(seed=1))
    found = run.hyperparameter_search(**search)
    weights = [entry["loss"] - 2 * sum(entry[f"loss_{term}"] for term in RELATIONS) for *_, entry in found]
    expected = [
        (1 - alpha) * entry["loss_task"] + alpha * entry["loss_logits"]
        for alpha, (*_, entry) in zip((0.5, 1.0, 0.5), found, strict=True)
    ]
    assert weights == pytest.approx(expected, rel=1e-5)


RELATIONS = ("wr_distance", "wr_angle", "ltr_distance", "ltr_angle")


def test_a_student_that_does_not_fit_ends_the_search(tmp_path, search):
    run = trainer(
        tmp_path, {"model_init": lambda trial: student_of({"layers": 3 if trial else 2})}, tiny_model(seed=1)
    )
    with pytest.raises(InputError, match="ltr_layer_mapping emb\\+skip matches 2 layers"):
        run.hyperparameter_search(**search)


@pytest.mark.parametrize("arguments", [0, 1])
def test_model_init_is_a_model(tmp_path, arguments, caplog):
    """`Trainer` makes the student twice, and the plan is in the log once."""
    init = (lambda: no_dropout(layers=2)) if arguments == 0 else student_of
    entries = []
    for model in ({"model_init": init}, {"model": no_dropout(layers=2)}):
        caplog.clear()
        with caplog.at_level("INFO", logger="ckd_trainer"):
            run = trainer(tmp_path, model, tiny_model(seed=1))
            run.train()
        assert caplog.text.count("loss = 0.3 task") == 1
        entries.append(logs(run)[0])
    assert entries[0] == entries[1]
