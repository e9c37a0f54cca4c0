"""`ckd-trainer export-subnets` and `search`: plain models out of a dynamic run, and the best one for a budget."""

import json
import os
import re
import shutil

import pytest
import torch
import yaml
from helpers.files import WORDS, sentences, write_questions, write_tagged, write_tsv
from helpers.label_sets import write_label_sets
from helpers.rankings import write_rankings
from helpers.tiny import save_tokenizer, tiny_model
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run_glue_ckd
from ckd_trainer.cli import main
from ckd_trainer.commands import search
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.export import subnetworks
from ckd_trainer.export.candidates import Budget, Candidate, frontier, measure, weigh
from ckd_trainer.export.validation_texts import batches
from ckd_trainer.models.dynamic import DynamicModel
from ckd_trainer.models.extraction import extract
from ckd_trainer.models.subnetworks import SubNetwork
from ckd_trainer.tasks.question_answering import QuestionAnswering
from ckd_trainer.tasks.texts import text_task
from ckd_trainer.tasks.token_classification import TokenClassification
from ckd_trainer.utils.errors import InputError

QUICK = "--per_device_train_batch_size 8 --logging_steps 1 --report_to none --disable_tqdm true --max_steps 3"
QUICK = [*QUICK.split(), "--max_seq_length", "32", "--do_train", "--do_eval", "--learning_rate", "3e-3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a dynamic run and a plain one."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_model(width=32).save_pretrained(folder / "teacher")
    save_tokenizer(folder / "teacher")
    files = [
        word
        for name, count in (("train", 96), ("validation", 22))
        for word in (f"--{name}_file", str(write_tsv(folder / f"{name}.tsv", sentences(count))))
    ]
    start = ["--teacher_model_name_or_path", str(folder / "teacher"), "--student_init", "teacher_layers"]
    widths = ["--student_num_layers", "4", "--student_widths", "1.0,0.5", "--student_depths", "1.0,0.5"]
    run_glue_ckd.main([*files, *QUICK, *start, *widths, "--output_dir", str(folder / "dynamic")])
    run_glue_ckd.main([*files, *QUICK, *start, "--student_num_layers", "2", "--output_dir", str(folder / "plain")])
    return folder


def refused(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_runs_whose_folders_have_one_name_are_apart_in_the_picture(runs, tmp_path, monkeypatch):
    """As `ckd-trainer compare` writes them."""
    folders = [shutil.copytree(runs / "dynamic", tmp_path / name / "seed_1") for name in ("ckd", "gram")]
    shown = []
    monkeypatch.setattr(search, "draw_frontier", lambda points, *args, **kwargs: shown.extend(points))
    main(["search", *map(str, folders), "--metric", "accuracy", "--output", str(tmp_path / "new")])
    assert [(one.group, one.name) for one in shown] == [
        (str(folder), part) for folder in folders for part in ("w1_d1", "w1_d0.5", "w0.5_d1", "w0.5_d0.5")
    ]


def test_an_empty_run_is_refused(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs / "dynamic")
    assert "argument RUN_DIR: '' is not a path" in refused(capsys, "search", "")


@pytest.mark.parametrize("words", [["--widths", ","], ["--depths", ""], ["--output", ""]], ids=str)
def test_what_is_empty_is_refused(runs, tmp_path, monkeypatch, capsys, words):
    """As from a shell variable that is not set."""
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "export-subnets", runs / "dynamic", "--output", tmp_path / "new", *words)
    assert f"argument {words[0]}: {words[1]!r} is not a " in error
    assert not [*tmp_path.iterdir()]


def test_an_exported_model_gives_the_logits_of_its_slices(runs, tmp_path, capsys):
    main(
        [
            "export-subnets",
            str(runs / "dynamic"),
            "--widths",
            "0.5",
            "--depths",
            "0.5",
            "--output",
            str(tmp_path / "a"),
        ]
    )
    assert "15,906 parameters" in capsys.readouterr().out
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a").eval()
    whole = AutoModelForSequenceClassification.from_pretrained(runs / "dynamic").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "a")(["the cat sees", "a dog"], padding=True, return_tensors="pt")
    with DynamicModel(whole).running(SubNetwork(0.5, 0.5)), torch.no_grad():
        expected = whole(**batch).logits
    torch.testing.assert_close(exported(**batch).logits, expected, rtol=1e-5, atol=1e-5)
    assert exported.config.num_hidden_layers == 2 and exported.config.intermediate_size == 32
    assert "subnetworks" not in json.loads((tmp_path / "a" / "config.json").read_text())
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| 2 | 1 | 16 | 32 |" in card and "number in `config.json` is 1, with 32\ndimensions each" in card
    assert "width 0.5, depth 0.5" in card and 'from_pretrained("a")' in card and str(tmp_path) not in card
    assert pipeline("text-classification", str(tmp_path / "a"))("the cat")[0]["label"] in whole.config.label2id


