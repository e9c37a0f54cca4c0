"""Language models through run_mlm_ckd.py: relations alone or with masked tokens, resumed, cached, in two processes."""

import json
import math

import datasets
import pytest
import torch
from datasets import Dataset
from helpers.families import family_model
from helpers.files import PROJECT, WORDS, sentences, write_questions, write_tagged, write_tsv
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
from helpers.launching import launch
from helpers.tiny import save_tokenizer, tiny_config
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

import run_glue_ckd
import run_mlm_ckd
import run_ner_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer.data import documents
from ckd_trainer.data.blocks import BlockOptions, blocks_of
from ckd_trainer.data.demo import agreement
from ckd_trainer.data.masking import MaskingCollator
from ckd_trainer.data.text_arguments import TextArguments, TextSource
from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.tasks.masked_lm import MaskedLanguageModeling
from ckd_trainer.utils.errors import InputError

SHORT = ["--max_steps", "2", "--save_strategy", "no"]
QUICK = [*QUICK_RUN, "--validation_share", "0.2"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def command(teacher, text):
    return ["--teacher_model_name_or_path", str(teacher), "--train_file", str(text), *STUDENT, *QUICK]


def test_relations_alone(command, teacher, tmp_path):
    """By default there are no masks and no logits. The student gets its teacher's head, and can be fine-tuned."""
    results = run(command, tmp_path / "out")
    assert {"eval_loss", "eval_loss_wr_distance", "eval_loss_ltr_angle", "train_tokens_per_second"} <= results.keys()
    assert "eval_perplexity" not in results and "eval_loss_task" not in results
    assert results["train_samples"] + results["eval_samples"] == len(blocks(teacher, command))

    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    theirs = BertForMaskedLM.from_pretrained(teacher)
    ours, before = model.state_dict(), theirs.state_dict()
    assert all(torch.equal(ours[name], before[name]) for name in ours if "predictions.transform" in name)
    moved = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(ours[moved], before[moved])
    assert pipeline("fill-mask", str(tmp_path / "out"))("the cat [MASK]")
    assert "The language-model head is that of the teacher, and was not trained on" in card(tmp_path / "out")

    train = write_tsv(tmp_path / "train.tsv", sentences(24))
    files = ["--train_file", str(train), "--validation_file", str(train), "--max_seq_length", "16"]
    quick = [*QUICK[:-2], "--max_steps", "2", *files]
    options = ["--model_name_or_path", str(tmp_path / "out"), "--output_dir", str(tmp_path / "fine-tuned")]
    run_teacher.main([*quick, *options])
    options = ["--model_name_or_path", str(tmp_path / "out"), "--output_dir", str(tmp_path / "distilled")]
    run_glue_ckd.main([*quick, *options, "--teacher_model_name_or_path", str(tmp_path / "fine-tuned")])


def card(folder):
    return (folder / "README.md").read_text()


def blocks(teacher, command):
    source = TextSource(train_file=command[command.index("--train_file") + 1])
    return blocks_of(source, AutoTokenizer.from_pretrained(teacher), BlockOptions(16))


def test_evaluation_against_loops(command, teacher, tmp_path, text):
    """The loss and the perplexity on held-out text are means over its masked tokens, whatever the batches."""
    options = [*MASKS, "--alpha", "0.25", *NO_RELATIONS, "--seed", "5"]
    command = [word for word in command if word not in ("--validation_share", "0.2")]
    found = run(command, tmp_path / "out", *options, "--validation_file", text, "--per_device_eval_batch_size", "7")

    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").double().eval()
    teacher_model = BertForMaskedLM.from_pretrained(teacher).double().eval()
    collate = MaskingCollator(AutoTokenizer.from_pretrained(teacher), 0.3, seed=5)
    collate.epoch = None
    errors, divergences = [], []
    for row in blocks(teacher, command):
        batch = collate([row])
        with torch.no_grad():
            ours, theirs = (model(batch["input_ids"]).logits[0] for model in (student, teacher_model))
        for place, label in enumerate(batch["labels"][0].tolist()):
            if label == -100:
                continue
            errors.append(-float(ours[place].log_softmax(-1)[label]))
            p, q = (theirs[place] / 2).softmax(-1), (ours[place] / 2).softmax(-1)
            divergences.append(4 * sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True)))
    task, logits = (sum(values) / len(values) for values in (errors, divergences))
    assert found["eval_loss_task"] == pytest.approx(task, rel=1e-4)
    assert found["eval_loss_logits"] == pytest.approx(logits, rel=1e-4)
    assert found["eval_loss"] == pytest.approx(0.75 * task + 0.25 * logits, rel=1e-4)
    assert found["eval_perplexity"] == pytest.approx(math.exp(task), rel=1e-3)
    assert "The language-model head was trained with the rest of the model." in card(tmp_path / "out")


