"""`ckd-trainer compare --search`: what is drawn, what is stopped, what is kept, and what is refused."""

import itertools
import json
import shutil
import sys

import pytest
import yaml
from helpers.files import PROJECT, sentences, write_tsv
from safetensors.torch import load_file
from transformers import SchedulerType

import run_glue_ckd
from ckd_trainer.commands import compare
from ckd_trainer.comparison import schedule
from ckd_trainer.comparison.plan import EVALUATIONS
from ckd_trainer.comparison.ranges import read_ranges
from ckd_trainer.comparison.schedule import Run, run_all
from ckd_trainer.comparison.search import Search
from ckd_trainer.utils.errors import InputError, TemporaryError

RANGES = """
learning_rate: {low: 2e-5, high: 2e-3, log: true}
temperature: [1, 2, 4]
wr_distance_weight: {low: 0.03, high: 1}
"""


@pytest.fixture
def ranges(tmp_path):
    path = tmp_path / "ranges.yaml"
    path.write_text(RANGES)
    return path


def search(recipe, ranges, output, *words, count=4, methods=("ckd",)):
    words = ["--search", str(count), "--ranges", str(ranges), "--output", str(output), "--max_steps", "8", *words]
    compare.main([str(recipe), "--methods", *methods, *words])
    return json.loads((output / "search.json").read_text())


def test_from_ranges_to_the_best_recipe(in_process, recipe, ranges, tmp_path, capsys):
    output = tmp_path / "out"
    found = search(recipe, ranges, output, count=3)
    said = capsys.readouterr().out
    trials = found["trials"]
    assert found["search"]["metric"] == "accuracy" and [trial["number"] for trial in trials] == [0, 1, 2]
    for trial in trials:
        assert 2e-5 <= trial["options"]["learning_rate"] <= 2e-3 and trial["options"]["temperature"] in (1, 2, 4)
        assert 0.03 <= trial["options"]["wr_distance_weight"] <= 1
        run = output / "runs" / f"trial_{trial['number']}" / "seed_7"
        record = yaml.safe_load((run / "recipe.yaml").read_text())
        assert all(record[name] == pytest.approx(value) for name, value in trial["options"].items())
        log = json.loads((run / "trainer_state.json").read_text())["log_history"]
        evaluated = [(entry["step"], entry["eval_accuracy"]) for entry in log if "eval_accuracy" in entry]
        assert [step for step, _ in evaluated[:4]] == [2, 4, 6, 8]  # each quarter
        assert trial["scores"] == {"1": evaluated[0][1], "2": evaluated[1][1]} and trial["state"] == "finished"
        assert trial["score"] == json.loads((run / "eval_results.json").read_text())["eval_accuracy"]
    assert not list(output.glob("runs/*/*/checkpoint-*"))
    assert (output / "search.md").read_text().strip() in said and said.count(": started") == 3

    best = yaml.safe_load((output / "best.yaml").read_text())
    trials.sort(key=lambda trial: -trial["score"])
    assert (trials[0]["options"] | EVALUATIONS | {"seed": 7}).items() <= best.items()
    run_glue_ckd.main([str(output / "best.yaml"), "--output_dir", str(tmp_path / "again")])
    ours = load_file(tmp_path / "again" / "model.safetensors")
    theirs = load_file(output / "runs" / f"trial_{trials[0]['number']}" / "seed_7" / "model.safetensors")
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_share_of_unlabeled_texts_that_the_recipe_leaves_to_its_default(in_process, recipe, tmp_path, capsys):
    path, texts = tmp_path / "ranges.yaml", write_tsv(tmp_path / "texts.tsv", sentences(16))
    path.write_text("unlabeled_share: [0.25, 0.5]\n")
    found = search(recipe, path, tmp_path / "out", "--unlabeled_file", str(texts), count=1)
    assert "Trial 0 is the recipe itself." in capsys.readouterr().out
    assert found["trials"][0]["options"] == {"unlabeled_share": 0.5}


