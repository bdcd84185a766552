"""Compare the gates' kernel with autograd in float64 on the CPU; run with TRITON_INTERPRET=1."""

import torch

from omnilatent.modeling_omni.layers import gate_kernel


def main():
    torch.manual_seed(0)
    gate_kernel.BLOCK_QUERIES, gate_kernel.BLOCK_KEYS = 16, 16
    for batch, heads, queries, keys, count, width in (
        (2, 3, 21, 23, 5, 24),
        (1, 2, 37, 40, 19, 16),
        (2, 1, 1, 7, 2, 8),
    ):
        query = torch.randn(batch, heads, queries, width)
        key, value = torch.randn(2, batch, heads, keys, width)
        grad_output = torch.randn(batch, queries, heads, width).transpose(1, 2)
        seen = torch.rand(batch, 1, queries, keys) > 0.3
        seen[..., -1] = True
        gated = seen & (torch.rand(batch, 1, queries, keys) > 0.2) & (torch.arange(keys) < count)
        log_gate = torch.randn(count, dtype=torch.float64, requires_grad=True)

        bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float32).min)
        bias = bias + gated * torch.nn.functional.pad(log_gate, (0, keys - count))
        scores = query.double() @ key.double().transpose(2, 3) * 0.3 + bias
        output = scores.softmax(-1) @ value.double()
        (expected,) = torch.autograd.grad(output, log_gate, grad_output.double())
        found = gate_kernel.sum_score_gradients(
            query,
            key[:, :, :count],
            value[:, :, :count],
            output.detach().float(),
            grad_output,
            bias.detach().float(),
            gated.float(),
            scores.logsumexp(-1, keepdim=True).detach().float(),
            0.3,
        )
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    main()
