"""Vision transformer with relative position bias as a transformers model.

Shapes: B batch, C channels, T frames, N tokens (patches, and the class token where there is one), D hidden size.
"""

import torch
from torch import nn
from torchvision.ops import StochasticDepth
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_relpos_vit import RelPosViTConfig
from ..known_kernels import KnowsItsKernels
from ..known_keywords import knows_its_keywords
from ..layers import Attention
from ..layers.block import LayerScale
from ..layers.masks import padding_mask
from ..layers.relative_bias import RelativePositionTable, bias_for_kernel
from .absolute_positions import AbsolutePositions
from .patch_embedding import PatchProjection
from .pixel_masks import read_pixel_mask


class RelPosViTEmbeddings(nn.Module):
    """Patches, a class token before them, and what absolute positions add."""

    def __init__(self, config: RelPosViTConfig):
        super().__init__()
        self.patch_embedding = PatchProjection(config.patch_shape, config.num_channels, config.hidden_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_class_token else None
        self.positions = None
        if config.has_absolute_positions:
            self.positions = AbsolutePositions(config.grid_size, config.hidden_size, config.use_class_token)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, pixel_values, grid_size, sizes=None) -> torch.Tensor:
        """(B, C, sizes ...) -> (B, N, D)."""
        states = self.patch_embedding(pixel_values.to(self.patch_embedding.projection.weight.dtype))
        if self.class_token is not None:
            states = torch.cat([self.class_token.to(states.dtype).expand(states.shape[0], -1, -1), states], dim=1)
        if self.positions is not None:
            states = states + self.positions(grid_size, sizes)
        return self.dropout(states)