def test_an_interrupted_search_ends_as_an_uninterrupted_one(in_process, recipe, ranges, tmp_path, monkeypatch, capsys):
    """Its second run is killed; the same command draws what it would have drawn."""
    whole = search(recipe, ranges, tmp_path / "whole", count=3)

    def killed(run, *others, start=schedule._start):
        if run.variant == "trial_1":
            raise KeyboardInterrupt
        return start(run, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(schedule, "_start", killed)
        search(recipe, ranges, tmp_path / "broken", count=3)
    capsys.readouterr()
    again = search(recipe, ranges, tmp_path / "broken", count=3)
    assert again == whole
    said = capsys.readouterr().out
    assert [line[: len("trial_2")] for line in said.splitlines() if ": started" in line] == ["trial_1", "trial_2"]
    longer = search(recipe, ranges, tmp_path / "broken", count=4)
    assert len(longer["trials"]) == 4 and longer["trials"][:3] == whole["trials"]


def test_a_trial_that_cannot_be_trained_has_failed_and_the_search_goes_on(in_process, recipe, tmp_path, capsys):
    ranges = tmp_path / "some.yaml"
    ranges.write_text("optim: [adamw_torch, adamw_bnb_8bit]\nmax_grad_norm: {low: 0.5, high: 1.0}\n")
    trials = search(recipe, ranges, tmp_path / "out", count=5)["trials"]
    failed = [trial["number"] for trial in trials if trial["state"] == "failed"]
    assert failed == [trial["number"] for trial in trials if trial["options"]["optim"] == "adamw_bnb_8bit"] != []
    assert capsys.readouterr().out.count("FAILED") == len(failed)
    assert search(recipe, ranges, tmp_path / "out", count=5)["trials"] == trials
    assert ": started" not in capsys.readouterr().out


def test_a_trial_that_crashes_is_tried_again(in_process, recipe, ranges, tmp_path, monkeypatch, capsys):
    def crashes(run, *others, start=schedule._start):
        if run.variant == "trial_1":
            process = start(run, *others)
            (run.folder / "eval_results.json").unlink()
            process.returncode = 1
            return process
        return start(run, *others)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(schedule, "_start", crashes)
        search(recipe, ranges, tmp_path / "out", count=2)
    assert stopped.value.code == 1 and "Failed: 1 of 2 runs. Run the same command to retry" in capsys.readouterr().err
    assert [one["state"] for one in json.loads((tmp_path / "out" / "search.json").read_text())["trials"]] == [
        "finished",
        "not finished",
    ]
    trials = search(recipe, ranges, tmp_path / "out", count=2)["trials"]
    assert [trial["state"] for trial in trials] == ["finished", "finished"]


def simulated(
    folder,
    ranges,
    score_of,
    *,
    check=lambda options: None,
    count=20,
    metric="accuracy",
    start=None,
    shared=None,
    seed=3,
    stops=None,
):
    """A search over runs whose score rises in a straight line to `score_of(options)` at the end of the training.

    `stops` raises an error when the search is asked for the time of that number.
    """
    folder.mkdir(exist_ok=True)
    drawn = {}

    def run_of(number, options):
        drawn[number] = options
        return Run(f"trial_{number}", 1, folder / f"trial_{number}", ())

    one = Search(
        folder,
        ranges,
        count=count,
        seed=seed,
        metric=metric,
        run_of=run_of,
        check=check,
        shared=shared or {},
        start=start or dict.fromkeys(ranges),
    )
    quarters = {}
    asked = itertools.count()

    def ask(question, run):
        answer = question(run)
        if next(asked) == stops:
            raise KeyboardInterrupt
        return answer

    for run in one:
        number = int(run.variant.removeprefix("trial_"))
        log = []
        for quarter in range(1, 5):
            log.append({f"eval_{metric}": score_of(drawn[number]) * quarter / 4, "step": 10 * quarter})
            write_state(run.folder / f"checkpoint-{quarter}", log)
            if ask(one.stop, run):
                break
        quarters[number] = quarter
        if quarter == 4:
            end(run.folder, {f"eval_{metric}": score_of(drawn[number])})
            ask(one.finished, run)
    one.tidy_up()
    return one, quarters


def options_of_search(count):
    options = {"count": count, "seed": 1, "metric": "f1", "shared": {}, "start": {"a": 0.5}}
    return options | {"check": lambda options: None}


def in_a_file(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return read_ranges(str(path), {}, {}, lambda options, source: None)


def write_state(folder, log, max_steps=40):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log, "max_steps": max_steps}))


