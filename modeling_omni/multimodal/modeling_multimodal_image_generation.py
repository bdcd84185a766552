"""Drawing pictures from what the encoders read.

Shapes: B batch, N patches of the picture, C colours, H and W pixels.
"""

import torch
from einops import rearrange
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...configuration.configuration_multimodal import EncoderConfig, MultiModalConfig
from ..layers import make_norm
from ..layers.init_std import mark_init_std
from ..layers.masks import padding_mask
from ..losses import masked_mse_loss
from .modeling_multimodal import MultiModalPreTrainedModel, MultiModalTransformer
from .multimodal_outputs import ImageGenerationOutput
from .stream_inputs import Stream, reads_streams
from .token_decoder import DecoderBlock


class PixelDecoder(nn.Module):
    """Learned slots, one for each patch, attend to each other and to encoded tokens, and each becomes its patch's pixels
    (the queries of DETR, Carion et al. 2020, section 3.2, with patches in the place of boxes)."""

    def __init__(self, config: MultiModalConfig):
        super().__init__()
        self.kernel = config
        self.config = config.decoder_config
        self.image = config.image_config
        size = self.config.hidden_size
        self.slots = nn.Parameter(torch.empty(1, self.image.grid[0] * self.image.grid[1], size))
        self.layers = nn.ModuleList(
            DecoderBlock(self.config, index, config.hidden_size, is_causal=False, kernel=config)
            for index in range(self.config.num_hidden_layers)
        )
        self.norm = make_norm(self.config.norm, size, self.config.norm_eps)
        self.pixels = nn.Linear(size, self.image.num_channels * self.image.patch_size**2)
        nn.init.normal_(self.slots, std=self.config.initializer_range)
        mark_init_std(self, self.config.initializer_range)

    def forward(self, context: torch.Tensor, context_mask: torch.Tensor | None) -> torch.Tensor:
        """Tokens (B, K, D) and which are real, bool (B, K), to pictures (B, C, H, W)."""
        slots = self.slots.to(context.dtype).expand(context.shape[0], -1, -1)
        mask = padding_mask(self.kernel, slots, context_mask, context)
        for layer in self.layers:
            slots = layer(slots, context, encoder_attention_mask=mask)
        height, width = self.image.grid
        p = self.image.patch_size
        return rearrange(
            self.pixels(self.norm(slots)), "b (h w) (c p q) -> b c (h p) (w q)", h=height, w=width, p=p, q=p
        )


class MultiModalForImageGeneration(MultiModalPreTrainedModel):
    r"""
    Text in, a picture out, of the size in `config.image_config`; `config.decoder_config` shapes what draws. All patches
    are drawn at once and learned by their squared error, so where several pictures fit a text the model draws their
    mean.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalConfig, MultiModalForImageGeneration

    >>> model = MultiModalForImageGeneration(MultiModalConfig.tiny())
    >>> text, pictures = torch.randint(3, 259, (2, 7)), torch.randn(2, 3, 48, 48)
    >>> model(input_ids=text, labels=pictures).loss.backward()
    >>> model.generate_image(input_ids=text).shape
    torch.Size([2, 3, 48, 48])
    ```
    """

    def __init__(self, config: MultiModalConfig, encoders: dict[str, PreTrainedModel] | None = None):
        if config.decoder_config is None:
            raise ValueError(f"{type(self).__name__} draws with a decoder, but `decoder_config` is None.")
        if not isinstance(config.image_config, EncoderConfig) or config.image_config.image_size is None:
            raise ValueError(
                f"{type(self).__name__} needs an `EncoderConfig` with `image_size` as `image_config`: the size of what it "
                "draws."
            )
        super().__init__(config)
        self.model = MultiModalTransformer(self.config, ("text",), fuses=False, pools=False, encoders=encoders)
        self.decoder = PixelDecoder(self.config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, PixelDecoder):
            init.normal_(module.slots, std=module.config.initializer_range)

    @can_return_tuple
    @reads_streams
    def forward(
        self, streams: dict[str, Stream], labels: torch.FloatTensor | None = None, **kwargs
    ) -> ImageGenerationOutput:
        """
        Args:
            labels: (B, C, H, W), the pictures to draw.
        """
        tokens, _ = self.model.encode(streams)
        text = tokens["text"]
        pixels = self.decoder(text.tokens, text.attention_mask)
        loss = None if labels is None else masked_mse_loss(pixels, labels)
        return ImageGenerationOutput(loss=loss, pixel_values=pixels)

    @torch.no_grad()
    def generate_image(self, **inputs) -> torch.Tensor:
        """Pictures (B, C, H, W) of texts, as the image processor would make them of pictures; the arguments as
        `forward`'s."""
        return self(**inputs, return_dict=True).pixel_values


__all__ = ["MultiModalForImageGeneration"]
