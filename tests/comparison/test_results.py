"""The result of a comparison, read from made-up run folders."""

import dataclasses
import json

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from safetensors.numpy import save_file

from ckd_trainer.comparison.formats import as_json, as_table
from ckd_trainer.comparison.picture import draw_comparison
from ckd_trainer.comparison.results import check_same_examples, check_same_inputs, contributions_of, read_comparison
from ckd_trainer.comparison.schedule import Run
from ckd_trainer.comparison.variants import Variant
from ckd_trainer.reports.statistics import MethodScores, compare_with_baseline, holm
from ckd_trainer.utils.errors import InputError

EXAMPLES = 200


def outcomes(seed, share):
    """Returns which examples a made-up model gets right; models with a higher share get the same ones and more."""
    difficulty = np.random.default_rng(0).random(EXAMPLES)
    return (difficulty + 0.05 * np.random.default_rng(seed).standard_normal(EXAMPLES) < share).astype(float)


def finish(run, share, teacher, *, inputs=None, with_examples=True, examples="the same", **options):
    """Writes the files of a finished run."""
    run.folder.mkdir(parents=True)
    right = outcomes(run.seed, share)
    results = {"eval_accuracy": right.mean(), "eval_samples": EXAMPLES, "parameters": 1000, "model_size_mb": 0.5}
    results |= {"latency_ms": 1.0 + run.seed, "train_runtime": 60.0}
    for name in ("all", "train", "eval"):
        (run.folder / f"{name}_results.json").write_text(json.dumps(results))
    recipe = {"teacher_model_name_or_path": str(teacher), "train_file": "train.tsv"} | options
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    record = {"inputs": inputs or {"train_file": {"a": "1"}}, "device": "cpu", "commit": "abc"}
    (run.folder / "run.json").write_text(json.dumps(record))
    if with_examples:
        write_examples(run.folder, right, examples)
    return run


def write_examples(folder, values, examples):
    metadata = {"rows": json.dumps({"eval_accuracy": examples})}
    save_file({"eval_accuracy": values}, folder / "eval_contributions.safetensors", metadata)


@pytest.fixture
def teacher(tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    results = {"eval_accuracy": 0.95, "eval_samples": EXAMPLES, "parameters": 4000, "train_runtime": 9.0}
    (folder / "all_results.json").write_text(json.dumps(results))
    write_examples(folder, np.ones(EXAMPLES), "the same")
    return folder


def make(folder, shares, teacher, seeds=(1, 2, 3), student=None, **kwargs):
    """Returns variants and finished runs with these shares of right answers."""
    variants = [Variant(method, student, {"teacher_model_name_or_path": str(teacher)}) for method in shares]
    runs = [
        finish(Run(one.name, seed, folder / one.place / f"seed_{seed}", ()), shares[one.method], teacher, **kwargs)
        for one in variants
        for seed in seeds
    ]
    return variants, runs


def read(variants, runs, **kwargs):
    return read_comparison(variants, runs, **{"metric": "accuracy", "baseline": "plain", "failed": {}} | kwargs)


def test_scores_differences_and_costs(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "same": 0.7, "better": 0.9}, teacher)
    found = read(variants, runs)
    by_hand = {
        name: MethodScores.from_outcomes(name, {seed: outcomes(seed, share) for seed in (1, 2, 3)})
        for name, share in (("plain", 0.7), ("same", 0.7), ("better", 0.9))
    }
    expected = compare_with_baseline([by_hand["same"], by_hand["better"]], by_hand["plain"])
    assert [row.difference for row in found.rows] == [None, *expected]
    assert [row.variant.method for row in found.rows] == ["plain", "same", "better"]  # as given, not ranked
    assert expected[0].verdict == "no difference shown" and expected[1].verdict == "higher"
    assert found.rows[2].kept == pytest.approx(by_hand["better"].mean / 0.95)
    assert found.rows[0].costs == {
        "parameters": 1000,
        "model_size_mb": 0.5,
        "latency_ms": 3.0,  # the median of 2, 3 and 4
        "train_runtime": 60.0,
    }


