"""Telling true pairs from the hardest false ones.

Shapes: B batch of this process, A batch of all processes, S tokens, D width, P embedding size.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn import functional as F

from ..fusion.fused_tokens import FusedTokens
from .gathering import gather_rows, rank_in, size_of


def matching_loss(
    match: Callable[[FusedTokens, FusedTokens], torch.Tensor],
    first: FusedTokens,
    second: FusedTokens,
    first_embeds: torch.Tensor,
    second_embeds: torch.Tensor,
    ids: torch.Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """Image-text matching with hard negatives (Li et al. 2021, ALBEF, equation 3).

    Row i of `first` belongs to row i of `second`. Each row is also shown with the false partner whose embedding is the
    most similar, in both directions, and the mean binary cross entropy of the true pairs and of the false pairs is
    taken, the two weighing the same. A row without any false partner makes no false pair.

    Args:
        match: scores pairs, row by row: two times (M, S, D) tokens to (M,) logits.
        first, second: tokens of both sides.
        first_embeds, second_embeds: (B, P) of norm 1, by which false partners are chosen; no gradient goes there.
        ids: (B,); pairs of equal ids are never false.
        group: processes whose rows are partners as well; every one returns the loss of all. `None`: this one alone.
    """
    batch, start = len(first_embeds), rank_in(group) * len(first_embeds)
    ids = torch.arange(start, start + batch, device=first_embeds.device) if ids is None else ids
    all_ids = gather_rows(ids.long(), group)
    false = ids[:, None] != all_ids  # (B, A)
    all_first, all_second = gather_tokens(first, group), gather_tokens(second, group)
    with torch.no_grad():
        hard_second, has_second = _hardest(first_embeds, gather_rows(second_embeds.detach(), group), false)
        hard_first, has_first = _hardest(second_embeds, gather_rows(first_embeds.detach(), group), false)
    lefts = (first, first, _rows(all_first, hard_first))
    rights = (second, _rows(all_second, hard_second), second)
    logits = match(_stack(lefts), _stack(rights)).float()
    true = F.softplus(-logits[:batch]).sum()
    wrong = F.softplus(logits[batch:]).masked_fill(~torch.cat([has_second, has_first]), 0).sum()
    counts = torch.stack([torch.full_like(has_first.sum(), batch), has_first.sum() + has_second.sum()])
    if group is not None:
        dist.all_reduce(counts, group=group)
    own = (true / counts[0] + wrong / counts[1].clamp(min=1)) / 2
    if group is None:
        return own
    whole = own.detach().clone()
    dist.all_reduce(whole, group=group)
    # gradients of the processes are averaged afterwards, and each holds its share of the sum
    own = own * size_of(group)
    return own + (whole - own.detach())


def gather_tokens(stream: FusedTokens, group: dist.ProcessGroup | None) -> FusedTokens:
    """The tokens of all processes, padded to the longest."""
    if group is None:
        return stream
    tokens, mask = stream.tokens, stream.attention_mask
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
    longest = torch.tensor(tokens.shape[1], device=tokens.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX, group=group)
    room = int(longest) - tokens.shape[1]
    tokens, mask = F.pad(tokens, (0, 0, 0, room)), F.pad(mask, (0, room))
    return FusedTokens(gather_rows(tokens, group), gather_rows(mask.to(torch.uint8), group).bool())


def _hardest(rows, columns, false):
    """The column most like each row among the false ones, and whether there is one."""
    similarity = (rows.float() @ columns.float().T).masked_fill(~false, -torch.inf)
    return similarity.argmax(dim=1), false.any(dim=1)


def _rows(stream, rows):
    mask = stream.attention_mask
    return FusedTokens(stream.tokens[rows], None if mask is None else mask[rows])


def _stack(streams):
    """Streams under each other, padded to the longest."""
    longest = max(stream.tokens.shape[1] for stream in streams)
    if all(stream.attention_mask is None for stream in streams):
        return FusedTokens(torch.cat([stream.tokens for stream in streams]), None)
    tokens, masks = [], []
    for stream in streams:
        room, mask = longest - stream.tokens.shape[1], stream.attention_mask
        mask = (
            torch.ones(stream.tokens.shape[:2], dtype=torch.bool, device=stream.tokens.device)
            if mask is None
            else mask
        )
        tokens.append(F.pad(stream.tokens, (0, 0, 0, room)))
        masks.append(F.pad(mask, (0, room)))
    return FusedTokens(torch.cat(tokens), torch.cat(masks))


__all__ = ["matching_loss"]
