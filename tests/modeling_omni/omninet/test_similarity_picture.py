"""Pictures of similarities show what they are given."""

import sys

import pytest
import torch

from omnilatent import draw_similarity


def panels(figure):
    return [axis.images[0] for axis in figure.axes if axis.images]


def test_one_panel_for_a_batch_and_one_for_each_sample(tmp_path):
    matrix = torch.rand(5, 3)
    (image,) = panels(draw_similarity(matrix, rows="vision", columns="text"))
    assert torch.equal(torch.as_tensor(image.get_array()), matrix)
    figure = draw_similarity(torch.rand(6, 5, 7), samples=2)
    assert len(panels(figure)) == 2
    figure.savefig(tmp_path / "similarity.png")
    assert (tmp_path / "similarity.png").stat().st_size > 1000


def test_colours_have_one_scale_with_zero_in_the_middle():
    images = panels(draw_similarity(torch.tensor([[[0.5]], [[-0.8]]])))
    limits = {tuple(round(limit, 6) for limit in image.get_clim()) for image in images}
    assert limits == {(-0.8, 0.8)}


def test_gradients_and_half_precision_are_no_hindrance():
    assert draw_similarity(torch.rand(2, 3, dtype=torch.bfloat16, requires_grad=True))


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 4, 5)])
def test_what_cannot_be_drawn_is_refused(shape):
    with pytest.raises(ValueError, match="Expected similarities"):
        draw_similarity(torch.rand(shape))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        draw_similarity(torch.full((2, 2), torch.nan))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'omnilatent\[viz\]'"):
        draw_similarity(torch.rand(2, 2))
