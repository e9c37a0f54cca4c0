"""Slow twins of `ckd_trainer.losses`, which the fast code must equal in value and gradient.

The first part follows the formulas, with plain loops over sets and items i, j and k, in float64. It uses explicit
difference vectors instead of inner products, and probabilities instead of log-softmax. Invalid items are skipped, not
masked. It is far too slow for training, and easy to check by eye.

The second part, `vectorized_relation_losses`, is the usual form, with tensors of difference vectors. It is the other
side of `benchmarks/relation_losses.py`, and is itself tested against the loops.

A *set* is a tensor (N, width) with validity (N,). Sets are passed as (..., N, width) and (..., N), with any number of
leading dimensions. Teacher and student may differ in width.
"""

import torch

# ---------------------------------------------------------------------------------------------- loops over i, j and k


def _each_set(student, teacher, mask):
    """Yields (student vectors, teacher vectors, valid indices) of every set."""
    student = student.double().unsqueeze(0).flatten(0, -3)  # (sets, N, width)
    teacher = teacher.detach().double().unsqueeze(0).flatten(0, -3)
    mask = mask.unsqueeze(0).flatten(0, -2)
    for x_student, x_teacher, valid in zip(student, teacher, mask.tolist(), strict=True):
        yield x_student.unbind(), x_teacher.unbind(), [i for i in range(len(valid)) if valid[i]]


def _unit(a):
    """A vector divided by its length, so that `@` of two of them is their cosine; zero stays zero."""
    return a / (a * a).sum().sqrt() if a.any() else torch.zeros_like(a)


def _compare(kind, student, teacher):
    """One element of mse, l1 or smooth_l1 (beta 1)."""
    error = student - teacher
    if kind == "mse":
        return error * error
    if kind == "l1":
        return error.abs()
    return error * error / 2 if error.abs() < 1 else error.abs() - 0.5


