"""Which entry of a bias table each pair of tokens reads.

A query at (i1, i2, ...) and a key at (j1, j2, ...) of their grids are i - j apart. On an axis with q queries and k keys
there are q + k - 1 such offsets, from -(k - 1) to q - 1; the table holds them all, the last axis running fastest (Liu et
al. 2021, Swin Transformer, section 3.2, where q = k). Both grids have the same spacing and begin at the same place.
"""

import math
from collections.abc import Sequence

import torch

# what a class token adds to a table: class to patch, patch to class, class to class (Bao et al. 2022, BEiT)
CLASS_ENTRIES = 3


def get_relative_position_index_1d(seq_len: int, key_len: int | None = None) -> torch.Tensor:
    """Entries for tokens in a row.

    Args:
        seq_len: queries Q.
        key_len: keys K. `None`: as many.

    Returns:
        Long (Q, K); at (i, j) it holds i - j + K - 1, which is in 0 ... Q + K - 2.

    Raises:
        ValueError: for a length below 1.

    Example:

    ```python
    >>> from omnilatent import get_relative_position_index_1d

    >>> get_relative_position_index_1d(3)
    tensor([[2, 1, 0],
            [3, 2, 1],
            [4, 3, 2]])
    ```
    """
    return get_relative_position_index((seq_len,), None if key_len is None else (key_len,))


def get_relative_position_index_2d(
    window_size: tuple[int, int], key_window_size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Entries for tokens on a plane, row by row.

    Args:
        window_size: (height, width) of the queries, in tokens.
        key_window_size: (height, width) of the keys. `None`: the same.

    Returns:
        Long (Q, K), Q and K the products of the sizes.

    Raises:
        ValueError: unless both are two sizes of at least 1.

    Example:

    ```python
    >>> from omnilatent import get_relative_position_index_2d

    >>> index = get_relative_position_index_2d((7, 5))
    >>> index.shape, index.max().item() + 1 == 13 * 9
    (torch.Size([35, 35]), True)
    ```
    """
    check_axes("window_size", window_size, 2)
    return get_relative_position_index(window_size, key_window_size)


def get_relative_position_index_3d(
    window_size: tuple[int, int, int], key_window_size: tuple[int, int, int] | None = None
) -> torch.Tensor:
    """Entries for the tokens of a video, frame by frame and row by row.

    Args:
        window_size: (frames, height, width) of the queries, in tokens.
        key_window_size: (frames, height, width) of the keys. `None`: the same.

    Returns:
        Long (Q, K), Q and K the products of the sizes.

    Raises:
        ValueError: unless both are three sizes of at least 1.
    """
    check_axes("window_size", window_size, 3)
    return get_relative_position_index(window_size, key_window_size)


def get_relative_position_index(
    query_size: Sequence[int], key_size: Sequence[int] | None = None, class_token: bool = False
) -> torch.Tensor:
    """Entries for tokens on a grid with any number of axes.

    Args:
        query_size: tokens along each axis of the queries' grid.
        key_size: the same of the keys' grid. `None`: `query_size`.
        class_token: a token without a place stands before the queries and before the keys; the three entries after
            all others are class to patch, patch to class and class to class.

    Returns:
        Long (Q, K), or (1 + Q, 1 + K) with a class token.

    Raises:
        ValueError: for sizes below 1, or grids with different numbers of axes.
    """
    key_size = query_size if key_size is None else key_size
    check_axes("query_size", query_size, len(query_size))
    check_axes("key_size", key_size, len(query_size))
    index = torch.zeros(1, 1, dtype=torch.long)
    for queries, keys in zip(query_size, key_size):
        offset = torch.arange(queries)[:, None] - torch.arange(keys) + keys - 1
        index = index[:, None, :, None] * (queries + keys - 1) + offset[:, None, :]  # (Q, q, K, k)
        index = index.flatten(2).flatten(0, 1)
    if not class_token:
        return index
    class_to_patch = num_relative_positions(query_size, key_size)
    padded = torch.nn.functional.pad(index, (1, 0, 1, 0))
    padded[0, 1:], padded[1:, 0], padded[0, 0] = class_to_patch, class_to_patch + 1, class_to_patch + 2
    return padded


def num_relative_positions(
    query_size: Sequence[int], key_size: Sequence[int] | None = None, class_token: bool = False
) -> int:
    """Entries of a table for these grids."""
    key_size = query_size if key_size is None else key_size
    offsets = math.prod(queries + keys - 1 for queries, keys in zip(query_size, key_size))
    return offsets + CLASS_ENTRIES * class_token


def check_axes(name: str, sizes: Sequence[int], axes: int):
    """Raise a ValueError unless these are the sizes of a grid with so many axes."""
    one = isinstance(sizes, (int, float))
    if one or len(sizes) != axes or axes == 0 or min(sizes) < 1 or any(isinstance(size, float) for size in sizes):
        sizes = sizes if one else tuple(sizes)
        raise ValueError(f"`{name}` must be {axes or 'some'} whole sizes of at least 1, got {sizes}.")


__all__ = [
    "check_axes",
    "get_relative_position_index",
    "get_relative_position_index_1d",
    "get_relative_position_index_2d",
    "get_relative_position_index_3d",
    "num_relative_positions",
]
