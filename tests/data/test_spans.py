"""From logits back to answers, against loops over all spans; what is written; and every answer of SQuAD's dev set."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.answers import check_answers, close, slow_answers
from helpers.questions import (
    CORPUS,
    NO_ANSWER,
    ODD,
    TRAINED,
    drawer,
    inside,
    make_questions,
    make_tokenizer,
    options,
    random_text,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ckd_trainer.data import spans as spans_module
from ckd_trainer.data.spans import Answers, read_answers, write_answers
from ckd_trainer.data.squad import load_questions
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_features import encode
from ckd_trainer.metrics.squad import SquadMetric

# ---------------------------------------------------------------------------------------------------------- the twin


# ------------------------------------------------------------------------------------------------- questions, logits


def some_questions(rng, kind="word pieces", count=12, longest=50, text=None):
    """Questions about contexts of a word up to several pieces, and a blank one; and their features.

    `text` makes a context of so many words. Without it bytes get words that begin with the space before them, so that
    each token has a place of its own, and word pieces get all sorts of characters and gaps.
    """
    draw, tokenizer = drawer(rng), make_tokenizer(kind)
    if text is None and kind == "byte-level":
        plain = [word for word in CORPUS.split() if len(tokenizer.tokenize(f" {word}")[0]) > 1]

        def text(draw, words):
            return " ".join(draw.choices(plain, k=words))

    elif text is None:
        text = random_text
    texts = ["", text(draw, longest), *(text(draw, draw.randint(1, longest)) for _ in range(count - 2))]
    draw.shuffle(texts)
    questions = make_questions(
        *((f"q{row}", text, random_text(draw, row % 5, odd=0).strip(), NO_ANSWER) for row, text in enumerate(texts))
    )
    features = encode(questions, tokenizer, options(), with_offsets=True)
    assert len(features) > count and len(set(features["question"])) == count
    return questions.remove_columns("answers"), features


def some_logits(rng, features, *, step=2**-14, scale=3.0, more=0):
    """Multiples of `step`, whose sums float32 holds exactly; by default hardly two are equal."""
    shape = len(features), max(len(ids) for ids in features["input_ids"]) + more
    return [
        ((scale * torch.randn(shape, generator=rng)).clamp(-60, 60) / step).round().mul(step).numpy() for _ in range(2)
    ]


def settings(**changed):
    return {"n_best": 5, "max_answer_length": 6, "null_answers": True} | changed


# ---------------------------------------------------------------------------------------------------- against the twin


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("null_answers", [False, True])
def test_answers_are_those_of_the_twin(rng, kind, null_answers):
    questions, features = some_questions(rng, kind)
    logits = some_logits(rng, features)
    given = settings(null_answers=null_answers)
    answers = read_answers(questions, features, *logits, **given)
    check_answers(answers, questions, *slow_answers(questions, features, *logits, **given), null_answers=null_answers)


@pytest.mark.parametrize("n_best", [1, 2, 20, 5000])
@pytest.mark.parametrize("max_answer_length", [1, 2, 30, 200])
def test_numbers_and_lengths_of_answers(rng, n_best, max_answer_length):
    """As many as there are where more are wanted; as long as the piece where more is allowed."""
    questions, features = some_questions(rng, count=6, longest=30)
    logits = some_logits(rng, features)
    given = settings(n_best=n_best, max_answer_length=max_answer_length)
    answers = read_answers(questions, features, *logits, **given)
    check_answers(answers, questions, *slow_answers(questions, features, *logits, **given), null_answers=True)
    if n_best == 5000:
        assert all(0 < len(entries) < n_best for entries in answers.nbest.values())


@pytest.mark.parametrize("n_best", [1, 3, 40])
@pytest.mark.parametrize("null_answers", [False, True])
@pytest.mark.parametrize("step", [1.0, 4.0, 1000.0])
def test_of_equal_scores_the_first_in_the_context_wins(rng, step, null_answers, n_best):
    """Logits that are few whole numbers, or (at the last) all 0; no answer wins against an equal one."""
    questions, features = some_questions(rng, count=8, longest=30)
    logits = some_logits(rng, features, step=step)
    given = settings(n_best=n_best, null_answers=null_answers)
    answers = read_answers(questions, features, *logits, **given)
    slow = slow_answers(questions, features, *logits, **given)
    check_answers(answers, questions, *slow, null_answers=null_answers, splits=False)
    assert step < 1000 or not np.any(logits)


@pytest.mark.parametrize("n_best", [1, 2, 3, 4, 5, 20])
def test_all_scores_are_equal(n_best):
    """Then spans come in the order in which they begin, short ones first."""
    questions = make_questions(("q", "the river the bridge", "why", NO_ANSWER))
    features = encode(questions, make_tokenizer("word pieces"), options(), with_offsets=True)
    assert len(inside(features[0])) == 4
    logits = np.zeros((2, 1, len(features[0]["input_ids"])))
    given = {"n_best": n_best, "max_answer_length": 2, "null_answers": False}
    answers = read_answers(questions, features, *logits, **given)
    order = ["the", "the river", "river", "river the", "the", "the bridge", "bridge"]
    assert [entry["text"] for entry in answers.nbest["q"]] == order[:n_best]
    assert answers.text == {"q": "the"}


def test_by_hand():
    """Three words in two pieces of two; "river" stands in both, with 0 + 6 and 5 + 0."""
    questions = make_questions(("q", "the  river runs", "why", NO_ANSWER), ("blank", "", "", NO_ANSWER))
    columns = {
        "question": [0, 0, 1],
        "char_starts": [[-1, -1, 0, 5, -1], [-1, -1, 5, 11, -1], [-1, -1]],
        "char_ends": [[-1, -1, 3, 10, -1], [-1, -1, 10, 15, -1], [-1, -1]],
        "answer_mask": [[1, 0, 1, 1, 0], [1, 0, 1, 1, 0], [1, 0]],
    }
    features = Dataset.from_dict(columns)
    start = np.array([[2, 90, 1, 0, 90], [-3, 90, 5, 0, 90], [7, 90, 90, 90, 90]])
    end = np.array([[1, 90, 4, 6, 90], [5, 90, 0, 2, 90], [1, 90, 90, 90, 90]])
    answers = read_answers(questions, features, start, end, n_best=4, max_answer_length=2, null_answers=True)
    assert [(row["text"], row["start_logit"], row["end_logit"]) for row in answers.nbest["q"]] == [
        ("the  river", 1, 6),  # 7, as "river runs", which comes later in the context
        ("river runs", 5, 2),
        ("river", 0, 6),
        ("the", 1, 4),
        ("", -3, 5),  # 2, which is lower than 2 + 1
    ]
    total = 2 + math.exp(-1) + math.exp(-2) + math.exp(-5)
    expected = [1, 1, math.exp(-1), math.exp(-2), math.exp(-5)]
    assert [row["probability"] for row in answers.nbest["q"]] == [close(part / total) for part in expected]
    assert answers.nbest["blank"] == [{"text": "", "probability": 1, "start_logit": 7, "end_logit": 1}]
    assert answers.text == {"q": "the  river", "blank": ""}
    assert answers.null_odds == {"q": 2 - 7, "blank": 8}
    assert answers.final(-5) == answers.text and answers.final(-5.5) == {"q": "", "blank": ""}


def test_no_answer_at_all():
    """Where every context is blank; with one more entry where there may be no answer."""
    questions = make_questions(("a", "", "why ?", NO_ANSWER), ("b", "", "", NO_ANSWER))
    features = encode(questions, make_tokenizer("word pieces"), options(), with_offsets=True)
    logits = np.ones((2, 8)), np.ones((2, 8))
    answers = read_answers(questions, features, *logits, **settings())
    assert answers.text == {"a": "", "b": ""} and answers.null_odds == {"a": 2, "b": 2}
    assert [len(entries) for entries in answers.nbest.values()] == [1, 1]
    answers = read_answers(questions, features, *logits, **settings(null_answers=False))
    assert answers == Answers({"a": "", "b": ""}, {"a": [], "b": []}, None)


@pytest.mark.parametrize("null_answers", [False, True])
def test_probabilities_sum_to_one_and_follow_the_scores(rng, null_answers):
    questions, features = some_questions(rng)
    answers = read_answers(
        questions, features, *some_logits(rng, features), **settings(n_best=20, null_answers=null_answers)
    )
    for name, context in zip(questions["id"], questions["context"], strict=True):
        entries = answers.nbest[name]
        scores = [entry["start_logit"] + entry["end_logit"] for entry in entries]
        shares = [entry["probability"] for entry in entries]
        assert scores == sorted(scores, reverse=True) and shares == sorted(shares, reverse=True)
        assert sum(shares) == (close(1) if context.strip() or null_answers else 0)
        assert all(entry["text"] in context for entry in entries)
        spoken = [entry["text"] for entry in entries if entry["text"]]
        assert answers.text[name] == (spoken[0] if spoken else "")


@pytest.mark.parametrize("kind", ["byte-level", "word pieces"])
def test_tokens_that_share_a_character_take_no_places_of_others(rng, kind):
    """The bytes of one character, say: spans that differ only in them are one entry, and others follow."""
    questions, features = some_questions(rng, kind, text=lambda draw, words: " ".join(draw.choices(ODD, k=words)))
    logits = some_logits(rng, features)
    given = settings(n_best=20)
    answers = read_answers(questions, features, *logits, **given)
    check_answers(answers, questions, *slow_answers(questions, features, *logits, **given), null_answers=True)


@pytest.mark.parametrize("null_answers", [False, True])
def test_spaces_are_no_answer(null_answers):
    """Though bytes make tokens of some: a text is empty only where the context has none but these."""
    questions = make_questions(("q", "the  river \t\n runs", "why ?", NO_ANSWER))
    features = encode(questions, make_tokenizer("byte-level"), options(max_seq_length=64), with_offsets=True)
    (row,) = features
    logits = np.zeros((2, 1, len(row["input_ids"])), np.float32)
    gaps = [
        place
        for place in inside(row)
        if not questions[0]["context"][row["char_starts"][place] : row["char_ends"][place]].strip()
    ]
    assert len(gaps) > 2
    logits[:, 0, gaps] = 5
    answers = read_answers(questions, features, *logits, **settings(null_answers=null_answers))
    assert answers.text["q"]
    assert [entry["text"] for entry in answers.nbest["q"]].count("") == null_answers


# ------------------------------------------------------------------------------------------------ what does not matter


def test_the_order_of_features_does_not_matter(rng):
    questions, features = some_questions(rng)
    logits = some_logits(rng, features)
    expected = read_answers(questions, features, *logits, **settings())
    order = torch.randperm(len(features), generator=rng).numpy()
    assert read_answers(questions, features.select(order), *(part[order] for part in logits), **settings()) == expected


@pytest.mark.parametrize("scores", [1, 700, 5000])
def test_how_many_scores_there_are_at_once_does_not_matter(rng, monkeypatch, scores):
    questions, features = some_questions(rng)
    logits = some_logits(rng, features)
    expected = read_answers(questions, features, *logits, **settings())
    monkeypatch.setattr(spans_module, "_SCORES_AT_ONCE", scores)
    assert read_answers(questions, features, *logits, **settings()) == expected


@pytest.mark.parametrize("filling", [-100.0, 100.0, math.nan, math.inf, -math.inf])
def test_logits_of_padding_do_not_matter(rng, filling):
    """Neither those behind the tokens of a feature, nor whole columns more."""
    questions, features = some_questions(rng)
    logits = some_logits(rng, features)
    expected = read_answers(questions, features, *logits, **settings())
    wide = []
    for part in logits:
        part = np.pad(part, ((0, 0), (0, 3)), constant_values=filling)
        for row, ids in enumerate(features["input_ids"]):
            part[row, len(ids) :] = filling
        wide.append(part)
    assert read_answers(questions, features, *wide, **settings()) == expected


def test_logits_outside_of_the_context_do_not_matter(rng):
    """But those of [CLS]: the question and [SEP] are no answers, however high."""
    questions, features = some_questions(rng)
    logits = some_logits(rng, features)
    expected = read_answers(questions, features, *logits, **settings())
    for row, mask in enumerate(features["answer_mask"]):
        outside = [place for place, allowed in enumerate(mask) if not allowed]
        for part in logits:
            part[row, outside] = 1000
    assert read_answers(questions, features, *logits, **settings()) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_logits_of_other_types(rng, dtype):
    questions, features = some_questions(rng)
    logits = some_logits(rng, features, step=2**-4)
    expected = read_answers(questions, features, *logits, **settings())
    assert read_answers(questions, features, *(part.astype(dtype) for part in logits), **settings()) == expected


# --------------------------------------------------------------------------------------------------- not finite, huge


def numbers_in(answers):
    for entries in answers.nbest.values():
        for entry in entries:
            yield from (entry["probability"], entry["start_logit"], entry["end_logit"])
    yield from (answers.null_odds or {}).values()


def check_is_sound(answers, questions):
    """Every number is finite, JSON takes them, and answers are of the context."""
    assert all(map(math.isfinite, numbers_in(answers)))
    json.dumps([answers.nbest, answers.null_odds], allow_nan=False)
    for name, context in zip(questions["id"], questions["context"], strict=True):
        assert sum(entry["probability"] for entry in answers.nbest[name]) == close(1)
        assert bool(answers.text[name]) == bool(context.strip()) and answers.text[name] in context


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_count_as_lowest(rng, value):
    """A span with one of them is no answer where there is another."""
    questions, features = some_questions(rng)
    logits = some_logits(rng, features)
    for part in logits:
        part[torch.rand(part.shape, generator=rng).numpy() < 0.3] = value
    answers = read_answers(questions, features, *logits, **settings())
    check_is_sound(answers, questions)
    lowered = [np.where(np.isfinite(part), part, -1e30) for part in logits]
    assert read_answers(questions, features, *lowered, **settings()) == answers
    slow, _ = slow_answers(questions, features, *lowered, **settings(n_best=1, null_answers=False))
    finite = {name: entries[0][0] for name, entries in slow.items() if entries and entries[0][1] > -1000}
    assert len(finite) > 5 and finite == {name: answers.text[name] for name in finite}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("null_answers", [False, True])
def test_nothing_is_finite(rng, value, null_answers):
    """Then the first token of the context is as good as any."""
    questions, features = some_questions(rng)
    full = [np.full_like(part, value) for part in some_logits(rng, features)]
    if null_answers:
        check_is_sound(read_answers(questions, features, *full, **settings()), questions)
    answers = read_answers(questions, features, *full, **settings(n_best=1, null_answers=False))
    slow, _ = slow_answers(
        questions, features, *(np.zeros_like(part) for part in full), **settings(n_best=1, null_answers=False)
    )
    assert answers.text == {name: entries[0][0] if entries else "" for name, entries in slow.items()}


@pytest.mark.parametrize("value", [1e4, -1e30, 3e38, -3e38])
def test_huge_logits(rng, value):
    """Of which float32 holds each, but not every sum: -3e38 is how some models mask."""
    questions, features = some_questions(rng)
    logits = [
        np.where(torch.rand(part.shape, generator=rng).numpy() < 0.3, value, part)
        for part in some_logits(rng, features)
    ]
    check_is_sound(read_answers(questions, features, *logits, **settings()), questions)


# -------------------------------------------------------------------------------------------------------- thresholds


@pytest.fixture
def answered():
    """By a hand: one answer above and one below no answer, with text beyond ASCII."""
    entry = {"text": "café \U0001f408", "probability": 0.75, "start_logit": 1.5, "end_logit": 2.0}
    text = {"a": "café \U0001f408", "b": "„Zürich“"}
    return Answers(text, {"a": [entry], "b": []}, {"a": -1.5, "b": 2.0})


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [(-2, ""), (-1.5, "a"), (0, "a"), (1.999, "a"), (2.0, "ab"), (1e9, "ab")],
)
def test_no_answer_is_given_above_the_threshold(answered, threshold, kept):
    expected = {name: text if name in kept else "" for name, text in answered.text.items()}
    assert answered.final(threshold) == expected
    assert Answers(answered.text, answered.nbest, None).final(threshold) == answered.text


def test_files_are_written(answered, tmp_path):
    folder = tmp_path / "run" / "test"
    path = write_answers(answered, folder, null_threshold=0.0)
    assert path == folder / "predictions.json"
    read = {file.name: json.loads(file.read_text("utf-8")) for file in folder.iterdir()}
    assert read == {
        "predictions.json": {"a": "café \U0001f408", "b": ""},
        "nbest_predictions.json": answered.nbest,
        "null_odds.json": answered.null_odds,
    }
    assert list(read["predictions.json"]) == ["a", "b"]
    for name in ("predictions.json", "nbest_predictions.json"):
        content = (folder / name).read_bytes().decode("utf-8")
        assert "café \U0001f408" in content and "\\u" not in content
        assert content.endswith("}\n") and content.count("\n") > 2


def test_without_null_odds_there_is_no_file_of_them(answered, tmp_path):
    path = write_answers(Answers(answered.text, answered.nbest, None), tmp_path, null_threshold=-1e9)
    assert {file.name for file in tmp_path.iterdir()} == {"predictions.json", "nbest_predictions.json"}
    assert json.loads(path.read_text("utf-8")) == answered.text


def test_what_is_read_can_be_written(rng, tmp_path):
    questions, features = some_questions(rng)
    answers = read_answers(questions, features, *some_logits(rng, features), **settings())
    threshold = sorted(answers.null_odds.values())[5]
    path = write_answers(answers, tmp_path, null_threshold=threshold)
    final = json.loads(path.read_text("utf-8"))
    kept = {name for name, odds in answers.null_odds.items() if odds <= threshold}
    assert final == {name: text if name in kept else "" for name, text in answers.text.items()}
    assert json.loads((tmp_path / "nbest_predictions.json").read_text("utf-8")) == answers.nbest
    assert json.loads((tmp_path / "null_odds.json").read_text("utf-8")) == answers.null_odds


# ------------------------------------------------------------------------------------------------- all of SQuAD's dev


@pytest.fixture(scope="module")
def trained():
    """Makes a tokenizer like BERT's of 8,000 word pieces of some texts, once."""
    made = {}

    def make(texts):
        if not made:
            tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
            tokenizer.train_from_iterator(
                texts, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
            )
            tokenizer.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]",
                pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
                special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
            )
            made[0] = PreTrainedTokenizerFast(
                tokenizer_object=tokenizer,
                cls_token="[CLS]",
                sep_token="[SEP]",
                pad_token="[PAD]",
                unk_token="[UNK]",
                model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            )
        return made[0]

    return make


