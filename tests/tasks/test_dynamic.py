"""Dynamic students through the scripts: stages, exact resume, scores of every sub-network, and what is refused."""

import json
import re
import shutil

import pytest
import torch
import yaml
from helpers.files import sentences, write_questions, write_tsv
from helpers.launching import launch, without_dropout
from helpers.tiny import WORDS, qa_model, save_tokenizer, tiny_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import run_glue_ckd
import run_squad_ckd
from ckd_trainer.cli import main
from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.subnetworks import SubNetwork

QUICK = "--per_device_train_batch_size 8 --save_steps 2 --logging_steps 1 --report_to none --disable_tqdm true"
QUICK = [*QUICK.split(), "--max_seq_length", "32", "--do_train", "--do_eval"]
SAME_DEPTH = ["--student_init", "teacher_layers", "--student_num_layers", "4", "--student_layers", "first"]
PARTS = ["w1_d0.5", "w0.5_d1", "w0.5_d0.5"]
BOTH = ["--student_widths", "1.0,0.5", "--student_depths", "1.0,0.5"]
STAGES = [
    {"student_widths": "1.0,0.5", "max_steps": 4},
    {"student_widths": "1.0,0.5", "student_depths": "1.0,0.5", "max_steps": 4},
]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with a teacher and files, and in `whole` a run of two stages."""
    folder = tmp_path_factory.mktemp("dynamic")
    tiny_model().save_pretrained(folder / "teacher")
    save_tokenizer(folder / "teacher")
    without_dropout(folder / "teacher")
    write_tsv(folder / "train.tsv", sentences(96))
    write_tsv(folder / "validation.tsv", sentences(22, seed=1))
    (folder / "stages.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    distill(folder, folder / "whole", str(folder / "stages.yaml"))
    return folder


def distill(folder, output, *options):
    recipe = [word for word in options if word.endswith(".yaml")]
    more = [word for word in options if not word.endswith(".yaml")]
    files = [word for name in ("train", "validation") for word in (f"--{name}_file", str(folder / f"{name}.tsv"))]
    start = [*SAME_DEPTH, "--teacher_model_name_or_path", str(folder / "teacher"), "--output_dir", str(output)]
    return run_glue_ckd.main([*recipe, *files, *start, *QUICK, *more])


def read(path):
    return json.loads(path.read_text())


def test_stages_widen_the_set_of_sub_networks(once):
    whole = once / "whole"
    log = [entry for entry in read(whole / "trainer_state.json")["log_history"] if "loss" in entry]
    names = [{name for name in entry if name.startswith("loss_task_")} for entry in log]
    assert names[0] == {"loss_task_w1_d1", "loss_task_w0.5_d1"}
    assert names[-1] == names[0] | {"loss_task_w1_d0.5", "loss_task_w0.5_d0.5"}
    config = read(whole / "config.json")
    every, outer = [1, 2, 3, 4], [1, 4]
    assert config["subnetworks"] == [[1, 1, every], [1, 0.5, outer], [0.5, 1, every], [0.5, 0.5, outer]]
    assert read(whole / "_stage_1" / "config.json")["subnetworks"] == [[1, 1, every], [0.5, 1, every]]


def test_results_hold_the_scores_of_every_sub_network(once):
    """Those of a plain model that loads the folder."""
    whole, rows = once / "whole", sentences(22, seed=1)
    results = read(whole / "all_results.json")
    parts = [SubNetwork(1, 0.5), SubNetwork(0.5, 1), SubNetwork(0.5, 0.5)]
    scores = [results["eval_accuracy"], *(results[f"eval_accuracy_{part}"] for part in parts)]
    assert results["eval_mean_accuracy"] == pytest.approx(sum(scores) / 4)
    model = AutoModelForSequenceClassification.from_pretrained(whole).eval()
    index = {word: number for number, word in enumerate(WORDS, start=5)}
    for part, score in zip([SubNetwork(), *parts], scores, strict=True):
        with DynamicModel(model).running(part), torch.no_grad():
            answers = [
                model(input_ids=torch.tensor([[2, *(index[word] for word in text.split()), 3]])).logits.argmax().item()
                for text, _ in rows
            ]
        right = [model.config.id2label[answer] == label for answer, (_, label) in zip(answers, rows, strict=True)]
        assert score == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize(("stage", "kept"), [(1, 2), (1, 4), (2, 0), (2, 2)])
def test_a_run_resumes_exactly_in_each_stage(once, tmp_path, stage, kept):
    killed = shutil.copytree(once / "whole", tmp_path / "killed")
    last = killed if stage == 2 else killed / "_stage_1"
    for path in [*killed.iterdir(), *(killed / "_stage_1").iterdir()]:
        if path.name.startswith("checkpoint-"):
            keep = path.parent == last and int(path.name.removeprefix("checkpoint-")) <= kept
        else:
            keep = path.name in ("_stage_1", "recipe.yaml", "run.json") or (stage == 2 and path.parent != killed)
        if not keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    record = read(once / "whole" / "run.json")
    (killed / "run.json").write_text(json.dumps(record | {"stages": record["stages"][: stage - 1]}))
    distill(once, killed, str(once / "stages.yaml"))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (killed, once / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_trained_student_is_evaluated_again(once, tmp_path):
    copied = shutil.copytree(once / "whole", tmp_path / "copied")
    before = read(copied / "all_results.json")
    found = distill(once, copied, str(once / "stages.yaml"))
    scores = {name for name in before if "accuracy" in name}
    assert len(scores) == 5
    assert {name: found[name] for name in scores} == {name: before[name] for name in scores}


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ([], "mean_accuracy"),
        (["--metric_for_best_model", "accuracy"], "accuracy"),
        (["--metric_for_best_model", "accuracy_w0.5_d0.5"], "accuracy_w0.5_d0.5"),
        (["--metric_for_best_model", "eval_mean_loss", "--prediction_loss_only"], "mean_loss"),
        (["--metric_for_best_model", "loss_w0.5_d0.5"], "loss_w0.5_d0.5"),
    ],
)
def test_the_best_checkpoint_is_that_of_the_chosen_score(once, tmp_path, options, metric):
    options = [*options, "--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end"]
    distill(once, tmp_path / "run", *BOTH, *options, "--max_steps", "6", "--learning_rate", "3e-3")
    state = read(tmp_path / "run" / "trainer_state.json")
    scores = [entry[f"eval_{metric}"] for entry in state["log_history"] if f"eval_{metric}" in entry]
    assert len(scores) == 3
    assert state["best_metric"] == (min(scores) if "loss" in metric else max(scores))


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        distill(*arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_an_unknown_score_is_refused(once, tmp_path, capsys):
    error = refused(capsys, once, tmp_path / "run", *BOTH, "--metric_for_best_model", "accuracy_w0.25_d1")
    assert "accuracy_w0.25_d1, but the evaluation reports accuracy, f1, loss, mean_accuracy" in error
    error = refused(capsys, once, tmp_path / "run", "--metric_for_best_model", "mean_accuracy")
    assert "mean_accuracy, but the evaluation reports accuracy, f1, loss" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--student_widths", "1.0,0.5", "--student_depths", "1.0,0.25", "--ltr_angle_weight", "1"],
            "at depth 0.25: ltr_layer_mapping emb+skip matches 2 layers",
        ),
        (["--student_widths", "1.0,0.999"], "student_widths has 1 and 0.999, which are the same"),
        (["--student_widths", "0.5"], "add 1.0"),
        (["--subnetworks_per_step", "2"], "subnetworks_per_step is set, but the student has no other sub-networks"),
        (["--whole_student_teaches"], "whole_student_teaches is set, but the student has no other sub-networks"),
        (
            ["--student_widths", "1.0,0.5", "--tinybert_attention_weight", "1"],
            "tinybert_attention does not work with width 0.5",
        ),
    ],
)
def test_mistakes_are_found_before_any_weights_are_loaded(once, tmp_path, capsys, options, message):
    shutil.copytree(once / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher" / "model.safetensors").unlink()
    for name in ("train", "validation"):
        shutil.copy(once / f"{name}.tsv", tmp_path)
    assert message in refused(capsys, tmp_path, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_questions_have_scores_of_every_sub_network(tmp_path):
    qa_model(seed=1).save_pretrained(tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher")
    options = ["--train_file", str(write_questions(tmp_path / "train.json", 32)), "--max_question_length", "4"]
    options += ["--validation_file", str(write_questions(tmp_path / "validation.json", 23, seed=1))]
    options += [*QUICK, *SAME_DEPTH, *BOTH, "--max_steps", "3", "--doc_stride", "3"]
    found = run_squad_ckd.main(
        [*options, "--teacher_model_name_or_path", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "run")]
    )
    parts = ["w1_d0.5", "w0.5_d1", "w0.5_d0.5"]
    mean = (found["eval_f1"] + sum(found[f"eval_f1_{part}"] for part in parts)) / 4
    assert found["eval_mean_f1"] == pytest.approx(mean)


@pytest.mark.parametrize("teaching", [["--subnetworks_per_step", "3"], ["--whole_student_teaches"]])
def test_two_processes_train_as_one(once, tmp_path, teaching):
    options = ["--teacher_model_name_or_path", str(once / "teacher"), *SAME_DEPTH, *BOTH, *QUICK, *teaching]
    for name in ("train", "validation"):
        options += [f"--{name}_file", str(once / f"{name}.tsv")]
    options += ["--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0", "--max_steps", "5"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_glue_ckd.main([*options, "--output_dir", str(one)])
    batches = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    launch("run_glue_ckd.py", *options, *batches, "--output_dir", str(two))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)
    results = [read(folder / "all_results.json") for folder in (one, two)]
    assert results[1]["eval_mean_accuracy"] == pytest.approx(results[0]["eval_mean_accuracy"])


def test_the_whole_student_teaches_without_a_teacher(once, tmp_path):
    files = [word for name in ("train", "validation") for word in (f"--{name}_file", str(once / f"{name}.tsv"))]
    start = ["--model_name_or_path", str(once / "teacher"), "--output_dir", str(tmp_path / "run")]
    options = [*files, *start, *QUICK, *BOTH, "--whole_student_teaches", "--max_steps", "3", "--alpha", "1"]
    run_glue_ckd.main(options)
    log = read(tmp_path / "run" / "trainer_state.json")["log_history"]
    assert log[0]["loss_logits_w0.5_d1"] > 0 and "loss_logits_w1_d1" not in log[0]
    results = read(tmp_path / "run" / "all_results.json")
    (tmp_path / "run" / "all_results.json").unlink()
    again = run_glue_ckd.main(options)
    assert again["eval_mean_accuracy"] == results["eval_mean_accuracy"]


def test_a_student_that_teaches_itself_learns_from_labels(once, tmp_path, capsys):
    (tmp_path / "more.tsv").write_text("text\n" + "\n".join(text for text, _ in sentences(30, seed=3)))
    options = [
        "--validation_file",
        str(once / "validation.tsv"),
        "--model_name_or_path",
        str(once / "teacher"),
        *QUICK,
    ]
    options += ["--unlabeled_file", str(tmp_path / "more.tsv"), "--output_dir", str(tmp_path / "run"), *BOTH]
    with pytest.raises(SystemExit):
        run_glue_ckd.main([*options, "--alpha", "1", "--whole_student_teaches"])
    assert "with whole_student_teaches the whole student learns from the labels" in capsys.readouterr().err


@pytest.mark.parametrize("labels", [True, False], ids=["beside labels", "alone"])
def test_texts_without_labels_train_all_sub_networks(once, tmp_path, labels):
    """And a search finds the best of them."""
    more = write_tsv(tmp_path / "more.tsv", [row[:1] for row in sentences(60, seed=3)], header=("text",))
    files = ["--unlabeled_file", str(more), "--validation_file", str(once / "validation.tsv")]
    files += ["--train_file", str(once / "train.tsv")] if labels else ["--alpha", "1"]
    start = ["--teacher_model_name_or_path", str(once / "teacher"), "--output_dir", str(tmp_path / "run")]
    results = run_glue_ckd.main([*files, *start, *QUICK, *SAME_DEPTH, *BOTH, "--max_steps", "3"])
    assert results["train_samples"] == (96 if labels else 60)
    assert results.get("unlabeled_samples") == (60 if labels else None)
    last = [entry for entry in read(tmp_path / "run" / "trainer_state.json")["log_history"] if "loss" in entry][-1]
    assert all(last[f"loss_logits_{part}"] > 0 and last[f"loss_wr_distance_{part}"] > 0 for part in PARTS)
    main(["search", str(tmp_path / "run"), "--max_parameters", "1000000"])
    found = read(tmp_path / "run-search" / "search.json")
    scores = [results["eval_accuracy"], *(results[f"eval_accuracy_{part}"] for part in PARTS)]
    assert [one["score"] for one in found["students"]] == scores
    assert (tmp_path / "run-search" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"student_widths": "1.0,0.5"}, {"max_steps": 2}], "stage 2: whole_student_teaches .* no other sub-networks"),
        (
            [{"student_widths": "1.0,0.5"}, {"student_depths": "1.0,0.5", "alpha": 0.0}],
            "stage 2: .* it would teach nothing",
        ),
    ],
)
def test_stages_in_which_a_student_cannot_teach(once, tmp_path, capsys, stages, message):
    recipe = {"whole_student_teaches": True, "stages": stages}
    recipe |= {f"{relation}_{kind}_weight": 0.0 for relation in ("wr", "ltr") for kind in ("distance", "angle")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert re.search(message, refused(capsys, once, tmp_path / "run", str(tmp_path / "recipe.yaml")))
    assert not (tmp_path / "run").exists()


def test_sub_networks_that_were_not_trained_are_not_evaluated(once, tmp_path, capsys):
    files = [word for name in ("train", "validation") for word in (f"--{name}_file", str(once / f"{name}.tsv"))]
    options = [*files, "--do_eval", "--max_seq_length", "32", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        run_glue_ckd.main([*options, "--model_name_or_path", str(once / "teacher"), "--alpha", "0", *BOTH])
    assert "the student was not trained for w1_d1, width 1 and depth 1 (it is not dynamic)" in capsys.readouterr().err
    model = ["--model_name_or_path", str(once / "whole")]
    with pytest.raises(SystemExit):
        run_glue_ckd.main([*options, *model, "--student_widths", "1.0,0.25"])
    error = capsys.readouterr().err
    assert "not trained for w0.25_d1" in error and "its sub-networks are w1_d1, w1_d0.5, w0.5_d1, w0.5_d0.5" in error
    assert run_glue_ckd.main([*options, *model, *BOTH])["eval_mean_accuracy"] > 0


def test_a_student_that_is_not_dynamic_any_more_does_not_say_so(once, tmp_path):
    files = [word for name in ("train", "validation") for word in (f"--{name}_file", str(once / f"{name}.tsv"))]
    options = ["--teacher_model_name_or_path", str(once / "teacher"), *QUICK, "--max_steps", "1"]
    start = ["--model_name_or_path", str(once / "whole"), "--output_dir", str(tmp_path / "plain")]
    run_glue_ckd.main([*files, *options, *start])
    assert "subnetworks" not in read(tmp_path / "plain" / "config.json")
    start = ["--model_name_or_path", str(once / "whole"), "--output_dir", str(tmp_path / "dynamic")]
    run_glue_ckd.main([*files, *options, *start, "--student_widths", "1.0,0.5", "--learning_rate", "0"])
    assert read(tmp_path / "dynamic" / "config.json")["subnetworks"] == [[1, 1, [1, 2, 3, 4]], [0.5, 1, [1, 2, 3, 4]]]
    # Its heads and neurons keep their order.
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "dynamic", once / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
