"""OmniNet as a transformers model: any two of vision, audio and text in one space.

Shapes: B batch, S tokens of a stream, F width of its features, Q query tokens, D hidden size, P projection size.
"""

import functools
import itertools
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...configuration.configuration_omninet import STREAMS, OmniNetConfig
from ..known_kernels import KnowsItsKernels
from ..known_keywords import knows_its_keywords
from ..layers import Attention, RMSNorm, SwiGLU, TransformerBlock
from ..layers.block import LayerScale
from ..layers.masks import padding_mask
from ..layers.token_checks import check_no_nan, check_tokens
from ..losses import info_nce_loss, sigmoid_loss
from .similarity import batch_similarity, token_similarity
from .temporal_embedding import ConstrainedRotaryTimeEmbedding, GroupedTokens, check_timestamps, group_by_time

MAX_LOGIT_SCALE = 4.6052  # ln(100), CLIP's clamp


@dataclass
class OmniNetOutput(ModelOutput):
    """
    Shapes: B batch, P projection size. What belongs to a modality that was not given is `None`.

    Args:
        loss (`torch.Tensor` of shape (), *optional*): Mean of the contrasts of the pairs of modalities.
        logits_per_vision_audio (`torch.Tensor` (B, B), *optional*): Scaled cosines, vision in rows and audio in columns.
        logits_per_vision_text (`torch.Tensor` (B, B), *optional*): The same of vision and text.
        logits_per_audio_text (`torch.Tensor` (B, B), *optional*): The same of audio and text.
        vision_embeds, audio_embeds, text_embeds (`torch.Tensor` (B, P), *optional*): Embeddings of norm 1; 0 for a
            sample that lacks the modality.
        vision_model_output, audio_model_output, text_model_output (`BaseModelOutputWithPooling`, *optional*): Of each
            stream; `last_hidden_state` are the query tokens after the last layer, `pooler_output` is the embedding
            before its normalisation.
    """

    loss: torch.Tensor | None = None
    logits_per_vision_audio: torch.Tensor | None = None
    logits_per_vision_text: torch.Tensor | None = None
    logits_per_audio_text: torch.Tensor | None = None
    vision_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    audio_model_output: BaseModelOutputWithPooling | None = None
    text_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self):
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in super().to_tuple())


class OmniNetPreTrainedModel(KnowsItsKernels, PreTrainedModel):
    config: OmniNetConfig
    config_class = OmniNetConfig
    base_model_prefix = "model"
    main_input_name = "vision_features"
    input_modalities = STREAMS
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False  # queries are fewer than the padded keys, which its unpadding has no words for
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TransformerBlock, "attentions": Attention}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LayerScale):
            init.constant_(module.weight, module.init_value)
        elif isinstance(module, OmniNetStream):
            init.normal_(module.query_tokens)
        elif isinstance(module, OmniNetModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias_init_value)