def test_evaluated_relations_do_not_depend_on_batches(command, tmp_path):
    found = run(command, tmp_path / "out", "--per_device_eval_batch_size", "3", "--keep_sentences", "true")
    # The finished run is evaluated again, with its weights.
    for size in ("3", "50"):
        again = run(command, tmp_path / "out", "--per_device_eval_batch_size", size, "--keep_sentences", "true")
        for name in (name for name in found if name.startswith("eval_loss")):
            assert again[name] == pytest.approx(found[name], rel=1e-4), name


def test_a_masked_student_learns(command, text, tmp_path):
    """Words that always follow one another; at random, the perplexity is their number."""
    text.write_text("the cat runs a dog sings\n" * 100)
    options = [*MASKS, "--alpha", "0", *NO_RELATIONS, "--max_steps", "150", "--learning_rate", "5e-3"]
    results = run(command, tmp_path / "out", *options, "--save_strategy", "no")
    assert results["eval_perplexity"] < 3
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["num_input_tokens_seen"] > 0
    assert all(entry["train_tokens_per_second"] > 0 for entry in log if "loss" in entry)


@pytest.mark.parametrize("options", [[], [*MASKS, "--max_steps", "9"]], ids=["relations", "masks, second epoch"])
def test_resumes_exactly(command, tmp_path, options):
    run(command, tmp_path / "whole", *options)
    run(command, killed_after(tmp_path / "whole", tmp_path / "killed", 3), *options)
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    assert logs(tmp_path / "killed") == logs(tmp_path / "whole")


def test_the_cache_changes_nothing(command, tmp_path):
    live = run(command, tmp_path / "live")
    for _ in range(2):  # the second evaluates the finished run, beside its cache
        cached = run(command, tmp_path / "cached", "--teacher_cache_dir", tmp_path / "teacher_cache")
        for name in (name for name in live if name.startswith("eval_loss")):
            assert cached[name] == pytest.approx(live[name], rel=1e-3), name
    ours, theirs = weights(tmp_path / "cached"), weights(tmp_path / "live")
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-4) for name in theirs)
    with pytest.raises(InputError, match="masks change from one epoch to the next"):
        run(
            command, tmp_path / "masked", "--mlm_probability", "0.3", "--teacher_cache_dir", tmp_path / "teacher_cache"
        )


def test_dropout_does_not_depend_on_whether_the_teacher_is_loaded(command, teacher, tmp_path):
    """A bare teacher gets a random pooler when it is loaded, which must not change the random numbers of training."""
    path = teacher / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_dropout_prob": 0.1}))
    for name in ("builds", "reads"):
        run(command, tmp_path / name, "--teacher_cache_dir", tmp_path / "teacher_cache")
    assert same_weights(tmp_path / "builds", tmp_path / "reads")


def test_logits_of_all_tokens(command, tmp_path):
    """Without masks there is no loss on masked tokens, and no perplexity."""
    results = run(command, tmp_path / "out", "--labels_and_logits", "true", "--alpha", "1", *NO_RELATIONS)
    assert "eval_loss_logits" in results
    assert all(math.isfinite(value) for value in results.values())
    assert not {"eval_loss_task", "eval_perplexity"} & results.keys()


def test_another_method(command, tmp_path):
    results = run(
        command,
        tmp_path / "out",
        *NO_RELATIONS,
        "--gram_weight",
        "0.5",
        "--minilmv2_weight",
        "0.5",
        "--minilmv2_heads",
        "2",
    )
    assert {"eval_loss_gram", "eval_loss_minilmv2"} <= results.keys()