def test_table_and_json_hold_the_same(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher)
    found = read(variants, runs)
    lines = as_table(found).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1
    head, _, teacher_line, plain, better = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert head[:3] == ["method", "accuracy", "difference to plain"]
    assert teacher_line[:2] == ["teacher", "0.9500"] and teacher_line[6:] == ["4,000", "", "", "9 s"]
    assert plain[2:5] == ["", "", ""] and plain[6:] == ["1,000", "0.5 MB", "3.00 ms", "1 min 0 s"]
    content = json.loads(json.dumps(as_json(found), allow_nan=False))
    row = content["methods"][1]
    assert better[1] == f"{row['mean']:.4f} ± {row['std']:.4f}"
    assert better[2].startswith(f"{row['difference']['difference']:+.4f} [{row['difference']['low']:+.4f}, ")
    assert better[4] == row["difference"]["verdict"] == "higher"
    assert row["scores"].keys() == {"1", "2", "3"} and row["examples"] == EXAMPLES
    assert "confidence intervals over seeds and examples" in found.notes[0] and content["notes"] == found.notes
    assert (
        found.notes[1] == "200 validation examples (or groups of them, see docs/compare.md)." and not found.notes[2:]
    )


def test_students_are_compared_with_their_own_baseline_and_corrected_together(tmp_path, teacher):
    small, small_runs = make(tmp_path / "runs", {"plain": 0.5, "better": 0.56}, teacher, student="2x32")
    large, large_runs = make(tmp_path / "runs", {"plain": 0.8, "better": 0.86}, teacher, student="4x32")
    found = read(small + large, small_runs + large_runs)
    differences = [row.difference for row in found.rows if row.difference]
    assert [difference.baseline for difference in differences] == ["plain", "plain"]
    corrected = [difference.corrected_p_value for difference in differences]
    assert corrected == list(holm([difference.p_value for difference in differences]))
    assert max(corrected) > max(difference.p_value for difference in differences) * 0.999


def test_runs_without_examples_count_seeds_alone(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher, with_examples=False)
    assert read(variants, runs).rows[1].difference.counted == "seeds"


def test_one_seed_is_said(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher, seeds=[5])
    found = read(variants, runs)
    assert found.rows[1].difference.verdict == "higher for these runs alone"
    assert any("says nothing about other seeds" in line for line in found.notes)
    assert as_json(found)["methods"][1]["std"] is None and "±" not in as_table(found)


def test_failed_runs_are_left_out_and_told(tmp_path, teacher):
    """The others are compared over the seeds that are left."""
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher)
    (runs[-1].folder / "eval_results.json").unlink()
    lost = [Variant("lost", None, {})]
    runs.append(Run("lost", 1, tmp_path / "runs" / "lost" / "seed_1", ()))
    found = read(variants + lost, runs, failed={runs[-2]: "error: no room", runs[-1]: "killed by SIGKILL"})
    assert [row.scores.seeds for row in found.rows] == [(1, 2, 3), (1, 2)]
    by_hand = [
        MethodScores.from_outcomes(name, {seed: outcomes(seed, share) for seed in (1, 2)})
        for name, share in (("better", 0.9), ("plain", 0.7))
    ]
    assert found.rows[1].difference == compare_with_baseline(by_hand[:1], by_hand[1])[0]
    assert (
        found.failed
        == as_json(found)["failed"]
        == {
            "better, seed 3": "error: no room",
            "lost, seed 1": "killed by SIGKILL",
        }
    )
    assert "better has 2 of 3 seeds and is compared on these." in found.notes
    assert "lost has no finished run." in found.notes


