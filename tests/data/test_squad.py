"""Questions about contexts: where they come from, features that lose nothing, and batches of them.

The twin of `encode` cuts the token numbers of the whole context by hand and puts the special tokens around them; the
tokenizers' own truncation is not used.
"""

import json
import logging
import unicodedata
from pathlib import Path

import datasets
import pytest
import torch
from helpers.questions import (
    NO_ANSWER,
    TEMPLATES,
    TRAINED,
    drawer,
    inside,
    make_questions,
    make_tokenizer,
    options,
    random_text,
)
from helpers.tiny import save_tokenizer
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ckd_trainer.data.squad import load_questions
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_features import SpanCollator, check_lengths, encode
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import by_token


@pytest.fixture(params=TRAINED)
def kind(request):
    return request.param


@pytest.fixture
def words(tmp_path):
    """A tokenizer that knows a handful of whole words."""
    save_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def random_answers(draw, context):
    """None, or some characters of a context, wherever they begin and end, of which one is no space."""
    while context.strip() and draw.random() < 0.9:
        start = draw.randrange(len(context))
        text = context[start : start + draw.choice([1, 3, 10, 40])]
        if text.strip():
            return {"text": [text, "a later one does not count"], "answer_start": [start, 0]}
    return {"text": [], "answer_start": []}


def random_questions(draw, count, longest=90):
    """Questions about short, long and blank contexts; the question marks are of one character each."""
    rows = []
    for number in range(count):
        context = draw.choice(["", " \t\n"]) if number % 9 == 8 else random_text(draw, draw.randint(1, longest))
        question = random_text(draw, draw.randint(0, 12), odd=0)
        rows.append((f"q{number}", context, question, random_answers(draw, context)))
    draw.shuffle(rows)
    return make_questions(*rows)


def answer(text, start):
    return {"text": [text], "answer_start": [start]}


def pieces_of(count, room, shared):
    """Yields (first, stop) of the pieces of `count` tokens: as long as there is room, so many tokens shared."""
    first = 0
    while True:
        yield first, min(first + room, count)
        if first + room >= count:
            return
        first += room - shared


def slow_features(questions, tokenizer, kind, arguments):
    """The features in the order of their questions and contexts; each a dict with `tokens`, their numbers as well."""
    features = []
    for number, row in enumerate(questions):
        question = tokenizer(row["question"], add_special_tokens=False)["input_ids"][: arguments.max_question_length]
        context = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)
        template = TEMPLATES[kind].split()
        room = arguments.max_seq_length - (len(template) - 2) - len(question)
        for first, stop in pieces_of(len(context["input_ids"]), room, arguments.doc_stride):
            ids, chars, mask = [], [], []
            for part in template:
                if part == "B":
                    ids += context["input_ids"][first:stop]
                    chars += context["offset_mapping"][first:stop]
                    mask += [1] * (stop - first)
                else:
                    new = question if part == "A" else [tokenizer.convert_tokens_to_ids(part)]
                    ids += new
                    chars += [(-1, -1)] * len(new)
                    mask += [int(part == tokenizer.cls_token)] * len(new)
            features.append(
                {
                    "input_ids": ids,
                    "attention_mask": [1] * len(ids),
                    "answer_mask": mask,
                    "question": number,
                    "char_starts": [start for start, _ in chars],
                    "char_ends": [end for _, end in chars],
                    "tokens": range(first, stop),
                    "all_tokens": len(context["input_ids"]),
                }
            )
    return features


def cls_place(feature):
    return next(
        place for place, allowed in enumerate(feature["answer_mask"]) if allowed and feature["char_starts"][place] < 0
    )


def holds(feature, char):
    """Whether a token of the feature's piece of the context holds a character."""
    return any(feature["char_starts"][place] <= char < feature["char_ends"][place] for place in inside(feature))


