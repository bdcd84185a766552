"""Hooks on OmniLatent, by the specification's names: register them, use the model, remove them."""

import gc
import itertools
import warnings

import pytest
import torch

from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.layout import lay_out

MODALITIES = ("text", "audio", "image", "video")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig.tiny(num_hidden_layers=4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def sources(batch=2):
    generator = torch.Generator().manual_seed(1)
    return {
        "text": torch.randint(3, 259, (batch, 5), generator=generator),
        "audio": torch.randn(batch, 16, 24, generator=generator),
        "image": torch.randn(batch, 3, 24, 32, generator=generator),
        "video": torch.randn(batch, 3, 4, 16, 16, generator=generator),
    }


def hook(model, name="style", layers=(0, 1, 3), **settings):
    torch.manual_seed(len(name))
    settings = dict(num_tokens=3, gate_bias_init=1.0, init_weights=False) | settings
    return LatentNeuralHook(name, dim=model.config.hidden_size, target_layers=layers, **settings)


@torch.no_grad()
def say(model, source, target):
    given = sources()
    return model(source, given[source], target, target=given[target] if target == "text" else None)["output"]


@pytest.mark.parametrize(("source", "target"), list(itertools.product(MODALITIES, MODALITIES)))
def test_a_hook_changes_every_pair_and_its_removal_undoes_it(model, source, target):
    before, state = say(model, source, target), {k: v.clone() for k, v in model.state_dict().items()}
    model.register_hook(hook(model))
    assert not torch.allclose(say(model, source, target), before, atol=1e-5)
    model.remove_hook("style")
    torch.testing.assert_close(say(model, source, target), before, rtol=0, atol=0)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert type(model.layers[0]).__name__ == "TransformerBlock" and not model._forward_hooks


def test_the_specifications_call_registers_eight_tokens_in_six_layers():
    model = OmniLatentModel(OmniLatentConfig.tiny(num_hidden_layers=6))
    hook = LatentNeuralHook(
        name="style_control",
        num_tokens=8,
        dim=model.config.hidden_size,
        target_layers=[0, 1, 2, 3, 4, 5],
        gate_bias_init=-4.0,
        use_transform=True,
    )
    assert list(hook.parameters()) == []
    model.register_hook(hook)
    names = [name for name, _ in model.named_parameters() if "latent_hook_" in name]
    assert len(names) == len(list(hook.parameters())) == 1 + 6 * 5
    assert model.layers[0].latent_hooks.latent_hook_tokens["style_control"].shape == (8, model.config.hidden_size)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("layers", [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize("reads", ["none", "prefix"])
def test_targets_do_not_hear_of_each_other_nor_sources_of_targets(model, layers, reads):
    model.register_hook(hook(model, layers=layers, reads=reads))
    given = sources(1)
    laid_out = lay_out(
        model.config,
        {"image": given["image"], "audio": given["audio"]},
        {"text": given["text"], "video": None, "image": None},
        contrast=True,
    )
    with torch.no_grad():
        embeds = model.embed_tokens(laid_out["input_ids"])
    ids = laid_out["input_ids"]
    sequence = torch.nn.Parameter(torch.randn(1, ids.shape[1], model.config.hidden_size) * 0.1)
    # noise enters behind the embeddings, where every position has a place to be asked about
    model.embed_norm.register_forward_hook(lambda module, args, output: output + sequence)
    hidden = model(**laid_out, return_loss=False).last_hidden_state[0]
    segments = laid_out["token_type_ids"][0]
    text = segments == 1
    assert embeds.shape == (1, *hidden.shape)
    for position in range(0, len(segments), 3):
        (gradient,) = torch.autograd.grad(hidden[position].square().sum(), sequence, retain_graph=True)
        heard = gradient[0].abs().sum(-1) > 0
        allowed = (segments == segments[position]) | ((segments == 0) & (segments[position] > 0))
        if text[position]:
            allowed = allowed & ~(text & (torch.arange(len(segments)) > position))
        assert not (heard & ~allowed).any(), (position, segments[position])
        assert heard[allowed].all()


@pytest.mark.parametrize("reads", ["none", "prefix"])
@pytest.mark.parametrize("names", [("text",), ("image",), ("audio", "video")])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"cache_implementation": "static"}])
def test_cached_generation_equals_uncached(model, reads, names, settings):
    model.register_hook(hook(model, reads=reads))
    given = sources()
    masks = {"text": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])} if "text" in names else None
    laid_out = lay_out(model.config, {name: given[name] for name in names}, {"text": None}, masks)
    for key in ("logits_to_keep", "target_sizes", "target_starts", "twins"):
        laid_out.pop(key, None)
    laid_out |= dict(max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True)
    cached = model.generate(**laid_out, **settings)
    uncached = model.generate(**laid_out, num_beams=settings.get("num_beams", 1), use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(cached.logits, uncached.logits, rtol=1e-4, atol=1e-4)


def test_other_modalities_are_generated_with_hooks(model):
    ids = sources()["text"]
    before = model.generate(ids, generation_mode="image", target_size=(16, 24))
    model.register_hook(hook(model))
    after = model.generate(ids, generation_mode="image", target_size=(16, 24))
    assert after.shape == (2, 3, 16, 24) and not torch.allclose(after, before, atol=1e-5)


def test_what_a_hook_reads_does_not_depend_on_the_contrastive_twin(model):
    """A twin is a second copy of the target for the contrastive loss alone."""
    model.register_hook(hook(model))
    given = sources()
    outputs = [
        model(**lay_out(model.config, {"image": given["image"]}, {"audio": given["audio"]}, contrast=contrast)).output
        for contrast in (True, False)
    ]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing_with_hooks(model):
    model.register_hook(hook(model))
    image = sources(1)["image"]
    alone = say_image(model, image, None)
    padded = torch.nn.functional.pad(image, (0, 16, 0, 8))
    mask = torch.nn.functional.pad(torch.ones(1, *image.shape[2:], dtype=torch.bool), (0, 16, 0, 8))
    torch.testing.assert_close(say_image(model, padded, mask), alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def say_image(model, image, mask):
    return model("image", image, "audio", source_mask=mask).output


def test_hooks_together_are_the_same_in_either_order(model):
    states = []
    for names in (("style", "task"), ("task", "style")):
        for name in names:
            model.register_hook(hook(model, name, layers=(0, 1, 2) if name == "task" else (1, 2)))
        states.append(say(model, "image", "audio"))
        for name in names:
            model.remove_hook(name)
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_removing_one_hook_leaves_the_other_as_it_would_be_alone(model):
    model.register_hook(hook(model))
    alone = say(model, "image", "audio")
    model.register_hook(hook(model, "task"))
    assert model.active_adapters() == ["style", "task"]
    assert not torch.allclose(say(model, "image", "audio"), alone, atol=1e-5)
    model.remove_hook("task")
    torch.testing.assert_close(say(model, "image", "audio"), alone, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_base_stays_frozen(model):
    model.requires_grad_(False)
    style = hook(model)
    model.register_hook(style)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in style.parameters()}


def step(model, optimizer):
    given = sources()
    model("image", given["image"], "audio", target=given["audio"]).loss.backward()
    optimizer.step()


def test_an_optimizer_built_before_the_hook_is_pointed_out_once(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    style = hook(model)
    model.register_hook(style)
    with pytest.warns(UserWarning, match="'style'.*add_param_group"):
        step(model, optimizer)
    optimizer.add_param_group({"params": list(style.parameters())})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, optimizer)


def test_an_optimizer_built_after_the_hook_is_not(model):
    style = hook(model)
    model.register_hook(style)
    other = torch.nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.optim.SGD(other.parameters(), lr=0.01).step()
        step(model, torch.optim.SGD(model.parameters(), lr=0.01))


def test_a_forgotten_hook_leaves_no_question_behind(model):
    from torch.optim.optimizer import _global_optimizer_pre_hooks

    before = len(_global_optimizer_pre_hooks)
    style = hook(model)
    model.register_hook(style)
    assert len(_global_optimizer_pre_hooks) == before + 1
    del style
    gc.collect()
    assert len(_global_optimizer_pre_hooks) == before


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("new", dict(layers=(0, 4)), "no layer 4.*0, 1, 2, 3"),
        ("new", dict(dim=768), "768 wide.* 48"),
        ("style", {}, "'?style'? already exists"),
        ("a.b", {}, "dot"),
    ],
)
@pytest.mark.parametrize("hooked", [True, False])
def test_a_hook_that_does_not_fit_is_refused_and_the_model_is_as_before(model, name, changes, message, hooked):
    if hooked or name == "style":
        model.register_hook(hook(model))
    before, names = say(model, "image", "audio"), list(model.state_dict())
    bad = LatentNeuralHook(name, dim=changes.get("dim", 48), target_layers=changes.get("layers", (0, 1)))
    with pytest.raises(ValueError, match=message):
        model.register_hook(bad)
    torch.testing.assert_close(say(model, "image", "audio"), before, rtol=0, atol=0)
    assert list(model.state_dict()) == names
    model.register_hook(hook(model, "fits"))


@pytest.mark.parametrize("hooked", [True, False])
def test_removing_what_is_not_there_is_an_error(model, hooked):
    if hooked:
        model.register_hook(hook(model))
    with pytest.raises(ValueError, match="style" if hooked else "none"):
        model.remove_hook("absent")


def test_a_compiled_model_is_one_graph_and_has_the_same_gradients():
    model = OmniLatentModel(OmniLatentConfig.tiny())
    style = hook(model, layers=(0, 1))
    model.register_hook(style)
    given = sources()
    laid_out = lay_out(model.config, {"image": given["image"]}, {"audio": given["audio"]})

    def gradients(forward):
        model.zero_grad()
        forward(**laid_out).loss.backward()
        return [parameter.grad.clone() for parameter in style.parameters()]

    expected = gradients(model)
    found = gradients(torch.compile(model, fullgraph=True, backend="eager"))
    for grad, other in zip(found, expected, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-6)
