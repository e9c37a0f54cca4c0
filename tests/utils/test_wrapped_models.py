"""Students and teachers that something is wrapped around: PEFT, torch.compile, modules of the user's."""

import copy

import pytest
import torch
from helpers.tiny import no_dropout, tiny_model
from helpers.training import ALL_TERMS, examples, logs, pad, trainer
from helpers.wrapping import PassesOn, compiled, lora
from transformers import BertForSequenceClassification, BertModel, GPT2Config, GPT2LMHeadModel, Trainer

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.heads import Classes
from ckd_trainer.teacher.fingerprint import model_fingerprint
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import config_of, forward_arguments


class NamesSome(PassesOn):
    """Names some arguments, as PEFT with a task type."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, output_hidden_states=None, **kwargs):
        kwargs |= {"attention_mask": attention_mask, "output_hidden_states": output_hidden_states}
        return self.model(input_ids, labels=labels, **kwargs)


class NamesAll(PassesOn):
    """Takes no more than it names."""

    def forward(self, input_ids, attention_mask, token_type_ids, labels=None, output_hidden_states=False):
        return self.model(
            input_ids, attention_mask, token_type_ids, labels=labels, output_hidden_states=output_hidden_states
        )


class OwnHead(torch.nn.Module):
    """A head of the user's on a bare encoder."""

    def __init__(self):
        super().__init__()
        model = no_dropout(layers=2)
        self.encoder, self.classifier, self.config = model.bert, model.classifier, model.config

    def forward(self, labels=None, **inputs):
        states = self.encoder(**inputs)
        logits = self.classifier(states.pooler_output)
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits, "hidden_states": states.hidden_states}


@pytest.fixture(autouse=True)
def nothing_is_compiled():
    """Compiled models run as they are: what is tested is the wrapper, and compiling takes minutes."""
    with torch.compiler.set_stance("force_eager"):
        yield


WRAPPERS = [PassesOn, NamesSome, NamesAll, compiled, lambda model: compiled(PassesOn(model)), copy.deepcopy]


def wrapping(function):
    names = ["passes_on", "names_some", "names_all", "compiled", "twice", "plain"]
    return pytest.mark.parametrize("wrap", WRAPPERS, ids=names)(function)


TERMS = ("loss_task", "loss_logits", "loss_wr_angle", "loss_ltr_distance")


def results(folder, student, teacher, **kwargs):
    """Trains two steps with token types, evaluates, predicts; returns all numbers that come out."""
    data = examples(24, types=True, seed=5)
    options = {"optim": "sgd", "learning_rate": 0.1} | kwargs.pop("options", {})
    kwargs = {"ckd_args": CKDArguments(**ALL_TERMS)} | kwargs
    run = trainer(
        DistillationTrainer, folder, student, steps=2, train=data, teacher_model=teacher, options=options, **kwargs
    )
    before = run.evaluate()["eval_loss"]
    run.train()
    said = run.predict(data)
    return {
        "logs": [[entry[key] for key in ("loss", "grad_norm", *TERMS)] for entry in logs(run)],
        "evaluation": [before, run.evaluate()["eval_loss"], said.metrics["test_loss"]],
        "logits": said.predictions.tolist(),
        "labels": said.label_ids.tolist(),
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return results(tmp_path_factory.mktemp("plain"), no_dropout(layers=2), tiny_model(seed=1))


def same(ours, theirs):
    for name in theirs:
        torch.testing.assert_close(torch.tensor(ours[name]), torch.tensor(theirs[name]), rtol=1e-5, atol=1e-6)


@wrapping
def test_a_wrapped_student_is_the_student(tmp_path, plain, wrap):
    """Token types stay in training, evaluation and prediction, and the loss on the labels is reported."""
    same(results(tmp_path, wrap(no_dropout(layers=2)), tiny_model(seed=1)), plain)


@wrapping
def test_a_wrapped_teacher_is_the_teacher(tmp_path, plain, wrap):
    same(results(tmp_path, no_dropout(layers=2), wrap(tiny_model(seed=1))), plain)


def test_a_compiled_student_is_saved_and_taken_up_as_the_student(tmp_path):
    """`from_pretrained` finds every weight; checkpoints serve a resume, and the best of them is loaded."""
    options = {"save_steps": 2, "eval_steps": 2, "eval_strategy": "steps", "load_best_model_at_end": True}
    options |= {"num_train_epochs": 1, "max_steps": -1}
    runs = {}
    for name, wrap in (("compiled", compiled), ("plain", copy.copy)):
        student = wrap(no_dropout(layers=2))
        runs[name] = trainer(
            DistillationTrainer, tmp_path / name, student, teacher_model=tiny_model(seed=1), options=options
        )
        runs[name].train()
        runs[name].save_model(tmp_path / name / "saved")
    expected = runs["plain"].model.state_dict()
    saved, info = BertForSequenceClassification.from_pretrained(
        tmp_path / "compiled" / "saved", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for found in (saved.state_dict(), runs["compiled"].model.state_dict()):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    resumed = trainer(
        DistillationTrainer,
        tmp_path / "compiled",
        compiled(no_dropout(layers=2, seed=3)),
        teacher_model=tiny_model(seed=1),
        options=options,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "compiled" / "checkpoint-4"))
    found = resumed.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_head_of_the_users(tmp_path, plain):
    with pytest.raises(
        InputError, match="OwnHead has its own head on an encoder, so it is unknown what its outputs mean"
    ):
        results(tmp_path, OwnHead(), tiny_model(seed=1))
    same(results(tmp_path, OwnHead(), tiny_model(seed=1), head=Classes()), plain)


@pytest.mark.parametrize("task_type", ["SEQ_CLS", pytest.param(None, marks=pytest.mark.slow)])
def test_a_lora_student(tmp_path, task_type):
    """The control run is `Trainer`; the signals of the distillation are those of the merged model."""
    runs = []
    data = examples(24, types=True, seed=5)
    for cls, more in ((Trainer, {}), (DistillationTrainer, {"ckd_args": CKDArguments.fine_tuning()})):
        student = lora(task_type)(no_dropout(layers=2))
        run = trainer(cls, tmp_path / cls.__name__, student, steps=3, train=data, **more)
        run.train()
        runs.append([[entry["loss"] for entry in logs(run)], run.evaluate()["eval_loss"]])
    assert runs[0] == runs[1]

    student = lora(task_type)(no_dropout(layers=2))
    merged = copy.deepcopy(student).merge_and_unload().requires_grad_(True)
    frozen = {name: value.clone() for name, value in student.named_parameters() if not value.requires_grad}
    run = trainer(
        DistillationTrainer, tmp_path / "ckd", student, steps=3, train=data, teacher_model=tiny_model(seed=1)
    )
    expected = results(tmp_path / "merged", merged, tiny_model(seed=1))
    run.train()
    assert [logs(run)[0][key] for key in TERMS] == pytest.approx(expected["logs"][0][2:], rel=1e-4)
    assert frozen and all(torch.equal(student.state_dict()[name], value) for name, value in frozen.items())
    run.save_model(tmp_path / "saved")
    run.create_model_card()

    import peft

    loaded = peft.PeftModel.from_pretrained(no_dropout(layers=2), tmp_path / "saved").eval()
    batch = pad(list(data))
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, student.eval()(**batch).logits)


