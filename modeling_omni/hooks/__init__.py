"""Latent Neural Hooks: learned tokens inside the self-attention of any transformer, as a PEFT method."""

from .configuration_latent_hook import LatentHookConfig
from .hook_picture import draw_hooks
from .hook_recording import HookRecord, record_hooks
from .latent_hook_layer import LatentHookLayer
from .latent_hook_model import LatentHookModel
from .latent_neural_hook import LatentNeuralHook

__all__ = [
    "HookRecord",
    "LatentHookConfig",
    "LatentHookLayer",
    "LatentHookModel",
    "LatentNeuralHook",
    "draw_hooks",
    "record_hooks",
]
