"""The agreement demo task: balanced, reproducible, beyond counting words, readable by tokenizers and models."""

import csv
import json
import random
from collections import Counter
from hashlib import sha256

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from ckd_trainer.data.demo import agreement
from ckd_trainer.data.demo.agreement import LABELS, WORDS, main, make_examples, make_tokenizer, write_task
from ckd_trainer.utils.errors import InputError

KIND = {word: kind for kind, words in WORDS.items() for word in words}


@pytest.fixture
def seed():
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    return seed


def words_of(text):
    return text.lower().replace(",", " ,").replace(".", " .").split()


def kinds_of(text):
    return [KIND.get(word, word) for word in words_of(text)]


def is_grammatical(text):
    """Judges a sentence as a reader does: left to right, with a stack of the nouns that still wait for their verb."""
    kinds = kinds_of(text)
    start = kinds.index(",") + 1 if "," in kinds else 0
    waiting, main_verb_agrees = [], None
    for place in range(start, len(kinds)):
        number, _, kind = kinds[place].partition(" ")
        if kind == "noun":
            latest = number
            if place == start + 1 or kinds[place - 2] == "that":  # the nurse ...; ... that the nurse ...
                waiting.append(number)
        elif kind in ("transitive", "intransitive"):
            if kinds[place - 1] == "that":
                assert number == latest, text
            elif main_verb_agrees is None and len(waiting) == 1:
                main_verb_agrees = number == waiting.pop()
            else:
                assert number == waiting.pop(), text
    assert not waiting and main_verb_agrees is not None, text
    return main_verb_agrees


def test_words_belong_to_one_kind_each():
    assert sum(map(len, WORDS.values())) == len(KIND) > 90


def test_labels_are_right_and_embedded_verbs_agree(seed):
    for text, label in make_examples(2000, seed):
        assert (label == "grammatical") == is_grammatical(text), text


def test_there_is_something_between_subject_and_verb(seed):
    texts = [text for text, _ in make_examples(1000, seed)]
    relatives = Counter(kinds_of(text).count("that") for text in texts)
    assert set(relatives) >= {0, 1, 2}
    assert sum(" and " in text for text in texts) > 50
    assert sum("," in text for text in texts) > 100
    assert max(len(words_of(text)) for text in texts) <= agreement.MAX_WORDS


def test_no_bag_of_words_tells_the_labels_apart(seed):
    examples = make_examples(6000, seed)
    for first, second in zip(examples[::2], examples[1::2], strict=True):
        assert {first.label, second.label} == set(LABELS)
        assert Counter(kinds_of(first.text)) == Counter(kinds_of(second.text))

    # So whatever a model makes of the counts of nouns and verbs in either number, it is right on half of the pairs.
    train, test = examples[:4000], examples[4000:]
    numbers = CountVectorizer(analyzer=kinds_of)
    features, labels = numbers.fit_transform([e.text for e in train]), [e.label for e in train]
    for model in (LogisticRegression(max_iter=1000), DecisionTreeClassifier()):
        model.fit(features, labels)
        assert model.score(numbers.transform([e.text for e in test]), [e.label for e in test]) == 0.5

    # The same for counts of words, up to the luck of the draw: 2000 flips of a coin stray by 0.011 in one of three.
    tokenizer = make_tokenizer()
    for analyzer in (words_of, lambda text: tokenizer.encode(text).tokens):
        counts = CountVectorizer(analyzer=analyzer)
        features = counts.fit_transform([e.text for e in train])
        model = LogisticRegression(max_iter=1000).fit(features, labels)
        score = model.score(counts.transform([e.text for e in test]), [e.label for e in test])
        assert 0.44 < score < 0.56