def _probabilities(scores):
    """The softmax of a list of numbers, as a list; the largest is subtracted so that exp stays finite."""
    largest = max((score.item() for score in scores), default=0.0)
    powers = [(score - largest).exp() for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def _kl(teacher_probabilities, student_probabilities):
    """The terms of sum p (log p - log q); outcomes with p = 0 add nothing."""
    pairs = zip(teacher_probabilities, student_probabilities, strict=True)
    return [p * (p.log() - q.log()) for p, q in pairs if p > 0]


def _squared_distances(x, valid, normalize):
    """{(i, j): |x_i - x_j|^2}; with `normalize`, divided by the mean of the nonzero ones."""
    distances = {(i, j): ((x[i] - x[j]) ** 2).sum() for i in valid for j in valid}
    apart = [distance for distance in distances.values() if distance > 0]
    if normalize and apart:
        mean = sum(apart) / len(apart)
        distances = {pair: distance / mean for pair, distance in distances.items()}
    return distances


def pair_loss(
    student,
    teacher,
    mask,
    *,
    distance="cosine",
    distance_loss="kl",
    relation_temperature=1.0,
    relation_normalization="pairs",
    normalize_distances=False,
):
    """Compares the distances of all pairs; divided by the sum over sets of n^2, where n is the number of valid items.

    With relation_normalization "items", divided by the sum over sets of n.
    """
    terms, count = [torch.zeros((), dtype=torch.float64)], 0
    for x_student, x_teacher, valid in _each_set(student, teacher, mask):
        unit_student, unit_teacher = ([_unit(vector) for vector in x] for x in (x_student, x_teacher))
        count += len(valid) ** 2 if relation_normalization == "pairs" else len(valid)
        if distance == "l2":
            d_student = _squared_distances(x_student, valid, normalize_distances)
            d_teacher = _squared_distances(x_teacher, valid, normalize_distances)
        for i in valid:
            others = [j for j in valid if j != i]
            if distance == "cosine":
                p, q = (
                    _probabilities([unit[i] @ unit[j] / relation_temperature for j in others])
                    for unit in (unit_teacher, unit_student)
                )
                terms += _kl(p, q)
            else:
                terms += [_compare(distance_loss, d_student[i, j], d_teacher[i, j]) for j in others]
    return torch.stack(terms).sum() / max(count, 1)


def triple_loss(student, teacher, mask, *, angle_loss="mse", window_size=None):
    """Compares the angles at i between j and k within the window centered on i; divided by the number of triples."""
    terms, count = [torch.zeros((), dtype=torch.float64)], 0
    for x_student, x_teacher, valid in _each_set(student, teacher, mask):
        for i in valid:
            near = [j for j in valid if window_size is None or abs(j - i) <= window_size // 2]
            to_student = {j: _unit(x_student[j] - x_student[i]) for j in near}
            to_teacher = {j: _unit(x_teacher[j] - x_teacher[i]) for j in near}
            terms += [
                _compare(angle_loss, to_student[j] @ to_student[k], to_teacher[j] @ to_teacher[k])
                for j in near
                for k in near
            ]
            count += len(near) ** 2
    return torch.stack(terms).sum() / max(count, 1)


def word_sets(hidden_states, attention_mask):
    """The sets of the word relation: one layer of one example, with its tokens as items.

    `hidden_states` holds the matched layers, each (batch, length, width); returns (batch, M, length, width) and mask.
    """
    batch = range(len(attention_mask))
    sets = torch.stack([torch.stack([layer[b] for layer in hidden_states]) for b in batch])
    return sets, torch.stack([torch.stack([attention_mask[b] for _ in hidden_states]) for b in batch])


def layer_sets(hidden_states, attention_mask):
    """The sets of the layer relation: one real token, its matched layers as items; (tokens, M, width) and mask."""
    tokens = [(b, t) for b, row in enumerate(attention_mask.tolist()) for t, real in enumerate(row) if real]
    if not tokens:
        return hidden_states[0].new_zeros(0, len(hidden_states), 1), attention_mask.new_zeros(0, len(hidden_states))
    sets = torch.stack([torch.stack([layer[b, t] for layer in hidden_states]) for b, t in tokens])
    return sets, torch.ones(sets.shape[:2], dtype=torch.bool)


def contextual_relation_losses(
    student_hidden_states,
    teacher_hidden_states,
    attention_mask,
    *,
    pairs,
    window_size=21,
    angle_loss="mse",
    **distance_options,
):
    """All four losses; `pairs` is the resolved layer mapping, [(student layer, teacher layer)]."""
    student = [student_hidden_states[layer] for layer, _ in pairs]
    teacher = [teacher_hidden_states[layer] for _, layer in pairs]
    losses = {}
    for name, sets_of, window in (("wr", word_sets, window_size), ("ltr", layer_sets, None)):
        student_sets, mask = sets_of(student, attention_mask)
        teacher_sets, _ = sets_of(teacher, attention_mask)
        losses[f"{name}_distance"] = pair_loss(student_sets, teacher_sets, mask, **distance_options)
        losses[f"{name}_angle"] = triple_loss(
            student_sets, teacher_sets, mask, angle_loss=angle_loss, window_size=window
        )
    return losses


def classification_logit_loss(
    student_logits, teacher_logits, *, temperature=1.0, scale_by_temperature=True, loss="kl"
):
    """T^2 KL(softmax(z_T / T) || softmax(z_S / T)), or another loss, mean over the examples."""
    divergences = []
    for student, teacher in zip(student_logits.double(), teacher_logits.detach().double(), strict=True):
        if loss == "mse":
            errors = [(s - t) / temperature for s, t in zip(student, teacher, strict=True)]
            divergences.append(sum(error * error for error in errors) / len(errors))
            continue
        p, q = (_probabilities([z / temperature for z in logits]) for logits in (teacher, student))
        if loss == "skewed_kl":
            divergences.append(sum(_kl(p, [0.1 * one + 0.9 * other for one, other in zip(p, q, strict=True)])))
        else:
            divergences.append(sum(_kl(p, q) if loss == "kl" else _kl(q, p)))
    factor = temperature**2 if scale_by_temperature else 1
    return factor * sum(divergences) / len(divergences)


def regression_logit_loss(student_logits, teacher_logits, *, temperature=1.0):
    """(z_S / T - z_T / T)^2, mean over the examples."""
    student, teacher = student_logits.double().flatten(), teacher_logits.detach().double().flatten()
    errors = [s / temperature - t / temperature for s, t in zip(student, teacher, strict=True)]
    return sum(error * error for error in errors) / len(errors)


def span_logit_loss(student_start, student_end, teacher_start, teacher_end, mask, **options):
    """The mean of the classification losses of start and end, over the positions in the mask."""
    halves = []
    for student, teacher in ((student_start, teacher_start), (student_end, teacher_end)):
        examples = [
            classification_logit_loss(student[b : b + 1, row.bool()], teacher[b : b + 1, row.bool()], **options)
            for b, row in enumerate(mask)
        ]
        halves.append(sum(examples) / len(examples))
    return (halves[0] + halves[1]) / 2


# --------------------------------------------------------------------------------- tensors of difference vectors


def _distributions(vectors, mask):
    """Log-probabilities of each item over other valid items, from cosines, (..., N, N), and which of them count."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    counts = mask.unsqueeze(-1) & mask.unsqueeze(-2) & ~torch.eye(mask.shape[-1], dtype=torch.bool)
    cosines = (unit @ unit.transpose(-1, -2)).masked_fill(~counts, -1e9)  # finite: possibly nothing in a row counts
    return cosines.log_softmax(dim=-1), counts


def _vectorized_pair_loss(student, teacher, mask):
    student, counts = _distributions(student, mask)
    teacher, _ = _distributions(teacher, mask)
    divergence = (teacher.exp() * (teacher - student)).masked_fill(~counts, 0.0)
    return divergence.sum() / mask.sum(dim=-1).square().sum()


def _angle_cosines(vectors, mask, window_size):
    """Cosines of the angles at each item between its neighbors, (..., N, W, W), and which of them count."""
    if window_size is None:
        neighbors, near = vectors.unsqueeze(-3), mask.unsqueeze(-2).expand(*mask.shape, -1)
    else:
        half = window_size // 2
        # (..., N, W, width) and (..., N, W): positions before the first and after the last item do not count
        padded = torch.nn.functional.pad(vectors, (0, 0, half, half))
        neighbors = padded.unfold(-2, window_size, 1).transpose(-1, -2)
        near = torch.nn.functional.pad(mask, (half, half)).unfold(-1, window_size, 1)
    difference = neighbors - vectors.unsqueeze(-2)  # (..., N, W, width): the tensor that the Gram form avoids
    length = difference.norm(dim=-1, keepdim=True)
    difference = difference * torch.where(length > 0, 1 / length.where(length > 0, 1.0), 0.0)
    counts = mask[..., None, None] & near.unsqueeze(-1) & near.unsqueeze(-2)
    return difference @ difference.transpose(-1, -2), counts


def _vectorized_triple_loss(student, teacher, mask, window_size):
    student, counts = _angle_cosines(student, mask, window_size)
    teacher, _ = _angle_cosines(teacher, mask, window_size)
    return (student - teacher).square().masked_fill(~counts, 0.0).sum() / counts.sum()


def vectorized_relation_losses(student_hidden_states, teacher_hidden_states, attention_mask, *, pairs, window_size=21):
    """All four losses with their default options, from tensors of difference vectors.

    Memory grows with batch * layers * length * window * width: at batch 8, 7 layers, 128 tokens, window 21 and width
    768 one such tensor in float32 is 8 * 7 * 128 * 21 * 768 * 4 = 462 MB.
    """
    mask = attention_mask.bool()
    student = torch.stack([student_hidden_states[layer] for layer, _ in pairs], dim=1)  # (batch, M, length, width)
    with torch.no_grad():
        teacher = torch.stack([teacher_hidden_states[layer] for _, layer in pairs], dim=1)
    word_mask = mask.unsqueeze(1).expand(student.shape[:-1])
    layer_mask = word_mask.transpose(1, 2)
    student_tokens, teacher_tokens = student.transpose(1, 2), teacher.transpose(1, 2)  # (batch, length, M, width)
    return {
        "wr_distance": _vectorized_pair_loss(student, teacher, word_mask),
        "wr_angle": _vectorized_triple_loss(student, teacher, word_mask, window_size),
        "ltr_distance": _vectorized_pair_loss(student_tokens, teacher_tokens, layer_mask),
        "ltr_angle": _vectorized_triple_loss(student_tokens, teacher_tokens, layer_mask, None),
    }