# ------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize(
    "lengths",
    [
        {},
        {"doc_stride": 0},
        {"max_seq_length": 20, "max_question_length": 5, "doc_stride": 10},
        {"max_seq_length": 500, "doc_stride": 128},
    ],
)
def test_features_are_those_of_the_twin(rng, kind, lengths):
    """Inputs, masks and places in the text; long features first with offsets, in the questions' order without."""
    tokenizer, arguments = make_tokenizer(kind), options(**lengths)
    questions = random_questions(drawer(rng), 40)
    slow = slow_features(questions, tokenizer, kind, arguments)
    names = ["input_ids", "attention_mask", "answer_mask"]
    plain = encode(questions, tokenizer, arguments, with_offsets=False).to_list()
    assert [{name: row[name] for name in names} for row in plain] == [
        {name: row[name] for name in names} for row in slow
    ]
    names += ["question", "char_starts", "char_ends"]
    sorted_ones = encode(questions, tokenizer, arguments, with_offsets=True).to_list()
    slow.sort(key=lambda row: -len(row["input_ids"]))
    assert [{name: row[name] for name in names} for row in sorted_ones] == [
        {name: row[name] for name in names} for row in slow
    ]
    types = {"token_type_ids"} if kind != "byte-level" else set()
    assert set(plain[0]) == {*names[:3], "start_positions", "end_positions"} | types
    assert set(sorted_ones[0]) == {*names, "start_positions", "end_positions"} | types


@pytest.mark.parametrize("shared", [0, 1, 6, 17])
def test_no_token_of_a_context_is_lost(rng, kind, shared):
    """Each stands in a feature, none of which is too long; neighbors share exactly doc_stride tokens."""
    tokenizer, arguments = make_tokenizer(kind), options(max_seq_length=32, doc_stride=shared)
    draw = drawer(rng)
    context = random_text(draw, 120)
    questions = make_questions(("q", context, random_text(draw, 4, odd=0), NO_ANSWER))
    features = encode(questions, tokenizer, arguments, with_offsets=False).to_list()
    whole = tokenizer(context, add_special_tokens=False)["input_ids"]
    pieces = []
    for feature in features:
        assert len(feature["input_ids"]) <= 32
        kept = [place for place, allowed in enumerate(feature["answer_mask"]) if allowed]
        ids = [feature["input_ids"][place] for place in kept]
        assert ids.count(tokenizer.cls_token_id) == 1
        pieces.append([token for token in ids if token != tokenizer.cls_token_id])
    assert len(pieces) > 5
    joined = pieces[0]
    for piece in pieces[1:]:
        assert len(piece) > shared and joined[len(joined) - shared :] == piece[:shared]
        joined = joined + piece[shared:]
    assert joined == whole
    assert all(len(feature["input_ids"]) == 32 for feature in features[:-1])


def test_features_by_hand(words):
    """10 places less 3 special tokens and a question of 2 leave 5; sharing 2, the pieces begin at 0, 3 and 6."""
    context = "the cat  runs,\tthe dog sleeps the bird sings"
    questions = make_questions(("q", context, "ugly bird", answer("dog sleeps", 19)))
    arguments = options(max_seq_length=10, max_question_length=4, doc_stride=2)
    features = encode(questions, words, arguments, with_offsets=True).to_list()
    assert [" ".join(words.convert_ids_to_tokens(row["input_ids"])) for row in features] == [
        "[CLS] ugly bird [SEP] the cat runs [UNK] the [SEP]",
        "[CLS] ugly bird [SEP] [UNK] the dog sleeps the [SEP]",
        "[CLS] ugly bird [SEP] sleeps the bird sings [SEP]",
    ]
    assert [row["token_type_ids"] for row in features] == [[0] * 4 + [1] * 6, [0] * 4 + [1] * 6, [0] * 4 + [1] * 5]
    assert [row["answer_mask"] for row in features] == [
        [1, 0, 0, 0, 1, 1, 1, 1, 1, 0],
        [1, 0, 0, 0, 1, 1, 1, 1, 1, 0],
        [1, 0, 0, 0, 1, 1, 1, 1, 0],
    ]
    assert features[0]["char_starts"] == [-1] * 4 + [0, 4, 9, 13, 15] + [-1]
    assert features[0]["char_ends"] == [-1] * 4 + [3, 7, 13, 14, 18] + [-1]
    assert [(row["start_positions"], row["end_positions"]) for row in features] == [(0, 0), (6, 7), (0, 0)]


