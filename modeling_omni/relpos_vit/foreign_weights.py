"""Weights of other libraries' vision transformers with relative position bias.

What decides the logits is taken over, and with it heads, labels, sizes, the weights' type and the drop path rate. Dropout
is not: name it as an override. The new model is in evaluation mode, as from `from_pretrained`.
"""

import torch
from torch import nn
from transformers import BeitForImageClassification

from ...configuration.configuration_relpos_vit import RelPosViTConfig
from .modeling_relpos_vit import RelPosViTForImageClassification


def convert_timm(model: nn.Module, **overrides) -> RelPosViTForImageClassification:
    """One of timm's `vit_relpos_*` and `vit_srelpos_*` models as ours.

    Most of them make their bias from the offsets by a small network (Liu et al. 2022, Swin Transformer v2, section 3.3).
    Its values at the offsets of the model's grid become the table; to start from those of another grid, call the model's
    `set_input_size` first.

    Args:
        model: from `timm.create_model("vit_relpos_...")`.
        overrides: settings of [`RelPosViTConfig`], e.g. `hidden_dropout=0.1`.

    Raises:
        ValueError: for another model, or one with parts that ours lacks.

    Example:

    ```python
    >>> import timm  # doctest: +SKIP
    >>> from omnilatent import convert_timm

    >>> model = convert_timm(timm.create_model("vit_relpos_small_patch16_224", pretrained=True))  # doctest: +SKIP
    >>> model.save_pretrained("vit_relpos_small")  # doctest: +SKIP
    ```
    """
    if type(model).__name__ != "VisionTransformerRelPos":
        raise ValueError(f"Expected timm's VisionTransformerRelPos, got {type(model).__name__}.")
    block = model.blocks[0]
    if model.global_pool not in ("avg", "token"):
        raise ValueError(f"`global_pool` {model.global_pool!r} has no counterpart: expected 'avg' or 'token'.")
    _expect(nn.Identity, patch_norm=model.patch_embed.norm, q_norm=block.attn.q_norm, k_norm=block.attn.k_norm)
    _expect(nn.GELU, activation=block.mlp.act)
    _expect(nn.LayerNorm, norm=block.norm1)
    normed_before = hasattr(block, "ls1")
    scaled = normed_before and not isinstance(block.ls1, nn.Identity)
    shared = model.shared_rel_pos is not None
    fc_normed = not isinstance(model.fc_norm, nn.Identity)
    words = {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "layer_norm_eps": block.norm1.eps,
        "norm_position": "before" if normed_before else "after",
        "layer_scale_init_value": 1e-6 if scaled else None,
        "drop_path_rate": getattr(model.blocks[-1].drop_path1, "drop_prob", 0.0),
        "image_size": tuple(model.patch_embed.img_size),
        "patch_size": tuple(model.patch_embed.patch_size),
        "num_channels": model.in_chans,
        "share_position_bias": shared,
        "use_class_token": model.cls_token is not None,
        "pooling": "mean" if model.global_pool == "avg" else "cls",
        "norm_after_pooling": fc_normed,
        "num_labels": model.num_classes,
    }
    theirs = model.state_dict()
    weights = {
        **_patches(theirs["patch_embed.proj.weight"], theirs["patch_embed.proj.bias"], theirs.get("cls_token")),
        **_renamed(theirs, "fc_norm" if fc_normed else "norm", "relpos_vit.norm"),
    }
    if model.num_classes > 0:
        weights |= _renamed(theirs, "head", "classifier")
    if shared:
        weights["relpos_vit.relative_position_bias.relative_position_bias_table"] = _timm_table(model.shared_rel_pos)
    for i, block in enumerate(model.blocks):
        name, ours = f"blocks.{i}", f"relpos_vit.layers.{i}"
        qkv = theirs[f"{name}.attn.qkv.weight"]
        qkv_bias = theirs.get(f"{name}.attn.qkv.bias", qkv.new_zeros(len(qkv)))
        for part, weight, bias in zip("qkv", qkv.chunk(3), qkv_bias.chunk(3)):
            weights[f"{ours}.attention.{part}_proj.weight"] = weight
            weights[f"{ours}.attention.{part}_proj.bias"] = bias
        weights |= _renamed(theirs, f"{name}.attn.proj", f"{ours}.attention.o_proj")
        weights |= _renamed(theirs, f"{name}.norm1", f"{ours}.attention_norm")
        weights |= _renamed(theirs, f"{name}.norm2", f"{ours}.feed_forward_norm")
        for part in ("fc1", "fc2"):
            weights |= _renamed(theirs, f"{name}.mlp.{part}", f"{ours}.feed_forward.{part}")
        if scaled:
            weights[f"{ours}.attention_scale.weight"] = theirs[f"{name}.ls1.gamma"]
            weights[f"{ours}.feed_forward_scale.weight"] = theirs[f"{name}.ls2.gamma"]
        if not shared:
            table = _timm_table(block.attn.rel_pos)
            weights[f"{ours}.relative_position_bias.relative_position_bias_table"] = table
    return _build(words, weights, overrides)