def perfect_logits(questions, features, max_answer_length):
    """Logits that are 1 at the first and last token of one gold answer of a question, in each feature that has it.

    Returns start and end logits, and the rows of the questions with a gold answer that some feature has: whole, of
    so many tokens, beginning and ending where tokens do.
    """
    golds = [
        {
            (start + len(text) - len(text.lstrip()), start + len(text.rstrip()))
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        }
        for answers in questions["answers"]
    ]
    owners = features["question"][:]
    begins, stops, width = features["char_starts"][:], features["char_ends"][:], len(features[0]["input_ids"])
    places = defaultdict(dict)  # question -> gold answer -> feature -> (first token, last token)
    for number, (owner, starts, ends) in enumerate(zip(owners, begins, stops, strict=True)):
        first_of, last_of = (
            dict(zip(reversed(starts), range(len(starts))[::-1], strict=True)),
            dict(zip(ends, range(len(ends)), strict=True)),
        )
        for gold in golds[owner]:
            first, last = first_of.get(gold[0]), last_of.get(gold[1])
            if first is not None and last is not None and 0 <= last - first < max_answer_length:
                places[owner].setdefault(gold, {})[number] = first, last
    start_logits, end_logits = np.zeros((2, len(features), width), np.float32)
    for found in places.values():
        for number, (first, last) in found[min(found)].items():
            start_logits[number, first] = end_logits[number, last] = 1
    return start_logits, end_logits, places.keys()


