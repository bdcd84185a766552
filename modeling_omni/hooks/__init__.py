"""Latent Neural Hooks: learned tokens inside the self-attention of any transformer, as a PEFT method."""

from .configuration_latent_hook import LatentHookConfig
from .latent_hook_layer import LatentHookLayer
from .latent_hook_model import LatentHookModel
from .latent_neural_hook import LatentNeuralHook

__all__ = ["LatentHookConfig", "LatentHookLayer", "LatentHookModel", "LatentNeuralHook"]