def end(folder, scores):
    (folder / "eval_results.json").write_text(json.dumps(scores))
    (folder / "train_results.json").write_text("{}")


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("rmse", -1)])
def test_the_worse_half_is_stopped_twice_and_the_best_is_found(tmp_path, metric, sign):
    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}")
    one, quarters = simulated(tmp_path / "s", ranges, lambda options: 1 + sign * options["a"], metric=metric)
    assert len(quarters) == 20 and set(quarters.values()) == {1, 2, 4}
    # Half of those seen at each point go on. Later draws are better than the first, so that a few more may.
    assert 4 <= sum(quarter == 4 for quarter in quarters.values()) <= 14
    trials = one.ranking
    states = {trial.number: trial.state for trial in trials}
    assert states == {number: "finished" if quarter == 4 else "stopped" for number, quarter in quarters.items()}
    finished = [trial for trial in trials if trial.score is not None]
    assert trials[: len(finished)] == finished and trials[0].options["a"] == max(t.options["a"] for t in finished)
    assert trials[0].options["a"] > 0.9
    assert not list(tmp_path.glob("s/*/checkpoint-*"))


@pytest.mark.parametrize("moment", [0, 1, 2, 4, 5, 9, 14, 23])
def test_interrupted_after_any_decision_it_decides_and_draws_the_same(tmp_path, moment):
    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}\nb: [1, 2]")

    def score(options):
        return options["a"] * options["b"]

    whole, _ = simulated(tmp_path / "whole", ranges, score, count=12)
    with pytest.raises(KeyboardInterrupt):
        simulated(tmp_path / "broken", ranges, score, count=12, stops=moment)
    broken, _ = simulated(tmp_path / "broken", ranges, score, count=12)
    assert broken.trials == whole.trials
    assert (tmp_path / "broken" / "search.json").read_bytes() == (tmp_path / "whole" / "search.json").read_bytes()
    assert not list(tmp_path.glob("*/*/checkpoint-*"))


def test_other_seeds_draw_otherwise(tmp_path):
    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}")
    drawn = [
        trial.options["a"]
        for seed in range(4)
        for trial in simulated(tmp_path / str(seed), ranges, lambda options: options["a"], count=5, seed=seed)[
            0
        ].trials
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    ("start", "outside"),
    [
        ({"a": 0.25, "b": 2, "n": 4, "e": 3.0, "s": SchedulerType.LINEAR}, []),
        ({"a": 0.25, "b": 2, "n": 4.0, "e": 12, "s": "cosine"}, []),
        ({"a": 1, "b": 3, "n": 4, "e": 3.0, "s": "linear"}, ["b"]),
        ({"a": 1.25, "b": 2, "n": 4, "e": 3.0, "s": SchedulerType.POLYNOMIAL}, ["a", "s"]),
        ({"a": 0.25, "b": 2, "n": 4.5, "e": 3.0, "s": "linear"}, ["n"]),
        ({"a": None, "b": 2, "n": 4, "e": 3.0, "s": "linear"}, ["a"]),
    ],
)
def test_the_recipe_is_the_first_trial_if_its_values_lie_in_the_ranges(tmp_path, start, outside):
    """As optuna would have drawn it, so that it can be followed by other draws."""
    text = "a: {low: 0, high: 1.0}\nb: [2e-0, 1]\nn: {low: 1, high: 9}\ne: [3, 12]\ns: [linear, cosine]"
    one, _ = simulated(tmp_path / "s", in_a_file(tmp_path, text), lambda options: options["a"], count=3, start=start)
    first = one.trials[0].options
    assert one.outside == outside and (first == start) == (not outside) and len(one.trials) == 3
    assert {name: type(value) for name, value in first.items()} == {
        "a": float,
        "b": float,
        "n": int,
        "e": int,
        "s": str,
    }