def test_no_single_noun_gives_the_answer_away(seed):
    def agreements(text):
        nouns = [kind.split()[0] for kind in kinds_of(text) if kind.endswith("noun")]
        verbs = [kind.split()[0] for kind in kinds_of(text) if kind.endswith("transitive")]
        return [noun == verb for noun in (nouns[0], nouns[-1]) for verb in (verbs[0], verbs[-1])]

    examples = make_examples(3000, seed)
    for shortcut in range(4):
        hits = sum(agreements(text)[shortcut] == (label == "grammatical") for text, label in examples)
        assert 0.2 < hits / len(examples) < 0.8


def test_a_seed_gives_the_same_examples_everywhere(tmp_path, seed):
    assert make_examples(200, seed) == make_examples(400, seed)[:200]
    assert make_examples(200, seed) != make_examples(200, seed + 1)
    # Noted once, in a process with another order of hashes. If it changes, so do all numbers reported on this task.
    write_task(tmp_path, seed=7, train=1000, validation=2, test=2, text=9)
    assert sha256((tmp_path / "train.tsv").read_bytes()).hexdigest()[:16] == "1b1b41472f603d93"


def test_splits_are_balanced_and_share_no_sentence(tmp_path, seed):
    write_task(tmp_path, seed=seed, train=600, validation=100, test=60, text=150)
    texts = (tmp_path / "text.txt").read_text().splitlines()
    assert len(texts) == 150
    for name, size in (("train", 600), ("validation", 100), ("test", 60)):
        with open(tmp_path / f"{name}.tsv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, size // 2)
        bags = {label: Counter() for label in LABELS}
        for row in rows:
            bags[row["label"]][tuple(sorted(kinds_of(row["text"])))] += 1
        assert bags["grammatical"] == bags["ungrammatical"]
        texts += [row["text"] for row in rows]
    assert len(set(texts)) == 760 + 150


def test_base_loads_as_tokenizer_and_model(tmp_path, seed):
    write_task(tmp_path, seed=seed, train=400, validation=2, test=2, text=9)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    encoded = tokenizer("The nurses that follow my boy annoy Gandalf.")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == (
        "[CLS] the nurse ##s that follow my boy annoy [UNK] . [SEP]".split()
    )
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert tokenizer.pad_token_id == 0 and tokenizer.mask_token == "[MASK]"
    texts = [text for text, _ in make_examples(400, seed)]
    for ids in tokenizer(texts)["input_ids"]:
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= tokenizer.model_max_length

    config = AutoConfig.from_pretrained(tmp_path / "base")
    assert config.vocab_size == len(tokenizer)
    model = AutoModelForSequenceClassification.from_config(config)
    batch = tokenizer(texts[:3], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (3, 2)
    assert not list((tmp_path / "base").glob("*.safetensors"))


def test_writing_again_changes_nothing_and_other_content_is_refused(tmp_path, capsys):
    sizes = {"train": 20, "validation": 2, "test": 2, "text": 9}
    write_task(tmp_path, seed=0, **sizes)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    write_task(tmp_path, seed=0, **sizes)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}

    with pytest.raises(InputError, match="train.tsv already exists with other content"):
        write_task(tmp_path, seed=1, **sizes)
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(InputError, match="validation.tsv already exists with other content"):
        write_task(tmp_path, seed=1, **sizes)
    assert not (tmp_path / "train.tsv").exists()

    with pytest.raises(SystemExit) as exit:
        main([str(tmp_path)])
    assert exit.value.code == 2
    assert "other content" in capsys.readouterr().err


def test_command_line_writes_the_task(tmp_path, capsys):
    main([str(tmp_path / "task"), "--seed", "3"])
    assert str(tmp_path / "task") in capsys.readouterr().out
    lines = (tmp_path / "task" / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "text\tlabel" and len(lines) == 20_001
    assert json.loads((tmp_path / "task" / "base" / "config.json").read_text())["model_type"] == "bert"


@pytest.mark.parametrize("n", [3, -2])
def test_examples_come_in_pairs(n, tmp_path):
    with pytest.raises(InputError, match="pairs"):
        make_examples(n, seed=0)
    with pytest.raises(InputError, match=f"validation is {n}"):
        write_task(tmp_path, train=4, validation=n, test=4)
