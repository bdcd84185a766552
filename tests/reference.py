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


def kernel_attention(query, key, value, features, mask=None):
    """Σ φ(q)·φ(k) v / Σ φ(q)·φ(k) one query at a time; a query without a key gets 0. `features` maps a vector (d,)."""
    query, key, value = query.detach().double(), key.detach().double(), value.detach().double()
    batch, heads, queries, _ = query.shape
    group = heads // key.shape[1]
    output = torch.zeros(batch, heads, queries, value.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            of_keys = [features(row) for row in key[b, h // group]]
            for q in range(queries):
                of_query = features(query[b, h, q])
                row = mask[b, h % mask.shape[1], q] if mask is not None else torch.ones(key.shape[2], dtype=torch.bool)
                weights = {k: float(of_query @ of_keys[k]) for k in row.nonzero().flatten().tolist()}
                total = sum(weights.values()) or 1.0  # features may all be 0
                for k, weight in weights.items():
                    output[b, h, q] += weight / total * value[b, h // group, k]
    return output


def elu_features(vector):
    return torch.tensor([x + 1 if x > 0 else math.exp(x) for x in vector.double().tolist()], dtype=torch.float64)


def relu_features(vector):
    return vector.double().clamp(min=0)


def random_features(vector, projection):
    """exp(w·x - |x|²/2) for each row w, with x scaled by d^-1/4."""
    x = vector.double() * len(vector) ** -0.25
    return torch.stack([torch.exp(w.double() @ x - x @ x / 2) for w in projection])


def sparse_pattern(length, window_size, num_global_tokens, is_causal):
    """Bool (N, N): the window, the rows and the columns of global tokens, without the future where causal."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    for q in range(length):
        for k in range(length):
            near = abs(q - k) <= window_size
            seen[q, k] = (near or k < num_global_tokens or q < num_global_tokens) and not (is_causal and k > q)
    return seen


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
