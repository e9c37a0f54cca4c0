"""Question answering: spans in the trainer, live and from the cache, and the scripts through their `main`."""

import json
import shutil

import pytest
import torch
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import PROJECT, write_questions
from helpers.reference import span_logit_loss as slow_span_logit_loss
from helpers.tiny import WORDS, qa_model, save_base, save_tokenizer, tiny_config
from safetensors.torch import load_file
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    Trainer,
    TrainingArguments,
)

import run_glue_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.data.demo import reading
from ckd_trainer.data.spans import read_answers
from ckd_trainer.data.squad import load_questions
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_features import SpanCollator, encode
from ckd_trainer.metrics.squad import SquadMetric
from ckd_trainer.tasks.token_positions import TokenPositionsTrainer
from ckd_trainer.utils.errors import InputError

QUICK = ["--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--learning_rate", "3e-3"]
QUICK += ["--report_to", "none", "--logging_steps", "4", "--disable_tqdm", "true"]
# Contexts of up to 13 words beside questions of 2: the long ones make two features and three.
LENGTHS = ["--max_seq_length", "14", "--doc_stride", "3", "--max_question_length", "4"]
EPOCHS = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end"]


@pytest.fixture
def question_files(tmp_path):
    return own_files(tmp_path)


def own_files(folder, **kwargs):
    train = write_questions(folder / "train.json", 96, **kwargs)
    validation = write_questions(folder / "validation.json", 23, seed=1, **kwargs)
    return ["--train_file", str(train), "--validation_file", str(validation), *LENGTHS]


def fine_tune(base, output, *options):
    return run_teacher.main(
        ["--task_name", "squad", "--model_name_or_path", str(base), "--output_dir", str(output), *QUICK, *options]
    )