FURTHER = [
    (["pkd", "distilbert_cosine"], []),
    (["tinybert_attention", "tinybert_embedding"], ["tinybert_embedding"]),
    (["minilm_attention", "minilm_value"], []),
]


@pytest.mark.parametrize(("terms", "projected"), FURTHER, ids=[terms[0] for terms, _ in FURTHER])
def test_further_methods(command, tmp_path, unmeasured, terms, projected):
    """They train; those that learn a projection are not evaluated."""
    options = [*NO_RELATIONS, *(f"--{term}_weight=0.5" for term in terms), *SHORT]
    results = run(command, tmp_path / "out", *options)
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert all(log[0][f"loss_{term}"] > 0 for term in terms)
    assert all((f"eval_loss_{term}" in results) == (term not in projected) for term in terms)


@pytest.mark.parametrize("family", ["ModernBERT", "DistilBERT"])
def test_other_families(command, teacher, tmp_path, unmeasured, family):
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(family_model(family, vocab_size=5 + len(WORDS)).config).save_pretrained(teacher)
    results = run(command, tmp_path / "out", *MASKS, *SHORT)
    assert math.isfinite(results["eval_perplexity"]) and math.isfinite(results["eval_loss_wr_distance"])
    student, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and student.config.num_hidden_layers == 2


def test_bf16(command, tmp_path, unmeasured):
    results = run(command, tmp_path / "out", *MASKS, *SHORT, "--bf16", "true")
    whole = run(command, tmp_path / "whole", *MASKS, *SHORT)
    assert results["eval_perplexity"] == pytest.approx(whole["eval_perplexity"], rel=0.02)
    assert results["eval_perplexity"] != whole["eval_perplexity"]
    assert {weight.dtype for weight in weights(tmp_path / "out").values()} == {torch.float32}


def test_projections_are_not_evaluated(command, tmp_path):
    options = [*NO_RELATIONS, "--gram_weight", "0.5", "--tinybert_hidden_weight", "0.5"]
    results = run(command, tmp_path / "out", *options, "--eval_strategy", "steps", "--eval_steps", "3")
    assert "eval_loss_gram" in results and "eval_loss_tinybert_hidden" not in results
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert "loss_tinybert_hidden" in log[0]


def test_a_finished_run_is_left_as_it_is(command, tmp_path):
    command = [word for word in command if word not in ("--do_eval", "--validation_share", "0.2")]
    run(command, tmp_path / "out")
    before = weights(tmp_path / "out")
    run(command, tmp_path / "out")
    assert all(torch.equal(weight, before[name]) for name, weight in weights(tmp_path / "out").items())


def test_a_teacher_with_other_heads_of_pre_training(command, teacher, tmp_path):
    """As BERT's files, which also hold a head for the next sentence."""
    BertForPreTraining(BertForMaskedLM.from_pretrained(teacher).config).save_pretrained(teacher)
    run(command, tmp_path / "relations")
    assert any("predictions" in name for name in weights(tmp_path / "relations"))
    run(command, tmp_path / "logits", *MASKS)


def test_pushing_a_new_run_keeps_its_head(command, tmp_path, monkeypatch):
    def push(self, *args, **kwargs):
        self.save_model(_internal_call=True)

    monkeypatch.setattr(Trainer, "init_hf_repo", lambda *args, **kwargs: None)
    monkeypatch.setattr(Trainer, "push_in_progress", None, raising=False)
    monkeypatch.setattr(Trainer, "push_to_hub", push)
    run(command, tmp_path / "out", "--push_to_hub", "true", "--hub_strategy", "end")  # not with each checkpoint
    assert not AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)[1]["missing_keys"]
    assert not any("bert.bert" in name for name in weights(tmp_path / "out"))


