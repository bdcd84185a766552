"""int8 models stay close to what they were, at about a quarter of the size."""

import json

import onnxruntime
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForImageTextToText

from omnilatent import RelPosViTConfig, RelPosViTForImageClassification
from omnilatent.training.deployment import export_model, model_bytes, quantize_model
from omnilatent.training.deployment.quantization import QUANTIZATIONS, relative_deviation

from .conftest import make_task_model, randomized


def classifier():
    config = RelPosViTConfig.tiny(hidden_size=128, num_hidden_layers=1, position_embedding="absolute", num_labels=5)
    return randomized(RelPosViTForImageClassification(config))


@pytest.mark.parametrize("method", QUANTIZATIONS)
@torch.no_grad()
def test_int8_model_is_smaller_and_close_and_comes_back_from_disk(method, tmp_path):
    model, pixels = classifier(), torch.randn(3, 3, 24, 32)
    expected = model(pixels).logits
    quantized = quantize_model(model, method)
    assert torch.equal(model(pixels).logits, expected)  # the model stays as it is
    assert model_bytes(quantized) < 0.35 * model_bytes(model)
    given = quantized(pixels).logits
    assert 0 < relative_deviation(given, expected) < 0.05
    quantized.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(pixels).logits, given, rtol=0, atol=0)


@torch.no_grad()
def test_int8_writer_generates_and_keeps_its_tied_words(tmp_path):
    model = make_task_model("captioning")
    quantized = quantize_model(model)
    assert quantized.lm_head.weight is quantized.decoder.embed_tokens.weight
    pixels = torch.randn(2, 3, 32, 32)
    quantized.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    written = quantized.generate(pixel_values=pixels, max_new_tokens=5)
    assert again.generate(pixel_values=pixels, max_new_tokens=5).tolist() == written.tolist()


@torch.no_grad()
def test_int8_retrieval_finds_the_same_pairs():
    model = make_task_model("retrieval")
    inputs = {"input_ids": torch.randint(3, 259, (4, 9)), "pixel_values": torch.randn(4, 3, 32, 32)}
    given, expected = (kind(**inputs).logits_per_text for kind in (quantize_model(model), model))
    assert 0 < relative_deviation(given, expected) < 0.1


@torch.no_grad()
def test_int8_onnx_program_is_written_beside_the_float_one(tmp_path):
    model = classifier()
    graph = export_model(model, tmp_path, quantize="int8")["model"]
    assert graph.parity <= 1e-4  # of the float program
    assert graph.quantized == json.loads((tmp_path / "export.json").read_text())["graphs"]["model"]["quantized"]
    assert graph.quantized["bytes"] == (tmp_path / "model.int8.onnx").stat().st_size
    assert graph.quantized["bytes"] < 0.45 * (tmp_path / "model.onnx").stat().st_size
    assert 0 < graph.quantized["deviation"] < 0.1
    pixels = torch.randn(3, 3, 24, 32)
    session = onnxruntime.InferenceSession(tmp_path / graph.quantized["file"])
    (given,) = session.run(None, {"pixel_values": pixels.numpy()})
    assert relative_deviation(torch.from_numpy(given), model(pixels).logits) < 0.1


def test_what_cannot_be_quantized_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`method` must be one of int8, int8_weight_only, got 'int3'"):
        quantize_model(classifier(), "int3")
    with pytest.raises(ValueError, match="goes with `format` 'onnx', got 'int8' and 'torch'"):
        export_model(classifier(), tmp_path, format="torch", quantize="int8")
