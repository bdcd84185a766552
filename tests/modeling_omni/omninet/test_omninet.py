"""What must hold of the plain aligner."""

import math
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from omnilatent import OmniNet

sys.path.append(str(Path(__file__).parents[2]))
import reference  # noqa: E402

BATCH, DIM, HEADS = 5, 24, 6


def randomised(**options):
    torch.manual_seed(0)
    model = OmniNet(DIM, HEADS, **options).double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.4
    return model


def tokens(length, batch=BATCH, dim=DIM):
    return torch.randn(batch, length, dim, dtype=torch.float64)


def mean_cosine(embeddings):
    """Mean cosine between different samples."""
    unit = torch.nn.functional.normalize(embeddings.flatten(1), dim=-1)
    cosines = unit @ unit.T
    return ((cosines.sum() - cosines.trace()) / (len(unit) * (len(unit) - 1))).item()


COMMON = 3 * torch.randn(512, generator=torch.Generator().manual_seed(1))
STARTS = {
    "normal": lambda shape: torch.randn(shape),
    "uniform": lambda shape: torch.rand(shape),
    "large offset": lambda shape: torch.randn(shape) + 5,
}


@pytest.mark.parametrize("start", STARTS)
@torch.no_grad()
def test_at_the_start_the_loss_is_near_ln_b_and_embeddings_differ(start):
    torch.manual_seed(0)
    model = OmniNet(dim=512, num_heads=8)
    vision, audio, loss = model(STARTS[start]((1024, 4, 512)), STARTS[start]((1024, 3, 512)))
    assert loss.item() == pytest.approx(math.log(1024), rel=0.05)
    for embeddings in (vision, audio):
        assert abs(mean_cosine(embeddings)) < 0.05


@torch.no_grad()
def test_centering_undoes_the_collapse_that_a_common_mean_makes():
    torch.manual_seed(0)
    model = OmniNet(dim=512, num_heads=8)
    vision_input, audio_input = torch.randn(256, 4, 512) + COMMON, torch.randn(256, 3, 512) - COMMON
    assert mean_cosine(model(vision_input, audio_input)[0]) > 0.9
    model.center_on(vision_input, audio_input)
    vision, audio, loss = model(vision_input, audio_input)
    assert max(abs(mean_cosine(vision)), abs(mean_cosine(audio))) < 0.05
    assert loss.item() == pytest.approx(math.log(256), rel=0.05)


def test_every_parameter_that_can_matter_gets_a_gradient():
    model = randomised()
    model(tokens(7), tokens(4))[2].backward()
    silent = {name for name, parameter in model.named_parameters() if not parameter.grad.abs().max() > 1e-12}
    # softmax does not see what is added to all keys, and a single token does not choose whom to attend to
    assert silent == {"vision_cross_attn.k_proj.bias", "audio_cross_attn.k_proj.bias"}


def test_the_basic_example_of_the_specification_runs():
    model = OmniNet(dim=512, num_heads=8, query_heads=4, dropout=0.1, kv_heads=2, temperature=0.07, parallel=True)
    vision, audio, loss = model(torch.randn(4, 10, 512), torch.randn(4, 8, 512))
    assert vision.shape == audio.shape == (4, 1, 512)
    assert loss.ndim == 0 and loss.item() > 0
    assert model.get_similarity_matrix(vision, audio).shape == (4, 1, 1)