def test_pushing_a_finished_run_keeps_its_head(command, tmp_path, monkeypatch):
    run(command, tmp_path / "out")
    pushed = {}

    def push(self, *args, **kwargs):
        self.save_model(_internal_call=True)
        pushed.update(weights(tmp_path / "out"))

    monkeypatch.setattr(Trainer, "init_hf_repo", lambda *args, **kwargs: None)
    monkeypatch.setattr(Trainer, "push_to_hub", push)
    before = weights(tmp_path / "out")
    run(command, tmp_path / "out", "--push_to_hub", "true")
    assert pushed.keys() == before.keys() and any("predictions" in name for name in pushed)


def test_the_best_model_is_kept(command, tmp_path):
    options = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "3", "--learning_rate", "0.5"]
    run(command, tmp_path / "out", *options, "--max_grad_norm", "0")
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    assert state["best_metric"] == min(losses.values())
    best = load_file(tmp_path / "out" / f"checkpoint-{state['best_global_step']}" / "model.safetensors")
    kept = weights(tmp_path / "out")
    assert all(torch.equal(kept[f"bert.{name}"], weight) for name, weight in best.items())


def test_workers_and_accumulation_change_nothing(command, tmp_path):
    options = [*MASKS, "--max_steps", "9", "--optim", "sgd", "--save_strategy", "no"]  # more than an epoch
    run(command, tmp_path / "one", *options)
    other = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    run(command, tmp_path / "other", *options, *other, "--dataloader_num_workers", "1")
    ours, theirs = weights(tmp_path / "other"), weights(tmp_path / "one")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_changed_text_is_not_evaluated_as_held_out(command, text, tmp_path):
    run(command, tmp_path / "out")
    text.write_text(text.read_text() + "\nthe cat")
    with pytest.raises(InputError, match="train_file .text.txt. has changed"):
        run([word for word in command if word != "--do_train"], tmp_path / "out")


def test_without_text_to_train_on(command, text, tmp_path):
    place = command.index("--train_file")
    command = [*command[:place], "--validation_file", str(text), *command[place + 2 :]]
    command = [word for word in command if word not in ("--validation_share", "0.2")]
    with pytest.raises(InputError, match="there is no text to train on"):
        run(command, tmp_path / "out")


def test_two_processes(command, tmp_path, text):
    """Two batches of 4 in each of two processes are one batch of 8, masks and held-out terms included."""
    command = [word for word in command if word not in ("--validation_share", "0.2")]
    command += [*MASKS, "--validation_file", str(text), "--optim", "sgd", "--max_steps", "3", "--save_strategy", "no"]
    one = run(command, tmp_path / "one", "--per_device_eval_batch_size", "6")
    options = ["--output_dir", str(tmp_path / "two"), "--per_device_train_batch_size", "4"]
    launch("run_mlm_ckd.py", *command, *options, "--per_device_eval_batch_size", "3")
    two = json.loads((tmp_path / "two" / "all_results.json").read_text())
    for name in (name for name in one if name.startswith(("eval_loss", "eval_perplexity"))):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


def test_two_processes_with_relations_alone(command, tmp_path):
    command = [*command, "--optim", "sgd", "--max_steps", "3", "--save_strategy", "no"]
    one = run(command, tmp_path / "one")
    options = ["--output_dir", str(tmp_path / "two"), "--per_device_train_batch_size", "4"]
    launch("run_mlm_ckd.py", *command, *options)
    two = json.loads((tmp_path / "two" / "all_results.json").read_text())
    for name in (name for name in one if name.startswith("eval_loss")):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_students_in_parts_are_refused(text, monkeypatch, variable):
    """FSDP2 does not return the hidden states of a bare encoder, and refuses the tied weights of a head."""
    args = TrainingArguments("unused", do_train=True, use_cpu=True)
    monkeypatch.setenv(variable, "true")
    with pytest.raises(InputError, match="launch with an accelerate recipe without FSDP or DeepSpeed"):
        MaskedLanguageModeling(TextArguments(train_file=str(text)), args)