@pytest.mark.parametrize("widths", [["1", "0.5"], ["1.0,0.5"], ["1.0,", "0.5,1"]], ids=str)
def test_several_are_exported_to_folders_of_their_own(runs, tmp_path, widths):
    main(["export-subnets", str(runs / "dynamic"), "--widths", *widths, "--depths", "0.5", "--output", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w0.5_d0.5", "w1_d0.5"]
    card = (tmp_path / "w1_d0.5" / "README.md").read_text()
    assert "| 2 | 2 | 16 | 64 |" in card and "padded" not in card


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["w0.5_d0.5", "w0.5_d1", "w1_d0.5", "w1_d1"]),
        (["--widths", "0.5"], ["w0.5_d0.5", "w0.5_d1"]),
        (["--depths", "0.5"], ["w0.5_d0.5", "w1_d0.5"]),
    ],
    ids=str,
)
def test_all_widths_and_depths_are_exported_by_default(runs, tmp_path, words, parts):
    main(["export-subnets", str(runs / "dynamic"), *words, "--output", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == parts


@pytest.mark.parametrize(
    "option",
    [{"output_hidden_states": True}, {"output_attentions": True}, {"return_dict": False}, {"dtype": "bfloat16"}],
    ids=str,
)
def test_a_student_with_another_config_is_exported(runs, tmp_path, option):
    student = shutil.copytree(runs / "dynamic", tmp_path / "student")
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | option))
    main(["export-subnets", str(student), "--widths", "0.5", "--depths", "1", "--output", str(tmp_path / "new")])
    assert (tmp_path / "new" / "model.safetensors").is_file()