def test_places_give_back_the_text_of_each_token(rng, kind):
    """In the characters of the original, whatever the tokenizer made of them; only spaces lie between tokens."""
    tokenizer, draw = make_tokenizer(kind), drawer(rng)
    contexts = [random_text(draw, 60, odd=0.6) for _ in range(10)]
    questions = make_questions(*((f"q{row}", context, "why ?", NO_ANSWER) for row, context in enumerate(contexts)))
    known = 0
    for feature in encode(questions, tokenizer, options(), with_offsets=True):
        context, behind = contexts[feature["question"]], None
        for place in inside(feature):
            start, end = feature["char_starts"][place], feature["char_ends"][place]
            assert 0 <= start <= end <= len(context)
            if behind is not None and start >= behind:
                assert not context[behind:start].strip()
            behind = end
            text = context[start:end]
            token = tokenizer.convert_ids_to_tokens(feature["input_ids"][place])
            if kind == "byte-level":
                said = tokenizer.decode([feature["input_ids"][place]])
                if "\ufffd" in said:  # some bytes of a character, which is its place
                    assert len(text) == 1 and len(text.encode()) > 1
                    continue
                assert text.strip() == said.strip()
            elif token != "[UNK]":
                letters = unicodedata.normalize("NFD", text.lower())
                assert "".join(c for c in letters if unicodedata.category(c) != "Mn") == token.removeprefix("##")
            known += 1
    assert known > 500


def test_positions_are_those_of_the_answer(rng, kind):
    """The fewest tokens that hold it where all of it is in the piece, else [CLS]; spaces around it do not count."""
    tokenizer, draw = make_tokenizer(kind), drawer(rng)
    questions = random_questions(draw, 80)
    found, elsewhere = 0, 0
    for feature in encode(questions, tokenizer, options(), with_offsets=True):
        row = questions[feature["question"]]
        first, last, cls = feature["start_positions"], feature["end_positions"], cls_place(feature)
        assert feature["input_ids"][cls] == tokenizer.cls_token_id
        if not row["answers"]["text"]:
            assert (first, last) == (cls, cls)
            continue
        text, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        chars = [char for char in range(start, start + len(text)) if not row["context"][char].isspace()]
        if not (holds(feature, chars[0]) and holds(feature, chars[-1])):
            assert (first, last) == (cls, cls)
            elsewhere += 1
            continue
        assert first in inside(feature) and last in inside(feature) and first <= last
        assert feature["char_starts"][first] <= chars[0] < feature["char_ends"][first]
        assert feature["char_starts"][last] <= chars[-1] < feature["char_ends"][last]
        assert text.strip() in row["context"][feature["char_starts"][first] : feature["char_ends"][last]]
        found += 1
    assert found > 20 and elsewhere > 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("third duke", "third duke"),
        ("\u00a0third duke \t", "third duke"),
        (" \tof the ", "of the"),
        ("hird du", None),  # in the middle of words
        ("café", "café"),
        ("afé", None),
        ("$5,000", "$5,000"),
        ("5", None),
        ("\U0001f408", "\U0001f408"),
        (
            "the\u00a0third duke \tof the café paid $5,000 ! \U0001f408",
            "the\u00a0third duke \tof the café paid $5,000 ! \U0001f408",
        ),
    ],
)
def test_answers_come_back_from_positions(kind, text, expected):
    """Whole where they begin and end with tokens, else with the rest of these."""
    context = "\r\nthe\u00a0third duke \tof the café paid $5,000 ! \U0001f408 \U0001f408"
    start = context.index(text)
    questions = make_questions(("q", context, "who ?", answer(text, start)))
    arguments = options(max_seq_length=128)
    (feature,) = encode(questions, make_tokenizer(kind), arguments, with_offsets=True)
    begins, ends = feature["char_starts"][feature["start_positions"]], feature["char_ends"][feature["end_positions"]]
    if expected is not None:
        assert context[begins:ends] == expected
    else:
        assert begins <= start < start + len(text) <= ends
        assert not any(char.isspace() for char in context[begins:start] + context[start + len(text) : ends])


@pytest.mark.parametrize(
    "text",
    [
        "cafe\u0301",  # an accent of its own, as file names on some systems have it
        "\u200bcafe",  # a space without width
        "cafe\ufeff",
        "\u200fcafe\u200e",  # marks of the writing direction
        "cafe\ufe0f",
        "cafe\u00ad",
    ],
)
def test_answers_that_begin_or_end_with_characters_without_a_token(text):
    """They are in the piece: the tokens are those of the other characters, and not [CLS]."""
    context = f"the {text} of the duke"
    questions = make_questions(("q", context, "what ?", answer(text, 4)))
    (feature,) = encode(questions, make_tokenizer("word pieces"), options(max_seq_length=64), with_offsets=True)
    begins, ends = feature["char_starts"][feature["start_positions"]], feature["char_ends"][feature["end_positions"]]
    assert context[begins:ends].strip("\u0301\u200b\ufeff\u200e\u200f\ufe0f\u00ad") == "cafe"