def test_a_difference_over_fewer_seeds_than_either_has_is_told(tmp_path, teacher):
    """Both have two seeds, but only one of them is the same."""
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher)
    for run in (runs[2], runs[3]):  # plain has seeds 1 and 2, better 2 and 3
        (run.folder / "eval_results.json").unlink()
    found = read(variants, runs, failed=dict.fromkeys((runs[2], runs[3]), "error"))
    assert [row.scores.seeds for row in found.rows] == [(1, 2), (2, 3)]
    assert found.rows[1].difference.counted == "examples"
    note = "better and plain are compared on the seeds that both have: 2."
    assert note in found.notes and not any("of 2 seeds" in line for line in found.notes)
    third, more = make(tmp_path / "runs", {"third": 0.8}, teacher)
    found = read(variants + third, runs + more, failed=dict.fromkeys((runs[2], runs[3]), "error"))
    assert note in found.notes and "better has 2 of 3 seeds and is compared on these." not in found.notes
    assert "plain has 2 of 3 seeds and is compared on these." in found.notes


def test_without_a_seed_in_common_there_is_no_difference_and_a_note(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher, seeds=[1, 2])
    for run in (runs[1], runs[2]):  # plain has seed 1, better 2
        (run.folder / "eval_results.json").unlink()
    found = read(variants, runs, failed=dict.fromkeys((runs[1], runs[2]), "error"))
    assert [row.scores.seeds for row in found.rows] == [(1,), (2,)]
    assert found.rows[1].difference is None
    assert "better and plain have no seed in common, so they are not compared." in found.notes


def test_without_a_baseline_the_scores_are_shown(tmp_path, teacher):
    """Those of the other student are compared all the same."""
    small, small_runs = make(tmp_path / "runs", {"plain": 0.5, "better": 0.56}, teacher, student="2x32")
    large, large_runs = make(tmp_path / "runs", {"plain": 0.8, "better": 0.86}, teacher, student="4x32")
    for run in large_runs[:3]:
        (run.folder / "eval_results.json").unlink()
    found = read(small + large, small_runs + large_runs, failed=dict.fromkeys(large_runs[:3], "error"))
    assert [row.variant.name for row in found.rows] == ["2x32 plain", "2x32 better", "4x32 better"]
    assert [row.difference is None for row in found.rows] == [True, False, True]
    assert "4x32 plain has no finished run." in found.notes


def test_without_any_run_there_is_nothing_to_compare(tmp_path, teacher):
    with pytest.raises(InputError, match="no run has finished"):
        read([Variant("plain", None, {})], [Run("plain", 1, tmp_path / "nothing", ())])


def test_runs_that_read_other_data_are_not_compared(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7}, teacher)
    others, more = make(tmp_path / "runs", {"better": 0.7}, teacher, inputs={"train_file": {"a": "2"}})
    message = "plain, seed 1 and better, seed 1 were trained with different contents of train_file"
    with pytest.raises(InputError, match=message):
        read(variants + others, runs + more)
    with pytest.raises(InputError, match=message):
        check_same_inputs(runs + more)


@pytest.mark.parametrize("option", ["train_split_name", "text_column", "dataset_config_name", "max_train_samples"])
def test_variants_may_choose_other_rows_and_columns_of_a_data_set(tmp_path, teacher, option):
    named = {"dataset_name": "reviews"}
    variants, runs = make(tmp_path / "runs", {"plain": 0.7}, teacher, inputs={"dataset_name": {"rows": "1"}}, **named)
    other = {"inputs": {"dataset_name": {"rows": "2"}}, option: "other", **named}
    others, more = make(tmp_path / "runs", {"better": 0.7}, teacher, **other)
    assert len(read(variants + others, runs + more).rows) == 2


def test_variants_may_read_other_data_on_purpose(tmp_path, teacher):
    """And a run that reads only the teacher's configuration records less of it."""
    inputs = {"train_file": {"a": "1"}, "teacher_model_name_or_path": {"config.json": "1"}}
    variants, runs = make(tmp_path / "runs", {"plain": 0.7}, teacher, inputs=inputs)
    whole = {"teacher_model_name_or_path": {"config.json": "1", "model.safetensors": "2"}, "train_file": {"a": "2"}}
    others, more = make(tmp_path / "runs", {"better": 0.7}, teacher, inputs=whole, train_file="more.tsv")
    assert len(read(variants + others, runs + more).rows) == 2
    changed = whole | {"teacher_model_name_or_path": {"config.json": "1", "model.safetensors": "3"}}
    third, again = make(tmp_path / "runs", {"third": 0.7}, teacher, inputs=changed, train_file="more.tsv")
    with pytest.raises(InputError, match="different contents of teacher_model_name_or_path"):
        read(variants + others + third, runs + more + again)