@pytest.mark.parametrize("command", ["export-subnets", "search"])
def test_a_wrong_copy_is_a_bug_and_leaves_nothing(runs, tmp_path, monkeypatch, command):
    def wrong(model, part):
        plain = extract(model, part)
        if part == SubNetwork(0.5, 0.5):
            with torch.no_grad():
                plain.classifier.bias += 1e-3
        return plain

    monkeypatch.setattr(subnetworks, "extract", wrong)
    options = {"export-subnets": ["--widths", "1", "0.5", "--depths", "0.5"], "search": ["--metric", "accuracy"]}
    with pytest.raises(RuntimeError, match=r"w0\.5_d0\.5 .* its logits differ .* by 0\.001"):
        main([command, str(runs / "dynamic"), *options[command], "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [["export-subnets"], ["search", "--metric", "accuracy"]], ids=" ".join)
def test_adapters_are_refused_by_name(runs, tmp_path, capsys, command):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    error = refused(capsys, *command, tmp_path / "adapter", "--output", tmp_path / "new")
    assert "adapter holds an adapter (adapter_config.json" in error and "merge_and_unload()" in error


def test_what_cannot_be_exported_is_refused(runs, tmp_path, capsys):
    new = ["--output", tmp_path / "new"]
    error = refused(capsys, "export-subnets", runs / "dynamic", "--widths", "0.75", "--depths", "1", *new)
    assert "was not trained for width 0.75 with depth 1: its sub-networks, width x depth, are 1 x 1, 1 x 0.5" in error
    assert "holds no dynamic student" in refused(capsys, "export-subnets", runs / "plain", *new)
    error = refused(capsys, "export-subnets", runs / "dynamic", "--widths", "0.5;1", *new)
    assert "argument --widths: '0.5;1' is not a list of numbers" in error
    assert "is not a folder" in refused(capsys, "export-subnets", tmp_path / "nonesuch", *new)
    assert "already exists and is not empty" in refused(capsys, "export-subnets", runs / "dynamic", "--output", runs)
    assert not (tmp_path / "new").exists()


def test_search_lists_all_students_and_writes_the_best(runs, tmp_path, capsys):
    results = json.loads((runs / "dynamic" / "all_results.json").read_text())
    sizes = [runs / "dynamic", runs / "plain", "--metric", "accuracy", "--max_parameters", "20000", "--threads", "1"]
    main(["search", *map(str, sizes), "--output", str(tmp_path / "found")])
    found = json.loads((tmp_path / "found" / "search.json").read_text())
    students = {one["name"]: one for one in found["students"]}
    parts = ["w1_d1", "w1_d0.5", "w0.5_d1", "w0.5_d0.5"]
    assert list(students) == [*(f"dynamic {part}" for part in parts), "plain"]
    assert students["dynamic w1_d1"]["score"] == results["eval_accuracy"]
    assert students["dynamic w0.5_d1"]["score"] == results["eval_accuracy_w0.5_d1"]
    assert students["dynamic w1_d0.5"]["parameters"] == students["plain"]["parameters"]
    within = [one for one in students.values() if one["parameters"] <= 20000]
    assert 0 < len(within) < 5
    assert students[found["best"]]["score"] == max(one["score"] for one in within)
    assert all(one["latency_ms"] > 0 for one in students.values())
    assert any(one["frontier"] for one in students.values())
    table = (tmp_path / "found" / "search.md").read_text()
    assert table in capsys.readouterr().out and all(name in table for name in students)
    assert (tmp_path / "found" / "search.png").read_bytes().startswith(b"\x89PNG")
    if found["best"] != "plain":
        with safe_open(tmp_path / "found" / "model" / "model.safetensors", "pt") as file:
            count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
        assert count == students[found["best"]]["parameters"]


def test_a_budget_that_none_meets_is_refused_with_what_there_is(runs, tmp_path, capsys):
    words = [
        "search",
        runs / "dynamic",
        "--metric",
        "accuracy",
        "--max_size_mb",
        "0.001",
        "--output",
        tmp_path / "new",
    ]
    error = refused(capsys, *words)
    assert "no student is within the budget: max_size_mb is 0.001, but the smallest size is" in error
    assert "latency" not in error
    assert not (tmp_path / "new").exists()


def test_search_refuses_what_it_cannot_read(runs, tmp_path, capsys):
    new = ["--output", tmp_path / "new"]
    assert "no metric bleu" in refused(capsys, "search", runs / "dynamic", "--metric", "bleu", *new)
    assert "is not a folder" in refused(capsys, "search", tmp_path / "nonesuch", "--metric", "accuracy", *new)
    assert "teacher has no recipe.yaml" in refused(capsys, "search", runs / "teacher", "--metric", "accuracy", *new)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch_size", "0"], "batch_size is 0: give 1 or more"),
        (["--threads", "-1"], "threads is -1: give 1 or more"),
        (["--max_latency_ms", "-5"], "max_latency_ms is -5: give a number above 0"),
        (["--max_latency_ms", "nan"], "max_latency_ms is nan: give a number above 0"),
        (["--max_size_mb", "0"], "max_size_mb is 0: give a number above 0"),
        (["--max_parameters", "-1"], "max_parameters is -1: give a number above 0"),
        (["--min_score", "nan"], "min_score is nan: give a finite number"),
        (["--min_score=-inf"], "min_score is -inf: give a finite number"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(runs, tmp_path, capsys, words, message):
    words = [*words, "--metric", "accuracy", "--output", tmp_path / "new"]
    assert message in refused(capsys, "search", runs / "dynamic", *words)


@pytest.mark.parametrize("metric", ["loss", "eval_rmse", "mean_rmse", "rmse_w0.5_d0.5", "mean_loss", "perplexity"])
def test_metrics_of_which_less_is_better_are_refused(runs, tmp_path, capsys, metric):
    error = refused(capsys, "search", runs / "dynamic", "--metric", metric, "--output", tmp_path / "new")
    assert f"metric is {metric}, of which less is better" in error


@pytest.mark.parametrize("metric", ["mean_accuracy", "eval_mean_accuracy", "accuracy_w0.5_d0.5"])
def test_scores_of_other_than_one_student_are_refused(runs, tmp_path, capsys, metric):
    error = refused(capsys, "search", runs / "dynamic", "--metric", metric, "--output", tmp_path / "new")
    assert error == f"error: metric is {metric}, but each sub-network is listed with its own score: give accuracy.\n"


@pytest.fixture
def copied(runs, tmp_path):
    """Returns a function that copies the plain run and changes its recipe."""

    def copy(name, source="plain", **options):
        folder = shutil.copytree(runs / source, tmp_path / name)
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | options))
        return folder

    return copy


@pytest.fixture
def timed(monkeypatch):
    """A list that receives the batches of each model, instead of timing them."""
    found = []

    def measure(candidates, models, batches):
        found.extend(batches)
        for one in candidates:
            one.latency_ms = 1.0

    monkeypatch.setattr(search, "measure", measure)
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task_name": "sst2", "validation_file": None, "train_file": None},
            "task_name is not set in .*dynamic, but sst2 in .*other",
        ),
        ({"task_name": "squad", "text_column": "text"}, "task_name is not set in .*dynamic, but squad in .*other"),
        ({"validation_file": "b.tsv"}, r"validation_file is .*validation.tsv in .*dynamic, but b.tsv in .*other"),
        ({"multi_label": True}, "multi_label is False in .*dynamic, but True in .*other"),
        ({"max_eval_samples": 5}, "max_eval_samples is not set in .*dynamic, but 5 in .*other"),
    ],
)
def test_runs_with_other_data_are_refused(runs, copied, tmp_path, capsys, options, message):
    words = [runs / "dynamic", copied("other", **options), "--metric", "accuracy", "--output", tmp_path / "new"]
    assert re.search(message, refused(capsys, "search", *words))


