"""Compare the relative kernels with autograd in float64 on the CPU; run with TRITON_INTERPRET=1."""

import torch

from omnilatent.modeling_omni.layers import relative_attention as module
from omnilatent.modeling_omni.layers import relative_kernels
from omnilatent.modeling_omni.layers.relative_bias import RelativeBias
from omnilatent.modeling_omni.layers.relative_position import num_relative_positions

CASES = [  # queries' grid, keys' grid, class token, one table per sample, masked
    ((3, 5), (3, 5), False, False, False),
    ((3, 5), (3, 5), True, False, True),
    ((4, 3), (2, 6), True, False, False),
    ((19,), (19,), False, True, True),
    ((2, 3, 3), (2, 3, 3), False, False, True),
    ((5, 5), (5, 5), True, True, False),
    ((4, 16), (4, 16), True, False, True),  # a few queries and keys beyond whole tiles
]


def main():
    compare_compiled()
    relative_kernels.WORKSPACE = 3000  # several chunks of queries
    for case in CASES:
        compare(*case)


def compare(query_size, key_size, class_token, per_sample, masked, batch=3, heads=2, width=11):
    torch.manual_seed(0)
    queries, keys = (torch.Size(size).numel() + class_token for size in (query_size, key_size))
    shape = (num_relative_positions(query_size, key_size, class_token), heads)
    table = torch.randn(batch, *shape) if per_sample else torch.randn(shape)
    query = torch.randn(batch, queries, heads, width).transpose(1, 2)
    key, value = torch.randn(2, batch, heads, keys, width)
    weight = torch.randn(batch, heads, queries, width)
    key_mask = None
    if masked:
        key_mask = torch.rand(batch, keys) > 0.3
        key_mask[0] = False  # nothing to see at all

    given = [tensor.clone().requires_grad_() for tensor in (query, key, value, table)]
    output = module.relative_attention(*given[:3], RelativeBias(given[3], query_size, key_size, class_token), key_mask)
    found = [output, *torch.autograd.grad(output, given, weight)]

    given = [tensor.double().requires_grad_() for tensor in (query, key, value, table)]
    bias = RelativeBias(given[3], query_size, key_size, class_token)
    tables = given[3] if per_sample else given[3].expand(batch, -1, -1)
    scores = given[0] @ given[1].transpose(2, 3) * width**-0.5 + tables[:, bias.index].permute(0, 3, 1, 2)
    if masked:
        scores = scores.masked_fill(~key_mask[:, None, None], torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    if masked:
        weights = weights * key_mask.any(1)[:, None, None, None]
    output = weights @ given[2]
    expected = [output, *torch.autograd.grad(output, given, weight.double())]
    for name, here, there in zip(("output", "query", "key", "value", "table"), found, expected):
        error = ((here.double() - there).norm() / there.norm()).item()
        assert error < 1e-6, (name, query_size, key_size, class_token, per_sample, masked, error)


def compare_compiled():
    """A compiled graph holds the whole of it, forward and backward, and gives the same bits."""
    torch.manual_seed(0)
    states = torch.randn(3, 2, 10, 2, 8).transpose(2, 3)
    table = torch.randn(num_relative_positions((3, 3), class_token=True), 2)

    def attend(query, key, value, table):
        return module.relative_attention(query, key, value, RelativeBias(table, (3, 3), (3, 3), True))

    results = []
    for function in (attend, torch.compile(attend, fullgraph=True, backend="aot_eager")):
        given = [tensor.clone().requires_grad_() for tensor in (*states, table)]
        output = function(*given)
        results.append([output, *torch.autograd.grad(output.sin().sum(), given)])
    assert all(torch.equal(*pair) for pair in zip(*results))


if __name__ == "__main__":
    main()