def test_nothing_is_tried_twice(tmp_path):
    """All of a few draws are made, and the search ends."""
    one, _ = simulated(tmp_path / "s", in_a_file(tmp_path, "a: [1, 2, 3]\nb: [4, 5]"), lambda options: options["a"])
    assert sorted(tuple(trial.options.values()) for trial in one.trials) == [(a, b) for a in (1, 2, 3) for b in (4, 5)]
    assert one.count == 6


@pytest.mark.parametrize("text", ["a: [1, 2, 3]\nb: [4, 5, 6]\nc: [x, y, z]", "a: {low: 1, high: 9}\nb: [4, 5, 6]"])
@pytest.mark.parametrize("count", [20, 27])
def test_all_trials_are_made_while_there_are_untried_options(tmp_path, text, count):
    """Optuna alone would draw the best ones again and again."""
    one, _ = simulated(tmp_path / "s", in_a_file(tmp_path, text), lambda options: options["a"], count=count)
    assert len({tuple(trial.options.values()) for trial in one.trials}) == count


def test_untried_options_may_not_go_together_either(tmp_path):
    def check(options):
        if options["a"] == options["b"]:
            raise InputError("a is b")

    ranges = in_a_file(tmp_path, "a: {low: 1, high: 5}\nb: {low: 1, high: 5}")
    one, _ = simulated(tmp_path / "s", ranges, lambda options: options["a"], check=check, count=25)
    assert len({tuple(trial.options.values()) for trial in one.trials}) == one.count == 20


def test_draws_that_do_not_go_together_are_not_made(tmp_path):
    def check(options):
        if options["a"] % 2 == 0:
            raise InputError("a is even")

    ranges = in_a_file(tmp_path, "a: {low: 1, high: 31}")
    one, _ = simulated(tmp_path / "s", ranges, lambda options: options["a"], check=check, count=8)
    assert len(one.trials) == 8 and all(trial.options["a"] % 2 for trial in one.trials)
    with pytest.raises(InputError, match="a is even"):
        simulated(tmp_path / "t", in_a_file(tmp_path, "a: [2, 4]"), lambda options: 1, check=check)


def test_the_first_trial_is_never_stopped(tmp_path):
    """It is what the others are measured by. Here, a second one has begun at the same time and is better."""
    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}")
    options = options_of_search(count=2)
    one = Search(tmp_path, ranges, run_of=lambda number, _: Run(str(number), 1, tmp_path / str(number), ()), **options)
    runs = list(one)
    for run, score in zip(reversed(runs), (0.9, 0.1), strict=True):
        write_state(run.folder / "checkpoint-1", [{"eval_f1": score, "step": 10}])
        assert one.stop(run) is None


def test_another_search_in_the_same_folder_is_refused(tmp_path):
    one, two = (in_a_file(tmp_path, f"a: {{low: 0, high: {high}}}") for high in (1.0, 2.0))
    simulated(tmp_path / "s", one, lambda options: options["a"], count=2)
    for changes in ({"ranges": two}, {"shared": {"alpha": 1}}, {"seed": 4}, {"metric": "f1"}):
        options = {"ranges": one, "score_of": lambda options: options["a"]} | changes
        with pytest.raises(InputError, match="holds a search with other options"):
            simulated(tmp_path / "s", count=2, **options)