def distill(teacher, output, *options):
    return run_squad_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), "--output_dir", str(output), *STUDENT, *QUICK, *options]
    )


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A teacher that run_teacher.py has fine-tuned to find the word good or bad in a text."""
    folder = tmp_path_factory.mktemp("teacher")
    base = save_base(folder / "base")
    metrics = fine_tune(
        base,
        folder / "trained",
        *own_files(folder),
        *["--do_train", "--do_eval", *EPOCHS, "--num_train_epochs", "6"],
        *["--train_sampling_strategy", "group_by_length"],
    )
    assert metrics["eval_exact_match"] > 90
    return folder / "trained"


@pytest.fixture
def trained_teacher(trained_once, tmp_path):
    return shutil.copytree(trained_once, tmp_path / "trained")


def logged(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def predictions(folder):
    return {path.name: json.loads(path.read_text()) for path in (folder / "predictions").iterdir()}


# ----------------------------------------------------------------------------------------------------- whole runs


def test_teacher_then_student_end_to_end(trained_teacher, question_files, tmp_path, caplog):
    output = tmp_path / "student"
    grouped = ["--train_sampling_strategy", "group_by_length", *EPOCHS]
    metrics = distill(trained_teacher, output, *question_files, "--do_train", "--do_eval", "--do_predict", *grouped)
    assert "AT CHANCE" not in caplog.text and "right about where 100.0% of the answers start" in caplog.text
    left = json.loads((output / "all_results.json").read_text())
    assert left["eval_f1"] == metrics["eval_f1"] > 80 and left["eval_exact_match"] > 80

    log = [entry for entry in logged(output) if "loss" in entry]
    terms = {f"loss_{term}" for term in ("task", "logits", "wr_distance")}
    assert log and all(terms | {"nonfinite_steps"} <= set(entry) for entry in log)
    state = json.loads((output / "trainer_state.json").read_text())
    scores = [entry["eval_f1"] for entry in state["log_history"] if "eval_f1" in entry]
    assert state["best_metric"] == max(scores)

    # Without a test file the questions of the validation set are predicted: its scores, once more.
    questions = load_questions(arguments(question_files), seed=0, splits=["validation"]).validation[""]
    files = predictions(output)
    assert set(files) == {"predictions.json", "nbest_predictions.json"}
    said = [{"id": name, "prediction_text": text} for name, text in files["predictions.json"].items()]
    gold = [{"id": row["id"], "answers": row["answers"]} for row in questions]
    scores = SquadMetric(config_name="squad", keep_in_memory=True).compute(predictions=said, references=gold)
    assert scores == {"exact_match": left["eval_exact_match"], "f1": left["eval_f1"]}

    card = (output / "README.md").read_text()
    assert "AutoModelForQuestionAnswering.from_pretrained" in card and "text-classification" not in card
    assert f"| f1 | {left['eval_f1']:.4f} |" in card and str(tmp_path) not in card


def arguments(options):
    return SquadArguments(**dict(zip([name[2:] for name in options[::2]], map(_number, options[1::2]), strict=True)))


def _number(value):
    return int(value) if value.isdigit() else value


def test_the_card_tells_how_to_ask(trained_teacher, question_files, tmp_path, monkeypatch):
    output = tmp_path / "student"
    distill(trained_teacher, output, *question_files, "--do_train", "--num_train_epochs", "4", *SHORT_RUN)
    monkeypatch.chdir(tmp_path)  # as the card calls a model by its folder's name
    card = (output / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].strip().splitlines()
    names = {"question": "very not", "context": "the cat is bad the dog sleeps"}
    exec("\n".join([*code[:-1], f"answer = {code[-1]}"]), names)
    assert names["answer"] == "bad"


def test_unanswerable_questions(tmp_path):
    base = save_base(tmp_path / "base")
    files = own_files(tmp_path, unanswerable=10)
    options = [*files, "--task_name", "squad_v2", "--do_eval", "--do_predict"]
    metrics = fine_tune(base, tmp_path / "teacher", *options, "--do_train", "--num_train_epochs", "8")
    assert metrics["eval_HasAns_total"] == 13 and metrics["eval_NoAns_total"] == 10
    assert metrics["eval_best_f1"] >= metrics["eval_f1"] > 60 and metrics["eval_NoAns_f1"] > 30
    training = ["--do_train", *EPOCHS, *SHORT_RUN]
    student = distill(tmp_path / "teacher", tmp_path / "student", *options, *training)
    assert student["eval_best_f1"] > 50

    files = predictions(tmp_path / "teacher")
    odds, texts, nbest = (files[f"{name}.json"] for name in ("null_odds", "predictions", "nbest_predictions"))
    assert all((text == "") == (odds[name] > 0) for name, text in texts.items())
    assert all([entry["text"] for entry in entries].count("") == 1 for entries in nbest.values())

    def evaluate(threshold):
        again = [*options, "--null_score_diff_threshold", threshold, "--output_dir", str(tmp_path / threshold)]
        return fine_tune(tmp_path / "teacher", tmp_path / threshold, *again)

    never, always = evaluate("1e9"), evaluate("-1e9")
    assert (never["eval_NoAns_f1"], always["eval_NoAns_f1"], always["eval_HasAns_f1"]) == (0, 100, 0)
    # What the best threshold would be does not depend on the one in use, and using it gives what was promised.
    best = {name: value for name, value in metrics.items() if name.startswith("eval_best")}
    assert best == {name: never[name] for name in best} == {name: always[name] for name in best}
    assert evaluate(str(metrics["eval_best_f1_thresh"]))["eval_f1"] == pytest.approx(metrics["eval_best_f1"])


def test_interrupted_run_resumes_and_ends_as_if_it_had_not_been(trained_teacher, question_files, tmp_path):
    options = ["--do_train", *question_files, "--save_strategy", "steps", "--save_steps", "3", "--max_steps", "12"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(trained_teacher, whole, *options)
    shutil.copytree(whole, cut)
    for path in cut.iterdir():  # as a run killed after step 7 leaves its folder
        if path.name.startswith("checkpoint-"):
            if int(path.name.split("-")[1]) > 6:
                shutil.rmtree(path)
        elif path.name != "recipe.yaml":
            path.unlink()
    distill(trained_teacher, cut, *options)
    ours, theirs = load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_teacher_cache_and_test_file(trained_teacher, question_files, tmp_path, caplog):
    test = write_questions(tmp_path / "test.json", 9, seed=2)
    content = json.loads(test.read_text())
    for paragraph in content["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"]
    test.write_text(json.dumps(content))
    options = [*question_files, "--do_train", "--do_eval", "--do_predict", "--test_file", str(test)]
    options += ["--max_steps", "8"]
    live = distill(trained_teacher, tmp_path / "live", *options)
    for name in ("1", "2"):
        caplog.clear()
        cached = distill(trained_teacher, tmp_path / name, *options, "--teacher_cache_dir", str(tmp_path / "cache"))
        assert ("reads" in caplog.text) == (name == "1")
        # The teacher is asked before the cache is built, and the cache that is there in its place.
        split = "validation" if name == "1" else "training"
        assert f"{split} features: right about where" in caplog.text
        assert cached["eval_loss"] == pytest.approx(live["eval_loss"], rel=0.05)
    assert set(predictions(tmp_path / "live")["predictions.json"]) == {f"test{index}" for index in range(9)}


def test_a_teacher_that_guesses_is_warned_of(question_files, tmp_path, caplog):
    base = save_base(tmp_path / "base")
    model = qa_model()
    model.qa_outputs.weight.data.zero_()  # finds every place as good as any other
    model.save_pretrained(base)
    for cache in ([], ["--teacher_cache_dir", str(tmp_path / "cache")]):
        caplog.clear()
        output = tmp_path / f"out{len(cache)}"
        distill(base, output, *question_files, "--do_train", "--do_eval", "--max_steps", "1", *cache)
        assert "THE TEACHER SCORES AT CHANCE" in caplog.text


def test_bf16_left_padding_and_one_length(tmp_path):
    base = save_base(tmp_path / "base", padding_side="left")
    files = own_files(tmp_path)
    metrics = fine_tune(base, tmp_path / "teacher", *files, "--do_train", "--do_eval", "--num_train_epochs", "8")
    assert metrics["eval_f1"] > 80
    options = [*files, "--do_train", "--do_eval", "--num_train_epochs", "1"]
    student = distill(tmp_path / "teacher", tmp_path / "student", *options, "--bf16", "--pad_to_max_length")
    assert student["eval_f1"] > 50
    assert AutoTokenizer.from_pretrained(tmp_path / "student").padding_side == "left"


@pytest.mark.parametrize(
    "length", [pytest.param("96", marks=pytest.mark.slow), "40"]
)  # in which a text is one feature, and several
def test_demo_task_by_its_recipes(tmp_path, monkeypatch, length):
    reading.write_task(tmp_path / "runs" / "quickstart_qa" / "data", train=24, validation=6, test=4)
    monkeypatch.chdir(tmp_path)
    recipes = PROJECT / "recipes"
    quick = ["--max_steps", "4", "--disable_tqdm", "true", "--max_seq_length", length, "--doc_stride", "12"]
    for run in ("teacher", "ckd"):
        main = run_teacher.main if run == "teacher" else run_squad_ckd.main
        metrics = main([str(recipes / f"quickstart_qa_{run}.yaml"), *quick])
        assert 0 <= metrics["eval_exact_match"] <= metrics["eval_f1"] <= 100
        features = json.loads((tmp_path / f"runs/quickstart_qa/{run}/all_results.json").read_text())["eval_samples"]
        assert (features > 48) == (length == "40")


def test_real_squad_files_through_the_command_line(shared_data, trained_teacher, tmp_path):
    squad = shared_data / "squad"
    files = ["--train_file", str(squad / "train-v1.1-slice.json"), "--validation_file", str(squad / "dev-v1.1.json")]
    limits = ["--max_train_samples", "12", "--max_eval_samples", "9", "--max_seq_length", "32", "--doc_stride", "8"]
    metrics = fine_tune(
        trained_teacher,
        tmp_path / "out",
        *[*files, *limits, "--max_question_length", "12", "--max_predict_samples", "4"],
        *["--do_train", "--do_eval", "--do_predict", "--max_steps", "2"],
    )
    assert 0 <= metrics["eval_exact_match"] <= metrics["eval_f1"] <= 100
    dev = load_questions(SquadArguments(validation_file=files[3]), seed=0, splits=["validation"]).validation[""]
    assert list(predictions(tmp_path / "out")["predictions.json"]) == dev[:4]["id"]


# ------------------------------------------------------------------------------------------------------ the trainer


def features(tmp_path, side="right", **kwargs):
    """Returns a tokenizer, questions and their features."""
    path = write_questions(tmp_path / "questions.json", 24, **kwargs)
    save_tokenizer(tmp_path / side, padding_side=side)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / side)
    args = SquadArguments(
        task_name="squad_v2" if kwargs else "squad",
        validation_file=str(path),
        max_seq_length=14,
        doc_stride=3,
        max_question_length=4,
    )
    questions = load_questions(args, seed=0, splits=["validation"]).validation[""]
    return tokenizer, questions, encode(questions, tokenizer, args, with_offsets=True)


def trainer(folder, tokenizer, train, student=None, teacher=None, cls=DistillationTrainer, **ckd):
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    options = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 5, "logging_steps": 1, "max_steps": 3}
    options |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-3}
    return cls(
        model=student or qa_model(layers=2, width=16, **plain),
        teacher_model=teacher or qa_model(seed=1),
        ckd_args=CKDArguments(**ckd),
        args=TrainingArguments(folder, train_sampling_strategy="group_by_length", **options),
        train_dataset=train,
        data_collator=SpanCollator(tokenizer),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("cached", [False, True])
def test_span_term_equals_loops(tmp_path, side, cached):
    """Over the context and [CLS] alone; what a teacher says of padding, the question or [SEP] does not count."""
    tokenizer, _, train = features(tmp_path, side)
    cache = {"teacher_cache_dir": str(tmp_path / "cache")} if cached else {}
    teacher = without_positions(qa_model(seed=1)).eval()
    run = trainer(tmp_path / "out", tokenizer, train, teacher=teacher, temperature=2.0, **cache)
    batch = next(iter(run.get_train_dataloader()))
    mask = batch["answer_mask"]
    special = torch.tensor([name in ("[SEP]", "[PAD]") for name in tokenizer.convert_ids_to_tokens(range(5))])
    ids = batch["input_ids"]
    assert not mask[(ids < 5) & special[ids.clamp_max(4)]].any() and (mask[ids == tokenizer.cls_token_id] == 1).all()
    assert (mask.sum(-1) < batch["attention_mask"].sum(-1)).all() and mask.any(-1).all()

    run.model.train()
    run.compute_loss(run.model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        student = run.model(**inputs)
        signals = teacher(**inputs)
    sides = [part.double() for out in (student, signals) for part in (out.start_logits, out.end_logits)]
    expected = slow_span_logit_loss(*sides, mask, temperature=2.0)
    assert run._running_means.drain(run.accelerator)["loss_logits"] == pytest.approx(expected.item(), rel=1e-4)


def without_positions(model):
    """With padding on the left a model that counts positions says something else in each batch."""
    model.bert.embeddings.position_embeddings.weight.data.zero_()
    return model


@pytest.mark.parametrize("side", ["right", "left"])
def test_cached_is_live(tmp_path, side):
    tokenizer, _, train = features(tmp_path, side)
    runs = []
    relations = {"wr_angle_weight": 0.3, "ltr_distance_weight": 0.3}
    for name, cache in (("live", {}), ("cached", {"teacher_cache_dir": str(tmp_path / "cache")})):
        teacher = without_positions(qa_model(seed=1))
        runs.append(trainer(tmp_path / name, tokenizer, train, teacher=teacher, **relations, **cache))
        runs[-1].train()
    logs = [[entry for entry in run.state.log_history if "loss" in entry] for run in runs]
    for ours, theirs in zip(*logs, strict=True):
        for name in ("loss", "loss_logits", "loss_wr_distance", "loss_wr_angle", "loss_ltr_distance"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("seed", [0, 1])
def test_evaluation_is_one_feature_at_a_time(tmp_path, side, seed):
    """Whatever the batches, the padding, and the order in which training groups them."""
    tokenizer, questions, data = features(tmp_path, side, seed=seed, unanswerable=5)
    model = without_positions(qa_model(seed, layers=2)).eval()
    run = trainer(tmp_path / "out", tokenizer, data, student=model, cls=TokenPositionsTrainer)
    seen = []
    run.compute_metrics = lambda prediction: seen.append(prediction) or {}
    run.evaluate(data)
    said = {"evaluate": seen[0].predictions, "predict": run.predict(data).predictions}
    alone = SpanCollator(tokenizer)
    for start_logits, end_logits in said.values():
        for row, feature in enumerate(data):
            with torch.no_grad():
                inputs = alone([feature])
                out = model(**{name: value for name, value in inputs.items() if name != "answer_mask"})
            length = len(feature["input_ids"])
            torch.testing.assert_close(torch.tensor(start_logits[row][:length]), out.start_logits[0])
            torch.testing.assert_close(torch.tensor(end_logits[row][:length]), out.end_logits[0])
    answers = read_answers(questions, data, *said["predict"], n_best=3, max_answer_length=5, null_answers=True)
    assert set(answers.text) == set(questions["id"])


@pytest.mark.parametrize("side", ["right", "left"])
def test_predictions_are_those_of_trainer(tmp_path, side):
    """In the place of each token in its padded batch, as other post-processing reads them."""
    tokenizer, _, data = features(tmp_path, side)
    model = qa_model(layers=2)
    run = trainer(tmp_path / "out", tokenizer, data, student=model)
    plain = Trainer(model=model, args=run.args, data_collator=SpanCollator(tokenizer), processing_class=tokenizer)
    plain.args.train_sampling_strategy = "sequential"
    for ours, theirs in zip(run.predict(data).predictions, plain.predict(data).predictions, strict=True):
        assert (ours == theirs).all()
    first = SpanCollator(tokenizer)([data[row] for row in range(5)])
    with torch.no_grad():
        expected = model.eval()(**{name: value for name, value in first.items() if name != "answer_mask"})
    width = first["input_ids"].shape[1]
    for ours, theirs in zip(run.predict(data).predictions, (expected.start_logits, expected.end_logits), strict=True):
        torch.testing.assert_close(torch.tensor(ours[:5, :width]), theirs)


def test_features_without_answer_mask_are_refused(tmp_path):
    tokenizer, _, data = features(tmp_path)
    with pytest.raises(InputError, match="no column answer_mask.*set alpha to 0"):
        trainer(tmp_path / "out", tokenizer, data.remove_columns("answer_mask"))
    trainer(tmp_path / "out", tokenizer, data.remove_columns("answer_mask"), alpha=0)  # nothing reads it


# --------------------------------------------------------------------------------------------------------- refused


def refused(capsys, *options, main=run_squad_ckd.main):
    with pytest.raises(SystemExit) as stopped:
        main(list(options))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error and error.count("error: ") == 1
    return error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task_name", "squad2"], "task_name is 'squad2': give squad or squad_v2"),
        (["--doc_stride", "7"], "leaves 7 tokens for the context beside a question of up to 4 and 3 special tokens"),
        (["--doc_stride", "-1"], "doc_stride is -1"),
        (["--max_seq_length", "64"], "reads at most 32 tokens"),
        (["--max_answer_length", "0"], "max_answer_length is 0"),
        (["--n_best_size", "0"], "n_best_size is 0"),
        (["--null_score_diff_threshold", "nan"], "null_score_diff_threshold is nan"),
        (["--data_dir", "squad"], "data_dir is set, but train_file is set as well"),
        (["--label_names", "labels"], "label_names is ['labels']"),
        (["--eval_do_concat_batches", "false"], "eval_do_concat_batches is off"),
        (["--validation_file", "missing.json", "--do_eval"], "missing.json"),
        (["--label_smoothing_factor", "0.1"], "label_smoothing_factor is set"),
        (["--metric_for_best_model", "accuracy", *EPOCHS], "the evaluation reports exact_match, f1, loss"),
        (["--relation_normalization", "tokens"], "relation_normalization"),
        (["--text_column", "a"], "text_column is not a known option"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    trained_teacher, question_files, tmp_path, capsys, options, words
):
    common = ["--teacher_model_name_or_path", str(trained_teacher), *STUDENT, *question_files, "--do_train"]
    assert words in refused(capsys, *common, "--output_dir", str(tmp_path / "out"), *options)
    assert not (tmp_path / "out").exists()


def test_teachers_that_do_not_fit_are_refused(trained_teacher, question_files, tmp_path, capsys):
    common = [*question_files, "--do_train", "--output_dir", str(tmp_path / "out"), *QUICK]
    student = ["--model_name_or_path", str(save_base(tmp_path / "student"))]
    other = tmp_path / "other"

    BertForSequenceClassification(tiny_config(labels=("a", "b", "c"))).save_pretrained(other)
    save_tokenizer(other)
    teacher = ["--teacher_model_name_or_path", str(other)]
    assert "the teacher has 3 outputs" in refused(capsys, *common, *student, *teacher)

    BertForSequenceClassification(tiny_config()).save_pretrained(other)
    message = refused(capsys, *common, *student, *teacher)
    assert "no weights for qa_outputs.bias" in message and "not fine-tuned for this task" in message

    save_tokenizer(trained_teacher, padding_side="left")
    teacher = ["--teacher_model_name_or_path", str(trained_teacher)]
    message = refused(capsys, *common, *student, *teacher)
    assert "tokenizer pads on the left, but the student's on the right" in message

    save_tokenizer(trained_teacher, words=[*WORDS[:-1], "other"])
    options = ["--minilmv2_weight", "1", "--minilmv2_heads", "2"]
    assert "minilmv2 cannot compare them" in refused(capsys, *common, *student, *teacher, *options)


def test_a_classifier_becomes_a_student(trained_teacher, question_files, tmp_path):
    """Its head for three classes is replaced by one for starts and ends."""
    other = tmp_path / "other"
    BertForSequenceClassification(tiny_config(labels=("a", "b", "c"))).save_pretrained(other)
    save_tokenizer(other)
    student = ["--student_init", "pretrained", "--student_num_layers", "none", "--model_name_or_path", str(other)]
    distill(trained_teacher, tmp_path / "out", *question_files, "--do_train", *student, "--max_steps", "2")
    config = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").config
    assert config.num_labels == 2 and config.architectures == ["BertForQuestionAnswering"]


def test_scripts_and_tasks_that_do_not_go_together(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task_name: [squad]\n")
    output = ["--output_dir", str(tmp_path / "out"), "--do_train"]
    misspelt = refused(capsys, "--task_name", "squad2", *output, main=run_teacher.main)
    assert "task_name is 'squad2', which is not a task; the nearest is squad" in misspelt
    other = refused(capsys, "--task_name", "squad", *output, main=run_glue_ckd.main)
    assert "task_name is squad, which is question answering: use ckd-trainer squad" in other
    refused(capsys, str(recipe), *output, main=run_teacher.main)


@pytest.mark.parametrize("labels", [("negative", "positive"), ("not_entailment", "entailment")])
def test_names_of_a_classifier_do_not_matter(question_files, tmp_path, labels):
    """Teachers and students that were classifiers of two classes once; starts and ends have no names."""
    paths = {}
    for role, names in (("teacher", ("entailment", "not_entailment")), ("student", labels)):
        paths[role] = tmp_path / role
        BertForQuestionAnswering(tiny_config(labels=names)).save_pretrained(paths[role])
        save_tokenizer(paths[role])
    student = ["--student_init", "pretrained", "--student_num_layers", "none"]
    student += ["--model_name_or_path", str(paths["student"]), "--max_steps", "2"]
    distill(paths["teacher"], tmp_path / "out", *question_files, "--do_train", *student)
    assert AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").config.id2label == {
        0: "LABEL_0",
        1: "LABEL_1",
    }


def test_types_that_the_student_reads_and_the_teacher_does_not(question_files, tmp_path):
    """A DistilBERT teacher's tokenizer gives none, yet the student is trained with those that it will be used with."""
    teacher = tmp_path / "teacher"
    config = DistilBertConfig(vocab_size=23, dim=32, n_layers=4, n_heads=2, hidden_dim=64, max_position_embeddings=32)
    DistilBertForQuestionAnswering(config).save_pretrained(teacher)
    save_tokenizer(teacher, model_input_names=["input_ids", "attention_mask"])
    student = ["--student_init", "pretrained", "--student_num_layers", "none"]
    student += ["--model_name_or_path", str(save_base(tmp_path / "student"))]
    options = [*question_files, *SHORT_RUN, "--do_train", "--do_eval", "--max_steps", "4", *student]
    first = distill(teacher, tmp_path / "out", *options)
    again = distill(teacher, tmp_path / "out", *options)  # evaluates as the student will be used
    assert again["eval_loss"] == first["eval_loss"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_input_names[1] == "token_type_ids"


def test_a_trained_run_can_be_asked_in_another_way(trained_teacher, question_files, tmp_path, capsys):
    options = [*question_files, "--do_eval", "--do_predict", "--do_train", "--max_steps", "2"]
    distill(trained_teacher, tmp_path / "out", *options)
    more = ["--n_best_size", "3", "--max_answer_length", "2", "--null_score_diff_threshold", "1"]
    distill(trained_teacher, tmp_path / "out", *options, *more)
    lists = predictions(tmp_path / "out")["nbest_predictions.json"].values()
    assert all(len(entries) <= 3 and len(entry["text"].split()) <= 2 for entries in lists for entry in entries)
    common = [
        "--teacher_model_name_or_path",
        str(trained_teacher),
        *STUDENT,
        *QUICK,
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert "doc_stride 3 there, 2 here" in refused(capsys, *common, *options, "--doc_stride", "2")


def test_misplaced_answers_stop_or_are_dropped(trained_teacher, question_files, tmp_path, capsys, caplog):
    train = tmp_path / "train.json"
    content = json.loads(train.read_text())
    content["data"][0]["paragraphs"][7]["qas"][0]["answers"][0]["answer_start"] += 1
    name = content["data"][0]["paragraphs"][7]["qas"][0]["id"]
    train.write_text(json.dumps(content))
    common = ["--teacher_model_name_or_path", str(trained_teacher), *STUDENT, *question_files, "--do_train", *QUICK]
    message = refused(capsys, *common, "--output_dir", str(tmp_path / "out"))
    assert "1 of 96 questions" in message and repr(name) in message and "--drop_misplaced_answers" in message
    distill(
        trained_teacher,
        tmp_path / "out",
        *question_files,
        "--do_train",
        "--max_steps",
        "1",
        "--drop_misplaced_answers",
    )
    assert "1 of 96 questions" in caplog.text and "is left out" in caplog.text
