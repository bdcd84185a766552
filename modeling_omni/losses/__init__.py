"""Losses. They live beside the models because `forward(labels=...)` needs them."""

from .classification import classification_loss, soft_target_loss
from .contrastive import info_nce_loss, sigmoid_loss
from .matching import matching_loss
from .reconstruction import masked_mse_loss
from .text import ctc_readout_loss, next_token_loss
from .weighting import LossWeights

__all__ = [
    "LossWeights",
    "classification_loss",
    "ctc_readout_loss",
    "info_nce_loss",
    "masked_mse_loss",
    "matching_loss",
    "next_token_loss",
    "sigmoid_loss",
    "soft_target_loss",
]
