"""The SQuAD metrics, against values worked out by hand and thresholds tried one by one."""

import pytest
import torch

from ckd_trainer.data.squad_files import read_questions
from ckd_trainer.metrics.squad import SquadMetric, normalize_answer


def score(config_name, predictions, references):
    metric = SquadMetric(config_name=config_name, keep_in_memory=True)
    return metric.compute(predictions=predictions, references=references)


def references_of(golds):
    return [
        {"id": name, "answers": {"text": list(texts), "answer_start": [0] * len(texts)}}
        for name, texts in golds.items()
    ]


def v1(predictions, golds):
    """Version 1.1: predicted text by id, lists of gold answers by id."""
    rows = [{"id": name, "prediction_text": text} for name, text in predictions.items()]
    return score("squad", rows, references_of(golds))


def v2(predictions, golds):
    """Version 2.0: (predicted text, no-answer probability) by id, lists of gold answers by id."""
    rows = [
        {"id": name, "prediction_text": text, "no_answer_probability": probability}
        for name, (text, probability) in predictions.items()
    ]
    return score("squad_v2", rows, references_of(golds))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Queen's palace!", "queens palace"),
        ("an apple\tand\na pear", "apple and pear"),
        ("A.", ""),  # the full stop goes first, then the article
        ("U.S.A.", "usa"),
        ("the-man", "theman"),  # the hyphen goes first, then there is no article
        ("theatre banana", "theatre banana"),
        ("“The” cat", "“ ” cat"),  # only ASCII punctuation goes; these quotes end a word
        ("24–10", "24–10"),
        ("$5,000", "5000"),
        (" \u00a0x\u2003y ", "x y"),
        ("", ""),
    ],
)
def test_answers_are_normalized(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Denver Broncos.", ["denver broncos"], 100, 100),
        ("Broncos Denver", ["Denver Broncos"], 0, 100),  # a bag of words has no order
        ("Denver", ["Denver Broncos"], 0, 200 / 3),  # precision 1, recall 1/2: 2 * 1/2 / (3/2) = 2/3
        ("Denver Broncos", ["Denver"], 0, 200 / 3),
        ("x x y", ["x y y"], 0, 200 / 3),  # x once and y once are shared: 2/3 and 2/3
        ("x x x", ["x"], 0, 50),  # 1/3 and 1: 2/3 / (4/3) = 1/2
        ("w x y z", ["x"], 0, 40),  # 1/4 and 1: 1/2 / (5/4) = 2/5
        ("cat", ["dog"], 0, 0),
        ("cat", ["dog", "the cat"], 100, 100),
        ("big cat", ["dog", "cat", "big cat there"], 0, 80),  # 2/3 against "cat"; 1 and 2/3: 4/3 / (5/3) = 4/5
        ("", ["cat"], 0, 0),
        ("the", ["cat"], 0, 0),
        ("an", ["the"], 100, 0),  # both are empty: equal, but with no word in common
    ],
)
def test_version_1_by_hand(prediction, golds, exact, f1):
    assert v1({"q": prediction}, {"q": golds}) == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_version_1_is_the_mean_in_percent():
    golds = {"a": ["cat"], "b": ["Denver Broncos"], "c": ["dog"], "d": ["x"]}
    # F1: 1, 2/3, 0 and 1/2
    expected = {"exact_match": 25.0, "f1": pytest.approx(100 * (1 + 2 / 3 + 0 + 1 / 2) / 4)}
    assert v1({"a": "cat", "b": "Denver", "c": "", "d": "x x x"}, golds) == expected
    assert v1({"d": "x x x", "b": "Denver", "c": "", "a": "cat"}, golds) == expected  # matched by id


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Denver Broncos.", ["denver broncos"], 100, 100),
        ("Denver", ["Denver Broncos"], 0, 200 / 3),
        ("big cat", ["dog", "cat", "big cat there"], 0, 80),
        ("", ["cat"], 0, 0),
        ("cat", [], 0, 0),
        ("", [], 100, 100),
        ("the", [], 100, 100),  # nothing is left of it
        ("an", ["the"], 100, 100),  # no gold answer is left: nothing is right
        ("an", ["the", "cat"], 0, 0),  # an empty gold answer is left out where there is another
        ("", ["!"], 100, 100),
    ],
)
def test_version_2_by_hand(prediction, golds, exact, f1):
    scores = v2({"q": (prediction, 0.0)}, {"q": golds})
    assert scores["exact"] == exact
    assert scores["f1"] == pytest.approx(f1)
    # By what the question has, even where nothing is left of its answers.
    group = "HasAns" if golds else "NoAns"
    assert scores[f"{group}_exact"] == exact
    assert scores[f"{group}_f1"] == pytest.approx(f1)
    assert scores["total"] == scores[f"{group}_total"] == 1