def test_blank_contexts_make_one_feature(kind):
    """In which only [CLS] can be the answer."""
    tokenizer = make_tokenizer(kind)
    questions = make_questions(("a", "", "why ?", NO_ANSWER), ("b", "the duke", "", NO_ANSWER))
    features = {row["question"]: row for row in encode(questions, tokenizer, options(), with_offsets=True)}
    assert len(features) == 2 and inside(features[0]) == [] and len(inside(features[1])) > 1
    assert sum(features[0]["answer_mask"]) == 1
    assert features[0]["start_positions"] == features[0]["end_positions"] == cls_place(features[0])


def test_all_contexts_blank(kind):
    blank = "" if kind == "byte-level" else " \n"  # of which bytes would make tokens
    questions = make_questions(("a", "", "why ?", NO_ANSWER), ("b", blank, "", NO_ANSWER))
    features = encode(questions, make_tokenizer(kind), options(), with_offsets=True).to_list()
    assert [sum(row["answer_mask"]) for row in features] == [1, 1]
    assert all(set(row["char_starts"]) == {-1} == set(row["char_ends"]) for row in features)


def test_questions_in_several_batches(words):
    """More than the 1000 that are mapped at once: the rows count through, and so does the warning."""
    count = 1003
    questions = make_questions(
        *((f"q{row}", "the cat runs" + " fast" * (row % 3), "a " * (row % 5), NO_ANSWER) for row in range(count))
    )
    features = encode(questions, words, options(), with_offsets=True)
    lengths = [len(ids) for ids in features["input_ids"]]
    assert lengths == sorted(lengths, reverse=True)
    assert features["question"][:] == sorted(range(count), key=lambda row: -(row % 5 + row % 3))


def test_long_questions_are_cut_with_a_warning(words, caplog):
    rows = [("a b c d e", NO_ANSWER), ("cat dog  bird\ttree, house", NO_ANSWER), ("the cat runs", NO_ANSWER)] * 500
    questions = make_questions(*((f"q{row}", "the dog", *item) for row, item in enumerate(rows)))
    arguments = options(max_question_length=3)
    with caplog.at_level(logging.WARNING, logger="ckd_trainer"):
        features = encode(questions, words, arguments, with_offsets=False)
    said = [words.decode(row) for row in features[:3]["input_ids"]]
    assert said == [
        "[CLS] a [UNK] [UNK] [SEP] the dog [SEP]",
        "[CLS] cat dog bird [SEP] the dog [SEP]",
        "[CLS] the cat runs [SEP] the dog [SEP]",
    ]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("ckd_trainer")] == [
        "1000 of 1500 questions are longer than max_question_length 3 tokens and are cut."
    ]
    caplog.clear()
    encode(questions, words, options(max_question_length=6), with_offsets=False)
    assert not [record for record in caplog.records if record.name.startswith("ckd_trainer")]


@pytest.mark.parametrize("limit", range(1, 10))
def test_cut_questions_have_as_many_tokens_as_said(kind, limit):
    """Wherever the cut falls: in a word, or in a character that is several tokens."""
    tokenizer = make_tokenizer(kind)
    text = "unbelievable \U0001f408\U0001f468\u200d\U0001f469 café 日本語"
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) > (9 if kind == "byte-level" else 5)
    questions = make_questions(("q", "", text, NO_ANSWER))
    (feature,) = encode(questions, tokenizer, options(max_question_length=limit), with_offsets=False)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    rest = len(feature["input_ids"]) - tokenizer.num_special_tokens_to_add(pair=True)
    assert rest <= min(limit, len(whole))
    if kind != "byte-level":
        assert rest == min(limit, len(whole))


def test_a_full_question_leaves_the_room_that_is_checked(kind):
    """With one token more than doc_stride for the context, which moves on token by token."""
    tokenizer = make_tokenizer(kind)
    special = len(TEMPLATES[kind].split()) - 2
    arguments = options(max_seq_length=special + 4 + 7, max_question_length=4, doc_stride=6)
    check_lengths(tokenizer, arguments)
    context = "the river runs slowly past the old town and its bridge"
    questions = make_questions(("q", context, "the the the the the the", NO_ANSWER))
    features = encode(questions, tokenizer, arguments, with_offsets=False)
    assert len(features) == len(tokenizer(context, add_special_tokens=False)["input_ids"]) - 6
    with pytest.raises(
        InputError,
        match=f"max_seq_length {special + 10} leaves 6 tokens for the context beside a question of up to 4 and "
        f"{special} special tokens, but .* doc_stride 6: give a smaller doc_stride or max_question_length",
    ):
        check_lengths(tokenizer, options(max_seq_length=special + 10, max_question_length=4, doc_stride=6))


