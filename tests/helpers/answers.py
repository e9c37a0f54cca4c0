"""The slow twin of `read_answers`, which tries every span of every feature, and a comparison with it."""

import math

import numpy as np
import pytest


def slow_answers(questions, features, start_logits, end_logits, *, n_best, max_answer_length, null_answers):
    """Scores all spans of all features, except those that start or end at a whitespace token, one by one in float64.

    Returns:
        for each id a list of (text, score, start logit, end logit), best first, and the null odds.
    """
    features = features.to_list()
    start_logits, end_logits = (np.asarray(logits, dtype=np.float64).tolist() for logits in (start_logits, end_logits))
    lists, odds = {}, {}
    for number, (name, context) in enumerate(zip(questions["id"], questions["context"], strict=True)):
        found, nulls = {}, []
        for feature, starts, ends in zip(features, start_logits, end_logits, strict=True):
            if feature["question"] != number:
                continue
            (cls,) = (
                place
                for place, allowed in enumerate(feature["answer_mask"])
                if allowed and feature["char_starts"][place] < 0
            )
            nulls.append((starts[cls] + ends[cls], starts[cls], ends[cls]))
            pieces = zip(feature["char_starts"], feature["char_ends"], strict=True)
            texts = [
                place for place, (start, end) in enumerate(pieces) if context[max(start, 0) : max(end, 0)].strip()
            ]
            for first in texts:
                for last in texts:
                    if first <= last < first + max_answer_length:
                        place = feature["char_starts"][first], feature["char_ends"][last]
                        entry = starts[first] + ends[last], starts[first], ends[last]
                        found[place] = max(entry, found.get(place, entry), key=lambda entry: entry[0])
        order = sorted(found, key=lambda place: (-found[place][0], place))[:n_best]
        lists[name] = [(context[first:last].strip(), *found[first, last]) for first, last in order]
        null = min(nulls)
        odds[name] = null[0] - (lists[name][0][1] if lists[name] else 0)
        if null_answers:
            behind = [entry[1] <= null[0] for entry in lists[name]] + [True]
            lists[name].insert(behind.index(True), ("", *null))
    return lists, odds if null_answers else None


def close(value):
    """Matches a value up to the rounding of float32."""
    return pytest.approx(value, rel=1e-5, abs=1e-6)


def check_answers(answers, questions, slow_lists, slow_odds, *, null_answers, splits=True):
    """Asserts that answers equal those of the twin.

    `splits` also compares the two logits of each score; they must be unique.
    """
    assert list(answers.text) == list(answers.nbest) == questions["id"][:]
    for name, context in zip(questions["id"], questions["context"], strict=True):
        ours, theirs = answers.nbest[name], slow_lists[name]
        assert [entry["text"] for entry in ours] == [text for text, *_ in theirs], name
        assert [entry["start_logit"] + entry["end_logit"] for entry in ours] == [score for _, score, *_ in theirs]
        if splits:
            assert [[entry["start_logit"], entry["end_logit"]] for entry in ours] == [pair for _, _, *pair in theirs]
        if theirs:
            shares = [math.exp(score - theirs[0][1]) for _, score, *_ in theirs]
            assert [entry["probability"] for entry in ours] == [close(share / sum(shares)) for share in shares]
        assert answers.text[name] in context
    if null_answers:
        assert list(answers.null_odds) == questions["id"][:]
        assert answers.null_odds == slow_odds
    else:
        assert answers.null_odds is None