@pytest.mark.parametrize(
    ("length", "stride", "most"),
    [
        (384, 128, 2000),
        pytest.param(384, 128, None, marks=pytest.mark.slow),
        pytest.param(160, 64, None, marks=pytest.mark.slow),
    ],
)
def test_perfect_logits_find_every_answer_of_the_dev_set(shared_data, trained, length, stride, most, tmp_path):
    """EM and F1 are 100 on all questions but the few whose answers begin or end within tokens."""
    (tmp_path / "dev-v1.1.json").symlink_to(shared_data / "squad" / "dev-v1.1.json")
    options = {"max_seq_length": length, "doc_stride": stride, "max_eval_samples": most}
    arguments = SquadArguments(data_dir=str(tmp_path), **options)
    questions = load_questions(arguments, seed=0, splits=("validation",)).validation[""]
    assert len(questions) == (most or 10570)
    tokenizer = trained(sorted(set(questions["context"])))
    features = encode(questions, tokenizer, arguments, with_offsets=True)
    assert len(features) > len(questions) and len(features[0]["input_ids"]) == length
    start_logits, end_logits, hit = perfect_logits(questions, features, arguments.max_answer_length)
    missed = len(questions) - len(hit)
    print(f"{missed} of {len(questions)} questions have no answer between tokens")
    assert 0 < missed < 0.01 * len(questions)
    given = {"n_best": 1, "max_answer_length": arguments.max_answer_length, "null_answers": False}
    answers = read_answers(questions, features, start_logits, end_logits, **given)
    metric = SquadMetric(config_name="squad", keep_in_memory=True)
    some = questions.select(sorted(hit))
    result = metric.compute(
        predictions=[{"id": name, "prediction_text": answers.text[name]} for name in some["id"]],
        references=some.select_columns(["id", "answers"]).to_list(),
    )
    assert result == {"exact_match": 100.0, "f1": 100.0}
    check_positions(questions, features)


