"""Resampling by cubic splines."""

import math

import pytest
import torch

from omnilatent.modeling_omni.layers.spline import cubic_spline_weights, resample_axes


def test_a_spline_goes_through_its_values():
    weights = cubic_spline_weights(torch.arange(7), 7)
    torch.testing.assert_close(weights, torch.eye(7, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("knots", [2, 3, 7])
def test_straight_lines_stay_straight(knots):
    points = torch.linspace(0, knots - 1, 23, dtype=torch.float64)
    line = 0.7 * torch.arange(knots).double() - 2.0
    torch.testing.assert_close(cubic_spline_weights(points, knots) @ line, 0.7 * points - 2.0)


def test_a_smooth_curve_is_followed_closely_and_its_slope_is_continuous():
    points = torch.linspace(0, 16, 1601, dtype=torch.float64)
    # the sine's second derivative is 0 at both ends, as the spline's
    curve = cubic_spline_weights(points, 17) @ torch.linspace(0, 2 * math.pi, 17, dtype=torch.float64).sin()
    torch.testing.assert_close(curve, (points * 2 * math.pi / 16).sin(), rtol=0, atol=2e-4)
    second = curve.diff(n=2) / 0.01**2
    assert second.diff().abs().max() < 0.01  # no jump at a knot


def test_one_value_is_constant():
    assert cubic_spline_weights(torch.zeros(3), 1).tolist() == [[1.0]] * 3


def test_axes_are_resampled_one_by_one():
    values = torch.randn(3, 5, 2, dtype=torch.float64)
    rows, columns = torch.randn(7, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    expected = torch.einsum("ri,cj,ijd->rcd", rows, columns, values)
    torch.testing.assert_close(resample_axes(values, [rows[None], columns[None]])[0], expected)


def test_each_sample_may_have_weights_of_its_own():
    values, weights = torch.randn(3, 2, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(resample_axes(values, [weights]), torch.stack([weight @ values for weight in weights]))
