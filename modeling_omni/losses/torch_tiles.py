"""The arithmetic of one tile in PyTorch, and what is remembered between tiles.

r = rows of a tile, c = its columns, D = embedding size.
"""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist

from .gathering import gather_rows


class LogSumExp(NamedTuple):
    """What is known of each row, or of each column, after some of its tiles, (r,) or (c,) each.

    The largest logit and the sum stay apart: their log-sum-exp, a number of the size of the logits, would round away
    the loss of a row that is nearly right.
    """

    top: torch.Tensor  # the largest logit that counts
    total: torch.Tensor  # sum of exp(logit - top)
    positive: torch.Tensor  # sum of the positive logits

    @classmethod
    def empty(cls, side: torch.Tensor) -> "LogSumExp":
        top, total, positive = side.new_zeros(3, len(side))
        return cls(top.fill_(-math.inf), total, positive)

    def narrow(self, where: slice) -> "LogSumExp":
        return LogSumExp(*(vector[where] for vector in self))

    def join_ranks(self, group: dist.ProcessGroup | None) -> "LogSumExp":
        """One of what every rank knows of the same columns."""
        if group is None:
            return self
        top, total, positive = gather_rows(torch.stack(self)[None], group).unbind(1)
        highest = top.amax(0)
        total = (total * (top - finite(highest)).exp()).sum(0)
        return LogSumExp(highest, total, positive.sum(0))

    def cross_entropy(self, weight: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Weighted sum of log-sum-exp minus the mean of `count` positives; a weight of 0 takes out anything."""
        losses = self.top - self.positive / count.clamp(min=1) + self.total.log()
        return (weight * losses).masked_fill(weight == 0, 0).sum()


class Side(NamedTuple):
    """What InfoNCE's gradient needs of each row, or of each column, (r,) or (c,) each."""

    top: torch.Tensor  # the largest logit
    factor: torch.Tensor  # of exp(logit - top): the weight in the loss over the sum of these
    positive: torch.Tensor  # weight of each positive logit

    def narrow(self, where: slice) -> "Side":
        return Side(*(vector[where] for vector in self))


class TorchTiles:
    """The arithmetic of one tile in PyTorch."""

    shape = (1024, 2048)

    def operand(self, rows: torch.Tensor) -> torch.Tensor:
        """A block of embeddings as the products take it."""
        return rows

    def cosines(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(r, c) from two operands."""
        return rows @ columns.T

    def multiply(self, gradient: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """(r, c) gradient times (c, D) operand."""
        return gradient @ embeddings

    def add_logits(self, cosines, scale, pairing, row: LogSumExp, column: LogSumExp) -> None:
        """Add what the tile says of its rows and columns to what is known of them, in place."""
        positive, counted = pairing.masks()
        logits = cosines * scale
        for known, mine, wanted, count in (
            (row, logits, positive, counted),
            (column, logits.T, positive.T, counted.T),
        ):
            known.positive.add_(mine.masked_fill(~wanted, 0).sum(1))
            mine = mine.masked_fill(~count, -math.inf)
            top = torch.maximum(known.top, mine.amax(1))
            known.total.mul_((known.top - finite(top)).exp()).add_((mine - finite(top)[:, None]).exp().sum(1))
            known.top.copy_(top)

    def info_nce_gradient(self, cosines, scale, pairing, row: Side, column: Side):
        """Gradient of the logits, and the sums over the tile of gradient * cosine and of the gradient, (2,)."""
        positive, counted = pairing.masks()
        logits = cosines * scale
        gradient = (
            row.factor[:, None] * (logits - row.top[:, None]).exp() + column.factor * (logits - column.top).exp()
        )
        gradient -= (row.positive[:, None] + column.positive).masked_fill(~positive, 0)
        return self._with_sums(gradient.masked_fill(~counted, 0), cosines)

    def sigmoid_sum(self, cosines, scale, bias, pairing):
        """Sum of the losses of the pairs."""
        positive, counted = pairing.masks()
        logits = cosines * scale + bias
        return torch.nn.functional.softplus(torch.where(positive, -logits, logits)).masked_fill(~counted, 0).sum()

    def sigmoid_gradient(self, cosines, scale, bias, pairing):
        """As `info_nce_gradient`, of the sum of the losses."""
        positive, counted = pairing.masks()
        logits = cosines * scale + bias
        gradient = torch.where(positive, -torch.sigmoid(-logits), torch.sigmoid(logits))
        return self._with_sums(gradient.masked_fill(~counted, 0), cosines)

    @staticmethod
    def _with_sums(gradient, cosines):
        return gradient, torch.stack([(gradient * cosines).sum(), gradient.sum()])


def finite(top: torch.Tensor) -> torch.Tensor:
    """0 where nothing counts, so that exp(-inf - top) is 0 there."""
    return top.masked_fill(top == -math.inf, 0)
