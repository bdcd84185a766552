"""Where the tokens of a new hook start, if not at random."""

import itertools

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from .configuration_latent_hook import LatentHookConfig

STATES = "states"  # the tensor's name in a file of states


def initial_tokens(model: nn.Module, config: LatentHookConfig) -> torch.Tensor | None:
    """The tokens (num_tokens, hidden_size) of a hook that starts from text or states; `None`: at random.

    Raises:
        ValueError: for a text without tokens, or for states of another shape.
    """
    if config.init == "random" or config.is_loaded:  # what is loaded brings its tokens
        return None
    tokens = embed_text(model, config) if config.init == "text" else load_states(config)
    expected = (config.num_tokens, config.hidden_size)
    if tuple(tokens.shape) != expected:
        raise ValueError(f"The hook's first states have shape {tuple(tokens.shape)}, expected {expected}.")
    return tokens.detach().float()


def embed_text(model: nn.Module, config: LatentHookConfig) -> torch.Tensor:
    """The model's embeddings of the text's first tokens; a shorter text is repeated."""
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer_name_or_path)
    ids = tokenizer(config.init_text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"`init_text` {config.init_text!r} has no tokens.")
    embed = model.get_input_embeddings()
    ids = list(itertools.islice(itertools.cycle(ids), config.num_tokens))
    return embed(torch.tensor(ids, device=embed.weight.device))


def load_states(config: LatentHookConfig) -> torch.Tensor:
    tensors = load_file(config.init_states_path)
    if STATES not in tensors:
        raise ValueError(f"{config.init_states_path!r} has no tensor {STATES!r}, but {', '.join(sorted(tensors))}.")
    return tensors[STATES]