def test_tokenizers_that_cannot_serve_are_refused(kind):
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(InputError, match="SlowTokenizer does not give the positions of tokens .* a fast tokenizer"):
        check_lengths(SlowTokenizer(), options())
    without = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(kind).backend_tokenizer, pad_token="[PAD]")
    with pytest.raises(InputError, match=r"does not add a \[CLS\] token \(None\) to a question and its "):
        check_lengths(without, options())
    backend = Tokenizer.from_str(make_tokenizer(kind).backend_tokenizer.to_str())
    backend.post_processor = processors.Sequence([])  # knows the token, and adds none
    names = {name: make_tokenizer(kind).special_tokens_map[name] for name in ("pad_token", "cls_token")}
    with pytest.raises(InputError, match=r"does not add a \[CLS\] token \(.*\) to a question"):
        check_lengths(PreTrainedTokenizerFast(tokenizer_object=backend, **names), options())
    check_lengths(make_tokenizer(kind), options())


def test_special_tokens_in_texts_are_not_those_of_the_feature(kind):
    """Someone may ask about them; [CLS] is the token that the tokenizer adds."""
    tokenizer = make_tokenizer(kind)
    cls = tokenizer.cls_token
    rows = [("the river", f"why {cls} ?"), (f"the {cls} river", "why ?")]
    questions = make_questions(*((text, context, text, NO_ANSWER) for context, text in rows))
    for feature in encode(questions, tokenizer, options(max_seq_length=64), with_offsets=True):
        count = len(feature["input_ids"])
        place = count - 1 if kind == "cls last" else 0
        assert feature["input_ids"].count(tokenizer.cls_token_id) == 2 and place not in inside(feature)
        assert feature["answer_mask"] == [int(token in inside(feature) or token == place) for token in range(count)]
        assert feature["start_positions"] == feature["end_positions"] == place


def test_test_sets_have_no_positions(kind):
    questions = make_questions(("q", "the river runs", "why ?", answer("river", 4)))
    features = encode(questions.remove_columns("answers"), make_tokenizer(kind), options(), with_offsets=True)
    assert not {"start_positions", "end_positions"} & set(features.column_names)
    assert {"char_starts", "char_ends", "question", "answer_mask"} <= set(features.column_names)


# -------------------------------------------------------------------------------------------------------- batches


def some_features(rng, kind):
    """Features of many lengths in mixed order, and their questions."""
    draw = drawer(rng)
    questions = random_questions(draw, 20, longest=30)
    features = encode(questions, make_tokenizer(kind), options(), with_offsets=True)
    return features.select(draw.sample(range(len(features)), 12)).to_list(), questions


@pytest.mark.parametrize("length", [None, 40])
@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_hold_the_features_at_their_side(rng, kind, side, length):
    features, _ = some_features(rng, kind)
    tokenizer = make_tokenizer(kind, side)
    batch = SpanCollator(tokenizer, length)(features)
    width = length or max(len(row["input_ids"]) for row in features)
    names = [*tokenizer.model_input_names, "answer_mask"]
    assert set(batch) == {*names, "start_positions", "end_positions"}
    for row, feature in enumerate(features):
        count = len(feature["input_ids"])
        first = width - count if side == "left" else 0
        for name in names:
            fill = tokenizer.pad_token_id if name == "input_ids" else 0
            expected = [fill] * first + feature[name] + [fill] * (width - count - first)
            assert batch[name][row].tolist() == expected, name
        for name in ("start_positions", "end_positions"):
            assert batch[name][row] == feature[name] + first
    assert all(part.dtype == torch.int64 for part in batch.values())