class RelPosViTMLP(nn.Module):
    """fc2(act(fc1(x)))."""

    def __init__(self, config: RelPosViTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class RelPosViTLayer(GradientCheckpointingLayer):
    """Attention and a feed-forward layer, each added to its input.

    Args:
        drop_path: share of the samples that skip a branch in training.
    """

    def __init__(self, config: RelPosViTConfig, drop_path: float = 0.0):
        super().__init__()
        self.norm_position = config.norm_position
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(
            config.hidden_size,
            config.num_attention_heads,
            bias=True,
            dropout=config.attention_dropout,
            kernel=config,
        )
        self.relative_position_bias = None
        if config.has_position_bias and not config.share_position_bias:
            self.relative_position_bias = make_table(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = RelPosViTMLP(config)
        scaled = config.layer_scale_init_value is not None and config.norm_position == "before"
        self.attention_scale = _layer_scale(config) if scaled else nn.Identity()
        self.feed_forward_scale = _layer_scale(config) if scaled else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias=None,
        bias_size: tuple[int, ...] | None = None,
        sizes: torch.Tensor | None = None,
        bias_weights: list[torch.Tensor] | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: (B, N, D).
            position_bias: one that all layers share.
            bias_size, sizes, bias_weights: what a table of the layer's own asks for, see `RelativePositionTable.bias`.
        """
        if self.relative_position_bias is not None:
            position_bias = self.relative_position_bias.bias(bias_size, sizes=sizes, weights=bias_weights)

        def attend(states):
            return self.attention(states, attention_mask=attention_mask, position_bias=position_bias, **kwargs)[0]

        hidden_states = hidden_states + self._branch(hidden_states, self.attention_norm, attend, self.attention_scale)
        return hidden_states + self._branch(
            hidden_states, self.feed_forward_norm, self.feed_forward, self.feed_forward_scale
        )

    def _branch(self, hidden_states, norm, function, scale):
        if self.norm_position == "before":
            output = scale(self.dropout(function(norm(hidden_states))))
        else:
            output = norm(self.dropout(function(hidden_states)))
        return self.drop_path(output)


class RelPosViTPreTrainedModel(KnowsItsKernels, PreTrainedModel):
    config: RelPosViTConfig
    config_class = RelPosViTConfig
    base_model_prefix = "relpos_vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["RelPosViTEmbeddings", "RelPosViTLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False  # it takes no bias
    _supports_relative_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": RelPosViTLayer, "attentions": Attention}
    _input_embed_layer = "patch_embedding"

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, LayerScale):
            init.constant_(module.weight, module.init_value)
        elif isinstance(module, RelativePositionTable):
            init.normal_(module.relative_position_bias_table, std=module.init_std)
        elif isinstance(module, AbsolutePositions):
            init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, RelPosViTEmbeddings) and module.class_token is not None:
            init.trunc_normal_(module.class_token, std=std)
        elif isinstance(module, RelPosViTLayer) and module.norm_position == "after":
            if self.config.layer_scale_init_value is not None:
                init.constant_(module.attention_norm.weight, self.config.layer_scale_init_value)
                init.constant_(module.feed_forward_norm.weight, self.config.layer_scale_init_value)

    def resize_positions(self, image_size: int | tuple[int, int], num_frames: int | None = None):
        """Make tables and absolute positions ones for pictures of another size, as the model reads them there anyway.

        Worth it before training at that size, which then learns each offset by itself; an optimizer has to be made
        afterwards. At the same size nothing changes.

        Args:
            image_size: pixels, one number or (height, width).
            num_frames: for a model of videos. `None`: as it is.

        Raises:
            ValueError: for a size that patches do not divide.
        """
        before = self.config.image_size, self.config.num_frames
        self.config.image_size = image_size
        if num_frames is not None:
            self.config.num_frames = num_frames
        try:
            self.config.validate_architecture()
        except ValueError:
            self.config.image_size, self.config.num_frames = before
            raise
        for module in self.modules():
            if isinstance(module, RelativePositionTable):
                module.resize(self.config.bias_size)
            elif isinstance(module, AbsolutePositions):
                module.resize(self.config.grid_size)


@auto_docstring(
    custom_intro="""
    The vision transformer (Dosovitskiy et al. 2021) with a learned bias for each offset between two patches on the
    attention scores (BEiT, Bao et al. 2022), for images or, with `num_frames` in the config, videos of any size.
    """
)
class RelPosViTModel(RelPosViTPreTrainedModel):
    r"""
    ```python
    >>> import torch
    >>> from omnilatent import RelPosViTConfig, RelPosViTModel

    >>> model = RelPosViTModel(RelPosViTConfig.tiny())
    >>> output = model(torch.randn(2, 3, 24, 32))
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    (torch.Size([2, 12, 32]), torch.Size([2, 32]))
    >>> model(torch.randn(2, 3, 40, 16)).last_hidden_state.shape  # of another size
    torch.Size([2, 10, 32])
    ```
    """

    def __init__(self, config: RelPosViTConfig):
        super().__init__(config)
        self.embeddings = RelPosViTEmbeddings(config)
        self.relative_position_bias = None
        if config.has_position_bias and config.share_position_bias:
            self.relative_position_bias = make_table(config)
        depth = config.num_hidden_layers
        self.layers = nn.ModuleList(
            RelPosViTLayer(config, config.drop_path_rate * i / max(depth - 1, 1)) for i in range(depth)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @knows_its_keywords
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self, pixel_values: torch.FloatTensor, pixel_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        r"""
        pixel_values (`torch.FloatTensor`):
            Images (B, C, height, width), or videos (B, T, C, height, width). Patches must divide the sizes, which may
            differ from those in the config: biases and positions are resampled.
        pixel_mask (`torch.Tensor`, *optional*):
            (B, height, width) or (B, T, height, width), 1 where a pixel is real, for a batch of different sizes. Each
            sample lies at the beginning of each axis and consists of whole patches; its output is what it would be
            alone.
        """
        config = self.config
        frames = () if config.num_frames is None else ("frames",)
        axes = ("batch", *frames, f"{config.num_channels} channels", "height", "width")
        if pixel_values.ndim != len(axes) or pixel_values.shape[-3] != config.num_channels:
            raise ValueError(f"`pixel_values` must be ({', '.join(axes)}), got the shape {tuple(pixel_values.shape)}.")
        if pixel_values.shape[0] == 0:  # `len` would fix the batch of an exported program
            raise ValueError("`pixel_values` is an empty batch.")
        if frames:
            pixel_values = pixel_values.transpose(1, 2)  # (B, T, C, H, W) -> (B, C, T, H, W)
        shape = tuple(pixel_values.shape[2:])
        grid_size = tuple(size // patch for size, patch in zip(shape, config.patch_shape))
        sizes = patch_mask = attention_mask = None
        if pixel_mask is not None:
            if pixel_mask.shape != (pixel_values.shape[0], *shape):
                raise ValueError(
                    f"`pixel_mask` must have the shape {(pixel_values.shape[0], *shape)}, got {tuple(pixel_mask.shape)}."
                )
            if config.has_position_bias and config.bias_type == "1d":
                raise ValueError(
                    'Places in a row of patches change with padding: `bias_type` "1d" has no `pixel_mask`.'
                )
            pixel_values = pixel_values.masked_fill(~pixel_mask.bool().unsqueeze(1), 0)  # padding may be anything
            patch_mask, sizes = read_pixel_mask(pixel_mask, config.patch_shape)
            attention_mask = patch_mask
            if config.use_class_token:
                attention_mask = nn.functional.pad(patch_mask, (1, 0), value=True)
        hidden_states = self.embeddings(pixel_values, grid_size, sizes)
        mask = padding_mask(config, hidden_states, attention_mask)

        bias_size = (torch.Size(grid_size).numel(),) if config.bias_type == "1d" else grid_size
        position_bias = None
        if self.relative_position_bias is not None:
            position_bias = self.relative_position_bias.bias(bias_size, sizes=sizes)
            # made dense once for all layers, where the kernel needs it so
            position_bias = bias_for_kernel(position_bias, config._attn_implementation, hidden_states)
        bias_weights = None  # the same for all layers' tables
        if config.has_position_bias and not config.share_position_bias and len(self.layers) > 0:
            bias_weights = self.layers[0].relative_position_bias.resampling(bias_size, sizes=sizes)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_bias=position_bias,
                bias_size=bias_size,
                sizes=sizes,
                bias_weights=bias_weights,
                **kwargs,
            )
        if config.norm_after_pooling:
            pooled = self.norm(self._pool(hidden_states, patch_mask))
        else:
            hidden_states = self.norm(hidden_states)
            pooled = self._pool(hidden_states, patch_mask)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def _pool(self, hidden_states, patch_mask):
        """(B, N, D) -> (B, D)."""
        if self.config.pooling == "cls":
            return hidden_states[:, 0]
        patches = hidden_states[:, 1:] if self.config.use_class_token else hidden_states
        if patch_mask is None:
            return patches.mean(dim=1)
        patches = patches.masked_fill(~patch_mask.unsqueeze(-1), 0)
        return patches.sum(dim=1) / patch_mask.sum(dim=1, keepdim=True)


@auto_docstring(
    custom_intro="""
    The vision transformer with relative position bias, and a linear classifier on its embedding.
    """
)
class RelPosViTForImageClassification(RelPosViTPreTrainedModel):
    r"""
    ```python
    >>> import torch
    >>> from omnilatent import RelPosViTConfig, RelPosViTForImageClassification

    >>> model = RelPosViTForImageClassification(RelPosViTConfig.tiny(num_labels=5))
    >>> output = model(torch.randn(2, 3, 24, 32), labels=torch.tensor([0, 3]))
    >>> output.logits.shape
    torch.Size([2, 5])
    >>> output.loss.backward()
    ```
    """

    accepts_loss_kwargs = False  # the loss is a mean over the micro-batch: Trainer averages the micro-batches

    def __init__(self, config: RelPosViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.relpos_vit = RelPosViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @knows_its_keywords
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> ImageClassifierOutput:
        r"""
        pixel_values (`torch.FloatTensor`):
            See [`RelPosViTModel`].
        pixel_mask (`torch.Tensor`, *optional*):
            See [`RelPosViTModel`].
        labels (`torch.Tensor`, *optional*):
            Long (B,) for classes; (B, num_labels) for several labels a sample; float (B,) with `num_labels` 1.
        """
        outputs = self.relpos_vit(pixel_values, pixel_mask, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def make_table(config: RelPosViTConfig) -> RelativePositionTable:
    return RelativePositionTable(
        config.num_attention_heads,
        config.bias_size,
        class_token=config.use_class_token,
        init_std=config.initializer_range,
    )


def _layer_scale(config: RelPosViTConfig) -> LayerScale:
    return LayerScale(config.hidden_size, float(config.layer_scale_init_value))


__all__ = ["RelPosViTForImageClassification", "RelPosViTModel", "RelPosViTPreTrainedModel"]
