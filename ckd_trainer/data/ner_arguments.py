"""The data options of named entities."""

from dataclasses import dataclass

from ckd_trainer.arguments import check_positive, option
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.utils.errors import InputError

NER = "ner"  # the task_name of named entities


@dataclass
class NerArguments(DataArguments):
    """The sentences to train and evaluate on, and how they are read and cut into windows.

    Lengths are in tokens.

    Example::

        NerArguments(train_file="eng.train", validation_file="eng.testa")
        NerArguments(train_file="letters.jsonl", validation_file="dev.jsonl", text_column="letter")
        NerArguments(dataset_name="tomaarsen/conll2003")
    """

    task_name: str = option(NER, "Always ner, which tells ckd-trainer teacher and compare that the task is entities.")
    train_file: str | None = option(
        None,
        "Your own training data: a CoNLL file, or .json/.jsonl (one object per line) or .parquet with tokens and tags "
        "or with texts and spans. A file with any other suffix is read as CoNLL.",
    )
    validation_file: str | None = option(None, "Your own validation data, in the same formats.")
    test_file: str | None = option(None, "Your own test data, in the same formats; tags or spans are not needed.")
    token_column_number: int = option(1, "The column of a CoNLL file that holds the tokens, counted from 1.")
    tag_column_number: int | None = option(
        None, "The column of a CoNLL file that holds the tags, counted from 1. By default the last one."
    )
    tokens_column: str = option("tokens", "The column of your data that holds the list of tokens of a sentence.")
    tags_column: str = option("ner_tags", "The column of your data that holds their tags: IOB1, IOB2, IOBES or BILOU.")
    text_column: str = option(
        "text", "The column of your data that holds a text, if it has spans instead of tokens, and of unlabeled texts."
    )
    spans_column: str = option(
        "spans",
        "The column of your data that holds the entities of a text: a list of mappings with start and end (in "
        "characters, the end is exclusive) and label.",
    )
    # All: on WNUT-17, F1 is the same, and a pipeline with aggregation_strategy simple, which asks every piece, finds
    # more (docs/entities.md).
    label_all_pieces: bool = option(
        True,
        "Train on all pieces of a word, the first with the word's tag and the others with its I- tag. false: only the "
        "first piece has a label. The first piece decides in both cases.",
    )
    max_seq_length: int | None = option(
        None,
        "Longer texts are cut into windows of this many tokens. By default 128, or fewer if the models read fewer.",
    )
    doc_stride: int | None = option(
        None,
        "The number of tokens that two neighboring windows of a text share. By default 32, or half of a window if 32 "
        "do not fit.",
    )

    def __post_init__(self) -> None:
        if self.task_name != NER:
            raise InputError(f"task_name is {self.task_name!r}: give {NER}, or leave it out.")
        if not self.given("dataset_name", "train_file", "validation_file", "test_file"):
            raise InputError("there is no data to use: give dataset_name, or train_file and validation_file.")
        self.fill_in(max_seq_length=128, doc_stride=32)
        super().__post_init__()
        check_positive(self, "doc_stride", "token_column_number", "tag_column_number")