@pytest.mark.parametrize("side", ["right", "left"])
def test_positions_in_batches_decode_to_the_answer(words, side):
    words.padding_side = side
    rows = [("the cat runs fast", "cat"), ("a very good dog sleeps in the tree house", "very good dog"), ("a", "")]
    questions = make_questions(
        *((text, text, "bird", answer(text, context.index(text)) if text else NO_ANSWER) for context, text in rows)
    )
    questions = questions.remove_columns("context").add_column("context", [context for context, _ in rows])
    batch = SpanCollator(words)(encode(questions, words, options(), with_offsets=False).to_list())
    for ids, start, end, mask, (_, text) in zip(
        *(batch[name] for name in ("input_ids", "start_positions", "end_positions", "answer_mask")), rows, strict=True
    ):
        assert words.decode(ids[start : end + 1]) == (text or "[CLS]")
        assert mask[start : end + 1].all()
        assert ids[mask.bool()][0] == words.cls_token_id and words.pad_token_id not in ids[mask.bool()]


@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_without_positions_or_mask(rng, side):
    features, _ = some_features(rng, "word pieces")
    names = ("input_ids", "token_type_ids", "attention_mask")
    bare = [{name: row[name] for name in names} for row in features]
    batch = SpanCollator(make_tokenizer("word pieces", side))(bare)
    assert set(batch) == set(names)
    masked = [row | {"answer_mask": full["answer_mask"]} for row, full in zip(bare, features, strict=True)]
    batch = SpanCollator(make_tokenizer("word pieces", side))(masked)
    assert set(batch) == {*names, "answer_mask"}


def test_by_token_both_sides_are_the_same(rng, kind):
    features, _ = some_features(rng, kind)
    left, right = (SpanCollator(make_tokenizer(kind, side))(features) for side in ("left", "right"))
    for name in (*make_tokenizer(kind).model_input_names, "answer_mask"):
        assert torch.equal(by_token(left[name], left["attention_mask"]), right[name])
        assert torch.equal(by_token(right[name], right["attention_mask"]), right[name])
    moved = left["input_ids"].shape[1] - left["attention_mask"].sum(-1)
    assert torch.equal(left["start_positions"] - moved, right["start_positions"])
    assert torch.equal(left["end_positions"] - moved, right["end_positions"])


# -------------------------------------------------------------------------------------------------------- loading

CONTEXT = "The café — \U0001f408 — is in the town."


def rows_of(prefix, count):
    """Questions that all have an answer."""
    return [(f"{prefix}{row}", CONTEXT, f"What is {row}?", answer("café", 4)) for row in range(count)]


