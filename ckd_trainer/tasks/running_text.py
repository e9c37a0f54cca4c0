"""The sources of running text of a run: opened, sampled, identified, and cut into blocks that are kept on disk."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ckd_trainer.data.blocks import BlockOptions, blocks_of
from ckd_trainer.data.documents import all_blank, first_texts, read_documents
from ckd_trainer.data.hub import NamedDataset
from ckd_trainer.data.streamed_documents import StreamedDocuments, StreamedFile, StreamedRows
from ckd_trainer.data.table import Table, state_of
from ckd_trainer.data.text_arguments import TextArguments, TextSource
from ckd_trainer.utils.errors import InputError

_SAMPLE = 256  # texts of each source that are read before the models are looked up


class OpenText:
    """A source of running text that is open for reading.

    Args:
        source: a file, or a data set by name.
        args: the options of the run's data.
        split: "train" or "validation".
        seed: draws the order in which a streamed data set is read; None for its own order.

    Attributes:
        streamed: the documents of a text of which this disk gets no copy: a folder of .txt files and, with
            `streaming`, the texts to train on and data sets by name.

    Raises:
        InputError: the source cannot be found or read, or has no text.
    """

    def __init__(self, source: TextSource, args: TextArguments, split: str, *, seed: int | None = None) -> None:
        self.source, self.quoting = source, args.quoting
        self.streamed: StreamedDocuments | None = None
        self._table: Table | None = None
        lines = False
        if source.dataset_name:
            options: Any = args if split == "validation" else source  # it has the options of a data set by name, too
            named = NamedDataset(options, quoting=args.quoting, streaming=args.streaming, stream_lines=True)
            lines, advice = named.has_lines, "name the column of texts with text_column"
            if args.streaming or lines:
                self.streamed = StreamedRows(
                    named.rows(split, text=source.text_column, advice=advice),
                    source.text_column,
                    seed=seed if args.streaming else None,
                    paragraphs=lines and source.lines == "paragraphs",
                )
            else:
                self._table = named.table(split, texts=[source.text_column], label=None, advice=advice)
        elif args.streaming and split == "train":
            self.streamed = StreamedFile(source, quoting=self.quoting)
        if self.streamed is not None:
            self.sample = first_texts((part for part, _ in self.streamed.parts()), _SAMPLE)
            if not self.sample and lines:
                raise InputError(f"{self.streamed.name}: all lines are blank: give other files.")
            if not self.sample:
                raise all_blank(self.streamed.name, source.text_column)
        else:
            self.sample = first_texts(read_documents(source, self._table, quoting=self.quoting), _SAMPLE)

    @property
    def identity(self) -> Dataset | None:
        """What identifies the source without reading all of it; None for a file that is compared by its content."""
        if self.streamed is not None:
            return Dataset.from_dict({"state": [self.streamed.identity]})
        return None if self._table is None else Dataset.from_dict({"state": [state_of(self._table.data)]})

    def blocks(self, tokenizer: PreTrainedTokenizerBase, options: BlockOptions, *, show_progress: bool) -> Dataset:
        """Returns the blocks of the source, see `blocks_of`."""
        return blocks_of(
            self.source,
            tokenizer,
            options,
            table=self._table,
            streamed=self.streamed,
            show_progress=show_progress,
        )