def test_a_finished_run_whose_folder_was_deleted_is_run_again(tmp_path):
    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}")
    one, _ = simulated(tmp_path / "s", ranges, lambda options: options["a"], count=3)
    shutil.rmtree(tmp_path / "s" / "trial_0")
    two, quarters = simulated(tmp_path / "s", ranges, lambda options: options["a"], count=3)
    assert set(quarters) == {0} and two.trials == one.trials


def test_scores_are_those_of_quarters_of_the_steps(tmp_path):
    """Whatever else the run has evaluated, and while a checkpoint is being written."""
    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}")
    run = Run("trial_0", 1, tmp_path / "trial_0", ())
    options = options_of_search(count=1)
    one = Search(tmp_path, ranges, run_of=lambda *_: run, **options)
    assert next(one) is run and one.stop(run) is None
    (run.folder / "checkpoint-1").mkdir(parents=True)
    (run.folder / "checkpoint-1" / "trainer_state.json").write_text('{"log_history": [{"eval_f1"')
    assert one.stop(run) is None and one.trials[0].scores == {}
    log = [{"eval_f1": 0.1, "step": 0}, {"loss": 2, "step": 25}, {"eval_f1": 0.5, "step": 25}]
    write_state(run.folder / "checkpoint-1", log, max_steps=99)
    assert one.stop(run) is None and one.trials[0].scores == {1: 0.5}
    write_state(run.folder / "checkpoint-2", [*log, {"eval_f1": 0.6, "step": 50}], max_steps=99)
    shutil.rmtree(run.folder / "checkpoint-1")
    assert one.stop(run) is None and one.trials[0].scores == {1: 0.5, 2: 0.6}


