"""Augmentation: candidates against one masked text at a time, variants, and static vectors."""

import numpy as np
import pytest
import torch
from helpers.files import WORDS
from helpers.tiny import save_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from ckd_trainer.data.augmentation import Augmenter, Vectors, Word, read_vectors, variants, words_of
from ckd_trainer.utils.errors import InputError

TEXTS = ["the cat runs and the dog sleeps", "A tree grows, ugly house!", "bird", "sings fine 2 x", "of the"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=0),
    "distilbert": DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "electra": ElectraConfig(**SMALL, embedding_size=8),
    "mpnet": MPNetConfig(**SMALL, pad_token_id=0),
    "modernbert": ModernBertConfig(**SMALL, pad_token_id=0, cls_token_id=2, sep_token_id=3),
}


def masked_lm(kind, size):
    torch.manual_seed(0)
    config = MODELS[kind]
    config.vocab_size = size
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():  # far from ties
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def word_pieces(tmp_path):
    save_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.fixture
def byte_pairs():
    """A tokenizer that marks beginnings of words, as RoBERTa's does."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    words = sorted({word for text in TEXTS for word in text.split()} | set(WORDS))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*special, *letters]
    merges = []
    for word in [f"Ġ{word}" for word in words if word.isalpha()]:
        for end in range(2, len(word) + 1):
            if word[:end] not in names:
                names.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE({name: id for id, name in enumerate(names)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **names)


def one_at_a_time(model, tokenizer, text, word, count, is_word):
    """The model's best words for one masked word, from all logits of this text alone."""
    masked = text[: word.start] + tokenizer.mask_token + text[word.end :]
    inputs = tokenizer(masked, text, return_tensors="pt")
    place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        logits = model(**inputs).logits[0, place]
    best = []
    for id in logits.argsort(descending=True).tolist():
        found = is_word(tokenizer.convert_ids_to_tokens(id))
        if found and found.lower() != word.text.lower() and len(best) < count:
            best.append(found[0].upper() + found[1:] if word.text[0].isupper() else found)
    return best


@pytest.mark.parametrize("kind", MODELS)
def test_candidates_are_those_of_one_text_at_a_time(word_pieces, kind):
    model = masked_lm(kind, len(word_pieces))
    augmenter = Augmenter(model, word_pieces, count=4, batch_size=3)
    found = augmenter.candidates(TEXTS)
    assert sum(map(len, found)) > 10

    def is_word(token):
        return token if token.isalpha() else ""

    for text, words in zip(TEXTS, found, strict=True):
        assert [word for word, _ in words] == [word for word in words_of(text) if word.text.lower() in WORDS]
        for word, candidates in words:
            assert candidates == one_at_a_time(model, word_pieces, text, word, 4, is_word)


def test_tokenizers_that_mark_the_beginning_of_words(byte_pairs):
    model = masked_lm("roberta", len(byte_pairs))
    (words,) = Augmenter(model, byte_pairs, count=3).candidates(["the cat runs"])
    assert [word.text for word, _ in words] == ["cat", "runs"]

    def is_word(token):
        return token[1:] if token.startswith("Ġ") and token[1:].isalpha() else ""

    for word, candidates in words:
        assert candidates == one_at_a_time(model, byte_pairs, "the cat runs", word, 3, is_word)


def test_words_of_several_pieces_get_neighbors(word_pieces):
    """From a file of vectors, or from the model's own embeddings; no candidates for a word without a vector."""
    model = masked_lm("bert", len(word_pieces))
    vectors = Vectors(["kitten", "cat", "dog", "rain"], np.array([[1, 0.1], [1, 0], [0.9, 0.5], [-1, 0]]))
    (words,) = Augmenter(model, word_pieces, vectors, count=2).candidates(["Kitten zebra"])
    assert words == [(Word(0, 6, "Kitten"), ["Cat", "Dog"])]