def test_runs_that_read_other_rows_of_one_file_are_refused(runs, copied, tmp_path, capsys):
    path = copied("other") / "eval_contributions.safetensors"
    with safe_open(path, "numpy") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        examples = json.loads(file.metadata()["rows"])
    save_file(values, path, {"rows": json.dumps(dict.fromkeys(examples, "changed"))})
    words = [runs / "dynamic", tmp_path / "other", "--metric", "accuracy", "--output", tmp_path / "new"]
    assert "the validation set has changed between" in refused(capsys, "search", *words)


def test_each_student_gets_the_same_texts_in_its_own_tokens(runs, copied, tmp_path, timed):
    other = copied("other", validation_file=os.path.relpath(runs / "validation.tsv"))
    save_tokenizer(other, WORDS[::-1])
    main(["search", str(runs / "dynamic"), str(other), "--metric", "accuracy", "--output", str(tmp_path / "new")])
    texts = [
        [AutoTokenizer.from_pretrained(folder).batch_decode(batch["input_ids"]) for batch in batches]
        for folder, batches in ((runs / "dynamic", timed[0]), (other, timed[-1]))
    ]
    assert texts[0] == texts[1] and "[UNK]" not in str(texts)
    assert not torch.equal(timed[0][0]["input_ids"], timed[-1][0]["input_ids"])


@pytest.mark.parametrize(
    ("chosen", "metric"),
    [
        (None, "accuracy"),
        ("f1", "f1"),
        ("eval_f1", "f1"),
        ("mean_f1", "f1"),
        ("f1_w0.5_d0.5", "f1"),
        ("loss", "accuracy"),
        ("mean_loss", "accuracy"),
    ],
)
def test_the_metric_that_chose_the_checkpoint_is_the_default(copied, timed, monkeypatch, chosen, metric):
    """And the default output is beside the run."""
    folder = copied("other", "dynamic", metric_for_best_model=chosen)
    monkeypatch.chdir(folder)
    main(["search", ".", "--max_latency_ms", "5"])
    found = json.loads((folder.parent / "other-search" / "search.json").read_text())
    results = json.loads((folder / "all_results.json").read_text())
    assert found["metric"] == metric
    assert found["students"][-1]["score"] == results[f"eval_{metric}_w0.5_d0.5"]
    assert found["model"] == str(folder.parent / "other-search" / "model")


