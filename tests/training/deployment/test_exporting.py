"""Exported programs compute what their model does, for any batch and length, and say what they need."""

import json

import onnxruntime
import pytest
import torch
from transformers import ASTConfig, AutoImageProcessor, BertConfig, PreTrainedModel, ViTConfig
from transformers.models.vit import ViTImageProcessorPil

from omnilatent import (
    AudioVisualAligner,
    OmniNetConfig,
    OmniNetModel,
    RelPosViTConfig,
    RelPosViTForImageClassification,
    RelPosViTModel,
)
from omnilatent.training import cli
from omnilatent.training.deployment import export_model, exporting, graphs, parity


def randomized(model: PreTrainedModel) -> PreTrainedModel:
    """With no parameter left at 0 or 1, where it could go missing unseen."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def classifier():
    return randomized(RelPosViTForImageClassification(RelPosViTConfig.tiny(num_labels=5)))


@pytest.fixture(scope="module")
def exported_classifier(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    processor = ViTImageProcessorPil(size={"height": 24, "width": 32})
    graphs = export_model(classifier.train(), folder, processor)
    assert classifier.training  # as it was
    classifier.eval()
    return folder, graphs


def aligner(with_text=False):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return AudioVisualAligner.from_towers(
        vision=ViTConfig(image_size=32, **sizes),
        audio=ASTConfig(max_length=32, num_mel_bins=32, **sizes),
        text=BertConfig(vocab_size=99, max_position_embeddings=48, **sizes) if with_text else None,
        freeze=False,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=11,
        time_embedding="constrained_rotary",
    )


MODELS = {
    "aligner of towers": (aligner, ["video_encoder", "audio_encoder"]),
    "aligner of features": (
        lambda: OmniNetModel(
            OmniNetConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                vision_hidden_size=17,
                audio_hidden_size=13,
                text_hidden_size=None,
                projection_dim=11,
            )
        ),
        ["vision_encoder", "audio_encoder"],
    ),
    "ViT of videos": (
        lambda: RelPosViTModel(
            RelPosViTConfig.tiny(
                num_hidden_layers=1,
                num_frames=4,
                tubelet_size=2,
                use_class_token=True,
                position_embedding="both",
                pooling="cls",
            )
        ),
        ["image_encoder"],
    ),
}


@pytest.mark.parametrize("title", MODELS)
def test_programs_of_torch_export_agree_with_the_model(title, tmp_path):
    make, names = MODELS[title]
    graphs = export_model(randomized(make()), tmp_path, format="torch")
    assert [*graphs] == names
    assert all(graph.parity <= 1e-4 for graph in graphs.values())


def test_onnx_program_of_a_text_tower_takes_any_length(tmp_path, monkeypatch):
    model = randomized(aligner(with_text=True)).eval()
    text_graph = graphs.graphs_of(model)[-1:]
    monkeypatch.setattr(exporting, "graphs_of", lambda model: text_graph)
    exported = export_model(model, tmp_path)
    assert exported["text_encoder"].axes == {"batch": [1, None], "text_length": [1, 48]}
    session = onnxruntime.InferenceSession(tmp_path / "text_encoder.onnx")
    ids = torch.randint(99, (5, 43))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    (given,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    with torch.no_grad():
        expected = model.encode_text(ids, mask)
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-4)


def test_onnx_program_of_a_classifier_gives_its_logits_for_any_batch(classifier, exported_classifier):
    folder, graphs = exported_classifier
    assert 0 <= graphs["model"].parity <= 1e-4
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, 24, 32]
    assert session.get_outputs()[0].shape == ["batch", 5]
    for batch in (1, 7):
        pixels = torch.randn(batch, 3, 24, 32)
        (given,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
        with torch.no_grad():
            expected = classifier(pixels).logits
        torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-4)


def test_folder_says_what_the_programs_need(exported_classifier):
    folder, graphs = exported_classifier
    manifest = json.loads((folder / "export.json").read_text())
    assert manifest["model_class"] == "RelPosViTForImageClassification"
    assert manifest["format"] == "onnx"
    model = manifest["graphs"]["model"]
    assert model["inputs"] == {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, 24, 32]}}
    assert model["outputs"] == ["logits"]
    assert model["parity"] == graphs["model"].parity
    assert RelPosViTConfig.from_pretrained(folder).num_labels == 5
    assert AutoImageProcessor.from_pretrained(folder).size["width"] == 32


def test_a_program_that_differs_is_refused(classifier, tmp_path, monkeypatch):
    def open_other_program(path, outputs):
        return lambda pixel_values: {"logits": classifier(pixel_values).logits + 0.01}

    monkeypatch.setattr(parity, "open_program", open_other_program)
    with pytest.raises(
        ValueError, match=r"`logits` of the program model.pt2 differs .* by 0.01, expected at most 0.0001"
    ):
        export_model(classifier, tmp_path, format="torch")


def test_what_cannot_be_exported_is_named(classifier, tmp_path):
    with pytest.raises(ValueError, match="`format` must be one of onnx, torch, got 'tflite'"):
        export_model(classifier, tmp_path, format="tflite")
    with pytest.raises(ValueError, match="BertModel cannot be exported: expected one of .*RelPosViTForImageClassif"):
        export_model(aligner(with_text=True).text_tower, tmp_path)
    half = RelPosViTForImageClassification(RelPosViTConfig.tiny()).bfloat16()
    with pytest.raises(ValueError, match="float32, this one is in torch.bfloat16"):
        export_model(half, tmp_path)
    assert not [*tmp_path.glob("*.onnx")]


def test_command_exports_a_saved_model(classifier, tmp_path, capsys):
    classifier.save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size={"height": 24, "width": 32}).save_pretrained(tmp_path / "model")
    argv = ["export", "--model", str(tmp_path / "model"), "--format", "torch", "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    assert "model.pt2: model, differs from the model by" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    pixels = torch.randn(4, 3, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(program(pixel_values=pixels)["logits"], classifier(pixels).logits)
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size["width"] == 32
    assert cli.main(["export", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
