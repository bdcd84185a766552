"""Losses. They live beside the models because `forward(labels=...)` needs them."""

from .contrastive import contrastive_loss
from .reconstruction import masked_mse_loss
from .text import ctc_readout_loss, next_token_loss
from .weighting import LossWeights

__all__ = ["LossWeights", "contrastive_loss", "ctc_readout_loss", "masked_mse_loss", "next_token_loss"]