@pytest.mark.parametrize("task_type", ["SEQ_CLS", pytest.param(None, marks=pytest.mark.slow)])
def test_a_lora_teacher(tmp_path, task_type):
    teacher = lora(task_type)(tiny_model(seed=1))
    merged = copy.deepcopy(teacher).merge_and_unload()
    expected = results(tmp_path / "merged", no_dropout(layers=2), merged)
    same(results(tmp_path / "live", no_dropout(layers=2), teacher), expected)
    ckd_args = CKDArguments(**ALL_TERMS, teacher_cache_dir=str(tmp_path / "cache"))
    cached = results(tmp_path / "cached", no_dropout(layers=2), teacher, ckd_args=ckd_args)
    torch.testing.assert_close(torch.tensor(cached["logs"]), torch.tensor(expected["logs"]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_tokens_that_are_learned_before_the_text(tmp_path, who, kind):
    """They have hidden states, which the others lack; a prefix of the attention has none."""
    peft = pytest.importorskip("peft")
    models = {"student": no_dropout(layers=2), "teacher": tiny_model(seed=1)}
    config = getattr(peft, kind)(task_type="SEQ_CLS", num_virtual_tokens=3)
    models[who] = peft.get_peft_model(models[who], config)

    def train(ckd_args):
        given = {"teacher_model": models["teacher"], "ckd_args": ckd_args}
        trainer(DistillationTrainer, tmp_path, models["student"], **given).train()

    train(CKDArguments.without_relations())
    if kind == "PrefixTuningConfig":
        train(CKDArguments())
        return
    with pytest.raises(InputError, match=f"the {who} has learned tokens before the text .* use LoRA"):
        train(CKDArguments())


def causal_model(layers):
    return GPT2LMHeadModel(GPT2Config(vocab_size=22, n_positions=32, n_embd=32, n_layer=layers, n_head=4))


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_logits_of_tokens_that_are_learned_before_the_text(tmp_path, who, kind):
    """They push the logits of the text's tokens to other places."""
    peft = pytest.importorskip("peft")
    models = {"student": causal_model(layers=2), "teacher": causal_model(layers=4)}
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    models[who] = peft.get_peft_model(models[who], config)

    def run():
        data = examples(8).remove_columns("labels")
        data = data.add_column("labels", data["input_ids"][:])
        given = {"teacher_model": models["teacher"], "ckd_args": CKDArguments.without_relations()}
        trainer(DistillationTrainer, tmp_path, models["student"], train=data, **given).train()

    if kind == "PrefixTuningConfig":
        run()
        return
    with pytest.raises(InputError, match=rf"the {who} has learned .* its logits cannot be compared .* use LoRA\.$"):
        run()


class ReturnsTuple(PassesOn):
    def forward(self, **inputs):
        return tuple(self.model(**inputs, return_dict=False))


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_outputs_without_names(tmp_path, who):
    models = {"student": no_dropout(layers=2), "teacher": tiny_model(seed=1)}
    models[who] = ReturnsTuple(models[who])
    given = {"teacher_model": models["teacher"], "ckd_args": CKDArguments.without_relations(), "head": Classes()}
    with pytest.raises(InputError, match=r"ReturnsTuple.forward returns a tuple, .*: return a ModelOutput"):
        trainer(DistillationTrainer, tmp_path, models["student"], **given).train()


def test_a_cache_of_a_compiled_teacher_is_that_of_the_teacher(tmp_path):
    teacher = tiny_model(seed=1)
    assert model_fingerprint(compiled(teacher)) == model_fingerprint(teacher)
    with pytest.raises(InputError, match="teacher_cache_dir is set, but the teacher is a PassesOn"):
        ckd_args = CKDArguments(teacher_cache_dir=str(tmp_path / "cache"))
        trainer(
            DistillationTrainer, tmp_path, tiny_model(layers=2), teacher_model=PassesOn(teacher), ckd_args=ckd_args
        )
    assert not (tmp_path / "cache").exists()


def test_a_fingerprint_knows_what_adapters_do():
    """Of equal weights, other scales and adapters that are off compute something else."""
    teachers = [lora("SEQ_CLS", lora_alpha=alpha)(tiny_model()) for alpha in (8, 8, 16)]
    prints = [model_fingerprint(teacher) for teacher in teachers]
    assert prints[0] == prints[1] != prints[2]
    with teachers[0].disable_adapter():
        assert model_fingerprint(teachers[0]) != prints[0]
    assert model_fingerprint(teachers[0]) == prints[0]
    teachers[1].merge_adapter()
    assert model_fingerprint(teachers[1]) != prints[1]


def test_forward_arguments():
    names = forward_arguments(tiny_model())
    assert {"input_ids", "attention_mask", "token_type_ids", "labels"} <= names and "kwargs" not in names
    for wrap in (PassesOn, compiled, torch.nn.DataParallel, lambda model: PassesOn(PassesOn(model))):
        assert forward_arguments(wrap(tiny_model())) == names
    assert forward_arguments(NamesSome(tiny_model())) == names | {"output_hidden_states"}
    assert "position_ids" not in forward_arguments(NamesAll(tiny_model()))


class Two(PassesOn):
    def __init__(self):
        super().__init__(tiny_model())
        self.other = tiny_model()


def without_hidden_states():
    class Bare(PassesOn):
        def forward(self, input_ids, attention_mask=None, labels=None):
            return self.model(input_ids, attention_mask, labels=labels)

    return Bare(tiny_model(layers=2))


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (lambda: PassesOn(torch.nn.Linear(2, 2)), "PassesOn has no config with num_hidden_layers, num_labels"),
        (Two, "Two has no config with num_hidden_layers, num_labels"),
        (without_hidden_states, r"outputs that Bare\.forward cannot return: .* output_hidden_states"),
    ],
)
def test_wrappers_that_cannot_be_looked_into(tmp_path, student, words):
    with pytest.raises(InputError, match=words):
        trainer(DistillationTrainer, tmp_path, student(), teacher_model=tiny_model(seed=1))


