"""Resampling along an axis by cubic splines."""

import torch


def cubic_spline_weights(points: torch.Tensor, knots: int) -> torch.Tensor:
    """What the natural cubic spline through values at 0, 1, ..., `knots` - 1 reads at `points`, as a matrix.

    A spline is linear in the values that it goes through. It passes them exactly, has two continuous derivatives, and
    keeps straight lines straight (de Boor 1978, chapter 4).

    Args:
        points: (..., N) within [0, knots - 1].

    Returns:
        (..., N, knots) in float64: `weights @ values` are the values at the points.
    """
    points = points.double()
    at_knot = torch.eye(knots, dtype=torch.float64)
    if knots == 1:
        return torch.ones_like(points).unsqueeze(-1)
    # second derivatives m of the spline through y: m[i-1] + 4 m[i] + m[i+1] = 6 (y[i-1] - 2 y[i] + y[i+1]), 0 at the ends
    place = torch.arange(knots)
    neighbours = ((place[:, None] - place).abs() == 1).double()
    inside = ((place > 0) & (place < knots - 1)).double()[:, None]
    left_side = inside * (neighbours + 4.0 * at_knot) + (1.0 - inside) * at_knot
    second = torch.linalg.solve(left_side, inside * 6.0 * (neighbours - 2.0 * at_knot))
    at_knot, second = at_knot.to(points.device), second.to(points.device)  # a GPU would be waited for by `solve`
    left = points.floor().long().clamp(0, knots - 2)
    right, t = left + 1, (points - left).unsqueeze(-1)
    line = (1 - t) * at_knot[left] + t * at_knot[right]
    return line + (((1 - t) ** 3 - (1 - t)) * second[left] + (t**3 - t) * second[right]) / 6


def resample_axes(values: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """Resample values on a grid along each of its axes, in float32 at least.

    Args:
        values: (sizes ..., D).
        weights: for each axis (B or 1, new size, size).

    Returns:
        (B or 1, new sizes ..., D), in the type of the values.
    """
    states = values.to(torch.promote_types(values.dtype, torch.float32)).unsqueeze(0)
    for axis, weight in enumerate(weights):
        states = states.movedim(1 + axis, -1)
        rest = states.shape[1:-1]
        states = states.flatten(1, -2) @ weight.to(states).transpose(1, 2)  # (B, rest, new size)
        states = states.unflatten(1, rest).movedim(-1, 1 + axis)
    return states.to(values.dtype)


__all__ = ["cubic_spline_weights", "resample_axes"]
