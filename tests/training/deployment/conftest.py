"""Small models with nothing left at its starting value, saved and exported once for all tests of deployment."""

import pytest
import torch
from transformers import PreTrainedModel

from omnilatent import MultiModalConfig, MultiModalProcessor, create_model
from omnilatent.training.deployment import export_model

COLOURS = {0: "red", 1: "green", 2: "blue"}


def randomized(model: PreTrainedModel) -> PreTrainedModel:
    """With no parameter left at 0 or 1, where it could go missing unseen; in evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def make_task_model(task: str, **settings) -> PreTrainedModel:
    layers = {"hidden_size": 32, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}}
    config = MultiModalConfig(
        **{
            "text_config": {**layers, "vocab_size": 384, "max_position_embeddings": 48, "position": "rotary"},
            "image_config": {**layers, "image_size": 32, "patch_size": 16},
            "fusion": {**layers, "kind": "co_attention"},
            "decoder_config": {**layers, "vocab_size": 384, "max_position_embeddings": 48},
            "projection_dim": 19,
            "id2label": COLOURS,
            "label2id": {name: index for index, name in COLOURS.items()},
            **settings,
        }
    )
    return randomized(create_model(config, task=task))


@pytest.fixture(scope="session")
def task_models(tmp_path_factory):
    """By task: the model, its processor and the folder that both are saved in."""
    made = {}

    def make(task):
        if task not in made:
            folder = tmp_path_factory.mktemp("models") / task
            model = make_task_model(task)
            processor = MultiModalProcessor.from_config(model.config)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            made[task] = model, processor, folder
        return made[task]

    return make


@pytest.fixture(scope="session")
def onnx_exports(task_models, tmp_path_factory):
    """By task: the folder of the model's ONNX export."""
    made = {}

    def make(task):
        if task not in made:
            model, processor, _ = task_models(task)
            made[task] = tmp_path_factory.mktemp("onnx") / task
            export_model(model, made[task], processor)
        return made[task]

    return make