def test_the_default_output_must_be_new(runs, copied, timed, monkeypatch, capsys):
    folder = copied("other")
    monkeypatch.chdir(folder.parent)
    main(["search", "other/", str(runs / "dynamic")])
    assert "Written to other-search: search.json" in capsys.readouterr().out
    assert "output other-search already exists and is not empty" in refused(capsys, "search", "other")


@pytest.mark.parametrize("size", [1, 4, 40])  # 22 rows
def test_every_batch_has_the_size_that_was_asked_for(runs, tmp_path, timed, size):
    words = ["--metric", "accuracy", "--batch_size", str(size), "--output", str(tmp_path / "new")]
    main(["search", str(runs / "plain"), *words])
    assert [len(batch["input_ids"]) for batch in timed[0]] == [size] * 10


def test_an_ordinary_student_stays_where_it_is(runs, tmp_path):
    main(["search", str(runs / "plain"), "--metric", "accuracy", "--output", str(tmp_path / "new")])
    assert json.loads((tmp_path / "new" / "search.json").read_text())["model"] == str(runs / "plain")
    assert not (tmp_path / "new" / "model").exists()


def test_questions_have_batches_of_that_size_too(runs, tmp_path):
    arguments = SquadArguments(
        validation_file=str(write_questions(tmp_path / "questions.json", 6)),
        max_seq_length=12,
        max_question_length=4,
        doc_stride=2,
    )
    task = QuestionAnswering(arguments, seed=0)
    task.load(["validation"])
    found = batches(task, AutoTokenizer.from_pretrained(runs / "plain"), 9)
    assert [batch["input_ids"].shape for batch in found] == [(9, 12)] * 10
    assert not {"answer_mask", "start_positions"} & found[0].keys()


def test_entities_have_batches_of_that_size_too(runs, tmp_path):
    files = {f"{name}_file": str(write_tagged(tmp_path / f"{name}.conll", 6)) for name in ("train", "validation")}
    task = TokenClassification(NerArguments(**files, max_seq_length=8, doc_stride=2), seed=0)
    task.load(["validation"])
    found = batches(task, AutoTokenizer.from_pretrained(runs / "plain"), 9)
    assert [batch["input_ids"].shape for batch in found] == [(9, 8)] * 10
    assert not {"labels", "words"} & found[0].keys()


def test_files_of_the_training_may_be_gone(copied, tmp_path):
    gone = {f"{name}_file": f"gone_{name}.tsv" for name in ("train", "test", "unlabeled")}
    folder = copied("other", method_file="gone.py", own_weight=1.0, deepspeed="gone.json", **gone)
    main(["search", str(folder), "--metric", "accuracy", "--output", str(tmp_path / "new")])
    assert json.loads((tmp_path / "new" / "search.json").read_text())["best"] == "other"


def test_a_validation_set_that_is_gone_is_refused_with_the_recipe_that_names_it(copied, tmp_path, capsys):
    folder = copied("other", validation_file="gone.tsv")
    error = refused(capsys, "search", folder, "--metric", "accuracy", "--output", tmp_path / "new")
    assert f"{folder / 'recipe.yaml'}: gone.tsv is missing" in error