def test_other_validation_examples_are_not_paired(tmp_path, teacher):
    """As many as before, but in another order or with other labels. The folders to delete are told in full."""
    folder = tmp_path / ("deep" * 20)
    variants, runs = make(folder, {"plain": 0.7}, teacher)
    others, more = make(folder, {"better": 0.7}, teacher, examples="others")
    with pytest.raises(InputError, match="different validation examples") as refused:
        read(variants + others, more + runs)
    assert all(str(run.folder) in str(refused.value) for run in runs)  # the older ones
    assert not any(str(run.folder) in str(refused.value) for run in more)
    check_same_examples(more, "accuracy", "others")
    with pytest.raises(InputError, match="delete the folders of the older runs"):
        check_same_examples(more, "accuracy", "the same")


def test_runs_of_other_code_are_told(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.7}, teacher)
    (runs[0].folder / "run.json").write_text(json.dumps({"inputs": {}, "device": "cuda:0", "commit": "abc"}))
    assert read(variants, runs).notes[-1] == "The runs differ in device: see their run.json."


def test_an_infinite_interval_is_null_in_json(tmp_path, teacher):
    """Every example of one method is one better than that of the other, with each seed: no spread to estimate from."""
    variants, runs = make(tmp_path / "runs", {"plain": 0.0, "better": 0.7}, teacher)
    for run in runs:
        write_examples(run.folder, np.full(EXAMPLES, float(run.variant == "better")), "the same")
    difference = as_json(read(variants, runs))["methods"][1]["difference"]
    assert difference["low"] is None and difference["difference"] == 1.0
    json.dumps(as_json(read(variants, runs)), allow_nan=False)


def test_a_teacher_on_other_examples_is_no_measure(tmp_path, teacher):
    write_examples(teacher, np.ones(EXAMPLES), "others")
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher)
    found = read(variants, runs)
    assert found.teacher is None and found.rows[0].kept is None and "teacher" not in as_table(found)
    note = "The folder of the teacher has no score on these validation examples."
    assert found.notes[-1] == note
    without = [dataclasses.replace(variant, recipe={}) for variant in variants]
    assert note not in read(without, runs).notes  # there is no teacher


def test_contributions_of_an_earlier_version_are_not_paired(tmp_path, teacher):
    """They are in the order of the texts' lengths, which differs between tokenizers."""
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher)
    metadata = {"examples": json.dumps({"eval_accuracy": "the same"})}
    save_file({"eval_accuracy": np.ones(EXAMPLES)}, runs[0].folder / "eval_contributions.safetensors", metadata)
    assert contributions_of(runs[0].folder, "accuracy") == (None, None)
    with pytest.raises(InputError, match="delete the folders of the older runs"):
        read(variants, runs)


def test_damaged_examples(tmp_path, teacher):
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher, seeds=[1])
    (runs[0].folder / "eval_contributions.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="eval_contributions.safetensors is damaged"):
        read(variants, runs)


def test_picture(tmp_path, teacher):
    """An infinite interval (two seeds that agree to the last digit) is drawn as a point."""
    variants, runs = make(tmp_path / "runs", {"plain": 0.7, "better": 0.9}, teacher)
    draw_comparison(read(variants, runs), tmp_path / "one.png")
    variants, runs = make(tmp_path / "more", dict.fromkeys(["plain", *map(str, range(12))], 0.8), teacher)
    draw_comparison(read(variants, runs), tmp_path / "many.png")
    small, large = (imread(tmp_path / name) for name in ("one.png", "many.png"))
    assert small.std() > 0.05 and large.shape[0] > small.shape[0] and large.shape[1] == small.shape[1]
