"""Texts that break off while they are read, and small streams."""

from ckd_trainer.data.blocks import BlockOptions, Packer
from ckd_trainer.data.streamed_documents import StreamedDocuments, StreamedFile
from ckd_trainer.data.streams import BlockStream, PackedStream
from ckd_trainer.data.text_arguments import TextSource


class Breaks:
    """Makes files break off before part `at` of each pass, for `times` attempts after the first `spared` ones.

    Attributes:
        waits: the seconds that were waited between attempts.
    """

    def __init__(self, monkeypatch, at, times, spared=0):
        self.at, self.left, self.spared, self.waits = at, times, spared, []
        self.original = StreamedFile._read
        monkeypatch.setattr(StreamedFile, "_read", lambda *args: self._read(*args))
        monkeypatch.setattr(StreamedDocuments, "pause", lambda documents, seconds: self.waits.append(seconds))

    def _read(self, documents, number, place):
        for part, after in self.original(documents, number, place):
            if after == self.at and self.spared:
                self.spared -= 1
            elif after == self.at and self.left:
                self.left -= 1
                raise ConnectionError("server disconnected")
            yield part, after


def packed(path, tokenizer, length=16, **options):
    return PackedStream(
        StreamedFile(TextSource(train_file=str(path))), Packer(tokenizer, BlockOptions(length, **options))
    )


def stream_of(paths, tokenizer, weights=None, seed=0, **options):
    streams = [packed(path, tokenizer, **options) for path in paths]
    return BlockStream(streams, weights or [1.0] * len(paths), seed=seed)
