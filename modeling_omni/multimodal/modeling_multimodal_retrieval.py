"""Retrieval between text and a second modality.

Shapes: T texts, N pictures (or sounds, or videos), P projection size, D hidden size of the fusion.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from ...configuration.configuration_multimodal import MultiModalConfig
from ..fusion.fused_tokens import FusedTokens, make_pooling
from ..losses import info_nce_loss, matching_loss, sigmoid_loss
from .modeling_multimodal import MultiModalPreTrainedModel, MultiModalTransformer
from .multimodal_outputs import RetrievalOutput
from .stream_inputs import Stream, reads_streams

MAX_LOGIT_SCALE = 4.6052  # ln(100), CLIP's clamp
PAIRS_AT_ONCE = 256  # that the cross encoder reads together


class MultiModalForRetrieval(MultiModalPreTrainedModel):
    r"""
    Finds pictures (or sounds, or videos) by text and texts by picture.

    With `config.scoring="dual"` each side is encoded alone, and scores are scaled cosines (Radford et al. 2021). With
    `"cross"` a fusion also reads pairs together and is trained to tell the true pair from the one that the dual encoder
    finds hardest, in both directions (Li et al. 2021, ALBEF, section 3.2). They draw the hard pair by its score and from
    one process; we take the hardest among all processes, which makes the loss of several processes that of one.

    With a loss, `logits_per_text` are the dual encoder's, from which hard pairs are chosen; without one
    (`return_loss=False`) a cross encoder scores all T * N pairs. `rerank` scores chosen ones.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalConfig, MultiModalForRetrieval

    >>> model = MultiModalForRetrieval(MultiModalConfig.tiny())
    >>> texts, images = torch.randint(3, 259, (3, 7)), torch.randn(3, 3, 48, 48)
    >>> model(input_ids=texts, pixel_values=images).loss.backward()
    >>> model(input_ids=texts, pixel_values=images[:1], return_loss=False).logits_per_image.shape
    torch.Size([1, 3])
    ```
    """

    def __init__(self, config: MultiModalConfig, encoders: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        config = self.config
        crosses = config.scoring == "cross"
        self.model = MultiModalTransformer(config, fuses=crosses, pools=crosses, encoders=encoders)
        self.poolings = nn.ModuleDict({name: make_pooling(config.fusion) for name in config.encoders})
        self.embedders = nn.ModuleDict(
            {name: nn.Linear(config.hidden_size, config.projection_dim, bias=False) for name in config.encoders}
        )
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init_value)))  # FSDP: no scalars
        self.logit_bias = None
        if config.contrastive_loss == "sigmoid":
            self.logit_bias = nn.Parameter(torch.full((1,), float(config.logit_bias_init_value)))
        self.matcher = nn.Linear(config.hidden_size, 1) if crosses else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, MultiModalForRetrieval):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias_init_value)

    @can_return_tuple
    @reads_streams
    def forward(
        self,
        streams: dict[str, Stream],
        sample_ids: torch.LongTensor | None = None,
        return_loss: bool = True,
        **kwargs,
    ) -> RetrievalOutput:
        """
        Args:
            sample_ids: (B,) whole numbers; equal ones mark the same caption or picture, see `config.duplicates`.
            return_loss: Compute the loss, where there are as many texts as others, so that row i belongs to row i.
        """
        tokens, outputs = self.model.encode(streams, **kwargs)
        embeds = {name: self.embed(name, stream) for name, stream in tokens.items()}
        result = RetrievalOutput(
            **{f"{name}_embeds": values for name, values in embeds.items()},
            **{f"{name}_model_output": output for name, output in outputs.items()},
        )
        if len(tokens) < 2:
            return result
        second = self.config.second_modality
        similarity = embeds["text"] @ embeds[second].T
        scores = self._scores(similarity)
        if return_loss and len(embeds["text"]) == len(embeds[second]):
            result.contrastive_loss = result.loss = self._contrast(embeds["text"], embeds[second], sample_ids)
            if self.matcher is not None:
                result.matching_loss = matching_loss(
                    self._match,
                    tokens["text"],
                    tokens[second],
                    embeds["text"],
                    embeds[second],
                    sample_ids,
                    self._group,
                )
                result.loss = result.loss + self.config.matching_loss_weight * result.matching_loss
        elif self.matcher is not None:
            scores = self._match_all(tokens["text"], tokens[second])
        result.logits_per_text = scores
        setattr(result, f"logits_per_{second}", scores.T)
        return result

    # --- its parts ------------------------------------------------------------------------------------------------

    def embed(self, modality: str, stream: FusedTokens) -> torch.Tensor:
        """Embeddings (B, P) of norm 1 of one modality's tokens, as `model.encode` gives them."""
        pooled = self.poolings[modality](stream.tokens, stream.attention_mask)
        return F.normalize(self.embedders[modality](pooled), dim=-1)

    def rerank(
        self, text: FusedTokens, second: FusedTokens, text_rows: torch.Tensor, second_rows: torch.Tensor
    ) -> torch.Tensor:
        """Scores (M,) by the cross encoder of M pairs: rows of texts, and of pictures, as `model.encode` gives them.

        Raises:
            ValueError: for a dual encoder.
        """
        if self.matcher is None:
            raise ValueError("Only a model with `scoring='cross'` reads pairs together.")
        scores = [
            self._match(_take(text, rows), _take(second, others))
            for rows, others in zip(text_rows.split(PAIRS_AT_ONCE), second_rows.split(PAIRS_AT_ONCE))
        ]
        return torch.cat(scores)

    def _match(self, text: FusedTokens, second: FusedTokens) -> torch.Tensor:
        """Logits (M,) that row i of the texts belongs to row i of the others."""
        fused = self.model.fuse({"text": text, self.config.second_modality: second})
        return self.matcher(self.model.pooling(fused.tokens, fused.attention_mask)).squeeze(-1)

    def _match_all(self, text, second):
        texts, others = len(text.tokens), len(second.tokens)
        pairs = torch.arange(texts * others, device=text.tokens.device)
        return self.rerank(text, second, pairs // others, pairs % others).view(texts, others)

    def _scores(self, similarity):
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        return scale * similarity + (0 if self.logit_bias is None else self.logit_bias)

    def _contrast(self, text, second, sample_ids):
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        words = {"ids": sample_ids, "duplicates": self.config.duplicates, "group": self._group}
        if self.logit_bias is None:
            return info_nce_loss(text, second, scale, **words)
        return sigmoid_loss(text, second, scale, self.logit_bias, **words)

    @property
    def _group(self) -> dist.ProcessGroup | None:
        """The processes whose batches are one; not in evaluation, where their sizes may differ."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return dist.group.WORLD if several and self.training else None


def _take(stream: FusedTokens, rows: torch.Tensor) -> FusedTokens:
    mask = stream.attention_mask
    return FusedTokens(stream.tokens[rows], None if mask is None else mask[rows])


__all__ = ["MultiModalForRetrieval"]