@pytest.mark.parametrize(
    "student, reason",
    [
        (["--student_init", "random", "--student_num_layers", "2", "--model_name_or_path"], "its weights are random"),
        ([*STUDENT, "--student_config", '{"hidden_size": 16}'], "has another size"),
    ],
    ids=["random", "narrower"],
)
def test_students_without_a_head(teacher, text, tmp_path, student, reason, caplog):
    student = [*student, str(teacher)] if student[-1] == "--model_name_or_path" else student
    command = ["--teacher_model_name_or_path", str(teacher), "--train_file", str(text), *student, *QUICK]
    with caplog.at_level("INFO", "ckd_trainer"):
        run(command, tmp_path / "out")
    assert f"saved without a language-model head: {reason}" in caplog.text.replace(f"that of {teacher} ", "")
    assert not any("predictions" in name for name in weights(tmp_path / "out"))
    assert "The model has no language-model head: train one" in card(tmp_path / "out")
    AutoModel.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("task", ["ner", "squad"])
def test_a_student_without_a_head_learns_a_task(command, teacher, tmp_path, unmeasured, task):
    """Fine-tuned, and distilled."""
    start = ["--student_init", "random", "--model_name_or_path", str(teacher), *SHORT]
    run(command, tmp_path / "encoder", *start)
    write, distill = {"ner": (write_tagged, run_ner_ckd), "squad": (write_questions, run_squad_ckd)}[task]
    data = str(write(tmp_path / ("data.conll" if task == "ner" else "data.json"), 24))
    files = ["--train_file", data, "--validation_file", data, "--model_name_or_path", str(tmp_path / "encoder")]
    files += [*QUICK_RUN, *SHORT, "--doc_stride", "3", *(["--max_question_length", "4"] if task == "squad" else [])]
    run_teacher.main([*files, "--task_name", task, "--output_dir", str(tmp_path / "fine-tuned")])
    options = [
        "--teacher_model_name_or_path",
        str(tmp_path / "fine-tuned"),
        "--output_dir",
        str(tmp_path / "distilled"),
    ]
    assert "eval_f1" in distill.main([*files, *options])


def test_a_bare_teacher(command, teacher, tmp_path):
    """A sentence encoder can teach, too, but has no logits."""
    BertModel(tiny_config(layers=4)).save_pretrained(teacher)
    run(command, tmp_path / "out")
    assert "encoder.layer.1.output.dense.weight" in weights(tmp_path / "out")
    with pytest.raises(InputError, match="has no weights for cls.predictions.*it has no head for masked tokens"):
        run_mlm_ckd.main.__wrapped__([*command, "--output_dir", str(tmp_path / "logits"), *MASKS])


def test_sources_and_their_weights(command, text, tmp_path, monkeypatch):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"body": text}) for text, _ in sentences(60, seed=3)))
    folder = tmp_path / "named"
    rows = Dataset.from_dict({"text": [text for text, _ in sentences(40, seed=4)]})
    datasets.DatasetDict({"train": rows}).save_to_disk(folder)
    sources = [
        {"train_file": str(text)},
        {"train_file": str(other), "text_column": "body", "weight": 2.5},
        {"dataset_name": str(folder), "weight": 0.5},
    ]
    counts = []

    def counted(source, *args, **kwargs):
        counts.append(len(blocks_of(source, *args, **kwargs)))
        return blocks_of(source, *args, **kwargs)

    monkeypatch.setattr("ckd_trainer.tasks.running_text.blocks_of", counted)
    place = command.index("--train_file")
    command = command[:place] + ["--sources", json.dumps(sources)] + command[place + 2 :]
    command = [word for word in command if word not in ("--validation_share", "0.2", "--do_eval")]
    found = run(command, tmp_path / "out")
    first, second, third = counts
    assert found["train_samples"] == first + 2 * second + round(0.5 * second) + round(0.5 * third)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in json.dumps([record["command"], record["inputs"]]) + card
    assert {"sources 1", "sources 2", "sources 3"} <= record["inputs"].keys()
    other.write_text(other.read_text() + '\n{"body": "the cat"}')
    with pytest.raises(InputError, match=r"sources 2 \(other.jsonl\) has changed"):
        run_mlm_ckd.main.__wrapped__([*command, "--output_dir", str(tmp_path / "out")])


