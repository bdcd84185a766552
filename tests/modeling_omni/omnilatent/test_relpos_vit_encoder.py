"""OmniLatent with a relative position ViT as its image and video encoder."""

import pytest
import torch

from omnilatent import OmniLatentConfig, OmniLatentModel, RelPosViTModel
from omnilatent.modeling_omni.omnilatent.encoders import RelPosViTEncoder


def build(**words):
    torch.manual_seed(0)
    return OmniLatentModel(OmniLatentConfig.tiny(vision_encoder_layers=2, **words)).eval()


@pytest.mark.parametrize(("source", "shape"), [("image", (2, 3, 32, 32)), ("video", (2, 3, 4, 16, 16))])
def test_pictures_and_videos_pass_through_it_and_its_tables_learn(source, shape):
    model = build()
    assert isinstance(model.encoders[source].vit, RelPosViTModel)
    result = model.reconstruct(source, torch.randn(shape))
    assert result["output"].shape == shape
    result["loss"].backward()
    for name, parameter in model.encoders[source].vit.layers.named_parameters():
        if not name.endswith("k_proj.bias"):
            assert parameter.grad.abs().max() > 0, name


def test_it_is_saved_and_loaded(tmp_path):
    model, image = build(), torch.randn(1, 3, 32, 32)
    model.save_pretrained(tmp_path)
    again = OmniLatentModel.from_pretrained(tmp_path).eval()
    expected = model("image", image, "image")["output"]
    torch.testing.assert_close(again("image", image, "image")["output"], expected, rtol=1e-5, atol=1e-5)


def test_kernels_are_set_for_it_too():
    model, image = build(), torch.randn(1, 3, 32, 32)
    outputs = []
    for kernel in ("sdpa", "eager"):
        model.set_attn_implementation(kernel)
        assert model.encoders["image"].vit.config._attn_implementation == kernel
        outputs.append(model("image", image, "image")["output"])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_the_lookup_kernel_is_set_for_it_alone():
    model, image = build(), torch.randn(1, 3, 32, 32)
    expected = model("image", image, "image")["output"]
    for name in ("image", "video"):
        model.encoders[name].vit.set_attn_implementation("relative")
        assert {layer.attention.kernel_name for layer in model.encoders[name].vit.layers} == {"relative"}
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model("image", image, "image")["output"], expected, rtol=1e-4, atol=1e-5)


def test_attentions_are_those_of_the_backbone():
    model = build(attn_implementation="eager")
    output = model("image", torch.randn(1, 3, 32, 32), "image", output_attentions=True)
    assert len(output.attentions) == model.config.num_hidden_layers


@pytest.mark.parametrize("name", ["image", "video"])
def test_padded_samples_have_the_tokens_they_have_alone(name):
    encoder = RelPosViTEncoder(
        OmniLatentConfig.tiny(vision_encoder_layers=2, attn_implementation="eager"), name
    ).eval()
    frames = (4,) if name == "video" else ()
    values = torch.randn(3, *frames, 3, 24, 16)
    mask = torch.zeros(3, *frames, 24, 16, dtype=torch.bool)
    mask[0] = True
    mask[1, ..., :14, :8] = True  # its second row of patches is partly real; the third sample holds nothing
    tokens = encoder(values, mask).unflatten(1, (*((2,) if frames else ()), 3, 2))
    alone = values[1:2, ..., :16, :8].masked_fill(~mask[1:2, ..., :16, :8].unsqueeze(-3), 0)
    torch.testing.assert_close(tokens[1, ..., :2, :1, :].flatten(0, -2), encoder(alone)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokens[0].flatten(0, -2), encoder(values[:1])[0], rtol=1e-4, atol=1e-5)
    assert tokens.isfinite().all()


def test_a_negative_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="vision_encoder_layers"):
        OmniLatentConfig.tiny(vision_encoder_layers=-1)