def test_version_2_groups_and_thresholds_by_hand():
    golds = {"a": ["cat"], "b": ["Denver Broncos"], "c": [], "d": []}
    predictions = {"a": ("cat", -3.0), "b": ("Denver", 1.5), "c": ("dog", 0.5), "d": ("", 7.0)}
    expected = {
        "exact": 50.0,  # a and d
        "f1": pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4),
        "total": 4,
        "HasAns_exact": 50.0,
        "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 2),
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
        # Right with no answer at all: 2 (c and d). With a: 3; with c too: 2; with b too: exact 2, F1 2 2/3; with d no
        # more.
        "best_exact": 75.0,
        "best_exact_thresh": -3.0,
        "best_f1": 75.0,
        "best_f1_thresh": -3.0,
    }
    scores = v2(predictions, golds)
    assert scores == expected
    assert list(scores) == list(expected)
    assert v2(dict(reversed(predictions.items())), golds) == expected  # matched by id


def test_best_thresholds_of_exact_match_and_f1_differ():
    golds = {"a": ["cat"], "b": ["Denver Broncos"], "c": []}
    scores = v2({"a": ("cat", 1.0), "b": ("Denver", 2.0), "c": ("dog", 3.0)}, golds)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (pytest.approx(200 / 3), 1.0)  # a and c
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (pytest.approx(100 * (2 + 2 / 3) / 3), 2.0)


def test_of_equal_scores_the_lowest_threshold_is_given():
    # Right with no answer: 1 (b). With a: 2; with b too: 1; with c too: 2 again.
    golds = {"a": ["cat"], "b": [], "c": ["cat"]}
    scores = v2({"a": ("cat", 1.0), "b": ("dog", 2.0), "c": ("cat", 3.0)}, golds)
    assert (scores["best_exact_thresh"], scores["best_f1_thresh"]) == (1.0, 1.0)


@pytest.mark.parametrize(("lowest", "threshold"), [(0.5, 0.0), (0.0, 0.0), (-0.5, -1.5), (-2.0, -3.0)])
def test_answering_nothing_has_a_threshold_below_all(lowest, threshold):
    # 0.0 as in the official script, which knows no negative numbers and would answer here what is below 0.
    scores = v2({"a": ("dog", 1.0), "b": ("dog", lowest)}, {"a": ["cat"], "b": []})
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (50.0, threshold)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (50.0, threshold)


def test_equal_probabilities_are_let_in_one_by_one():
    # As the official script has it: the right answer comes first here, so the wrong one beside it does not count.
    golds = {"a": ["cat"], "b": []}
    assert v2({"a": ("cat", 1.0), "b": ("dog", 1.0)}, golds)["best_exact"] == 100.0
    assert v2({"b": ("dog", 1.0), "a": ("cat", 1.0)}, golds)["best_exact"] == 50.0


def test_a_word_that_vanishes_is_an_answer_to_the_threshold():
    # Right as it is (nothing is left of "the"), but the official search takes any text for an answer.
    scores = v2({"a": ("cat", 2.0), "b": ("the", 1.0)}, {"a": ["cat"], "b": []})
    assert (scores["exact"], scores["best_exact"]) == (100.0, 50.0)


@pytest.mark.parametrize(
    ("golds", "groups"),
    [({"a": ["x"]}, {"HasAns"}), ({"a": []}, {"NoAns"}), ({"a": ["x"], "b": []}, {"HasAns", "NoAns"})],
)
def test_groups_without_questions_are_left_out(golds, groups):
    scores = v2(dict.fromkeys(golds, ("x", 0.0)), golds)
    assert {key.split("_")[0] for key in scores if "Ans" in key} == groups
    assert len(scores) == 7 + 3 * len(groups)


@pytest.mark.parametrize("trial", range(5))
def test_the_best_threshold_is_the_best_of_all(rng, trial):
    """Brute force: for each threshold, answers of higher probability are taken back and everything is scored anew."""
    words = ["cat", "dog", "bird"]

    def draw(most):
        length = int(torch.randint(most + 1, (), generator=rng))
        return " ".join(words[i] for i in torch.randint(3, (length,), generator=rng))

    count = 12
    probabilities = (torch.randperm(count, generator=rng) - 5.5).tolist()  # without ties
    predictions = {str(number): (draw(3), probabilities[number]) for number in range(count)}
    golds = {}
    for number in range(count):
        texts = [text for text in (draw(3), draw(2)) if text]
        golds[str(number)] = texts if torch.rand((), generator=rng) < 0.6 else []
    scores = v2(predictions, golds)

    def at(threshold):
        return v2({name: (text if p <= threshold else "", p) for name, (text, p) in predictions.items()}, golds)

    tried = {threshold: at(threshold) for threshold in [-100.0, *sorted(probabilities)]}
    for key in ("exact", "f1"):
        best = max(values[key] for values in tried.values())
        assert scores[f"best_{key}"] == pytest.approx(best)
        assert at(scores[f"best_{key}_thresh"])[key] == pytest.approx(best)
    assert scores["exact"] == pytest.approx(tried[max(tried)]["exact"])


