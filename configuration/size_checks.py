"""Checks of sizes that configs share."""

from transformers import PreTrainedConfig


def check_positive(config: PreTrainedConfig, *names: str):
    """Raise a ValueError for a setting of these that is not positive."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(config, name)}.")


def check_heads_divide(config: PreTrainedConfig):
    """Raise a ValueError unless the heads divide the hidden size."""
    if config.hidden_size % config.num_attention_heads != 0:
        raise ValueError(
            f"`hidden_size` {config.hidden_size} is not divisible by `num_attention_heads` "
            f"{config.num_attention_heads}."
        )
