"""Which entry of a bias table each pair of tokens reads, against loops over tokens."""

import itertools

import pytest
import torch

from omnilatent import (
    get_relative_position_index_1d,
    get_relative_position_index_2d,
    get_relative_position_index_3d,
)
from omnilatent.modeling_omni.layers.relative_position import get_relative_position_index, num_relative_positions


def naive_index(query_size, key_size):
    """Number the offsets in the order of nested loops over them, then look each pair of tokens up."""
    offsets = [range(-(keys - 1), queries) for queries, keys in zip(query_size, key_size)]
    number = {offset: i for i, offset in enumerate(itertools.product(*offsets))}
    places = [list(itertools.product(*map(range, size))) for size in (query_size, key_size)]
    return torch.tensor([[number[tuple(i - j for i, j in zip(q, k))] for k in places[1]] for q in places[0]])


def test_tokens_in_a_row_read_the_difference_of_their_places():
    index = get_relative_position_index_1d(5)
    assert index.dtype == torch.long
    assert index.tolist() == [[i - j + 4 for j in range(5)] for i in range(5)]


def test_a_window_of_two_by_two_reads_nine_entries():
    # written down by hand: rows of offsets from -1 to 1, three columns each
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert get_relative_position_index_2d((2, 2)).tolist() == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 5), (7, 2)])
def test_windows_equal_the_loop(size):
    torch.testing.assert_close(get_relative_position_index_2d(size), naive_index(size, size), rtol=0, atol=0)


def test_videos_equal_the_loop():
    index = get_relative_position_index_3d((2, 3, 5))
    torch.testing.assert_close(index, naive_index((2, 3, 5), (2, 3, 5)), rtol=0, atol=0)


@pytest.mark.parametrize(("queries", "keys"), [((5,), (3,)), ((2, 3), (4, 5)), ((2, 3, 2), (1, 5, 3))])
def test_grids_of_different_sizes_equal_the_loop(queries, keys):
    index = get_relative_position_index(queries, keys)
    torch.testing.assert_close(index, naive_index(queries, keys), rtol=0, atol=0)
    assert index.max() < num_relative_positions(queries, keys)


def test_each_entry_of_a_table_is_read():
    index = get_relative_position_index((3, 5), (2, 4), class_token=True)
    assert index.unique().tolist() == list(range(num_relative_positions((3, 5), (2, 4), class_token=True)))


def test_a_class_token_has_entries_of_its_own():
    index = get_relative_position_index((2, 3), class_token=True)
    patches = 3 * 5
    assert index.shape == (7, 7)
    torch.testing.assert_close(index[1:, 1:], get_relative_position_index_2d((2, 3)), rtol=0, atol=0)
    assert index[0].tolist() == [patches + 2] + [patches] * 6
    assert index[1:, 0].tolist() == [patches + 1] * 6


@pytest.mark.parametrize(
    "call",
    [
        lambda: get_relative_position_index_1d(0),
        lambda: get_relative_position_index_2d((7,)),
        lambda: get_relative_position_index_2d(7),
        lambda: get_relative_position_index_2d((7.0, 7.0)),
        lambda: get_relative_position_index_1d(7.0),
        lambda: get_relative_position_index_2d((7, -1)),
        lambda: get_relative_position_index_3d((7, 7)),
        lambda: get_relative_position_index((), ()),
        lambda: get_relative_position_index((3, 4), (3,)),
    ],
)
def test_sizes_that_are_none_are_refused(call):
    with pytest.raises(ValueError, match="sizes of at least 1"):
        call()