def check_positions(questions, features):
    """The positions that training learns: those of the first answers, which all stand whole in some feature."""
    golds = [(answers["text"][0], answers["answer_start"][0]) for answers in questions["answers"]]
    names = ("question", "char_starts", "char_ends", "start_positions", "end_positions")
    answered, exact = set(), 0
    for owner, starts, ends, first, last in zip(*(features[name][:] for name in names), strict=True):
        if first > 0:
            text, start = golds[owner]
            assert starts[first] <= start + len(text) - len(text.lstrip()) < ends[first]
            assert starts[last] < start + len(text.rstrip()) <= ends[last]
            exact += (starts[first], ends[last]) == (start, start + len(text))
            answered.add(owner)
    assert len(answered) == len(questions)
    assert exact > 0.98 * len(questions)


def test_no_answer_is_at_cls_wherever_it_stands(rng):
    """Behind the context too, with tokens of mere spaces before it."""
    questions = make_questions(("q", "the  river \t\n runs", "why ?", NO_ANSWER))
    for kind in ("byte-level", "cls last"):
        tokenizer = make_tokenizer(kind)
        features = encode(questions, tokenizer, options(max_seq_length=64), with_offsets=True)
        (ids,) = features["input_ids"]
        logits = np.zeros((2, 1, len(ids)), np.float32)
        logits[:, 0, ids.index(tokenizer.cls_token_id)] = 5
        assert read_answers(questions, features, *logits, **settings(null_answers=True)).null_odds == {"q": 10.0}