def test_a_few_steps_of_training_align():
    torch.manual_seed(0)
    model = OmniNet(dim=32, num_heads=4)
    shared = torch.randn(64, 1, 8)
    vision_input = torch.cat([shared.expand(-1, 5, -1), torch.randn(64, 5, 24)], dim=-1)
    audio_input = torch.cat([torch.randn(64, 3, 24), shared.expand(-1, 3, -1)], dim=-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = model(vision_input, audio_input)[2]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * math.log(64)


def test_attributes_are_those_of_the_specification():
    model = OmniNet(dim=DIM, num_heads=HEADS, query_heads=4, dropout=0.1, kv_heads=2, temperature=0.2, parallel=False)
    settings = [getattr(model, name) for name in ("dim", "num_heads", "query_heads", "kv_heads", "temperature")]
    assert settings == [DIM, HEADS, 4, 2, 0.2]
    assert model.dropout == 0.1 and model.parallel is False
    assert model.query_embedding.shape == (1, 1, DIM)
    assert isinstance(model.vision_l2_norm, torch.nn.LayerNorm)
    assert isinstance(model.audio_l2_norm, torch.nn.LayerNorm)


@pytest.mark.parametrize(
    ("query_heads", "kv_heads", "query_rows", "key_rows"),
    [(1, 1, 6, 6), (4, 2, 4, 2), (1, 2, 6, 2), (6, 1, 6, 1), (6, 3, 6, 3), (8, 4, 8, 4)],
)
def test_grouped_heads_change_the_shapes_of_the_projections(query_heads, kv_heads, query_rows, key_rows):
    attention = randomised(query_heads=query_heads, kv_heads=kv_heads).vision_cross_attn
    assert attention.head_dim == DIM // HEADS
    assert attention.q_proj.weight.shape == (query_rows * 4, DIM)
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (key_rows * 4, DIM)
    assert attention.out_proj.weight.shape == (DIM, query_rows * 4)


OPTIONS = [{}, {"query_heads": 4, "kv_heads": 2}]
MASKS = [{}, {"vision_mask": (BATCH, 7)}, {"mask": (BATCH, 1, 1, 7), "audio_mask": (BATCH, 7)}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("masks", MASKS)
def test_parallel_equals_one_stream_after_the_other_in_values_and_gradients(options, masks):
    model = randomised(**options)
    vision_input, audio_input = tokens(7), tokens(7)
    masks = {name: torch.rand(shape) > 0.3 for name, shape in masks.items()}
    results = {}
    for model.parallel in (True, False):
        model.zero_grad()
        outputs = model(vision_input, audio_input, **masks)
        outputs[2].backward()
        results[model.parallel] = [*outputs, *(parameter.grad.clone() for parameter in model.parameters())]
    for together, apart in zip(results[True], results[False]):
        torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parallel", [True, False])
def test_checkpointing_changes_no_gradient(parallel):
    model = randomised(parallel=parallel).train()
    vision_input, audio_input = tokens(7), tokens(7)
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(vision_input, audio_input, vision_mask=torch.arange(7) < 5 + torch.arange(BATCH)[:, None])[2].backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert model.gradient_checkpointing
    for plain, again in zip(*gradients):
        assert torch.equal(plain, again)


@pytest.mark.parametrize("parallel", [True, False])
def test_padding_changes_nothing(parallel):
    model = randomised(parallel=parallel)
    vision_input, audio_input = tokens(5), tokens(5)
    plain = model(vision_input, audio_input)
    mask = torch.arange(9) < 5
    padded = [torch.cat([states, 100 * tokens(4)], dim=1) for states in (vision_input, audio_input)]
    for masks in ({"mask": mask.expand(BATCH, -1)}, {"vision_mask": mask[None], "audio_mask": mask.expand(BATCH, 9)}):
        for output, expected in zip(model(*padded, **masks), plain):
            torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


def test_masks_of_both_kinds_join_by_and():
    model = randomised()
    vision_input, audio_input = tokens(7), tokens(7)
    shared, own = torch.rand(BATCH, 7) > 0.2, torch.rand(BATCH, 7) > 0.2
    shared[:, 0] = own[:, 0] = True
    joined = model(vision_input, audio_input, mask=shared, vision_mask=own)
    apart = model(vision_input, audio_input, vision_mask=shared & own, audio_mask=shared)
    assert torch.equal(joined[0], apart[0]) and torch.equal(joined[1], apart[1])


@pytest.mark.parametrize("parallel", [True, False])
def test_a_sample_masked_as_a_whole_is_zero_and_in_no_pair(parallel):
    model = randomised(parallel=parallel)
    vision_input, audio_input = tokens(7).requires_grad_(), tokens(7).requires_grad_()
    mask = torch.ones(BATCH, 7, dtype=torch.bool)
    mask[2] = False
    vision, audio, loss = model(vision_input, audio_input, vision_mask=mask)
    assert torch.equal(vision[2], torch.zeros(1, DIM, dtype=torch.float64))
    assert audio[2].abs().max() > 0
    others = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(loss, model(vision_input[others], audio_input[others])[2])
    loss.backward()
    gradients = [vision_input.grad, audio_input.grad, *(parameter.grad for parameter in model.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert vision_input.grad[2].abs().max() == audio_input.grad[2].abs().max() == 0


@pytest.mark.parametrize("lengths", [(1, 1), (3, 2)])
def test_both_forms_of_the_loss_equal_the_reference(lengths):
    model = randomised()
    vision, audio = tokens(lengths[0]), tokens(lengths[1])
    expected = reference.info_nce(vision.mean(1), audio.mean(1), 1 / model.temperature)
    assert model._compute_clip_loss(vision, audio).item() == pytest.approx(expected, rel=1e-9)
    assert model._compute_clip_loss_vectorized(vision, audio).item() == pytest.approx(expected, rel=1e-9)


def test_the_loss_of_forward_is_that_of_its_embeddings():
    model = randomised(temperature=0.3)
    vision, audio, loss = model(tokens(7), tokens(4))
    torch.testing.assert_close(loss, model._compute_clip_loss(vision, audio))


def test_similarities_are_cosines_by_token_and_by_sample():
    model = randomised()
    vision, audio = tokens(3), tokens(2)
    matrix = model.get_similarity_matrix(vision, audio)
    assert matrix.shape == (BATCH, 3, 2)
    expected = torch.cosine_similarity(vision[4, 2], audio[4, 1], dim=0)
    torch.testing.assert_close(matrix[4, 2, 1], expected)
    batch = model.similarity(vision, audio[:3])
    assert batch.shape == (BATCH, 3)
    torch.testing.assert_close(batch[4, 1], torch.cosine_similarity(vision[4].mean(0), audio[1].mean(0), dim=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_finite_results_near_float32(dtype):
    model = randomised().float()
    vision_input, audio_input = tokens(7).float(), tokens(7).float()
    expected = model(vision_input, audio_input)[2]
    _, _, loss = model.to(dtype)(vision_input.to(dtype), audio_input.to(dtype))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.1)


@pytest.mark.parametrize("parallel", [True, False])
def test_compiles_without_graph_breaks(parallel):
    model = randomised(parallel=parallel)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = tokens(7), tokens(7)
    mask = (torch.arange(7) < 1 + torch.arange(BATCH)[:, None]).long()
    for output, expected in zip(compiled(*inputs, audio_mask=mask), model(*inputs, audio_mask=mask)):
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
def test_the_compiled_parallel_form_equals_the_plain_one_on_cuda():
    model = randomised().cuda()
    inputs = tokens(7).cuda(), tokens(7).cuda()
    for together, apart in zip(model.forward_parallel(*inputs), model._forward(*inputs)):
        torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_masked_as_a_whole_has_finite_gradients_on_cuda(dtype):
    model = OmniNet(64, 4, parallel=False).to("cuda", dtype)
    inputs = [torch.randn(BATCH, 16, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(2)]
    mask = torch.ones(BATCH, 16, dtype=torch.bool, device="cuda")
    mask[2] = False
    vision, _, loss = model(*inputs, vision_mask=mask)
    loss.backward()
    assert vision[2].abs().max() == 0
    gradients = [*(states.grad for states in inputs), *(parameter.grad for parameter in model.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_adapters_take_part_in_the_parallel_form():
    model = randomised()
    adapted = inject_adapter_in_model(LoraConfig(r=3, target_modules=["k_proj", "out_proj"]), model).double().eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    inputs = tokens(7), tokens(7)
    for together, apart in zip(adapted.forward_parallel(*inputs), adapted._forward(*inputs)):
        torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)


def test_an_adapter_in_one_stream_only_is_refused_by_the_parallel_form():
    model = inject_adapter_in_model(LoraConfig(r=3, target_modules=["vision_cross_attn.k_proj"]), OmniNet(DIM, HEADS))
    with pytest.raises(ValueError, match="set `parallel=False`"):
        model(torch.randn(2, 7, DIM), torch.randn(2, 7, DIM))


def test_the_state_reloads():
    model, other = randomised(), OmniNet(DIM, HEADS).double().eval()
    other.load_state_dict(model.state_dict())
    inputs = tokens(7), tokens(4)
    assert torch.equal(model(*inputs)[2], other(*inputs)[2])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("research", (512, 8, 0.1, True)),
        ("production", (512, 8, 0.0, True)),
        ("small", (256, 4, 0.1, False)),
        ("large", (1024, 16, 0.1, True)),
    ],
)
def test_presets_are_the_recommended_settings(name, settings):
    model = OmniNet.from_preset(name)
    assert (model.dim, model.num_heads, model.dropout, model.parallel) == settings


def test_presets_take_overrides_and_refuse_other_names():
    assert OmniNet.from_preset("small", dim=64, temperature=0.5).dim == 64
    with pytest.raises(ValueError, match="no preset 'tiny'"):
        OmniNet.from_preset("tiny")


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    ("vision", "audio", "masks", "message"),
    [
        ((5, 7, 24), (4, 7, 24), {}, "5 samples, `audio_input` 4"),
        ((5, 7, 20), (5, 7, 24), {}, r"`vision_input` must have the shape \(batch, tokens, 24\)"),
        ((5, 7, 24), (5, 0, 24), {}, "`audio_input` has no tokens"),
        ((5, 7, 24), (5, 4, 24), {"mask": (5, 1, 1, 7)}, "cannot serve 7 vision tokens and 4 audio tokens"),
        ((5, 7, 24), (5, 7, 24), {"mask": (5, 6, 7, 7)}, "does not fit 5 samples, 6 heads, 1 queries and 7 keys"),
        ((5, 7, 24), (5, 4, 24), {"audio_mask": (5, 7)}, "does not fit 5 samples, 6 heads, 1 queries and 4 keys"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(parallel, vision, audio, masks, message):
    model = OmniNet(DIM, HEADS, parallel=parallel)
    with pytest.raises(ValueError, match=message):
        model(torch.randn(vision), torch.randn(audio), **{name: torch.ones(shape) for name, shape in masks.items()})


def test_nan_is_refused_in_inputs_and_embeddings():
    model = OmniNet(DIM, HEADS)
    wrong = torch.randn(5, 7, 24)
    wrong[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="`audio_input` holds NaN"):
        model(torch.randn(5, 7, 24), wrong)
    for loss in (model._compute_clip_loss, model._compute_clip_loss_vectorized):
        with pytest.raises(ValueError, match="`first` holds NaN"):
            loss(wrong, torch.randn(5, 7, 24))
    with pytest.raises(ValueError, match="`second` holds NaN"):
        model.similarity(torch.randn(5, 7, 24), wrong)
    with pytest.raises(ValueError, match="there are 5 and 4 samples"):
        model._compute_clip_loss(torch.randn(5, 1, 24), torch.randn(4, 1, 24))
    with pytest.raises(ValueError, match="of one width"):
        model.similarity(torch.randn(5, 1, 24), torch.randn(5, 1, 20))


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        OmniNet(DIM, HEADS, temperature=temperature)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(AssertionError, match="dim 24 is not divisible by num_heads 5"):
        OmniNet(24, 5)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key and value heads"):
        OmniNet(24, 6, query_heads=4, kv_heads=3)
