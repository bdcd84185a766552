"""Whether a program computes what the model does."""

from pathlib import Path

import torch

from .graphs import Graph, GraphModule
from .programs import open_program

TOLERANCE = 1e-4  # absolute, in float32; sums in another order differ by about 1e-6
CASES = ((1, "low"), (3, "middle"), (2, "high"))  # batch size, lengths of the other axes


@torch.no_grad()
def check_parity(
    module: GraphModule, graph: Graph, path: Path, outputs: list[str], tolerance: float = TOLERANCE
) -> float:
    """
    Run the program in a file and the model on the same tensors, of several sizes and with padding.

    Returns:
        The greatest absolute difference between their outputs.

    Raises:
        ValueError: if that is above the tolerance, or what one of them gives is not finite.
    """
    program = open_program(path, outputs)
    worst = 0.0
    for seed, (batch_size, lengths) in enumerate(CASES):
        sample = graph.sample(batch_size, lengths, seed)
        for name, expected in module(**sample).items():
            difference = largest_difference(program(**sample)[name], expected)
            if not difference <= tolerance:  # NaN is not
                shapes = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in sample.items())
                raise ValueError(
                    f"`{name}` of the program {path.name} differs from the model's by {difference:.2g}, expected at "
                    f"most {tolerance:g} (inputs: {shapes})."
                )
            worst = max(worst, difference)
    return worst


def largest_difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    """NaN where the shapes differ or something is not finite."""
    if given.shape != expected.shape or not given.isfinite().all():
        return float("nan")
    return (given - expected).abs().max().item()
