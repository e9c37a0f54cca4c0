"""The reading demo task: one answer to each question, reproducible, beyond places, readable by model classes."""

import json
import random
from collections import Counter
from hashlib import sha256

import pytest
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from ckd_trainer.data.demo.agreement import NOUNS, TRANSITIVE_VERBS, WORDS
from ckd_trainer.data.demo.reading import ADJECTIVES, NAMES, SENTENCES, main, make_texts, make_tokenizer, write_task
from ckd_trainer.utils.errors import InputError

SIZES = {"train": 200, "validation": 50, "test": 30}


@pytest.fixture
def seed():
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    return seed


@pytest.fixture
def rows(tmp_path, seed):
    """Maps a file's name to its (id, context, question, answer, start)."""
    write_task(tmp_path, seed=seed, **SIZES)
    rows = {}
    for name in SIZES:
        file = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert file["version"] == "1.1"
        rows[name] = [
            (qa["id"], paragraph["context"], qa["question"], answer["text"], answer["answer_start"])
            for article in file["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
            for answer in qa["answers"]
        ]
        assert len(rows[name]) == SIZES[name] * 2 * SENTENCES
    return rows


def people_of(context):
    """Reads a context as a reader does: a sentence is what is left of its verb, and what is right of it."""
    verbs = {f"{verb}s" for verb in TRANSITIVE_VERBS}
    people = []
    for sentence in context.split("."):
        words = sentence.split()
        places = [place for place, word in enumerate(words) if word in verbs]
        assert len(places) == (1 if words else 0), sentence
        for place in places:
            people += [" ".join(words[:place]), " ".join(words[place + 1 :])]
    return people


def answers_in(context, question):
    noun = question.removeprefix("Which ").removesuffix(" is in the text?")
    assert noun in NOUNS
    return [person for person in people_of(context) if noun in person.split()]


def test_each_question_has_one_answer_where_it_says(rows):
    for _, context, question, answer, start in sum(rows.values(), []):
        assert answers_in(context, question) == [answer]
        assert context[start : start + len(answer)] == answer
        assert context.count(answer) == 1


def test_people_are_called_as_in_english(seed):
    lengths = Counter()
    for context, people in make_texts(300, seed):
        assert [answer for answer, _ in people.values()] == people_of(context)
        for noun, (answer, _) in people.items():
            before, after = answer.lower().split(f" {noun}", 1)
            determiner, *adjectives = before.split()
            assert determiner in WORDS["determiner"] and len(set(adjectives)) == len(adjectives) <= 2
            assert set(adjectives) <= set(ADJECTIVES)
            if after:
                preposition, name = after.split()
                assert preposition in WORDS["preposition"] and name.capitalize() in NAMES
            lengths[len(answer.split())] += 1
    assert set(lengths) == {2, 3, 4, 5, 6}


def test_files_share_no_text_and_no_id(rows):
    ids = [row[0] for name in rows for row in rows[name]]
    assert len(set(ids)) == len(ids)
    contexts = [{row[1] for row in rows[name]} for name in rows]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == sum(SIZES.values())


def test_no_place_and_no_frequent_answer_gives_it_away(rows):
    train, validation = rows["train"], rows["validation"]
    people = range(2 * SENTENCES)
    hits = [sum(people_of(context)[place] == answer for _, context, _, answer, _ in validation) for place in people]
    assert hits == [len(validation) / len(people)] * len(people)

    def guess(kind):
        counts = Counter((kind(row), row[3]) for row in train)
        best = {}
        for (value, answer), _ in counts.most_common():
            best.setdefault(value, answer)
        return sum(best.get(kind(row)) == row[3] for row in validation) / len(validation)

    assert guess(lambda row: None) < 0.05  # the most frequent answer
    assert guess(lambda row: row[2]) < 0.15  # the most frequent one to the question
    assert guess(lambda row: row[4]) < 0.05  # and at its place


def test_a_seed_gives_the_same_texts_everywhere(tmp_path, seed):
    assert make_texts(50, seed) == make_texts(100, seed)[:50]
    assert make_texts(50, seed) != make_texts(50, seed + 1)
    # Noted once, in a process with another order of hashes. If it changes, so do all numbers reported on this task.
    write_task(tmp_path, seed=7, train=100, validation=1, test=1)
    assert sha256((tmp_path / "train.json").read_bytes()).hexdigest()[:16] == "f2613ee0bf27dc3f"


def test_base_loads_as_tokenizer_and_model(tmp_path, rows):
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    _, context, question, *_ = rows["train"][0]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(question, context)["input_ids"])
    assert tokens == make_tokenizer().encode(question, context).tokens
    assert tokens[:7] == ["[CLS]", "which", question.split()[1], "is", "in", "the", "text"]
    assert tokens.count("[SEP]") in (2, 3) and tokens[-1] == "[SEP]"
    for _, context, question, *_ in sum(rows.values(), []):
        ids = tokenizer(question, context)["input_ids"]
        assert tokenizer.unk_token_id not in ids and len(ids) <= tokenizer.model_max_length
    assert tokenizer.unk_token_id in tokenizer("Which Gandalf is in the text?")["input_ids"]

    config = AutoConfig.from_pretrained(tmp_path / "base")
    assert config.vocab_size == len(tokenizer) and config.pad_token_id == tokenizer.pad_token_id
    model = AutoModelForQuestionAnswering.from_config(config)
    assert type(model).__name__ in config.architectures
    questions, contexts = [row[2] for row in rows["test"][:3]], [row[1] for row in rows["test"][:3]]
    batch = tokenizer(questions, contexts, padding=True, return_tensors="pt")
    assert model(**batch).start_logits.shape == batch["input_ids"].shape
    assert not list((tmp_path / "base").glob("*.safetensors"))


def test_writing_again_changes_nothing_and_other_content_is_refused(tmp_path, capsys):
    sizes = {"train": 3, "validation": 1, "test": 1}
    write_task(tmp_path, seed=0, **sizes)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    write_task(tmp_path, seed=0, **sizes)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}

    (tmp_path / "train.json").unlink()
    with pytest.raises(InputError, match="validation.json already exists with other content"):
        write_task(tmp_path, seed=1, **sizes)
    assert not (tmp_path / "train.json").exists()

    with pytest.raises(SystemExit) as exit:
        main([str(tmp_path)])
    assert exit.value.code == 2
    assert "other content" in capsys.readouterr().err


def test_command_line_writes_the_task(tmp_path, capsys):
    main([str(tmp_path / "task"), "--seed", "3"])
    assert str(tmp_path / "task") in capsys.readouterr().out
    assert json.loads((tmp_path / "task" / "train.json").read_text(encoding="utf-8"))["data"]
    assert json.loads((tmp_path / "task" / "base" / "config.json").read_text())["vocab_size"] > 50


@pytest.mark.parametrize("size", [0, -2])
def test_a_file_needs_a_text(size, tmp_path):
    with pytest.raises(InputError, match=f"validation is {size}"):
        write_task(tmp_path, train=4, validation=size, test=4)
    assert not list(tmp_path.iterdir())