def test_held_out_blocks(command, tmp_path):
    """A share of the blocks is held out, the same for every seed, and never trained on."""

    def sets(seed, **options):
        path = command[command.index("--train_file") + 1]
        data_args = TextArguments(train_file=path, max_seq_length=16, validation_share=0.2, **options)
        args = TrainingArguments("unused", seed=seed, use_cpu=True)
        task = MaskedLanguageModeling(data_args, args)
        task.load(["train", "validation"])
        tokenizer = AutoTokenizer.from_pretrained(command[1])
        inputs = task.encode(tokenizer)
        return [list(map(tuple, part["input_ids"])) for part in (inputs.train, inputs.validation[""])]

    train, held = sets(1)
    assert len(held) == round(0.2 * (len(train) + len(held)))
    assert not {*train} & {*held}
    assert sets(2) == [train, held]  # runs with several seeds are compared on the same blocks
    assert sets(1, sample_seed=7)[1] != held
    few = sets(1, max_eval_samples=4)[1]
    assert len(few) == 4 and {*few} < {*held} and few != held[:4]


@pytest.mark.parametrize(
    ("content", "message"), [(b"the cat", "has 2 tokens"), (b"the cat\n" * 300 + b"\xff", "line 301")]
)
def test_the_held_out_text_is_cut_first(text, teacher, tmp_path, content, message, monkeypatch):
    """Its mistakes are found before all of the training text is cut."""
    monkeypatch.setattr(documents, "_BYTES", 512)
    held_out = tmp_path / "held_out.txt"
    held_out.write_bytes(content)
    task = MaskedLanguageModeling(
        TextArguments(train_file=str(text), validation_file=str(held_out), max_seq_length=16),
        TrainingArguments("unused", use_cpu=True),
    )
    task.load(["train", "validation"])
    with pytest.raises(InputError, match=f"held_out.txt.* {message}"):
        task.encode(AutoTokenizer.from_pretrained(teacher))
    assert not list((tmp_path / "cache").rglob("*.arrow"))


DYNAMIC = [*MASKS, "--student_num_layers", "4", "--student_widths", "1.0,0.5", "--student_depths", "1.0,0.5"]


def test_every_sub_network_is_evaluated(command, teacher, tmp_path):
    """Against a loop, and the run resumes exactly."""
    found = run(command, tmp_path / "out", *DYNAMIC, "--alpha", "0.5")
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    collate = MaskingCollator(tokenizer, 0.3, seed=0)
    collate.epoch = None
    path = command[command.index("--train_file") + 1]
    task = MaskedLanguageModeling(
        TextArguments(train_file=path, max_seq_length=16, validation_share=0.2),
        TrainingArguments("unused", use_cpu=True),
    )
    task.load(["validation"])
    held_out = task.encode(tokenizer).validation[""]
    parts = DynamicArguments("1.0,0.5", "1.0,0.5").subnetworks
    for part in parts:
        name = "" if part == parts[0] else f"_{part}"
        errors = []
        with DynamicModel(student).running(part), torch.no_grad():
            for number in range(len(held_out)):
                batch = collate([held_out[number]])
                logits, labels = student(batch["input_ids"]).logits[0], batch["labels"][0]
                errors += torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100].tolist()
        assert found[f"eval_loss_task{name}"] == pytest.approx(sum(errors) / len(errors), rel=1e-4), part
    perplexities = [value for name, value in found.items() if name.startswith("eval_perplexity")]
    assert len(perplexities) == 4 and found["eval_mean_perplexity"] == pytest.approx(sum(perplexities) / 4)
    run(command, killed_after(tmp_path / "out", tmp_path / "killed", 3), *DYNAMIC, "--alpha", "0.5")
    assert same_weights(tmp_path / "killed", tmp_path / "out")


def test_relations_alone_at_several_depths(command, tmp_path):
    depths = [
        "--student_num_layers",
        "4",
        "--student_depths",
        "1.0,0.5",
        "--wr_layer_mapping",
        "uniform",
        "--ltr_layer_mapping",
        "uniform",
    ]
    found = run(command, tmp_path / "out", *depths)
    assert found["eval_loss_wr_distance_w1_d0.5"] != found["eval_loss_wr_distance"]
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)[1]["missing_keys"] == set()


