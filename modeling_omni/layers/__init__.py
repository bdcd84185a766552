"""Building blocks that know tensors and no modality.

Shapes: B batch, T tokens (Q queries, K keys), D hidden size, H heads, G key and value heads, d head width.
"""

from .attention import Attention
from .block import TransformerBlock
from .feed_forward import SwiGLU
from .masks import all_keys_for, causal, everywhere, segment_mask
from .norms import RMSNorm
from .rotary import MultiAxisRotary, apply_rotary

__all__ = [
    "Attention",
    "MultiAxisRotary",
    "RMSNorm",
    "SwiGLU",
    "TransformerBlock",
    "all_keys_for",
    "apply_rotary",
    "causal",
    "everywhere",
    "segment_mask",
]