class OmniNetStream(OmniNetPreTrainedModel):
    """From the features of one modality to Q query tokens and an embedding.

    Queries read the features by cross-attention, whose output is the start of the residual stream: a residual around
    it would add the same queries to every sample and make all embeddings alike. No layer after the features'
    projection has a bias, so that a sample without features stays 0 to the end.

    Args:
        modality: whose features they are; the config knows their width.
    """

    main_input_name = "features"

    def __init__(self, config: OmniNetConfig, modality: str):
        super().__init__(config)
        feature_size = config.streams[modality]
        norm = functools.partial(RMSNorm, eps=config.rms_norm_eps)
        attention = functools.partial(
            Attention,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            qk_norm=True,  # queries are distinct from the start, as scores have variance 1
            norm_eps=config.rms_norm_eps,
            dropout=config.attention_dropout,
            kernel=config,
        )
        self.feature_norm = nn.LayerNorm(feature_size, eps=config.rms_norm_eps)
        self.feature_projection = nn.Linear(feature_size, config.hidden_size)
        self.time_embedding = None
        if config.time_embedding == "constrained_rotary":
            self.time_embedding = ConstrainedRotaryTimeEmbedding(
                config.hidden_size, config.max_time_horizon, config.time_resolution
            )
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.hidden_size))
        self.cross_attention = attention()
        self.cross_norm = norm(config.hidden_size)
        self.layers = nn.ModuleList(
            TransformerBlock(
                config.hidden_size,
                attention=attention(),
                feed_forward=SwiGLU(config.hidden_size, config.intermediate_size),
                norm=norm,
                layer_scale=config.layer_scale_init_value,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = norm(config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def embed_tokens(self, features, attention_mask=None, timestamps=None) -> torch.Tensor:
        """(B, S, F) features -> (B, S, D) tokens, turned by their times."""
        if attention_mask is not None:
            features = features.masked_fill(~attention_mask.unsqueeze(-1), 0)  # what pads may be anything, NaN too
        tokens = self.feature_projection(self.feature_norm(features.to(self.feature_norm.weight.dtype)))
        if self.time_embedding is not None and timestamps is not None:
            if attention_mask is not None:
                timestamps = timestamps.masked_fill(~attention_mask, 0)
            tokens = self.time_embedding(tokens, timestamps)
        return tokens

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            features: (B, S, F).
            attention_mask: bool (B, S), True where real.
            timestamps: (B, S) seconds.
        """
        tokens = self.embed_tokens(features, attention_mask, timestamps)
        queries = self.query_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        mask = padding_mask(self.config, queries, attention_mask, context=tokens)
        read, _ = self.cross_attention(queries, context=tokens, attention_mask=mask, **kwargs)
        hidden_states = self.cross_norm(read)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.projection(hidden_states.mean(dim=1))
        )


@auto_docstring(
    custom_intro="""
    Aligns vision, audio and text features in one space (OmniAlignNet; Ye et al. 2025, arXiv 2510.15870, section 2.1):
    learned queries of each modality read its tokens, self-attention layers follow, and the contrast across the batch
    brings the embeddings of one sample together.
    """
)
class OmniNetModel(OmniNetPreTrainedModel):
    r"""
    ```python
    >>> import torch
    >>> from omnilatent import OmniNetConfig, OmniNetModel

    >>> model = OmniNetModel(OmniNetConfig.tiny())
    >>> vision, audio = torch.randn(5, 7, 20), torch.randn(5, 11, 12)
    >>> output = model(vision_features=vision, audio_features=audio)
    >>> output.vision_embeds.shape, output.logits_per_vision_audio.shape
    (torch.Size([5, 24]), torch.Size([5, 5]))
    >>> output.loss.backward()
    ```
    """

    accepts_loss_kwargs = False  # our loss is a mean over the micro-batch: Trainer averages the micro-batches

    def __init__(self, config: OmniNetConfig):
        super().__init__(config)
        self.streams = nn.ModuleDict({name: OmniNetStream(config, name) for name in config.streams})
        self.logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init_value))  # FSDP takes no scalars
        self.logit_bias = None
        if config.loss == "sigmoid":
            self.logit_bias = nn.Parameter(torch.full((1,), float(config.logit_bias_init_value)))
        self.post_init()

    @knows_its_keywords
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        vision_features: torch.FloatTensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        text_features: torch.FloatTensor | None = None,
        vision_attention_mask: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        vision_timestamps: torch.FloatTensor | None = None,
        audio_timestamps: torch.FloatTensor | None = None,
        text_timestamps: torch.FloatTensor | None = None,
        vision_present: torch.BoolTensor | None = None,
        audio_present: torch.BoolTensor | None = None,
        text_present: torch.BoolTensor | None = None,
        sample_ids: torch.LongTensor | None = None,
        return_loss: bool = True,
        **kwargs,
    ) -> OmniNetOutput:
        r"""
        vision_features (`torch.FloatTensor` of shape `(batch_size, vision_tokens, vision_hidden_size)`, *optional*):
            Token features of a vision tower. Any modality may be left out, which leaves out its pairs.
        audio_features (`torch.FloatTensor` of shape `(batch_size, audio_tokens, audio_hidden_size)`, *optional*):
            Token features of an audio tower.
        text_features (`torch.FloatTensor` of shape `(batch_size, text_tokens, text_hidden_size)`, *optional*):
            Token features of a text tower.
        vision_attention_mask (`torch.Tensor` of shape `(batch_size, vision_tokens)`, *optional*):
            1 where a token is real and 0 where it is padding. A sample without any real token lacks the modality.
        audio_attention_mask (`torch.Tensor` of shape `(batch_size, audio_tokens)`, *optional*):
            The same of audio.
        text_attention_mask (`torch.Tensor` of shape `(batch_size, text_tokens)`, *optional*):
            The same of text.
        vision_timestamps (`torch.FloatTensor` of shape `(batch_size, vision_tokens)`, *optional*):
            When each token is, in seconds. Read with `time_embedding="constrained_rotary"`, which needs those of vision
            and audio.
        audio_timestamps (`torch.FloatTensor` of shape `(batch_size, audio_tokens)`, *optional*):
            The same of audio.
        text_timestamps (`torch.FloatTensor` of shape `(batch_size, text_tokens)`, *optional*):
            The same of text, where it is said at times.
        vision_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
            False for a sample that lacks the modality: it takes no part in that modality's pairs.
        audio_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
            The same of audio.
        text_present (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
            The same of text.
        sample_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            Equal numbers mark the same sample, or the same caption; see `config.duplicates`.
        return_loss (`bool`, defaults to `True`):
            Compute the loss, where there are two modalities.
        """
        inputs = {
            "vision": (vision_features, vision_attention_mask, vision_timestamps, vision_present),
            "audio": (audio_features, audio_attention_mask, audio_timestamps, audio_present),
            "text": (text_features, text_attention_mask, text_timestamps, text_present),
        }
        inputs = {name: values for name, values in inputs.items() if values[0] is not None}
        sizes = {f"{name}_features": values[0].shape[0] for name, values in inputs.items()}
        if not inputs:
            raise ValueError("Give the features of one modality at least, and of two for a loss.")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Row i of every modality is sample i, but the batch sizes are {sizes}.")

        kwargs["return_dict"] = True  # the streams' results are read by name, whatever the caller gets
        embeds, outputs, masks = {}, {}, {}
        for name, (features, attention_mask, timestamps, present) in inputs.items():
            masks[name] = self._check(name, features, attention_mask, timestamps, present)
            outputs[name] = self.streams[name](features, masks[name], timestamps, **kwargs)
            embeds[name] = _normalize(outputs[name].pooler_output)

        pairs = list(itertools.combinations(embeds, 2))
        loss = self._loss(pairs, embeds, masks, sample_ids) if return_loss and pairs else None
        logits = {}
        if not self.config.tiled_loss:  # which is there for batches whose logits have no room
            logits = {f"logits_per_{a}_{b}": self._logits(embeds[a], embeds[b]) for a, b in pairs}
        return OmniNetOutput(
            loss=loss,
            **logits,
            **{f"{name}_embeds": values for name, values in embeds.items()},
            **{f"{name}_model_output": values for name, values in outputs.items()},
        )

    # --- one modality --------------------------------------------------------------------------------------------

    def embed(
        self,
        modality: str,
        features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings (B, P) of norm 1 of one modality's features (B, S, F); the rest as in `forward`.

        Args:
            modality: `"vision"`, `"audio"` or `"text"`.

        Raises:
            ValueError: for a modality that the model lacks, and shapes that do not fit.
        """
        mask = self._check(modality, features, attention_mask, timestamps, present)
        return _normalize(self.streams[modality](features, mask, timestamps, return_dict=True).pooler_output)

    def get_vision_embeds(self, vision_features: torch.Tensor, **kwargs) -> torch.Tensor:
        """`embed` of vision."""
        return self.embed("vision", vision_features, **kwargs)

    def get_audio_embeds(self, audio_features: torch.Tensor, **kwargs) -> torch.Tensor:
        """`embed` of audio."""
        return self.embed("audio", audio_features, **kwargs)

    def get_text_embeds(self, text_features: torch.Tensor, **kwargs) -> torch.Tensor:
        """`embed` of text."""
        return self.embed("text", text_features, **kwargs)

    def get_token_embeds(
        self, modality: str, features: torch.Tensor, timestamps: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeddings (B, S, P) of single tokens, each that of the sequence which holds nothing else.

        They lie in the space of `embed`, which tells when in a clip something is seen or heard.
        """
        single = features.flatten(0, 1).unsqueeze(1)  # (B, S, F) -> (B * S, 1, F)
        times = None if timestamps is None else timestamps.flatten().unsqueeze(1)
        return self.embed(modality, single, timestamps=times).unflatten(0, features.shape[:2])

    def get_omni_sequence(
        self,
        features: dict[str, torch.Tensor],
        timestamps: dict[str, torch.Tensor],
        attention_masks: dict[str, torch.Tensor] | None = None,
    ) -> GroupedTokens:
        """The tokens of several modalities as one sequence in order of time, for a language model to read.

        Temporal Embedding Grouping over `config.temporal_group_duration`; with Constrained Rotary Time Embedding, tokens
        are turned by their times as well.

        Args:
            features: (B, S, F) of each modality.
            timestamps: (B, S) seconds of each.
            attention_masks: (B, S) of those that have padding.
        """
        attention_masks = attention_masks or {}
        masks, tokens = {}, []
        for name, values in features.items():
            masks[name] = self._check(name, values, attention_masks.get(name), timestamps.get(name), None)
            if name not in timestamps:
                raise ValueError(f"Grouping by time needs `timestamps` of {name}.")
            tokens.append(self.streams[name].embed_tokens(values, masks[name], timestamps[name]))
        return group_by_time(
            tokens,
            [timestamps[name] for name in features],
            self.config.temporal_group_duration,
            [masks[name] for name in features],
        )

    # --- two modalities ------------------------------------------------------------------------------------------

    @property
    def scale(self) -> torch.Tensor:
        """The learned factor on the cosines, () and at most 100."""
        return self.logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp().squeeze()

    def similarity(self, first_embeds: torch.Tensor, second_embeds: torch.Tensor) -> torch.Tensor:
        """Cosines across a batch: (N, P) and (M, P) -> (N, M)."""
        return batch_similarity(first_embeds, second_embeds)

    def get_similarity_matrix(self, first_embeds: torch.Tensor, second_embeds: torch.Tensor) -> torch.Tensor:
        """Cosines between the tokens of each sample: (B, S1, P) and (B, S2, P) -> (B, S1, S2)."""
        return token_similarity(first_embeds, second_embeds)

    def contrast(
        self,
        first_embeds: torch.Tensor,
        second_embeds: torch.Tensor,
        present: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss () of one pair of modalities, as the config names it.

        Args:
            first_embeds, second_embeds: (B, P).
            present: bool (B,), False for samples that lack one of the two: they are in no pair.
            sample_ids: (B,) integers; equal ones belong together, see `config.duplicates`.

        Raises:
            ValueError: for shapes that do not fit, or NaN (looked for on the CPU only).
        """
        check_no_nan("first_embeds", first_embeds)
        check_no_nan("second_embeds", second_embeds)
        words = {
            "ids": sample_ids,
            "present": present,
            "duplicates": self.config.duplicates,
            "tiled": self.config.tiled_loss,
            "group": self._group,
        }
        if self.config.loss == "sigmoid":
            return sigmoid_loss(first_embeds, second_embeds, self.scale, self.logit_bias.float(), **words)
        return info_nce_loss(first_embeds, second_embeds, self.scale, **words)

    # --- start ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def center_on(
        self,
        vision_features: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        vision_attention_mask: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
    ):
        """Start from a batch: give the features' projections the biases that bring the tokens' mean over it to 0.

        Features of one pretrained tower have a large common mean, which makes all embeddings of a fresh model alike.
        Meant to be called once, before training (data-dependent initialisation, Mishkin & Matas 2016, section 3). The
        arguments are those of `forward`.
        """
        inputs = {
            "vision": (vision_features, vision_attention_mask),
            "audio": (audio_features, audio_attention_mask),
            "text": (text_features, text_attention_mask),
        }
        for name, (features, attention_mask) in inputs.items():
            if features is None:
                continue
            mask = self._check(name, features, attention_mask, None, None, needs_times=False)
            tokens = self.streams[name].embed_tokens(features, mask)
            tokens = tokens.flatten(0, 1) if mask is None else tokens[mask]
            self.streams[name].feature_projection.bias.sub_(tokens.mean(dim=0))

    # --- its parts -----------------------------------------------------------------------------------------------

    def _check(self, name, features, attention_mask, timestamps, present, needs_times=True):
        """Raise a ValueError for what does not fit; returns the mask bool (B, S) of what is real and present."""
        if name not in self.streams:
            raise ValueError(f"The model has no stream {name!r}: there are {', '.join(self.streams)}.")
        check_tokens(f"{name}_features", features, self.config.streams[name])
        for label, values, shape in (
            ("attention_mask", attention_mask, features.shape[:2]),
            ("present", present, features.shape[:1]),
        ):
            if values is not None and values.shape != shape:
                raise ValueError(f"`{name}_{label}` must have the shape {tuple(shape)}, got {tuple(values.shape)}.")
        if timestamps is not None:
            check_timestamps(features, timestamps)
        elif needs_times and self.config.time_embedding != "none" and name != "text":
            raise ValueError(f"`time_embedding` {self.config.time_embedding!r} needs `{name}_timestamps`.")
        mask = None if attention_mask is None else attention_mask.bool()
        if present is not None:
            mask = torch.ones_like(features[..., 0], dtype=torch.bool) if mask is None else mask
            mask = mask & present.bool().unsqueeze(1)
        check_no_nan(f"{name}_features", features, mask)
        return mask

    @property
    def _group(self) -> dist.ProcessGroup | None:
        """The ranks whose batches are contrasted as one; not in evaluation, where their sizes may differ."""
        return dist.group.WORLD if self.config.gather_loss and self.training and _is_distributed() else None

    def _logits(self, first, second):
        with torch.autocast(first.device.type, enabled=False):
            logits = self.scale * first @ second.transpose(0, 1)
        return logits if self.logit_bias is None else logits + self.logit_bias.float()

    def _loss(self, pairs, embeds, masks, sample_ids):
        """Mean over the pairs of which the batch holds a sample."""
        present = {name: None if mask is None else mask.any(dim=1) for name, mask in masks.items()}
        losses, held = [], []
        for a, b in pairs:
            both = [values for values in (present[a], present[b]) if values is not None]
            both = functools.reduce(torch.logical_and, both) if both else None
            losses.append(self.contrast(embeds[a], embeds[b], both, sample_ids))
            held.append(torch.ones_like(losses[-1]) if both is None else both.any().to(losses[-1].dtype))
        held = torch.stack(held)
        if self._group is not None:  # a pair of which another rank has a sample is in every rank's loss
            dist.all_reduce(held, dist.ReduceOp.MAX, group=self._group)
        return (torch.stack(losses) * held).sum() / held.sum().clamp(min=1)


def _normalize(embeds: torch.Tensor) -> torch.Tensor:
    return F.normalize(embeds.to(torch.promote_types(embeds.dtype, torch.float32)), dim=-1)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


__all__ = ["OmniNetModel", "OmniNetOutput", "OmniNetPreTrainedModel"]
