import pytest
import torch

from omnilatent import MultiModalConfig

LAYERS = {"hidden_size": 24, "num_hidden_layers": 2, "attention": {"num_attention_heads": 3}, "intermediate_size": 40}


def make_config(second="image", **settings):
    """A config of primes and small numbers; `settings` replace its parts."""
    readers = {
        "image": {"image_size": 12, "patch_size": 4},
        "audio": {"num_mel_bins": 11},
        "video": {"image_size": 8, "patch_size": 4, "num_frames": 6, "tubelet_size": 2},
    }
    parts = {
        "text_config": {"vocab_size": 71, "max_position_embeddings": 32, **LAYERS},
        f"{second}_config": {**readers[second], **LAYERS},
        "fusion": dict(LAYERS),
        "decoder_config": {"vocab_size": 71, "max_position_embeddings": 32, **LAYERS},
        "projection_dim": 13,
        "num_labels": 5,
    }
    return MultiModalConfig(**parts | settings)


def randomise(model, std=0.1):
    """Give every parameter other values: zeros and ones would hide what they multiply."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def make_inputs(second="image", batch=2):
    generator = torch.Generator().manual_seed(2)
    shapes = {
        "image": {"pixel_values": (batch, 3, 12, 12)},
        "audio": {"input_features": (batch, 11, 29)},
        "video": {"pixel_values_videos": (batch, 6, 3, 8, 8)},
    }
    texts = torch.randint(3, 71, (batch, 7), generator=generator)
    others = {name: torch.randn(shape, generator=generator) for name, shape in shapes[second].items()}
    return {"input_ids": texts, **others}


@pytest.fixture(scope="session")
def labels():
    return torch.tensor([[9, 8, 2], [7, 2, -100]])