def tagged_rows(path, count):
    """Writes sentences with spans as JSON lines."""
    rows = [
        {"text": text, "spans": [{"start": text.index(label), "end": text.index(label) + len(label), "label": label}]}
        for text, label in sentences(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SETS = {
    "classes": ("tsv", lambda path, count: write_tsv(path, sentences(count)), text_task, GlueArguments, {}),
    "label sets": ("tsv", write_label_sets, text_task, GlueArguments, {"multi_label": True}),
    "rankings": (
        "tsv",
        write_rankings,
        text_task,
        GlueArguments,
        {"text_column": "query", "text_pair_column": "candidate", "group_column": "query_id"},
    ),
    "tokens": ("conll", write_tagged, TokenClassification, NerArguments, {"doc_stride": 2}),
    "spans": ("jsonl", tagged_rows, TokenClassification, NerArguments, {"doc_stride": 2}),
    "questions": (
        "json",
        write_questions,
        QuestionAnswering,
        SquadArguments,
        {"doc_stride": 2, "max_question_length": 4},
    ),
}


@pytest.mark.parametrize(
    ("kind", "named"),
    [(kind, named) for kind in SETS for named in (False, True) if not named or SETS[kind][0] in ("tsv", "jsonl")],
)
def test_texts_to_time_need_no_training_set(runs, tmp_path, kind, named):
    suffix, write, make_task, arguments, options = SETS[kind]
    files = {f"{name}_file": str(write(tmp_path / f"{name}.{suffix}", 12)) for name in ("train", "validation")}
    options = options | ({"dataset_name": str(tmp_path)} if named else files)
    tokenizer = AutoTokenizer.from_pretrained(runs / "plain")
    found = []
    for is_whole in (True, False):
        task = make_task(arguments(**options, max_seq_length=24, max_eval_samples=8), seed=0)
        if is_whole:
            task.load(["validation"])
        else:
            os.remove(files["train_file"])
            task.load_texts()
        found.append(batches(task, tokenizer, 4))
    for whole, alone in zip(*found, strict=True):
        assert whole.keys() == alone.keys()
        assert all(torch.equal(whole[name], alone[name]) for name in whole)


def test_language_models_are_refused_by_name(runs, copied, tmp_path, capsys):
    folder = copied("language_model", mlm_probability=0.15)
    error = refused(capsys, "search", runs / "dynamic", folder, "--metric", "accuracy", "--output", tmp_path / "new")
    assert f"{folder} is a run of ckd-trainer mlm" in error


def candidate(name, score, latency, parameters=10):
    return Candidate(name, None, None, score, parameters, 4e-5, latency)


STUDENTS = [
    candidate("slow", 0.9, 9.0, 30),
    candidate("middle", 0.8, 3.0, 20),
    candidate("fast", 0.7, 1.0),
    candidate("poor", 0.6, 2.0),
]


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (Budget(), "slow"),
        (Budget(max_latency_ms=3.0), "middle"),
        (Budget(max_latency_ms=2.9), "fast"),
        (Budget(max_parameters=20), "middle"),
        (Budget(min_score=0.75), "middle"),  # the fastest that is good enough
        (Budget(min_score=0.6), "fast"),
        (Budget(min_score=0.65, max_parameters=10), "fast"),
    ],
)
def test_the_best_within_a_budget(budget, name):
    assert budget.best(STUDENTS).name == name


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(min_score=95.0, max_latency_ms=3.0), r"min_score is 95.0, but the best score is 0.9000 \(slow\)\."),
        (Budget(max_parameters=9), r"max_parameters is 9, but the fewest parameters are 10 \(fast\)\."),
        (
            Budget(min_score=0.8, max_latency_ms=1.0),
            "all limits of the budget: min_score is 0.8, and .*; max_latency_ms is 1.0, and the lowest latency is 1",
        ),
    ],
)
def test_nothing_within_a_budget(budget, message):
    with pytest.raises(InputError, match=rf"no student is within .*{message}"):
        budget.best(STUDENTS)


def test_a_score_that_none_reaches_is_refused_before_anything_is_measured(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ckd_trainer.commands.search.load_dynamic", None)
    words = ["search", runs / "dynamic", "--metric", "accuracy", "--min_score", "95", "--output", tmp_path / "new"]
    assert "min_score is 95.0, but the best score is 0." in refused(capsys, *words)


def test_the_frontier_leaves_out_what_is_slower_and_no_better():
    assert [one.name for one in frontier(STUDENTS)] == ["fast", "middle", "slow"]
    assert [one.name for one in frontier([candidate("a", 0.5, 1.0), candidate("b", 0.6, 1.0)])] == ["b"]


def test_measured_costs_are_those_of_each_model():
    class Sleeps(torch.nn.Linear):
        def forward(self, x):
            torch.ones(4000, 10 * self.out_features).sum()
            return super().forward(x)

    found = [candidate("small", 0.5, 0.0), candidate("large", 0.5, 0.0)]
    models = [Sleeps(4, 1), Sleeps(4, 400)]
    weigh(found, models)
    measure(found, models, [[{"x": torch.ones(1, 4)}]] * 2)
    assert [one.parameters for one in found] == [5, 2000]
    assert found[0].size_mb == pytest.approx(20e-6)
    assert found[1].latency_ms > found[0].latency_ms > 0
