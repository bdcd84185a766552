"""The contrastive losses pair by pair, in float64; autograd through the loops gives their gradients."""

import torch


def _pairs(first, second, ids, present, duplicates):
    """For each pair "positive", "negative" or None if it does not count."""
    ids = ids if isinstance(ids, tuple) else (ids, ids)
    present = present if isinstance(present, tuple) else (present, present)
    table = {}
    for i in range(len(first)):
        for j in range(len(second)):
            same_id = i == j if ids[0] is None else ids[0][i].item() == ids[1][j].item()
            if present[0] is not None and not (present[0][i] and present[1][j]):
                table[i, j] = None
            elif duplicates == "positive":
                table[i, j] = "positive" if same_id else "negative"
            else:
                table[i, j] = "positive" if i == j else None if same_id else "negative"
    rows = sum(bool(p) for p in present[0]) if present[0] is not None else len(first)
    columns = sum(bool(p) for p in present[1]) if present[1] is not None else len(second)
    return table, rows, columns


def _logits(first, second, scale, bias=0.0):
    first = [row / row.norm() for row in first.double()]
    second = [row / row.norm() for row in second.double()]
    return {(i, j): scale * (a @ b) + bias for i, a in enumerate(first) for j, b in enumerate(second)}


def info_nce(first, second, scale, ids=None, present=None, duplicates="positive"):
    table, rows, columns = _pairs(first, second, ids, present, duplicates)
    logits = _logits(first, second, scale)

    def side(lines, count):
        total = 0.0 * scale
        for line in lines:
            candidates = [logits[pair] for pair in line if table[pair] is not None]
            positives = [logits[pair] for pair in line if table[pair] == "positive"]
            if positives:
                total = total + torch.stack(candidates).exp().sum().log() - sum(positives) / len(positives)
        return total / max(count, 1)

    forth = [[(i, j) for j in range(len(second))] for i in range(len(first))]
    back = [[(i, j) for i in range(len(first))] for j in range(len(second))]
    return (side(forth, rows) + side(back, columns)) / 2


def sigmoid(first, second, scale, bias, ids=None, present=None, duplicates="positive"):
    table, rows, _ = _pairs(first, second, ids, present, duplicates)
    total = 0.0 * scale
    for pair, logit in _logits(first, second, scale, bias).items():
        if table[pair] is not None:
            total = total + torch.log1p(torch.exp(-logit if table[pair] == "positive" else logit))
    return total / max(rows, 1)


def make_case(rows, columns, with_present=False, size=5, seed=0):
    """Embeddings, ids of which several are equal, and which rows are present."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(count, size, generator=generator) for count in (rows, columns))
    ids = tuple(torch.randint(-2, max(rows, 3) // 2, (count,), generator=generator) for count in (rows, columns))
    ids[0][0] = 99  # nobody's positive
    present = tuple(torch.rand(count, generator=generator) < 0.7 for count in (rows, columns))
    return first, second, ids, present if with_present else None


def with_gradients(loss, first, second, scale, bias=None, **options):
    """[loss, gradient of first, of second, of the scale, of the bias if there is one]."""
    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    leaves += [
        torch.tensor(value, dtype=first.dtype, requires_grad=True) for value in (scale, bias) if value is not None
    ]
    value = loss(*leaves, **options)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients))]