def write_official(path, rows):
    pairs = [
        {
            "id": name,
            "question": question,
            "answers": [
                {"text": text, "answer_start": start}
                for text, start in zip(answers["text"], answers["answer_start"], strict=True)
            ],
        }
        for name, _, question, answers in rows
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": pairs}]}]}), encoding="utf-8")
    return str(path)


@pytest.fixture(params=["squad", "squad_v2"])
def official(request, tmp_path):
    """The options that name a folder with the official files of one of the versions: 12 and 5 questions."""
    version = {"squad": "v1.1", "squad_v2": "v2.0"}[request.param]
    more = [("no", CONTEXT, "Who?", NO_ANSWER)] if request.param == "squad_v2" else rows_of("yes", 1)
    write_official(tmp_path / f"train-{version}.json", rows_of("train", 12))
    write_official(tmp_path / f"dev-{version}.json", rows_of("dev", 4) + more)
    return {"task_name": request.param, "data_dir": str(tmp_path)}


def test_official_files_are_found_in_their_folder(official):
    task = load_questions(SquadArguments(**official), seed=0)
    assert task.train["id"][:] == [f"train{row}" for row in range(12)]
    assert task.validation[""]["id"][:4] == [f"dev{row}" for row in range(4)] and len(task.validation[""]) == 5
    assert task.train[0] == dict(zip(("id", "context", "question", "answers"), rows_of("train", 1)[0], strict=True))
    assert list(task.validation) == list(task.test) == [""] and task.text_columns == ("question", "context")


def test_by_default_the_test_set_is_the_validation_set(official):
    """Read once where both are asked for and cut alike."""
    task = load_questions(SquadArguments(**official), seed=0)
    assert task.test[""] is task.validation[""]
    alone = load_questions(SquadArguments(**official), seed=0, splits=("test",)).test[""]
    cut = load_questions(SquadArguments(**official, max_eval_samples=2), seed=0).test[""]
    for test in (alone, cut):
        assert test.column_names == ["id", "context", "question"]
        assert test[:] == task.validation[""].remove_columns("answers")[:]


@pytest.mark.parametrize("splits", [(), ("train",), ("validation",), ("test",), ("validation", "train")])
def test_only_what_is_asked_for_is_loaded(official, splits):
    if "train" not in splits:
        next(Path(official["data_dir"]).glob("train*")).unlink()
    task = load_questions(SquadArguments(**official), seed=0, splits=splits)
    assert (task.train is None) == ("train" not in splits)
    assert list(task.validation) == [""] * ("validation" in splits) and list(task.test) == [""] * ("test" in splits)


def test_samples_are_cut_and_drawn_with_the_seed(official):
    def load(seed=0, **limits):
        return load_questions(SquadArguments(**official, **limits), seed=seed)

    whole = load()
    task = load(max_train_samples=5, max_eval_samples=3, max_predict_samples=2)
    assert task.validation[""]["id"][:] == whole.validation[""]["id"][:3]
    assert task.test[""]["id"][:] == whole.test[""]["id"][:2]
    drawn = {seed: load(seed, max_train_samples=5).train["id"][:] for seed in range(6)}
    assert drawn[0] == task.train["id"][:] == load(3, max_train_samples=5, sample_seed=0).train["id"][:]
    for ids in drawn.values():
        assert len(set(ids)) == 5 and ids == sorted(ids, key=lambda name: int(name.removeprefix("train")))
    assert len(set(map(tuple, drawn.values()))) > 1
    huge = load(max_train_samples=12, max_eval_samples=999, max_predict_samples=999)
    assert huge.train["id"][:] == whole.train["id"][:] and len(huge.validation[""]) == len(huge.test[""]) == 5
    assert load(max_train_samples=999).train["id"][:] == whole.train["id"][:]


def test_own_files(tmp_path):
    """Each of another layout; the test file needs no answers, and its own are not read."""
    train = write_official(tmp_path / "t.json", rows_of("train", 2))
    validation, test = tmp_path / "v.jsonl", tmp_path / "p.jsonl"
    names = ("id", "context", "question", "answers")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows_of("v", 3)]
    validation.write_text("\n".join(lines), encoding="utf-8")
    test.write_text(json.dumps({"id": "p", "context": CONTEXT, "question": "?"}), encoding="utf-8")
    files = {"train_file": train, "validation_file": str(validation), "test_file": str(test)}
    task = load_questions(SquadArguments(**files), seed=0)
    assert (len(task.train), len(task.validation[""]), task.test[""]["id"][:]) == (2, 3, ["p"])
    assert task.test[""].column_names == ["id", "context", "question"]
    del files["test_file"]
    task = load_questions(SquadArguments(**files), seed=0)
    assert task.test[""]["id"][:] == ["v0", "v1", "v2"]
    only_test = SquadArguments(test_file=str(test))
    assert load_questions(only_test, seed=0, splits=("test",)).test[""]["id"][:] == ["p"]
    only = {"train": SquadArguments(validation_file=str(validation)), "validation": SquadArguments(train_file=train)}
    for split, arguments in only.items():
        with pytest.raises(InputError, match=f"{split}_file is not set, but the {split} set is needed: give a file"):
            load_questions(arguments, seed=0, splits=(split,))
    with pytest.raises(InputError, match=r"test_file is not set \(or validation_file\), but the test set"):
        load_questions(SquadArguments(train_file=train), seed=0, splits=("test",))


def test_own_questions_beside_the_official_ones(official, tmp_path):
    test = tmp_path / "mine.jsonl"
    test.write_text(json.dumps({"id": "p", "context": CONTEXT, "question": "?"}), encoding="utf-8")
    task = load_questions(SquadArguments(**official, test_file=str(test)), seed=0)
    assert (len(task.train), len(task.validation[""]), task.test[""]["id"][:]) == (12, 5, ["p"])
    assert SquadArguments(test_file=str(test)).reads_hub and not SquadArguments(**official).reads_hub


@pytest.mark.parametrize(("split", "missing"), [("train", "train-v1"), ("validation", "dev-v1"), ("test", "dev-v1")])
def test_missing_official_files_are_named(tmp_path, split, missing):
    with pytest.raises(InputError, match=rf"{missing}\.1\.json is missing"):
        load_questions(SquadArguments(data_dir=str(tmp_path)), seed=0, splits=(split,))


def test_missing_own_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl is missing"):
        load_questions(SquadArguments(train_file=str(tmp_path / "nowhere.jsonl")), seed=0, splits=("train",))