BAD = [
    (["--student_widths", "1.0,0.5"], "ordered by their importance for the loss on masked tokens"),
    ([*DYNAMIC, "--alpha", "0.5", "--whole_student_teaches"], "a language model is evaluated against a teacher"),
    (["--labels_and_logits", "true"], "but mlm_probability is 0"),
    (
        [*NO_RELATIONS, "--tinybert_hidden_weight", "0.5", "--tinybert_embedding_weight", "0.5"],
        "every term of the loss learns a projection",
    ),
    (["--validation_share", "none"], "there is no text to evaluate on"),
    (["--validation_share", "0.9999"], "leaves none of"),
    (["--max_seq_length", "33"], "reads at most 32 tokens"),
    (["--metric_for_best_model", "accuracy"], "the evaluation reports loss"),
    (["--unlabeled_file", "more.txt"], "unlabeled_file is not a known option"),
    (["--do_predict"], "a language model has no test set"),
    (NO_RELATIONS, "no term of the loss has a weight: give one a weight, or set labels_and_logits"),
    (["--label_smoothing_factor", "0.1"], "would distort the perplexity"),
    (["--metric_for_best_model", "perplexity"], "the evaluation reports loss: give eval_loss"),
    ([*MASKS, "--student_config", '{"hidden_size": 16}'], "cannot be made narrower"),
    (
        ["--stages", '[{"labels_and_logits": true, "alpha": 0.5}]'],
        "stage 1: labels_and_logits is set and alpha is 0.5",
    ),
]


@pytest.mark.parametrize("options, message", BAD, ids=[message for _, message in BAD])
def test_mistakes(command, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run_mlm_ckd.main.__wrapped__([*command, "--output_dir", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_another_vocabulary(command, teacher, tmp_path):
    BertModel(tiny_config(layers=1)).save_pretrained(tmp_path / "student")
    save_tokenizer(tmp_path / "student", [*WORDS[1:], WORDS[0]])
    command = command[: command.index("--student_init")] + command[command.index("--student_init") + 4 :]
    with pytest.raises(InputError, match="have different vocabularies"):
        run_mlm_ckd.main.__wrapped__(
            [*command, "--model_name_or_path", str(tmp_path / "student"), "--output_dir", str(tmp_path / "out")]
        )


def test_the_recipes_of_the_quickstart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agreement.write_task("runs/quickstart_mlm/data", train=1000, validation=20, test=2, text=300)
    short = ["--max_steps", "2", "--disable_tqdm", "true"]
    run_mlm_ckd.main.__wrapped__([str(PROJECT / "recipes" / "quickstart_mlm_teacher.yaml"), *short])
    run_mlm_ckd.main.__wrapped__([str(PROJECT / "recipes" / "quickstart_mlm_ckd.yaml"), *short])
    run_glue_ckd.main.__wrapped__([str(PROJECT / "recipes" / "quickstart_mlm_task.yaml"), *short])
    results = {
        name: json.loads((tmp_path / "runs" / "quickstart_mlm" / name / "all_results.json").read_text())
        for name in ("teacher", "ckd", "task")
    }
    assert "eval_perplexity" in results["teacher"] and "eval_loss_wr_distance" in results["ckd"]
    assert "eval_accuracy" in results["task"] and results["task"]["train_samples"] == 1000
    assert results["ckd"]["parameters"] < results["teacher"]["parameters"] / 6


def test_stages(command, tmp_path):
    stages = '[{"max_steps": 4}, {"labels_and_logits": true, "alpha": 1, "max_steps": 2}]'
    results = run(command, tmp_path / "out", "--stages", stages, "--mlm_probability", "0.3")
    assert "eval_loss_logits" in results
    parts = [stage["metrics"] for stage in json.loads((tmp_path / "out" / "run.json").read_text())["stages"]]
    assert results["num_input_tokens_seen"] == sum(part["num_input_tokens_seen"] for part in parts)
    assert results["num_input_tokens_seen"] == pytest.approx(6 * 8 * 16, rel=0.1)
    with pytest.raises(InputError, match="the evaluation reports loss"):
        run(command, tmp_path / "other", "--stages", stages, "--metric_for_best_model", "perplexity")
    assert not AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)[1]["missing_keys"]