def test_pieces_have_the_mean_of_their_embeddings(tmp_path):
    save_tokenizer(tmp_path, [*WORDS, "##dog"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = masked_lm("bert", len(tokenizer))
    (words,) = Augmenter(model, tokenizer, count=3).candidates(["catdog"])
    embeddings = torch.nn.functional.normalize(model.get_input_embeddings().weight.detach(), dim=-1)
    raw = model.get_input_embeddings().weight.detach()
    mean = raw[tokenizer.convert_tokens_to_ids(["cat", "##dog"])].mean(0)
    ids = tokenizer.convert_tokens_to_ids(WORDS)
    order = (embeddings[ids] @ mean).argsort(descending=True)
    assert words == [(Word(0, 6, "catdog"), [WORDS[row] for row in order[:3]])]


def test_a_mask_in_a_text_is_no_word(word_pieces):
    augmenter = Augmenter(masked_lm("bert", len(word_pieces)), word_pieces)
    assert augmenter.candidates(["[MASK] cat sleeps"]) == [[]]


def test_a_word_beyond_the_length_has_no_candidates(word_pieces):
    augmenter = Augmenter(masked_lm("bert", len(word_pieces)), word_pieces, max_length=12)
    (words,) = augmenter.candidates(["cat " * 30])
    assert 0 < len(words) < 30


def test_a_tokenizer_without_a_mask_is_refused(word_pieces):
    word_pieces.mask_token = None
    with pytest.raises(InputError, match="has no mask token"):
        Augmenter(masked_lm("bert", len(word_pieces)), word_pieces)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's well-known 3rd naïve Straße isn't", ["cat", "well", "known", "naïve", "Straße"]),
        ("it 's a film they 've made , i 'll say he 'd go , i 'm , ca n't o’clock", ["film", "made", "say", "go"]),
        ("", []),
        ("  dogs , and\tcats\n", ["dogs", "cats"]),
        ("foo_bar x2 x²", []),
        ("\u2764\ufe0flove 1\ufe0f\u20e3one", ["love"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("e\u0301cole cafe\u0301s", ["e\u0301cole", "cafe\u0301s"]),
        ("می\u200cخواهم بروم", ["می\u200cخواهم", "بروم"]),
    ],
)
def test_words(text, words):
    found = words_of(text)
    assert [word.text for word in found] == words and all(text[word.start : word.end] == word.text for word in found)


def example(text):
    return text, [(word, [f"{word.text}A", f"{word.text}B"]) for word in words_of(text)]


def test_variants_differ_and_keep_the_rest_of_the_text():
    text = "Cats,  dogs!"
    found = variants([example(text)], count=200, probability=0.5, seed=0)
    wanted = {(f"Cats{a},  dogs{b}!",) for a in ("", "A", "B") for b in ("", "A", "B")} - {(text,)}
    assert set(found) == wanted and len(found) == len(wanted) == 8
    assert variants([example(text)], count=200, probability=0.5, seed=0) == found
    assert variants([example(text)], count=200, probability=0.5, seed=1) != found  # in another order
    assert variants([("of the", [])], count=5, probability=1, seed=0) == []


def test_pairs_stay_together():
    """Each pass makes a variant of both texts; either may stay as it is, but not both."""
    found = variants([example("cats"), example("dogs")], count=300, probability=0.4, seed=0)
    assert set(found) == {(f"cats{a}", f"dogs{b}") for a in ("", "A", "B") for b in ("", "A", "B")} - {
        ("cats", "dogs")
    }


def test_words_are_replaced_as_often_as_asked():
    words = " ".join(f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400))
    (variant,) = variants([example(words)], count=1, probability=0.3, seed=0)
    changed = sum(one != other for one, other in zip(words.split(), variant[0].split(), strict=True))
    assert abs(changed - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize("header", ["", "4 2\n", "\ufeff"])
def test_vectors(tmp_path, header):
    path = tmp_path / "vectors.txt"
    rows = "cat 1 0\ndog 1 0.1\n, 0 1\nrain -1 0\n. . . 0 1\nat me@example.com 1 1\n2009 1 1\n"
    path.write_text(header + rows, encoding="utf-8")
    vectors = read_vectors(path)
    assert vectors.words == ["cat", "dog", "rain"]  # punctuation is no candidate
    assert vectors.nearest(vectors.of("Cat")[None], 2) == [["cat", "dog"]] and vectors.of("sun") is None
    assert read_vectors(path, most=3 if header == "4 2\n" else 2).words == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat 1 0\ndog 1\n", "line 2: this is not a word and 2 numbers"),
        ("cat 1 0\ndog 1 0 3\n", "line 2: this is not a word and 2 numbers"),
        ("cat 1 zero\n", "line 1: this is not a word and numbers"),
        ("cat 1 nan\n", "line 1: this is not a word and numbers"),
        ("", "has no words"),
    ],
)
def test_files_that_are_no_vectors(tmp_path, text, message):
    path = tmp_path / "vectors.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_vectors(path)
