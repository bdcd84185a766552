"""Ranks the nearest candidates again by a cross encoder, which reads each pair whole.

Shapes: n samples, m different pictures, T and N tokens of a text and a picture, D their width.
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
    model,
    pairs: Sequence[EncodedPair],
    similarity: torch.Tensor,
    nearest: int = NEAREST,
    pictures: Sequence[int] | None = None,
) -> torch.Tensor:
    """
    A matrix in which each text's nearest pictures, and each picture's nearest texts, are ordered by the cross encoder and
    come before all others.

    Args:
        model: `MultiModalForRetrieval` with `scoring="cross"`.
        pairs: Of each sample.
        similarity: (n, m), rows of texts, columns of pictures, by the dual encoder.
        nearest: Candidates of each that are ranked again.
        pictures: (m,), the pairs whose pictures are the columns. `None`: all.
    """
    chosen = torch.zeros_like(similarity, dtype=torch.bool)
    for dim, candidates in ((1, similarity.shape[1]), (0, similarity.shape[0])):
        chosen.scatter_(dim, similarity.topk(min(nearest, candidates), dim=dim).indices, True)
    rows, columns = chosen.nonzero(as_tuple=True)
    weight = next(model.parameters())
    device = weight.device
    seconds = [pair.second for pair in pairs] if pictures is None else [pairs[row].second for row in pictures]
    sides = [_pad(side, device, weight.dtype) for side in ([pair.text for pair in pairs], seconds)]
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


def _pad(rows, device, dtype) -> FusedTokens:
    mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    return FusedTokens(pad_sequence(rows, batch_first=True).to(device, dtype), mask.to(device))
