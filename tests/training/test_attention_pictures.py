"""Pictures of attention weights and biases."""

import pytest
import torch
from PIL import Image

pyplot = pytest.importorskip("matplotlib.pyplot")
pyplot.switch_backend("Agg")

from omnilatent import RelativePositionBias  # noqa: E402
from omnilatent.training import (  # noqa: E402
    visualize_attention_weights,
    visualize_bias_table,
    visualize_relative_position_bias,
)

RPB = RelativePositionBias(num_heads=5, window_size=(2, 3), class_token=True)


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: visualize_attention_weights(torch.rand(2, 5, 7, 7), path, title="Layer 3", cmap="magma"),
        lambda path: visualize_attention_weights(torch.rand(7, 7).numpy(), path),
        lambda path: visualize_relative_position_bias(RPB(), path),
        lambda path: visualize_relative_position_bias(torch.zeros(7, 7), path),
        lambda path: visualize_bias_table(RPB.relative_position_bias_table, path),
        lambda path: visualize_bias_table(torch.rand(15, 5).numpy(), path, window_size=(2, 3)),
        lambda path: visualize_bias_table(RPB.relative_position_bias_table, path, window_size=(2, 3)),
    ],
)
def test_a_picture_is_written_and_nothing_stays_open(draw, tmp_path):
    path = tmp_path / "new" / "picture.png"
    assert draw(path) is None
    with Image.open(path) as picture:
        assert picture.getextrema()[0] == (picture.getextrema()[0][0], 255)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 4
    assert pyplot.get_fignums() == []


def test_without_a_path_the_picture_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf()._suptitle.get_text()))
    visualize_attention_weights(torch.rand(7, 7), title="Shown")
    assert shown == ["Shown"]


def test_offsets_are_a_querys_place_minus_a_keys_in_whole_numbers(monkeypatch):
    pictures = []
    monkeypatch.setattr(pyplot, "show", lambda: pictures.append(pyplot.gcf()))
    rpb = RelativePositionBias(num_heads=2, window_size=(3, 6), init_std=0.0)
    query, key = 2 * 6 + 1, 0 * 6 + 5  # 2 rows below the key and 4 columns to its left
    with torch.no_grad():
        rpb.relative_position_bias_table[rpb.relative_position_index[query, key]] = 1.0
    visualize_bias_table(rpb.relative_position_bias_table, window_size=(3, 6))
    axis = pictures[0].axes[0]
    assert axis.get_ylabel() == "query's row - key's row" and axis.get_xlabel() == "query's column - key's column"
    left, right, bottom, top = axis.images[0].get_extent()
    assert (left, right, bottom, top) == (-5.5, 5.5, 2.5, -2.5)
    rows, columns = axis.images[0].get_array().nonzero()
    assert (top + 0.5 + rows[0], left + 0.5 + columns[0]) == (2, -4)
    pictures[0].canvas.draw()
    for ticks in (axis.get_xticks(), axis.get_yticks()):
        assert 0 in ticks and min(ticks) < 0 and all(tick == round(tick) for tick in ticks)


def test_a_table_of_a_row_of_tokens_is_a_row_of_offsets_for_each_head(monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda: pictures.append(pyplot.gcf()))
    pictures, rpb = [], RelativePositionBias(num_heads=2, seq_len=4, bias_type="1d", init_std=0.0)
    with torch.no_grad():
        rpb.relative_position_bias_table[rpb.relative_position_index[3, 1], 1] = 1.0
    visualize_bias_table(rpb.relative_position_bias_table, window_size=(4,))
    axis = pictures[0].axes[0]
    left, right, bottom, top = axis.images[0].get_extent()
    assert (left, right, bottom, top) == (-3.5, 3.5, 1.5, -0.5)
    ((head, column),) = zip(*axis.images[0].get_array().nonzero())
    assert (head, left + 0.5 + column) == (1, 2)
    assert axis.get_xlabel() == "query's place - key's place"


def test_a_table_of_videos_is_a_row_of_maps_for_each_head(monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda: pictures.append(pyplot.gcf()))
    pictures = []
    rpb = RelativePositionBias(2, window_size=(3, 2, 2), bias_type="3d", init_std=0.0, class_token=True)
    query, key = 1 + 0 * 4 + 1 * 2 + 0, 1 + 2 * 4 + 0 * 2 + 1  # after the class token: 2 frames before the key
    with torch.no_grad():
        rpb.relative_position_bias_table[rpb.relative_position_index[query, key], 1] = 1.0
    visualize_bias_table(rpb.relative_position_bias_table, window_size=(3, 2, 2))
    panels = [axis for axis in pictures[0].axes if axis.get_title()]
    assert len(panels) == 2 * 5
    (panel,) = (axis for axis in panels if axis.images[0].get_array().any())
    assert panel.get_title() == "head 1, query's frame - key's frame = -2"
    ((row, column),) = zip(*panel.images[0].get_array().nonzero())
    assert (row - 1, column - 1) == (1, -1)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: visualize_attention_weights(torch.rand(7)), "attn_weights"),
        (lambda: visualize_relative_position_bias(torch.full((7, 7), torch.nan)), "NaN"),
        (lambda: visualize_bias_table(torch.rand(3, 5, 2)), "entries, heads"),
        (lambda: visualize_bias_table(RPB.relative_position_bias_table, window_size=(3, 3)), "25 entries"),
        (lambda: visualize_bias_table(torch.rand(1, 2), window_size=(1, 1, 1, 1)), "1 to 3 axes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
