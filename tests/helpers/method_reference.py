"""Slow twins of the losses of other methods: plain loops over texts, heads and tokens, in float64.

Invalid vectors are skipped, not masked.
"""

import math

import torch


def _valid(mask):
    return [index for index, there in enumerate(mask.tolist()) if there]


def _unit(vector):
    return vector / vector.square().sum().sqrt() if vector.any() else vector


def normalized_state_loss(student, teacher, mask):
    errors = [
        element
        for ours, theirs, row in zip(student, teacher, mask, strict=True)
        for token in _valid(row)
        for element in (_unit(ours[token]) - _unit(theirs[token])).square()
    ]
    return sum(errors, student.new_zeros(())) / max(1, len(errors))


def state_loss(student, teacher, mask):
    errors = [
        element
        for ours, theirs, row in zip(student, teacher, mask, strict=True)
        for token in _valid(row)
        for element in (ours[token] - theirs[token]).square()
    ]
    return sum(errors, student.new_zeros(())) / max(1, len(errors))


def cosine_loss(student, teacher, mask):
    errors = [
        1 - (_unit(ours[token]) * _unit(theirs[token])).sum()
        for ours, theirs, row in zip(student, teacher, mask, strict=True)
        for token in _valid(row)
    ]
    return sum(errors, student.new_zeros(())) / max(1, len(errors))


def gram_matrix_loss(student, teacher, mask, centered):
    """For sets (sets, N, width) with validity (sets, N)."""
    losses = []
    for ours, theirs, row in zip(student, teacher, mask, strict=True):
        sides = []
        for vectors in (ours[_valid(row)], theirs[_valid(row)]):
            if centered and len(vectors):
                vectors = vectors - vectors.mean(0)
            matrix = torch.stack(
                [torch.stack([(x * y).sum() for y in vectors]) for x in vectors] or [vectors.new_zeros(1)]
            )
            norm = matrix.square().sum().sqrt()
            sides.append(matrix / norm if norm > 1e-12 else matrix * 0)
        losses.append((sides[0] - sides[1]).square().sum())
    return sum(losses) / len(losses)


def attention_relation_loss(student, teacher, mask, heads):
    losses = []
    for text, row in enumerate(mask):
        valid, total = _valid(row), student[0].new_zeros(())
        for head in range(heads):
            for i in valid:
                rows = []
                for x, y in (student, teacher):
                    size = x.shape[-1] // heads
                    part = slice(head * size, (head + 1) * size)
                    scores = [(x[text, i, part] * y[text, j, part]).sum() / math.sqrt(size) for j in valid]
                    rows.append(torch.stack(scores).softmax(0))
                total = total + (rows[1] * (rows[1].log() - rows[0].log())).sum()
        losses.append(total / (heads * max(1, len(valid))))
    return sum(losses) / len(losses)


def attention_score_loss(student, teacher, mask, heads):
    errors = []
    for text, row in enumerate(mask):
        for head in range(heads):
            for i in _valid(row):
                for j in _valid(row):
                    scores = []
                    for x, y in (student, teacher):
                        size = x.shape[-1] // heads
                        part = slice(head * size, (head + 1) * size)
                        scores.append((x[text, i, part] * y[text, j, part]).sum() / math.sqrt(size))
                    errors.append((scores[0] - scores[1]).square())
    return sum(errors, student[0].new_zeros(())) / max(1, len(errors))


def attributions(log_probabilities, embeddings, mask, top_k=None):
    """Of the embeddings that log_probabilities (texts, decisions) depend on: (texts, decisions, tokens)."""
    rows = []
    for text, row in enumerate(mask):
        for decision in log_probabilities[text]:
            (gradient,) = torch.autograd.grad(decision, embeddings, create_graph=True, retain_graph=True)
            norms = [embeddings.new_zeros(()) for _ in row]
            for token in _valid(row):
                products = sorted(abs(gradient[text, token] * embeddings[text, token]), reverse=True)
                norms[token] = sum(product * product for product in products[:top_k]).sqrt()
            rows.append(torch.stack(norms))
    return torch.stack(rows).view(*log_probabilities.shape, -1)


def attribution_loss(student, teacher, mask):
    """For attributions (texts, decisions, tokens)."""
    total = student.new_zeros(())
    for text, row in enumerate(mask):
        for ours, theirs in zip(student[text], teacher[text], strict=True):
            valid = _valid(row)
            for one, other in zip(_unit(ours[valid]), _unit(theirs[valid]), strict=True):
                total = total + (one - other) ** 2
    return total / max(1, int(mask.sum()))


def _members(groups):
    """The places of each group's scores."""
    numbers = groups.tolist()
    return [[place for place, number in enumerate(numbers) if number == one] for one in dict.fromkeys(numbers)]


def listwise_loss(student, teacher, groups, temperature):
    """For scores (texts,), with probabilities instead of log-softmax."""
    total, count = student.new_zeros(()), 0
    for places in _members(groups):
        if len(places) < 2:
            continue
        powers = [[(scores[place] / temperature).exp() for place in places] for scores in (student, teacher)]
        q, p = ([power / sum(side) for power in side] for side in powers)
        total = total + sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
        count += 1
    return total * temperature**2 / max(1, count)


def margin_mse_loss(student, teacher, groups):
    """For scores (texts,), over all pairs."""
    errors = [
        ((student[i] - student[j]) - (teacher[i] - teacher[j])) ** 2
        for places in _members(groups)
        for i in places
        for j in places
        if i < j
    ]
    return sum(errors, student.new_zeros(())) / max(1, len(errors))