def test_a_score_that_is_not_a_number_ends_its_trial(tmp_path, recwarn):
    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}")
    one, _ = simulated(tmp_path / "s", ranges, lambda options: float("nan"), count=3)
    assert all((trial.state, trial.score, trial.scores) == ("finished", None, {}) for trial in one.trials)
    assert json.loads((tmp_path / "s" / "search.json").read_text())["trials"][0]["score"] is None and not recwarn


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_are_stopped(tmp_path, jobs):
    """The first finishes; those after it are worse after a quarter, and would wait for a minute."""
    script = """
import json, pathlib, sys, time
folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(folder / "checkpoint-1").mkdir(parents=True, exist_ok=True)
state = {"log_history": [{"eval_f1": 1 / (1 + number), "step": 1}], "max_steps": 4}
(folder / "checkpoint-1" / "trainer_state.json").write_text(json.dumps(state))
if number:
    time.sleep(60)
(folder / "eval_results.json").write_text('{"eval_f1": 1}')
(folder / "train_results.json").write_text("{}")
"""

    def run_of(number, options):
        folder = tmp_path / str(number)
        return Run(f"trial_{number}", 1, folder, (sys.executable, "-c", script, str(folder), str(number)))

    ranges, lines = in_a_file(tmp_path, "a: {low: 0, high: 1.0}"), []
    options = options_of_search(count=3)
    one = Search(tmp_path, ranges, run_of=run_of, **options)
    assert run_all(one, jobs=jobs, devices=[], report=lines.append, stop=one.stop, finished=one.finished) == {}
    assert [trial.state for trial in one.trials] == ["finished", "stopped", "stopped"]
    assert any("(f1 0.5000 after a quarter of its training)" in line for line in lines)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_stops_the_search_and_uses_up_no_trial(tmp_path, jobs):
    """The same command goes on once there is room."""
    script = """
import pathlib, sys
from ckd_trainer.utils.errors import InputError, command_line
from ckd_trainer.utils.files import told_without_room
folder = pathlib.Path(sys.argv[1])
@command_line
def main(argv):
    with told_without_room(folder, "output_dir", "the beginning"):
        if not (folder.parent / "room").exists():
            raise OSError(28, "No space left on device", str(folder / "x"))
        if folder.name == "1":
            raise InputError("it diverged")
    folder.mkdir()
    (folder / "eval_results.json").write_text('{"eval_f1": 1}')
    (folder / "train_results.json").write_text("{}")
main()
"""

    def run_of(number, options):
        folder = tmp_path / str(number)
        return Run(f"trial_{number}", 1, folder, (sys.executable, "-c", script, str(folder)))

    def run():
        one = Search(tmp_path, ranges, run_of=run_of, **options_of_search(count=3))
        hooks = {"stop": one.stop, "finished": one.finished, "refused": one.refused, "unavailable": one.unavailable}
        return run_all(one, jobs=jobs, devices=[], report=lambda line: None, **hooks), one

    ranges = in_a_file(tmp_path, "a: {low: 0, high: 1.0}")
    with pytest.raises(TemporaryError, match=r"stopped at trial_\d: output_dir .* cannot be written \(No space left"):
        run()
    trials = json.loads((tmp_path / "search.json").read_text())["trials"]
    assert 1 <= len(trials) <= jobs and {trial["state"] for trial in trials} == {"not finished"}
    (tmp_path / "room").touch()
    failed, one = run()
    assert failed == {} and [trial.state for trial in one.trials] == ["finished", "failed", "finished"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: [1, 2]", "learning_rat is not a known option: did you mean learning_rate"),
        ("learning_rate: 3e-5", "learning_rate is '3e-5': give a list of two values or more"),
        ("learning_rate: [3e-5]", "give a list of two values or more"),
        ("learning_rate: {low: 0, high: .inf}", "give a list of two values or more"),
        ("learning_rate: [3e-5, 0.00003]", "which holds a value twice"),
        ("validation_file: [a.tsv, b.tsv]", "varies validation_file, which must be the same in all trials"),
        ("data_seed: [1, 2]", "varies data_seed, which must be the same in all trials"),
        ("hub_token: [a, b]", "varies hub_token, which must be the same in all trials"),
        ("eval_delay: [1, 2]", "varies eval_delay, which must be the same in all trials"),
        ("tinybert_hidden_weight: [0.0, 0.3]", "varies tinybert_hidden_weight, which ckd does not use"),
        ("learning_rate: {low: 1e-5}", "give a list of two values or more"),
        ("learning_rate: {low: 1e-5, high: 1e-3, step: 2}", "give a list of two values or more"),
        ("learning_rate: {low: 1e-3, high: 1e-5}", "low must be below high"),
        ("learning_rate: {low: 0, high: 1e-3, log: true}", "low must be below high, and above 0 for log"),
        ("learning_rate: {low: small, high: 1e-3}", "learning_rate"),
        ("learning_rate: {low: 1e-5, high: 1e-3, log: 3}", "give a list of two values or more"),
        ("temperature: [1, 1]", "which holds a value twice"),
        ("temperature: [1, hot]", "temperature"),
        ("temperature: [1, 0]", "temperature"),
        ("num_train_epochs: [1, 2]\nmax_steps: [1, 2]", "varies num_train_epochs, but max_steps would win"),
        ("num_train_epochs: [1, 2]", "varies num_train_epochs, but max_steps would win"),
        ("seed: [1, 2]", "varies seed, which must be the same"),
        ("eval_steps: [1, 2]", "varies eval_steps, which must be the same"),
        ("student_num_layers: [2, 9]", "student_num_layers is 9, but the teacher has only 4"),
        ("max_grad_norm: {low: -1.0, high: 1.0}", "max_grad_norm is -1.0: give a number that is not negative"),
        ("{}", "has no ranges"),
        ("- a", "is not a recipe"),
    ],
)
def test_wrong_ranges_are_refused_before_anything_is_trained(in_process, recipe, tmp_path, capsys, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        search(recipe, path, tmp_path / "out")
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    assert message in capsys.readouterr().err


def test_a_range_that_leaves_no_loss_is_refused(in_process, recipe, tmp_path, capsys):
    others = dict.fromkeys(("wr_angle_weight", "ltr_distance_weight", "ltr_angle_weight"), 0)
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | others | {"labels_and_logits": False}))
    test_wrong_ranges_are_refused_before_anything_is_trained(
        None, recipe, tmp_path, capsys, "wr_distance_weight: [0, 0.3]", "no loss to train with"
    )


