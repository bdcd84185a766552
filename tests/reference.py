"""Naive, independent versions of what the library computes: loops over tokens, in float64."""

import math

import torch


def attention(query, key, value, mask=None, bias=None, scaling=None):
    """softmax(q kᵀ scaling + bias) v one query at a time; a query without a key gets 0.

    query (B, H, Q, d), key and value (B, G, K, d), mask bool (B, 1 or H, Q, K) with True = attend, bias (H, Q, K).
    """
    query, key, value = query.detach().double(), key.detach().double(), value.detach().double()
    batch, heads, queries, width = query.shape
    group = heads // key.shape[1]
    scaling = width**-0.5 if scaling is None else scaling
    output = torch.zeros(batch, heads, queries, value.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                row = mask[b, h % mask.shape[1], q] if mask is not None else torch.ones(key.shape[2], dtype=torch.bool)
                seen = row.nonzero().flatten().tolist()
                if not seen:
                    continue
                scores = [float(query[b, h, q] @ key[b, h // group, k]) * scaling for k in seen]
                if bias is not None:
                    scores = [score + float(bias[h, q, k]) for score, k in zip(scores, seen)]
                top = max(scores)
                weights = [math.exp(score - top) for score in scores]
                for weight, k in zip(weights, seen):
                    output[b, h, q] += weight / sum(weights) * value[b, h // group, k]
    return output


def rms_norm(x, weight, eps):
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def rotate(states, positions, theta):
    """Turn pair (i, i + d/2) of each token by its position on axis i mod axes; states (B, H, T, d), positions (A, B, T)."""
    turned = states.double().clone()
    half = states.shape[-1] // 2
    for b in range(states.shape[0]):
        for t in range(states.shape[2]):
            for i in range(half):
                angle = float(positions[i % len(positions), b, t]) * theta ** (-i / half)
                x, y = states[b, :, t, i].double(), states[b, :, t, i + half].double()
                turned[b, :, t, i] = x * math.cos(angle) - y * math.sin(angle)
                turned[b, :, t, i + half] = x * math.sin(angle) + y * math.cos(angle)
    return turned


def info_nce(first, second, scale):
    """Symmetric InfoNCE row by row, in float64."""
    first = first.double() / first.double().norm(dim=-1, keepdim=True)
    second = second.double() / second.double().norm(dim=-1, keepdim=True)
    total = 0.0
    for i in range(len(first)):
        forth = [scale * float(first[i] @ second[j]) for j in range(len(second))]
        back = [scale * float(first[j] @ second[i]) for j in range(len(first))]
        for scores in (forth, back):
            total += math.log(sum(math.exp(s - scores[i]) for s in scores))
    return total / (2 * len(first))
