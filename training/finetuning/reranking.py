"""Ranks the nearest candidates again by a cross encoder, which reads each pair whole.

Shapes: n samples, T and N tokens of a text and a picture, D their width.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from ...modeling_omni.fusion.fused_tokens import FusedTokens
from ...modeling_omni.multimodal.stream_inputs import STREAM_ARGUMENTS, take_streams

NEAREST = 16  # candidates that are ranked again


class EncodedPair(NamedTuple):
    """The tokens of a text (T, D) and of its picture (N, D), on the CPU."""

    text: torch.Tensor
    second: torch.Tensor

    @classmethod
    def of_batch(cls, model, inputs: Mapping[str, torch.Tensor]) -> list["EncodedPair"]:
        """The real tokens of each sample of a batch."""
        given = {name: inputs[name] for name in STREAM_ARGUMENTS if inputs.get(name) is not None}
        tokens, _ = model.model.encode(take_streams(model.config, given))
        sides = [_real_tokens(tokens[name]) for name in ("text", model.config.second_modality)]
        return [cls(*pair) for pair in zip(*sides)]


def rerank_nearest(
    model, pairs: Sequence[EncodedPair], similarity: torch.Tensor, nearest: int = NEAREST
) -> torch.Tensor:
    """
    A matrix in which each text's nearest pictures, and each picture's nearest texts, are ordered by the cross encoder and
    come before all others.

    Args:
        model: `MultiModalForRetrieval` with `scoring="cross"`.
        pairs: Of each sample.
        similarity: (n, n), rows of texts, columns of pictures, by the dual encoder.
        nearest: Candidates of each that are ranked again.
    """
    nearest = min(nearest, len(pairs))
    chosen = torch.zeros_like(similarity, dtype=torch.bool)
    chosen.scatter_(1, similarity.topk(nearest, dim=1).indices, True)
    chosen.scatter_(0, similarity.topk(nearest, dim=0).indices, True)
    rows, columns = chosen.nonzero(as_tuple=True)
    device = next(model.parameters()).device
    sides = [_pad([pair[side] for pair in pairs], device) for side in (0, 1)]
    with torch.no_grad():
        scores = model.rerank(*sides, rows.to(device), columns.to(device)).float().cpu()
    ranked = similarity - similarity.max() + scores.min() - 1  # all below the lowest that is ranked again
    ranked[rows, columns] = scores
    return ranked


def _real_tokens(stream: FusedTokens) -> list[torch.Tensor]:
    tokens = stream.tokens.float().cpu()
    if stream.attention_mask is None:
        return list(tokens)
    return [row[mask] for row, mask in zip(tokens, stream.attention_mask.bool().cpu())]


def _pad(rows, device) -> FusedTokens:
    mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    return FusedTokens(pad_sequence(rows, batch_first=True).to(device), mask.to(device))
