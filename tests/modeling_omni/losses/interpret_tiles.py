"""Compare Triton's tiles with float64 on the CPU; run with TRITON_INTERPRET=1."""

import functools
import sys
from pathlib import Path

import torch

from omnilatent.modeling_omni.losses import contrastive, info_nce_loss, sigmoid_loss, triton_tiles

sys.path.append(str(Path(__file__).parent))
import contrast_reference as reference  # noqa: E402

LOSSES = {"info_nce": (info_nce_loss, (14.0,)), "sigmoid": (sigmoid_loss, (9.0, -3.0))}
TOLERANCES = {3: 2e-6, 2: 5e-5, 1: 2e-2}  # by the bf16 pieces of a float32 number


def main():
    torch.set_num_threads(1)
    triton_tiles.product = lambda left, right: left.float() @ right.float()  # cuBLAS's
    triton_tiles.BLOCK_ROWS, triton_tiles.BLOCK_COLUMNS = 16, 32
    triton_tiles.TritonTiles.shape = (24, 40)
    for rows, columns in ((37, 37), (23, 53), (1, 1)):
        first, second, ids, present = reference.make_case(rows, columns, with_present=rows > 1, size=11)
        options = {"ids": ids, "present": present}
        if rows == columns:
            options |= {"ids": ids[0], "duplicates": "ignore"}
        for name, (loss, numbers) in LOSSES.items():
            contrastive.choose_tiles = None
            expected = reference.with_gradients(loss, first.double(), second.double(), *numbers, **options)
            for pieces, tolerance in TOLERANCES.items():
                contrastive.choose_tiles = lambda *_, pieces=pieces: triton_tiles.TritonTiles(pieces)
                found = reference.with_gradients(
                    functools.partial(loss, tiled=True), first, second, *numbers, **options
                )
                for here, there in zip(found, expected):
                    error = ((here.double() - there).norm() / there.norm().clamp(min=1e-9)).item()
                    assert error < tolerance, (name, rows, columns, pieces, error)


if __name__ == "__main__":
    main()