def test_a_forward_that_cannot_be_seen_is_refused():
    with pytest.raises(InputError, match="PassesOn.forward does not name its arguments"):
        forward_arguments(PassesOn(torch.nn.Linear(2, 2)))


def test_hidden_states_are_asked_for_only_where_they_are_read(tmp_path):
    """A wrapper that does not know them learns from logits."""
    weights = dict.fromkeys(("wr_distance", "wr_angle", "ltr_distance", "ltr_angle"), 0)
    ckd_args = CKDArguments(alpha=0.5, **{f"{name}_weight": weight for name, weight in weights.items()})
    run = trainer(
        DistillationTrainer,
        tmp_path,
        without_hidden_states(),
        teacher_model=without_hidden_states(),
        ckd_args=ckd_args,
    )
    run.train()
    assert logs(run)[0]["loss_logits"] > 0


def test_a_wrapper_around_the_teacher_is_no_other_model(tmp_path):
    model = tiny_model()
    for student, teacher in ((PassesOn(model), model), (model, compiled(model)), (PassesOn(model), PassesOn(model))):
        with pytest.raises(InputError, match="the same object"):
            trainer(DistillationTrainer, tmp_path, student, teacher_model=teacher)


def test_the_config_of_a_wrapper():
    model = tiny_model()
    assert config_of(model) is config_of(PassesOn(model)) is config_of(compiled(model)) is model.config
    assert config_of(PassesOn(BertModel(model.config))) is model.config
    wrapper = PassesOn(model)
    wrapper.config = tiny_model(layers=3).config
    assert config_of(wrapper).num_hidden_layers == 3
