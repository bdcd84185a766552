"""Several streams into one."""

from .making import make_fusion
from .pooling import AttentionalPooling, Pooling

__all__ = ["AttentionalPooling", "Pooling", "make_fusion"]
