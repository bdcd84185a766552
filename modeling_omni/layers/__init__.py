"""Building blocks that know tensors and no modality.

Shapes: B batch, T tokens (Q queries, K keys), D hidden size, H heads, G key and value heads, d head width.
"""

from .attention import Attention
from .attention_kinds import make_attention, make_attention_mask
from .block import TransformerBlock
from .feature_maps import RandomFeatures
from .feed_forward import GLU, FeedForward, SwiGLU, make_feed_forward
from .masks import all_keys_for, causal, everywhere, segment_mask
from .norms import RMSNorm, ScaleNorm, make_norm
from .positions import LearnedPositions, SinusoidalPositions
from .relative_offsets import RelativeOffsets
from .rotary import MultiAxisRotary, apply_rotary

__all__ = [
    "Attention",
    "FeedForward",
    "GLU",
    "LearnedPositions",
    "MultiAxisRotary",
    "RMSNorm",
    "RandomFeatures",
    "RelativeOffsets",
    "ScaleNorm",
    "SinusoidalPositions",
    "SwiGLU",
    "TransformerBlock",
    "all_keys_for",
    "apply_rotary",
    "causal",
    "everywhere",
    "make_attention",
    "make_attention_mask",
    "make_feed_forward",
    "make_norm",
    "segment_mask",
]
