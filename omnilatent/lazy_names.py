"""Public names of a package that load the module behind them at first use, so that importing the package is cheap."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(package: str, public: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """
    What PEP 562 asks of a package with lazy names.

    Args:
        package: Its `__name__`.
        public: Public name -> the module that defines it, relative to the package.

    Returns:
        The package's `__getattr__`, `__dir__` and `__all__`.
    """
    names = list(public)

    def __getattr__(name: str) -> Any:
        if name in public:
            return getattr(import_module(f"{package}.{public[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__, lambda: sorted(names), names
