"""Small tokenizers of the three usual kinds, trained on the spot."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from ckd_trainer import TokenizerPair
from helpers.files import WORDS, sentences
from helpers.tiny import tiny_config

TEXTS = [
    "The cat doesn't sleep, and the unaffordable house grows slowly!",
    "good bad fine ugly very not the a cat dog bird tree house runs sleeps sings grows",
    "Straße, café naïve résumé: 3.5% of x_1 (see below) costs $20...",
    "你好世界，我喜欢学习。 今天天气很好。",
    "สวัสดีครับ ภาษาไทยไม่มีช่องว่าง",
    "नमस्ते दुनिया हिन्दी भाषा",
    "カタカナとひらがな 한국어 텍스트",
    "emoji 😀 👩‍👩‍👧 🇩🇪 👍🏽 end",
    "ﬁne ﬂow e\u0301te\u0301 ½ ™ Ⅻ",
]
_SPECIAL = {"wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "other": ("<s>", "<pad>", "</s>", "<unk>")}


def wordpiece(texts=TEXTS, size=160, lowercase=True):
    """A tokenizer like BERT's: uncased, without accents, with Chinese characters apart; or cased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = _SPECIAL["wordpiece"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(special)))
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


def byte_level(texts=TEXTS, size=400, **kwargs):
    """A tokenizer like RoBERTa's: byte pairs, with the space before a word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(_SPECIAL["other"]),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    return _fast(tokenizer, **kwargs)


def unigram(texts=TEXTS, size=200, **kwargs):
    """A tokenizer like those of SentencePiece: unigrams after NFKC, with a mark for the space before a word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(_SPECIAL["other"]), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=ids
    )
    return _fast(tokenizer, **kwargs)


def different_tokenizers():
    """Returns an uncased WordPiece and a byte-level BPE tokenizer, which cut the words of tests into few tokens."""
    texts = [" ".join(WORDS), *(f" {word}" for word in WORDS)]
    return TokenizerPair(wordpiece(texts, size=60), byte_level(texts, size=300))


def encoded_sentences(tokenizers, count=24, seed=0):
    """Returns `sentences` with both encodings, and their labels."""
    texts, labels = zip(*sentences(count, seed), strict=True)
    return Dataset.from_dict(tokenizers(texts) | {"labels": [("bad", "good").index(label) for label in labels]})


def model_for(tokenizer, seed=0, model_class=BertForSequenceClassification, **kwargs):
    """Returns a tiny model with embeddings for a tokenizer, without dropout."""
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **kwargs)
    config.update({"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id})
    config.max_position_embeddings = 64
    torch.manual_seed(seed)
    return model_class(config)


def _fast(tokenizer, **kwargs):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=512,
        **kwargs,
    )