@pytest.fixture
def dev_golds(shared_data):
    data = read_questions(shared_data / "squad" / "dev-v1.1.json", answerable=True, labeled=True)
    assert len(data) == 10570
    return {name: answers["text"] for name, answers in zip(data["id"][:], data["answers"][:], strict=True)}


def test_the_dev_set_by_reasoning(dev_golds):
    first = {name: texts[0] for name, texts in dev_golds.items()}
    assert v1(first, dev_golds) == {"exact_match": 100.0, "f1": 100.0}
    dressed = {name: f"The {text}, a" for name, text in first.items()}
    assert v1(dressed, dev_golds) == {"exact_match": 100.0, "f1": 100.0}
    # A foreign word leaves no exact match: n words of n + 1 are right, F1 = 2n / (2n + 1), or more with another gold.
    longer = {name: f"{text} zyzzyva" for name, text in first.items()}
    lengths = [len(normalize_answer(text).split()) for text in first.values()]
    scores = v1(longer, dev_golds)
    assert scores["exact_match"] == 0.0
    assert 100 * sum(2 * n / (2 * n + 1) for n in lengths) / 10570 <= scores["f1"] < 100.0


def test_the_dev_set_with_every_other_answer_taken_away(dev_golds):
    golds = {name: texts if number % 2 else [] for number, (name, texts) in enumerate(dev_golds.items())}
    # The first answer always, and the probability knows better.
    predictions = {name: (texts[0], 0.0 if golds[name] else 1.0) for name, texts in dev_golds.items()}
    assert v2(predictions, golds) == {
        "exact": 50.0,
        "f1": 50.0,
        "total": 10570,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 5285,
        "NoAns_exact": 0.0,
        "NoAns_f1": 0.0,
        "NoAns_total": 5285,
        "best_exact": 100.0,
        "best_exact_thresh": 0.0,
        "best_f1": 100.0,
        "best_f1_thresh": 0.0,
    }


def test_scores_are_floats_totals_are_ints_and_a_metric_can_be_used_again():
    metric = SquadMetric(config_name="squad_v2", keep_in_memory=True)
    predictions = [{"id": "a", "prediction_text": "x", "no_answer_probability": 0}]
    first = metric.compute(predictions=predictions, references=references_of({"a": ["x"]}))
    assert {key: type(value) for key, value in first.items()} == {
        key: int if key.endswith("total") else float for key in first
    }
    assert metric.compute(predictions=predictions, references=references_of({"a": []}))["exact"] == 0.0
    assert metric.compute(predictions=predictions, references=references_of({"a": ["x"]})) == first
    assert {type(value) for value in v1({"a": "x"}, {"a": ["x"]}).values()} == {float}


SEVEN = {f"q{number}": ["x"] for number in range(7)}


@pytest.mark.parametrize("config_name", ["squad", "squad_v2"])
@pytest.mark.parametrize(
    ("predicted", "wanted", "message"),
    [
        ("ab", "ac", r"1 references have no prediction \('c'\): give one for each"),
        (list("abcdefg"), list(SEVEN), r"7 references .* \('q0', 'q1', 'q2', 'q3', 'q4', \.\.\.\): give one for each"),
        ("aba", "abc", r"1 id occurs more than once in the predictions \('a'\): give each id once"),
        ("abc", "bbc", r"1 id occurs more than once in the references \('b'\): give each id once"),
        ("abc", "ab", r"Mismatch in the number of predictions \(3\) and references \(2\)"),
        ("", "", "there is nothing to score: give at least one prediction and reference"),
    ],
)
def test_predictions_must_fit_references(config_name, predicted, wanted, message):
    more = {"no_answer_probability": 0.0} if config_name == "squad_v2" else {}
    predictions = [{"id": name, "prediction_text": "x", **more} for name in predicted]
    references = [{"id": name, "answers": {"text": ["x"], "answer_start": [0]}} for name in wanted]
    with pytest.raises(ValueError, match=message):
        score(config_name, predictions, references)


def test_version_1_refuses_unanswerable_questions():
    message = r"2 references have no answer \('b', 'c'\): config_name 'squad_v2' scores unanswerable questions"
    with pytest.raises(ValueError, match=message):
        v1({"a": "x", "b": "x", "c": ""}, {"a": ["x"], "b": [], "c": []})


def test_unknown_configuration_is_refused():
    with pytest.raises(ValueError, match="no config_name 'squat': give one of squad, squad_v2"):
        SquadMetric(config_name="squat")
