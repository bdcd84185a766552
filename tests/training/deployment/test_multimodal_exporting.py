"""Exports of the multimodal task models."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from omnilatent import EncoderConfig
from omnilatent.training.deployment import export_model

from .conftest import make_task_model

TASKS = {
    "retrieval": {"text_encoder": ["text_embeds"], "image_encoder": ["image_embeds"]},
    "generation": {
        "encoder": ["encoder_hidden_states", "encoder_attention_mask"],
        "decoder": ["logits"],
    },
}


@pytest.mark.parametrize("task", TASKS)
def test_programs_of_each_task_agree_with_the_model(task, tmp_path):
    graphs = export_model(make_task_model(task), tmp_path, format="torch")
    assert {name: graph.outputs for name, graph in graphs.items()} == TASKS[task]
    assert all(0 <= graph.parity <= 1e-4 for graph in graphs.values())


def test_cross_encoder_has_a_graph_that_scores_pairs(tmp_path):
    model = make_task_model("retrieval", scoring="cross")
    export_model(model, tmp_path, format="torch")
    texts, images = torch.randint(3, 259, (3, 7)), torch.randn(3, 3, 32, 32)
    mask = torch.ones_like(texts)
    program = torch.export.load(tmp_path / "matcher.pt2").module()
    with torch.no_grad():
        scores = program(input_ids=texts, attention_mask=mask, pixel_values=images)["match_logits"]
        expected = model(input_ids=texts, attention_mask=mask, pixel_values=images, return_loss=False).logits_per_text
    torch.testing.assert_close(scores, expected.diagonal(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("attention", "position", "fusion"),
    [
        ({"kind": "sparse", "window_size": 3, "num_global_tokens": 1}, "learned", "bottleneck"),
        ({"num_key_value_heads": 1}, "relative", "gated_sum"),
    ],
)
def test_kinds_of_attention_position_and_fusion_are_exported(attention, position, fusion, tmp_path):
    layers = {"hidden_size": 32, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2, **attention}}
    model = make_task_model(
        "vqa",
        text_config={**layers, "vocab_size": 384, "max_position_embeddings": 48, "position": position},
        fusion={"hidden_size": 32, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}, "kind": fusion},
    )
    assert export_model(model, tmp_path, format="torch")["model"].parity <= 1e-4


LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}}
OTHER_STREAMS = {
    "features of pictures": (
        {"image_config": EncoderConfig(feature_size=13, max_position_embeddings=29, **LAYERS)},
        {"image_features": ["batch", "image_tokens", 13], "image_attention_mask": ["batch", "image_tokens"]},
        {"image_tokens": [1, 29]},
    ),
    "sound": (
        {"image_config": None, "audio_config": EncoderConfig(num_mel_bins=16, max_position_embeddings=29, **LAYERS)},
        {"input_features": ["batch", 16, "frames"], "audio_attention_mask": ["batch", "frames"]},
        {"frames": [8, 116, 4]},
    ),
}


@pytest.mark.parametrize("title", OTHER_STREAMS)
def test_other_modalities_are_exported_with_their_masks(title, tmp_path):
    settings, shapes, axes = OTHER_STREAMS[title]
    graph = export_model(make_task_model("vqa", **settings), tmp_path, format="torch")["model"]
    given = {name: tensor["shape"] for name, tensor in graph.inputs.items()}
    assert given == {"input_ids": ["batch", "text_length"], "attention_mask": ["batch", "text_length"], **shapes}
    assert graph.axes == {"batch": [1, None], "text_length": [1, 48], **axes}
    assert graph.parity <= 1e-4


def test_onnx_answers_under_onnxruntime_are_the_model_s(task_models, onnx_exports):
    model, processor, _ = task_models("vqa")
    folder = onnx_exports("vqa")
    manifest = json.loads((folder / "export.json").read_text())
    assert 0 <= manifest["graphs"]["model"]["parity"] <= 1e-4
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    assert shapes == {
        "input_ids": ["batch", "text_length"],
        "attention_mask": ["batch", "text_length"],
        "pixel_values": ["batch", 3, 32, 32],
    }
    inputs = processor(
        text=["what colour?", "and here, what do you see at the left?", "a"], padding=True, return_tensors="pt"
    )
    inputs["pixel_values"] = torch.randn(3, 3, 32, 32)
    (given,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-4)


def test_greedy_loop_over_the_exported_decoder_writes_what_generate_writes(task_models, onnx_exports):
    model, _, _ = task_models("captioning")
    folder = onnx_exports("captioning")
    pixels = torch.randn(3, 3, 32, 32)
    start = model.generation_config.decoder_start_token_id

    encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
    decoder = onnxruntime.InferenceSession(folder / "decoder.onnx")
    states, mask = encoder.run(None, {"pixel_values": pixels.numpy()})
    ids = np.full((3, 1), start)
    for _ in range(9):
        (logits,) = decoder.run(
            None, {"decoder_input_ids": ids, "encoder_hidden_states": states, "encoder_attention_mask": mask}
        )
        ids = np.concatenate([ids, logits.argmax(-1)[:, None]], axis=1)
    model.generation_config.eos_token_id = None
    expected = model.generate(pixel_values=pixels, max_new_tokens=9, do_sample=False)
    assert ids.tolist() == expected.tolist()