@pytest.mark.parametrize(
    ("words", "methods", "message"),
    [
        (["--baseline", "ckd"], ["ckd"], "baseline is given, but a search compares no methods"),
        (["--seeds", "1", "2"], ["ckd"], "a search trains with one seed"),
        ([], ["ckd", "logits"], "search improves one method of one student, but 'ckd', 'logits' are given"),
        (["--students", "2x32", "4x32"], ["ckd"], "'2x32 ckd', '4x32 ckd' are given"),
        (["--train_file", "none.tsv"], ["ckd"], "none.tsv is missing"),
        ([], ["pkd"], "varies wr_distance_weight, which pkd does not use"),
        ([], ["fine_tuned"], "which fine_tuned does not use"),
        (["--eval_steps", "3"], ["ckd"], "the command line sets 'eval_steps', which the search sets"),
        (["--metric", "mismatched_accuracy"], ["ckd"], "metric is mismatched_accuracy, which cannot be compared"),
    ],
)
def test_options_that_do_not_fit_a_search(in_process, recipe, ranges, tmp_path, capsys, words, methods, message):
    with pytest.raises(SystemExit) as stopped:
        search(recipe, ranges, tmp_path / "out", *words, methods=methods)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_what_a_cache_cannot_hold_is_searched_without_one(in_process, recipe, tmp_path, capsys):
    """As the message says, on the command line and in a recipe."""
    ranges, variant = tmp_path / "ranges.yaml", tmp_path / "variant.yaml"
    ranges.write_text("tinybert_hidden_weight: [0.0, 0.3]\n")
    variant.write_text("mine: {method: ckd}\n")
    with pytest.raises(SystemExit):
        search(recipe, ranges, tmp_path / "out", methods=[str(variant)])
    assert "set teacher_cache_dir to null in the recipe (None on the command line)" in capsys.readouterr().err
    found = search(recipe, ranges, tmp_path / "1", "--teacher_cache_dir", "None", count=2, methods=[str(variant)])
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"]
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"teacher_cache_dir": None}))
    assert search(recipe, ranges, tmp_path / "2", count=2, methods=[str(variant)])["trials"] == found["trials"]
    for folder in (tmp_path / "1", tmp_path / "2"):
        records = [yaml.safe_load(path.read_text()) for path in folder.glob("runs/*/*/recipe.yaml")]
        assert [record["teacher_cache_dir"] for record in records] == [None, None]
    assert not list(tmp_path.rglob("teacher_cache"))


def test_the_ranges_that_come_with_the_recipes(in_process, recipe, tmp_path):
    """With a recipe that counts epochs; a single trial, the recipe itself where nothing else is given."""
    options = yaml.safe_load(recipe.read_text()) | {"num_train_epochs": 3}
    del options["max_steps"]
    recipe.write_text(yaml.safe_dump(options))
    words = ["--search", "1", "--ranges", str(PROJECT / "recipes" / "search.yaml"), "--output", str(tmp_path / "out")]
    compare.main([str(recipe), "--methods", "ckd", *words])
    (trial,) = json.loads((tmp_path / "out" / "search.json").read_text())["trials"]
    ranges = yaml.safe_load((PROJECT / "recipes" / "search.yaml").read_text())
    assert trial["options"].keys() == ranges.keys() and trial["state"] == "finished"


@pytest.mark.parametrize("words", [["--search", "3"], ["--ranges", "r.yaml"]])
def test_search_and_ranges_go_together(recipe, tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        compare.main([str(recipe), "--methods", "ckd", "--output", str(tmp_path / "out"), *words])
    assert "search and ranges go together" in capsys.readouterr().err


def test_without_optuna(recipe, ranges, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        search(recipe, ranges, tmp_path / "out")
    assert stopped.value.code == 2 and "pip install 'ckd-trainer[search]'" in capsys.readouterr().err
