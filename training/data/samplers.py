"""A sampler that is a function."""

from collections.abc import Callable, Iterator


class FunctionSampler:
    """
    A sampler, or a batch sampler, for `torch.utils.data.DataLoader` out of a function that makes an iterator.

    Args:
        make_iterator: Called at each `iter`.
    """

    def __init__(self, make_iterator: Callable[[], Iterator]):
        self._make_iterator = make_iterator

    def __iter__(self) -> Iterator:
        return self._make_iterator()
