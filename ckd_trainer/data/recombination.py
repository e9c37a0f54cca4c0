"""New pairs of texts out of those of a task: each first text beside second texts of other examples.

Augmented SBERT (Thakur et al. 2021, arXiv 2010.08240) lets a large model score such pairs for a small one. As there,
most second texts are the nearest by the words that they share: most pairs that are drawn at random have nothing to do
with each other, and so the same answer. On STS-B, this made no difference (docs/results.md, "Recombined pairs").
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import regex
from sklearn.feature_extraction.text import TfidfVectorizer

_CELLS = 2**22  # similarities in memory at a time: up to 50 MB
# Scripts without spaces between words: each character counts as one.
_NO_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_words = regex.compile(rf"{_NO_SPACES}|[[\w\p{{M}}]--{_NO_SPACES}]+|\S", regex.V1).findall


def recombined(
    firsts: Sequence[str], seconds: Sequence[str], *, neighbors: int, random_pairs: int, seed: int
) -> Iterator[list[tuple[str, str]]]:
    """Yields the new pairs of each distinct first text.

    None is one of the given pairs, occurs twice, or consists of one text twice.

    Args:
        firsts, seconds: the texts of the given pairs, in their order.
        neighbors: second texts for each first one, nearest by the cosine of TF-IDF vectors of words; of equally near
            texts, the first. Fewer if fewer texts share a word or punctuation mark with it.
        random_pairs: further second texts for each first one, drawn at random. One that makes no new pair is dropped.
        seed: draws them. Each first text has its own numbers.

    Example:
        >>> list(recombined(["a cat sleeps", "a dog runs"], ["the cat naps", "the dog is quick"],
        ...                 neighbors=1, random_pairs=1, seed=0))
        [[('a cat sleeps', 'the dog is quick')], [('a dog runs', 'the cat naps')]]
    """
    partners: dict[str, set[str]] = defaultdict(set)
    for first, second in zip(firsts, seconds, strict=True):
        partners[first].add(second)
    distinct, pool = list(partners), list(dict.fromkeys(seconds))
    vectorizer = TfidfVectorizer(tokenizer=_words, token_pattern=None).fit([*distinct, *pool])
    vectors, others = vectorizer.transform(distinct), vectorizer.transform(pool).T.tocsr()
    block = max(1, _CELLS // len(pool))
    for row, first in enumerate(distinct):
        if row % block == 0:
            similarities = vectors[row : row + block] @ others  # sparse: of texts with a word in common
        taken = {*partners[first], first}
        start, end = similarities.indptr[row % block : row % block + 2]
        nearest = _largest(similarities.data[start:end], similarities.indices[start:end], neighbors + len(taken))
        drawn = np.random.default_rng([seed, row]).integers(len(pool), size=random_pairs)
        new = [pool[one] for one in nearest if pool[one] not in taken][:neighbors]
        new += [pool[one] for one in drawn if pool[one] not in taken]
        yield [(first, second) for second in dict.fromkeys(new)]


def _largest(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the `count` largest values, the largest first; of equal values, the first places."""
    if count < len(values):
        kept = values >= np.partition(values, -count)[-count]
        values, places = values[kept], places[kept]
    return places[np.lexsort((places, -values))][:count]