def test_rules_follow_the_task(tmp_path, caplog):
    """Version 1.1 wants answers to all; misplaced ones stop the run, or are left out, but not from a test set."""
    rows = [*rows_of("q", 2), ("none", CONTEXT, "Who?", NO_ANSWER)]
    path = write_official(tmp_path / "a.json", rows)
    with pytest.raises(InputError, match=r"1 of 3 questions has no answer \('none'\)"):
        load_questions(SquadArguments(train_file=path), seed=0, splits=("train",))
    assert (
        len(load_questions(SquadArguments(task_name="squad_v2", train_file=path), seed=0, splits=("train",)).train)
        == 3
    )
    path = write_official(tmp_path / "b.json", [*rows_of("q", 2), ("off", CONTEXT, "Who?", answer("café", 5))])
    with pytest.raises(InputError, match=r"not at its answer_start \('off'\)"):
        load_questions(SquadArguments(validation_file=path), seed=0, splits=("validation",))
    arguments = SquadArguments(validation_file=path, drop_misplaced_answers=True)
    task = load_questions(arguments, seed=0, splits=("validation", "test"))
    assert task.validation[""]["id"][:] == ["q0", "q1"] and task.test[""]["id"][:] == ["q0", "q1", "off"]


def test_from_the_hub(monkeypatch):
    """With the Hub's columns, of which the titles are left out."""
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        data = make_questions(*rows_of(split, 4))
        return data.add_column("title", ["Cafés"] * 4)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name, hub_name in (("squad", "rajpurkar/squad"), ("squad_v2", "rajpurkar/squad_v2")):
        asked.clear()
        task = load_questions(SquadArguments(task_name=name, max_train_samples=3), seed=0)
        assert asked == [(hub_name, "train"), (hub_name, "validation")]
        assert task.train.column_names == ["id", "context", "question", "answers"] and len(task.train) == 3
        assert task.validation[""][3] == dict(
            zip(("id", "context", "question", "answers"), rows_of("validation", 4)[3], strict=True)
        )
        assert task.test[""] is task.validation[""]
        asked.clear()
        load_questions(SquadArguments(task_name=name), seed=0, splits=("train",))
        assert asked == [(hub_name, "train")]


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError("no such data"), OSError("disk")])
def test_an_unreachable_hub_is_explained(monkeypatch, error):
    def load_dataset(name, split):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        InputError,
        match=rf"rajpurkar/squad on the Hub cannot be loaded \({error}\): check the network, or give data_dir",
    ):
        load_questions(SquadArguments(), seed=0, splits=("train",))


def test_questions_from_the_hub_are_checked(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: make_questions(("q", CONTEXT, "?", NO_ANSWER)))
    with pytest.raises(InputError, match=r"rajpurkar/squad, train: 1 of 1 questions has no answer"):
        load_questions(SquadArguments(), seed=0, splits=("train",))


def test_answers_that_no_piece_holds_are_warned_of(kind, caplog):
    """They are longer than what pieces share, and would be taught as no answer without a word."""
    context = " ".join(["the river runs slowly past the old town"] * 12)
    long, short = context[60:300], "river"
    questions = make_questions(
        ("long", context, "why ?", answer(long, 60)), ("short", context, "why ?", answer(short, 4))
    )
    tokenizer = make_tokenizer(kind)
    args = options(max_seq_length=24, doc_stride=4, max_question_length=6)
    features = encode(questions, tokenizer, args, with_offsets=False)
    assert "1 of 2 questions ('long') has an answer that no piece of the context contains" in caplog.text
    assert len(features) > 4
    caplog.clear()
    encode(questions.select([1]), tokenizer, args, with_offsets=True)
    assert not caplog.text


def test_answers_of_characters_without_a_token_are_warned_of(caplog):
    tokenizer = make_tokenizer("word pieces")
    context = "the cat \u200b\u200d runs"
    questions = make_questions(
        ("lost", context, "what ?", answer("\u200b\u200d", 8)),
        ("kept", context, "what ?", answer("cat \u200b", 4)),
        ("none", context, "what ?", NO_ANSWER),
    )
    features = encode(questions, tokenizer, options(), with_offsets=False)
    assert [start == 0 for start in features["start_positions"]] == [True, False, True]
    assert "1 of 3 questions ('lost') has an answer whose characters the tokenizer drops" in caplog.text
    caplog.clear()
    encode(questions.select([1, 2]), tokenizer, options(), with_offsets=False)
    assert not caplog.text
