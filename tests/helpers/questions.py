"""Questions about contexts with unusual characters and whitespace, and tokenizers of each kind for them."""

import functools
import random

import torch
from datasets import Dataset, Features, Value
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ckd_trainer.data.squad_arguments import SquadArguments

CORPUS = (
    "the river runs slowly past the old town and its bridge was built by the third duke . "
    "when the trains came in 1864 the bridge was rebuilt , and 24 10 people don ' t remember why it cost $ 5 000 . "
    "a naive cafe owner of zurich wrote the book about bridges and rivers : ( unbelievable ) ! "
)
ODD = [
    *(
        "café",
        "Zürich",
        "naïve",
        "\U0001f408",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "שלום",
        "مرحبا",
        "日本語",
    ),
    *("½", "№5", "don't", "$5,000", "24–10", "U.S.A.", "unbelievable)", "Ωmega", "ﬁn", "\U0001d4d0"),
]
GAPS = [" "] * 12 + ["  ", "\t", "\r\n", "\n\n", "\u00a0", " \u2003", ", ", "-"]
TEMPLATES = {  # A is the question, B the piece of the context
    "words": "[CLS] A [SEP] B [SEP]",
    "word pieces": "[CLS] A [SEP] B [SEP]",
    "byte-level": "<s> A </s> </s> B </s>",
    "cls last": "A [SEP] B [SEP] [CLS]",
}
TYPES = {"words": "A A A B B", "word pieces": "A A A B B", "cls last": "A A B B B"}
TRAINED = ["word pieces", "byte-level", "cls last"]
NO_ANSWER = {"text": [], "answer_start": []}


@functools.cache
def make_tokenizer(kind, side="right"):
    """Returns a tokenizer trained on CORPUS; other words are split into pieces or become [UNK].

    Word pieces are in lower case and without accents, as BERT's; bytes are as RoBERTa's; `cls last` is as XLNet's.
    """
    if kind == "byte-level":
        cls, sep, pad = "<s>", "</s>", "<pad>"
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=320, special_tokens=[cls, sep, pad], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator([CORPUS], trainer)
        tokenizer.post_processor = processors.RobertaProcessing((sep, 1), (cls, 0), True, False)
        more = {"model_input_names": ["input_ids", "attention_mask"]}
    else:
        cls, sep, pad = "[CLS]", "[SEP]", "[PAD]"
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=[pad, "[UNK]", cls, sep], show_progress=False
        )
        tokenizer.train_from_iterator([CORPUS], trainer)
        template, types = TEMPLATES[kind].split(), TYPES[kind].split()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A [SEP]" if kind == "cls last" else "[CLS] $A [SEP]",
            pair=" ".join(
                f"{'$' if part in 'AB' else ''}{part}:{'AB'.index(owner)}"
                for part, owner in zip(template, types, strict=True)
            ),
            special_tokens=[(cls, 2), (sep, 3)],
        )
        more = {"unk_token": "[UNK]", "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=cls, sep_token=sep, pad_token=pad, padding_side=side, **more
    )


def drawer(rng):
    """Returns a Python random generator with a seed from `rng`."""
    return random.Random(int(torch.randint(2**31, (), generator=rng)))


def random_text(draw, count, odd=0.3):
    """Returns `count` words with gaps around them; a share of the words is odd."""
    plain = [word for word in CORPUS.split() if word.isalnum()]
    parts = [draw.choice(["", " ", "\n"])]
    for _ in range(count):
        parts += [draw.choice(ODD if draw.random() < odd else plain), draw.choice(GAPS if odd else [" "])]
    return "".join(parts)


def make_questions(*rows):
    """Returns a data set of rows (id, context, question, answers)."""
    features = {name: Value("string") for name in ("id", "context", "question")}
    answers = {"text": [Value("string")], "answer_start": [Value("int32")]}
    rows = [dict(zip(("id", "context", "question", "answers"), row, strict=True)) for row in rows]
    return Dataset.from_list(rows, features=Features(**features, answers=answers))


def options(**changed):
    """Returns arguments with lengths that split most contexts into several pieces."""
    return SquadArguments(
        **({"max_seq_length": 32, "max_question_length": 9, "doc_stride": 6, "task_name": "squad_v2"} | changed)
    )


def inside(feature):
    """Returns the positions of a feature's context tokens."""
    return [place for place, start in enumerate(feature["char_starts"]) if start >= 0]