def convert_beit(model: BeitForImageClassification, **overrides) -> RelPosViTForImageClassification:
    """transformers' BEiT as ours. A table shared by all layers is added to the layers' own where there are both.

    Logits are equal at BEiT's own size where that is square. At other sizes BEiT resamples its tables linearly and we by
    splines; for oblong ones it also reads the height of a table as its width (transformers 5.23).

    Args:
        model: e.g. `BeitForImageClassification.from_pretrained("microsoft/beit-base-patch16-224")`.
        overrides: settings of [`RelPosViTConfig`], e.g. `hidden_dropout=0.1`.

    Raises:
        ValueError: for another model.

    Example:

    ```python
    >>> from omnilatent import convert_beit
    >>> from transformers import BeitConfig, BeitForImageClassification

    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64}
    >>> beit = BeitForImageClassification(BeitConfig(**sizes, use_relative_position_bias=True))
    >>> convert_beit(beit).config.grid_size
    (4, 4)
    ```
    """
    if not isinstance(model, BeitForImageClassification):
        raise ValueError(f"Expected a BeitForImageClassification, got {type(model).__name__}.")
    config, theirs = model.config, model.state_dict()
    own, shared = config.use_relative_position_bias, config.use_shared_relative_position_bias
    absolute = config.use_absolute_position_embeddings
    words = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.hidden_act,
        "drop_path_rate": config.drop_path_rate,
        "layer_norm_eps": config.layer_norm_eps,
        "layer_scale_init_value": config.layer_scale_init_value if config.layer_scale_init_value > 0 else None,
        "initializer_range": config.initializer_range,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "position_embedding": {(True, True): "both", (True, False): "relative", (False, True): "absolute"}.get(
            (own or shared, absolute), "none"
        ),
        "share_position_bias": shared and not own,
        "use_class_token": True,
        "pooling": "mean" if config.use_mean_pooling else "cls",
        "norm_after_pooling": config.use_mean_pooling,
        "id2label": config.id2label,
        "label2id": config.label2id,
    }
    patches = "beit.embeddings.patch_embeddings.projection"
    class_token = theirs["beit.embeddings.cls_token"]
    weights = {
        **_patches(theirs[f"{patches}.weight"], theirs[f"{patches}.bias"], class_token),
        **_renamed(
            theirs, "beit.pooler.layernorm" if config.use_mean_pooling else "beit.layernorm", "relpos_vit.norm"
        ),
    }
    if config.num_labels > 0:
        weights |= _renamed(theirs, "classifier", "classifier")
    if absolute:
        weights["relpos_vit.embeddings.positions.weight"] = theirs["beit.embeddings.position_embeddings"].squeeze(0)
    table = "relative_position_bias.relative_position_bias_table"
    shared_table = theirs.get("beit.shared_position_bias.relative_position_bias_table", 0.0)
    if shared and not own:
        weights[f"relpos_vit.{table}"] = shared_table
    for i in range(config.num_hidden_layers):
        name, ours = f"beit.layers.{i}", f"relpos_vit.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights |= _renamed(theirs, f"{name}.attention.{part}", f"{ours}.attention.{part}")
        weights |= _renamed(theirs, f"{name}.layernorm_before", f"{ours}.attention_norm")
        weights |= _renamed(theirs, f"{name}.layernorm_after", f"{ours}.feed_forward_norm")
        for part in ("fc1", "fc2"):
            weights |= _renamed(theirs, f"{name}.mlp.{part}", f"{ours}.feed_forward.{part}")
        if config.layer_scale_init_value > 0:
            weights[f"{ours}.attention_scale.weight"] = theirs[f"{name}.lambda_1"]
            weights[f"{ours}.feed_forward_scale.weight"] = theirs[f"{name}.lambda_2"]
        if own:
            weights[f"{ours}.{table}"] = theirs[f"{name}.{table}"] + shared_table
    return _build(words, weights, overrides)


def _build(words, weights, overrides):
    model = RelPosViTForImageClassification(RelPosViTConfig(**{**words, **overrides}))
    dtype = weights["relpos_vit.embeddings.patch_embedding.projection.weight"].dtype
    model.to(dtype).load_state_dict(weights)
    return model.eval()


def _renamed(theirs, name, ours):
    """A linear layer or a norm; a missing bias is 0."""
    weight = theirs[f"{name}.weight"]
    return {f"{ours}.weight": weight, f"{ours}.bias": theirs.get(f"{name}.bias", weight.new_zeros(len(weight)))}


def _patches(weight, bias, class_token):
    """A convolution (D, C, height, width) as the product that it is, and the class token where there is one."""
    embeddings = "relpos_vit.embeddings"
    weights = {
        f"{embeddings}.patch_embedding.projection.weight": weight.flatten(1),
        f"{embeddings}.patch_embedding.projection.bias": weight.new_zeros(len(weight)) if bias is None else bias,
    }
    return weights if class_token is None else {**weights, f"{embeddings}.class_token": class_token}


@torch.no_grad()
def _timm_table(rel_pos):
    """The table of a RelPosBias, or what a RelPosMlp makes of each offset."""
    if hasattr(rel_pos, "relative_position_bias_table"):
        return rel_pos.relative_position_bias_table
    mlp = rel_pos.mlp
    table = mlp.fc2(mlp.act(mlp.fc1(rel_pos.rel_coords_log))).flatten(0, 1)
    table = rel_pos.bias_act(table) * (rel_pos.bias_gain or 1.0)
    of_class = table.new_zeros(3 * rel_pos.prefix_tokens, table.shape[1])  # it leaves the class token without a bias
    return torch.cat([table, of_class])


def _expect(kind, **modules):
    for name, module in modules.items():
        if not isinstance(module, kind):
            raise ValueError(f"`{name}` is a {type(module).__name__}, expected {kind.__name__}: ours has no other.")


__all__ = ["convert_beit", "convert_timm"]
