"""Contrast between two sets of embeddings: InfoNCE and SigLIP's sigmoid loss.

Each has three forms of equal value and gradients. The plain one makes the whole matrix of logits. With `tiled=True`
it is made and forgotten a tile at a time, so memory is linear in the batch (`tiling.py`). With a process `group` the
batch is that of all ranks (`gathering.py`), in either form.

N = rows of `first`, M = rows of `second`, all ranks together.
"""

import torch
import torch.distributed as dist
from torch.nn import functional as F

from .gathering import gather_rows
from .pairing import Pairing, pair_up
from .tiling import choose_tiles, tiled_info_nce, tiled_sigmoid, tiled_unit_rows

Sides = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


def info_nce_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    logit_scale: torch.Tensor | float,
    ids: Sides | None = None,
    present: Sides | None = None,
    *,
    duplicates: str = "positive",
    tiled: bool = False,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """Symmetric InfoNCE across the batch (Radford et al. 2021, figure 3).

    Row i of `first` belongs to row i of `second`; all other rows are its negatives. The loss is the cross entropy of
    finding the partner among all, averaged over the rows of each side and then over both sides. With several
    positives it is the mean over them of minus the log probability, each competing with all (L_out of Khosla et al.
    2020, equation 2). A row without a positive counts as 0.

    Embeddings that are not finite give a loss that is not: to look costs a wait for the device, so callers do it.

    Args:
        first, second: (N, D) and (M, D); normalised here. Sums are float32 at least, also under autocast.
        logit_scale: factor on the cosines, a number or a tensor of one; 20 is a temperature of 0.05.
        ids: (N,) integers, or a pair of (N,) and (M,); equal ones mark the same sample or the same caption. Lengths
            N and M may differ only where a pair of ids says what belongs together.
        present: bool like `ids`; rows that are False are neither counted nor anybody's positive or negative.
        duplicates: what rows of equal ids in other places are to each other: `"positive"`, or `"ignore"` if only the
            row in the same place is positive and its duplicates are no negatives.
        tiled: memory linear in N + M instead of N * M. On CUDA the tiles' matrix products run on bf16 tensor cores
            with float32 sums. `torch.get_float32_matmul_precision()` says in how many bf16 pieces a float32 operand
            is split: 3 at "highest", which equals float32; 2 at "high"; 1 at "medium", for bf16 embeddings and under
            bf16 autocast. Has no second derivative.
        group: process group whose ranks make up the batch; each brings as many rows. Every rank returns the loss of
            the whole batch, and the mean of the ranks' parameter gradients, as DistributedDataParallel takes it, is
            its gradient. `None`: this process alone.

    Raises:
        ValueError: when shapes, lengths or types do not fit.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.losses import info_nce_loss

    >>> same = torch.eye(4)
    >>> bool(info_nce_loss(same, same, 20.0) < info_nce_loss(same, same.flip(0), 20.0))
    True
    >>> captions = torch.tensor([7, 7, 8, 9])  # the first two rows share a caption
    >>> info_nce_loss(same, same, 20.0, captions, duplicates="ignore", tiled=True).item() < 1e-6
    True
    ```
    """
    pairing = pair_up(first, second, ids, present, duplicates, group)
    tiles = choose_tiles(first, second) if tiled else None
    with torch.autocast(first.device.type, enabled=False):
        rows, columns = _unit_rows(first, tiled), gather_rows(_unit_rows(second, tiled), group)
        scale = _scalar("logit_scale", logit_scale, rows)
        if tiled:
            return tiled_info_nce(rows, columns, scale, pairing, tiles, group)
        return _plain_info_nce(scale * gather_rows(rows, group) @ columns.T, pairing)


def sigmoid_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    logit_scale: torch.Tensor | float,
    logit_bias: torch.Tensor | float,
    ids: Sides | None = None,
    present: Sides | None = None,
    *,
    duplicates: str = "positive",
    tiled: bool = False,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """Sigmoid loss of language-image pre-training (Zhai et al. 2023, equation 1).

    Each pair of a row and a column is a yes or no question by itself, log(1 + exp(-y (scale * cosine + bias))) with
    y = 1 for positives and -1 for negatives; the sum is divided by the number of rows of `first` that are present.

    Args:
        logit_bias: added to the scaled cosines, a number or a tensor of one. The paper starts at a scale of 10 and a
            bias of -10, because nearly all pairs are negative.
        first, second, logit_scale, ids, present, duplicates, tiled, group: see `info_nce_loss`.

    Raises:
        ValueError: when shapes, lengths or types do not fit.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.modeling_omni.losses import sigmoid_loss

    >>> same = torch.eye(4)
    >>> bool(sigmoid_loss(same, same, 10.0, -5.0) < sigmoid_loss(same, same.flip(0), 10.0, -5.0))
    True
    ```
    """
    pairing = pair_up(first, second, ids, present, duplicates, group)
    tiles = choose_tiles(first, second) if tiled else None
    with torch.autocast(first.device.type, enabled=False):
        rows, columns = _unit_rows(first, tiled), gather_rows(_unit_rows(second, tiled), group)
        scale, bias = _scalar("logit_scale", logit_scale, rows), _scalar("logit_bias", logit_bias, rows)
        if tiled:
            return tiled_sigmoid(rows, columns, scale, bias, pairing, tiles, group)
        return _plain_sigmoid(scale * gather_rows(rows, group) @ columns.T + bias, pairing)


def _plain_info_nce(logits: torch.Tensor, pairing: Pairing) -> torch.Tensor:
    positive, counted = pairing.masks()
    logits = logits.masked_fill(~counted, torch.finfo(logits.dtype).min)  # -inf makes NaN of a row that has only it
    sides = (logits, positive, pairing.row_present), (logits.T, positive.T, pairing.column_present)
    losses = []
    for scores, wanted, present in sides:
        found = scores.log_softmax(dim=1).masked_fill(~wanted, 0).sum(dim=1) / wanted.sum(dim=1).clamp(min=1)
        losses.append(-found.sum() / present.sum().clamp(min=1))
    return (losses[0] + losses[1]) / 2


def _plain_sigmoid(logits: torch.Tensor, pairing: Pairing) -> torch.Tensor:
    positive, counted = pairing.masks()
    losses = F.softplus(torch.where(positive, -logits, logits)).masked_fill(~counted, 0)
    return losses.sum() / pairing.row_present.sum().clamp(min=1)


def _unit_rows(rows: torch.Tensor, tiled: bool) -> torch.Tensor:
    if tiled:
        return tiled_unit_rows(rows)
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)


def _scalar(name: str, value: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if value.numel() != 1:
        raise ValueError(f"`{name}` has shape {tuple(value.shape)}: expected one number.")
    return value.reshape(())
