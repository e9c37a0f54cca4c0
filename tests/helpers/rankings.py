"""Queries and candidates: the relevant candidate of a query holds the word good, the others the word bad."""

import random

from helpers.files import sentences, write_tsv

HEADER = ("query", "candidate", "label", "query_id")


def rankings(queries, candidates=4, seed=0):
    """Returns rows of query, candidate, label and query_id; one of the candidates is relevant."""
    draw = random.Random(seed)
    rows = []
    for number in range(queries):
        drawn = sentences(2 * candidates, draw.random())
        relevant = next(text for text, label in drawn if label == "good")
        others = [text for text, label in drawn if label == "bad"][: candidates - 1]
        query = draw.choice(("very", "not", "fine"))
        own = [(query, relevant, "1", f"q{number}"), *((query, text, "0", f"q{number}") for text in others)]
        draw.shuffle(own)
        rows += own
    return rows


def write_rankings(path, queries, candidates=4, seed=0):
    return write_tsv(path, rankings(queries, candidates, seed), HEADER)
