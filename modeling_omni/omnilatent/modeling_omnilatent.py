"""The any-to-any model: encoders, one backbone over one sequence, decoders.

Shapes: B batch, T tokens of the sequence, D hidden size; those of each modality are in `configuration/layout.py`.
"""

import functools
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import and_masks, or_masks
from transformers.utils import SAFE_WEIGHTS_NAME, auto_docstring, is_torchdynamo_compiling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...configuration import layout
from ...configuration.configuration_omnilatent import OmniLatentConfig
from ...configuration.modalities import (
    IGNORE_INDEX,
    MODALITIES,
    SOURCE_SEGMENT,
    SPECIAL_TOKENS,
    TENSOR_NAMES,
    TEXT,
    check_modality,
)
from ..known_kernels import KnowsItsKernels
from ..known_keywords import argument_names, knows_its_keywords, refuse_unknown_keywords
from ..layers import Attention, MultiAxisRotary, RMSNorm, SwiGLU, TransformerBlock, all_keys_for, causal, segment_mask
from ..layers.block import LayerScale
from ..layers.kernels import get_mask_builder
from ..layers.token_rows import take_rows
from ..losses import LossWeights, ctc_readout_loss, info_nce_loss, masked_mse_loss, next_token_loss
from . import checks, sequence
from .coordinates import AXES, CoordinateEmbedding
from .decoders import DECODERS
from .encoders import ENCODERS, make_encoder
from .generation_omnilatent import OmniLatentGenerationMixin
from .hook_registry import HookRegistryMixin
from .outputs import OmniLatentOutput

MAX_LOGIT_SCALE = 4.6052  # ln(100), CLIP's clamp
NO_SEGMENT = -(2**31)
# Cross entropy is about 1; the squared error of a fair picture or spectrogram in [-1, 1] is about exp(-3).
TYPICAL_LOG_LOSS = {"text": 0.0, "audio": -3.0, "image": -3.0, "video": -3.0}


class TokenEmbedding(nn.Embedding):
    """The text vocabulary, and beside it the special tokens, whose ids start at `special_token_offset`.

    They are two tables because the text head is tied to the first, and so that the vocabulary can grow.
    """

    def __init__(self, config: OmniLatentConfig):
        super().__init__(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.offset = config.special_token_offset
        self.special = nn.Embedding(len(SPECIAL_TOKENS), config.hidden_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        is_special = input_ids >= self.offset
        text = super().forward(input_ids.masked_fill(is_special, 0))
        special = self.special((input_ids - self.offset).clamp(min=0))
        return torch.where(is_special.unsqueeze(-1), special, text)

    def find_special(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """The ids behind embeddings, as far as they matter: special tokens by comparison, 0 for all else."""
        input_ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        for index, row in enumerate(self.special.weight):
            input_ids = input_ids.masked_fill((inputs_embeds == row).all(-1), self.offset + index)
        return input_ids


class OmniLatentPreTrainedModel(KnowsItsKernels, PreTrainedModel):
    config: OmniLatentConfig
    config_class = OmniLatentConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = MODALITIES
    output_modalities = MODALITIES
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False  # sources and targets need a mask that flash attention has no words for
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TransformerBlock, "attentions": Attention}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            # which says what is wrong, but not with what
            raise ValueError(
                f"The file {SAFE_WEIGHTS_NAME} of {str(pretrained_model_name_or_path)!r} is damaged: {error}"
            ) from error

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True):
        wanted = max(new_num_tokens or 0, pad_to_multiple_of or 0)
        if wanted > self.config.special_token_offset:
            raise ValueError(
                f"A vocabulary of {wanted} would run into the placeholders, whose ids begin at `special_token_offset` "
                f"{self.config.special_token_offset}: make the model with a larger `vocab_size`."
            )
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LayerScale):
            init.constant_(module.weight, module.init_value)
        elif isinstance(module, LossWeights) and module.log_variance is not None:
            init.copy_(module.log_variance, torch.tensor(module.start))
        elif isinstance(module, OmniLatentModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


def accept_triple(forward):
    """Let `forward("image", image, "text")` mean the sequence that `lay_out` makes of it."""

    @functools.wraps(forward)
    def wrapper(self, input_ids=None, *args, **kwargs):
        if isinstance(input_ids, str):
            return forward(self, **self.lay_out_triple(input_ids, *args, **kwargs))
        return forward(self, input_ids, *args, **kwargs)

    return wrapper


@auto_docstring(
    custom_intro="""
    Any-to-any model of text, audio, images and video: one decoder-only backbone over sources and targets.
    """
)
class OmniLatentModel(HookRegistryMixin, OmniLatentPreTrainedModel, OmniLatentGenerationMixin):
    r"""
    ```python
    >>> import torch
    >>> from omnilatent import OmniLatentConfig, OmniLatentModel

    >>> model = OmniLatentModel(OmniLatentConfig.tiny())
    >>> image = torch.randn(1, 3, 32, 32)
    >>> model("image", image, "audio")["output"].shape
    torch.Size([1, 16, 24])
    >>> model("image", image, "text", target=torch.tensor([[5, 6, 7]])).loss.ndim
    0
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}
    accepts_loss_kwargs = False  # our loss is a mean over the micro-batch: Trainer averages the micro-batches

    def __init__(self, config: OmniLatentConfig):
        super().__init__(config)
        norm = functools.partial(RMSNorm, eps=config.rms_norm_eps)
        self.embed_tokens = TokenEmbedding(config)
        self.text_projection = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.encoders = nn.ModuleDict({name: make_encoder(config, name) for name in ENCODERS})
        self.coordinate_embedding = CoordinateEmbedding(config.hidden_size)
        self.embed_norm = norm(config.hidden_size)
        self.rotary = MultiAxisRotary(config.head_dim, config.rope_theta)
        self.layers = nn.ModuleList(
            TransformerBlock(
                config.hidden_size,
                attention=Attention(
                    config.hidden_size,
                    config.num_attention_heads,
                    config.num_key_value_heads,
                    config.head_dim,
                    qk_norm=True,
                    norm_eps=config.rms_norm_eps,
                    dropout=config.attention_dropout,
                    kernel=config,
                    is_causal=True,
                    layer_idx=index,
                ),
                feed_forward=SwiGLU(config.hidden_size, config.intermediate_size),
                norm=norm,
                layer_scale=config.layer_scale_init_value,
            )
            for index in range(config.num_hidden_layers)
        )
        self.norm = norm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.decoders = nn.ModuleDict({name: decoder(config) for name, decoder in DECODERS.items()})
        self.embedding_projection = nn.Linear(config.hidden_size, config.projection_size, bias=False)
        self.logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init_value))  # FSDP takes no scalars
        self.loss_weights = LossWeights(
            start={name: TYPICAL_LOG_LOSS[name] for name in MODALITIES},
            fixed={name: getattr(config, f"{name}_loss_weight") for name in MODALITIES},
            learned=config.learn_loss_weights,
        )
        self.gradient_checkpointing = False
        self.post_init()

    # --- the ways in ---------------------------------------------------------------------------------------------

    def lay_out_triple(
        self, source, values, target_modality, target=None, source_mask=None, target_mask=None, **kwargs
    ):
        """Keyword arguments of `forward` for one source and one target; see `layout.lay_out` for the shapes.

        A text target without a tensor gets no tokens: it is read out at the source positions.
        """
        check_modality(source, "source")
        check_modality(target_modality, "target")
        known = (*argument_names(self.lay_out_triple), *argument_names(type(self).forward))
        refuse_unknown_keywords(f"{type(self).__name__}.forward()", kwargs, known)
        read_out = target_modality == TEXT and target is None
        laid_out = layout.lay_out(
            self.config,
            {source: values},
            {} if read_out else {target_modality: target},
            {} if source_mask is None else {source: source_mask},
            {} if target_mask is None else {target_modality: target_mask},
            contrast=self.config.contrastive_loss_weight > 0,
        )
        return {**laid_out, **kwargs}

    def reconstruct(
        self, modality: str, values: torch.Tensor, mask: torch.Tensor | None = None, **kwargs
    ) -> OmniLatentOutput:
        """Encode and decode one modality (autoencoder); `.loss` compares the result with the input."""
        return self(modality, values, modality, target=values, source_mask=mask, target_mask=mask, **kwargs)

    def forward_multimodal(
        self,
        inputs: Mapping[str, torch.Tensor],
        target_modalities: list[str],
        targets: Mapping[str, torch.Tensor] | None = None,
        input_masks: Mapping[str, torch.Tensor] | None = None,
        target_masks: Mapping[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> OmniLatentOutput:
        """
        Read all sources in one pass of the backbone that serves all targets.

        Args:
            inputs: tensor of each source modality, see `layout.lay_out`.
            target_modalities: what to predict; targets never see each other.
            targets: tensors or sizes of targets; tensors give losses. A text target without a tensor is read out at
                the source positions.
            input_masks, target_masks: by modality, True where real.
        """
        targets = targets or {}
        if len(set(target_modalities)) < len(target_modalities):
            raise ValueError(f"`target_modalities` names one twice: {target_modalities}.")
        if not target_modalities:
            raise ValueError("`target_modalities` is empty: name at least one of " + ", ".join(MODALITIES) + ".")
        for name in set(targets) - set(target_modalities):
            raise ValueError(f"There is a target tensor for {name!r}, which is not among {target_modalities}.")
        laid_out = layout.lay_out(
            self.config,
            inputs,
            {name: targets.get(name) for name in target_modalities if name != TEXT or name in targets},
            input_masks,
            target_masks,
            contrast=self.config.contrastive_loss_weight > 0,
        )
        if TEXT in target_modalities and TEXT not in targets:
            width = sum(segment == SOURCE_SEGMENT for segment in laid_out["token_type_ids"][0].tolist())
            sizes = laid_out["target_sizes"]
            laid_out["target_sizes"] = {name: sizes.get(name, ()) for name in target_modalities}
            laid_out["logits_to_keep"] = torch.arange(width, device=laid_out["input_ids"].device)
        return self(**laid_out, **kwargs)

    def embed(self, modality: str, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Unit-norm embeddings (B, projection_size) of one modality, comparable with every other's by dot product.

        Args:
            values, mask: tensor and mask of the modality, see `layout.lay_out`.
        """
        masks = {} if mask is None else {modality: mask}
        laid_out = layout.lay_out(self.config, {modality: values}, {}, masks)
        return self(**laid_out, logits_to_keep=1, return_dict=True).source_embeds

    # --- the one forward -----------------------------------------------------------------------------------------

    @accept_triple
    @knows_its_keywords
    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        pixel_mask_videos: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        labels: torch.LongTensor | None = None,
        image_labels: torch.FloatTensor | None = None,
        video_labels: torch.FloatTensor | None = None,
        audio_labels: torch.FloatTensor | None = None,
        image_labels_mask: torch.Tensor | None = None,
        video_labels_mask: torch.Tensor | None = None,
        audio_labels_mask: torch.Tensor | None = None,
        target_sizes: dict[str, tuple[int, ...]] | None = None,
        target_starts: dict[str, float] | None = None,
        twins: dict[str, int] | None = None,
        return_loss: bool = True,
        **kwargs,
    ) -> OmniLatentOutput:
        r"""
        Besides a laid-out sequence, `forward("image", image, "text", target=ids, source_mask=None, target_mask=None)`
        is accepted: one source, its tensor, and a target; see `layout.lay_out`.

        token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Segment of each token: 0 source, k the k-th target. With a cache it may cover the cached tokens as well.
            By default a marker opens a target, and without markers what follows the last placeholder is causal text.
        position_ids (`torch.Tensor` of shape `(3, batch_size, sequence_length)`, *optional*):
            Time, row and column of each token; `(batch_size, sequence_length)` stands for all three.
        past_key_values (`Cache`, *optional*):
            Keys and values of the tokens before these, as `generate` hands them on.
        pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
            Source image of each row.
        pixel_values_videos (`torch.FloatTensor` of shape `(batch_size, num_frames, num_channels, height, width)`, *optional*):
            Source video of each row.
        input_features (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, frames)`, *optional*):
            Source log-mel spectrogram of each row.
        pixel_mask (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*):
            True where a pixel is real and not padding.
        pixel_mask_videos (`torch.Tensor` of shape `(batch_size, num_frames, height, width)`, *optional*):
            True where a pixel is real and not padding.
        input_features_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            True where a mel frame is real and not padding.
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Text to predict, in place (the shift happens inside). -100 is ignored, and so is what can be no label: the
            sources' tokens and special tokens. A copy of `input_ids` serves.
        image_labels (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
            Target image of each row.
        video_labels (`torch.FloatTensor` of shape `(batch_size, num_frames, num_channels, height, width)`, *optional*):
            Target video of each row.
        audio_labels (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, frames)`, *optional*):
            Target log-mel spectrogram of each row.
        image_labels_mask (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*):
            True where the target is real and not padding.
        video_labels_mask (`torch.Tensor` of shape `(batch_size, num_frames, height, width)`, *optional*):
            True where the target is real and not padding.
        audio_labels_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            True where the target is real and not padding.
        target_sizes (`dict[str, tuple[int, ...]]`, *optional*):
            Size of each target in the sequence, () for text: audio (frames,), image (height, width), video
            (num_frames, height, width). By default the labels' sizes, else the config's.
        target_starts (`dict[str, float]`, *optional*):
            Seconds on the sources' clock at which an audio or video target begins; 0 by default.
        twins (`dict[str, int]`, *optional*):
            Segment of each target's twin, which the contrastive loss compares with the sources.
        return_loss (`bool`, defaults to `True`):
            Compute the losses of the labels that are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of `input_ids` and `inputs_embeds`.")
        if input_ids is None:
            input_ids = self.embed_tokens.find_special(inputs_embeds)
        else:
            checks.check_sequence(self.config, input_ids, attention_mask, token_type_ids, labels)
            inputs_embeds = self.embed_tokens(input_ids)
        tensors = {
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "input_features": input_features,
            "pixel_mask": pixel_mask,
            "pixel_mask_videos": pixel_mask_videos,
            "input_features_mask": input_features_mask,
            "image_labels": image_labels,
            "video_labels": video_labels,
            "audio_labels": audio_labels,
            "image_labels_mask": image_labels_mask,
            "video_labels_mask": video_labels_mask,
            "audio_labels_mask": audio_labels_mask,
        }
        for names in TENSOR_NAMES.values():
            for mask in (names.mask, names.labels_mask):
                tensors[mask] = None if tensors[mask] is None else tensors[mask].bool()
        checks.check_tensors(self.config, len(input_ids), tensors)
        twins = twins or {}
        self._fill_twins(tensors, twins)
        if target_sizes is None:
            target_sizes = self._find_target_sizes(input_ids, tensors)
        checks.check_targets(target_sizes, labels, tensors)

        length = input_ids.shape[1]
        if token_type_ids is None:
            token_type_ids = sequence.find_segments(self.config, input_ids)
        segments = token_type_ids[:, -length:]
        sources = sequence.source_groups(self.config, input_ids, tensors)
        if length > 1:  # not in a step of generation, which has no placeholders
            checks.warn_of_unfilled(self.config, input_ids, sources)
        slots = sequence.slot_groups(self.config, input_ids, target_sizes, target_starts or {}, tensors)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = real[:, -length:].bool() if real.ndim == 2 else torch.ones_like(input_ids, dtype=torch.bool)
        if position_ids is None:
            position_ids = self._position_ids(input_ids, segments, real, sources, slots, past_key_values)
        elif position_ids.ndim == 2:
            position_ids = position_ids.expand(AXES, len(input_ids), -1)

        hidden_states = self._embed(input_ids, inputs_embeds, segments, real, sources, slots, tensors)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        mask = self._attention_mask(hidden_states, input_ids, attention_mask, token_type_ids, past_key_values)
        rotary = self.rotary(position_ids, hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, attention_mask=mask, rotary=rotary, past_key_values=past_key_values, **kwargs
            )
        hidden_states = self.norm(hidden_states)

        predictions = self._decode(hidden_states, slots)
        columns = None
        if TEXT in target_sizes or not target_sizes:
            columns = torch.arange(length, device=input_ids.device)
            columns = columns[-logits_to_keep:] if isinstance(logits_to_keep, int) else logits_to_keep
            predictions[TEXT] = self.lm_head(hidden_states[:, columns])
        source_embeds = self._pool(hidden_states, real & (segments == SOURCE_SEGMENT))
        target_embeds = {name: self._pool(hidden_states, real & (segments == twins[name])) for name in twins}

        loss, losses = None, {}
        if return_loss:
            losses = self._losses(predictions, columns, hidden_states, segments, real, labels, tensors)
            loss = self.loss_weights({name: losses[name] for name in MODALITIES if name in losses}) if losses else None
            if target_embeds and losses:
                losses["contrastive"] = self._contrast(source_embeds, target_embeds)
                loss = loss + self.config.contrastive_loss_weight * losses["contrastive"]
            if "ctc" in losses:
                loss = loss + self.config.ctc_loss_weight * losses["ctc"]
        first = next(iter(target_sizes), TEXT)
        return OmniLatentOutput(
            loss=loss,
            output=predictions[first],
            logits=predictions.get(TEXT),
            **{name: predictions.get(name) for name in TENSOR_NAMES},
            losses=losses or None,
            source_embeds=source_embeds,
            target_embeds=target_embeds or None,
            last_hidden_state=hidden_states,
            past_key_values=past_key_values if use_cache else None,
        )

    # --- its parts, in the order they are used -------------------------------------------------------------------

    @staticmethod
    def _fill_twins(tensors, twins):
        """A twin is its target written as a source: its placeholders are filled from the labels."""
        for name in twins:
            if name != TEXT:
                names = TENSOR_NAMES[name]
                tensors[names.values], tensors[names.mask] = tensors[names.labels], tensors[names.labels_mask]

    def _find_target_sizes(self, input_ids, tensors) -> dict[str, tuple[int, ...]]:
        """Sizes of the targets whose slots stand in a sequence that came without them."""
        sizes = {}
        for name, names in TENSOR_NAMES.items():
            values = tensors[names.labels]
            if values is not None:
                sizes[name] = layout.size_of(name, layout.as_keyword(name, values))
        if not sizes and input_ids.shape[1] > 1 and not is_torchdynamo_compiling():
            if (input_ids >= self.config.audio_slot_token_id).any():
                for name in TENSOR_NAMES:
                    if (input_ids == getattr(self.config, f"{name}_slot_token_id")).any():
                        sizes[name] = layout.target_size(self.config, name)
        if sizes and (is_torchdynamo_compiling() or (input_ids == self.config.text_target_token_id).any()):
            sizes[TEXT] = ()
        return sizes

    def _position_ids(self, input_ids, segments, real, sources, slots, past_key_values=None) -> torch.Tensor:
        """(time, row, column) of every token as (3, B, T)."""
        index = sequence.text_positions(self.config, input_ids, segments, real)
        if past_key_values is not None:
            index = index + past_key_values.get_seq_length()
        checks.check_text_length(self.config, index)
        positions = index.float().unsqueeze(-1).expand(-1, -1, AXES)
        for group in (*sources.values(), *slots.values()):
            positions = torch.where(group.where.unsqueeze(-1), group.place(group.coordinates()), positions)
        return positions.permute(2, 0, 1)

    def _embed(self, input_ids, inputs_embeds, segments, real, sources, slots, tensors) -> torch.Tensor:
        is_text = (input_ids < self.config.special_token_offset).unsqueeze(-1)
        hidden_states = torch.where(is_text, self.text_projection(inputs_embeds), inputs_embeds)
        for name, group in sources.items():
            group.check("placeholders")
            names = TENSOR_NAMES[name]
            tokens = self.encoders[name](tensors[names.values].to(hidden_states.dtype), tensors[names.mask])
            place = self.coordinate_embedding(group.coordinates()).to(hidden_states.dtype)
            hidden_states = hidden_states + group.place(tokens + place)
        for group in slots.values():
            group.check("slots")
            place = self.coordinate_embedding(group.coordinates()).to(hidden_states.dtype)
            hidden_states = hidden_states + group.place(place)
            if self.config.sequence_adaptation == "interpolate":
                resampled = resample_rows(hidden_states, real & (segments == SOURCE_SEGMENT), group.tokens)
                hidden_states = hidden_states + group.place(resampled)
        return self.embed_norm(hidden_states)

    def _attention_mask(self, hidden_states, input_ids, attention_mask, token_type_ids, past_key_values):
        """Who sees whom: padding, segments, and the causal order of text targets."""
        if attention_mask is not None and attention_mask.ndim == 4:
            return attention_mask
        length, past = input_ids.shape[1], 0
        if past_key_values is not None:
            past = past_key_values.get_seq_length()
        bidirectional = sequence.is_bidirectional(self.config, input_ids, token_type_ids[:, -length:])
        # cached tokens whose segments nobody told are visible
        segments = nn.functional.pad(
            token_type_ids, (past + length - token_type_ids.shape[1], 0), value=SOURCE_SEGMENT
        )
        # a static cache is longer than what it holds: the rest belongs to nobody
        keys = past + length if past_key_values is None else sum(past_key_values.get_mask_sizes(length, 0))
        segments = nn.functional.pad(segments, (0, keys - past - length), value=NO_SEGMENT)
        bidirectional = nn.functional.pad(bidirectional, (past, keys - past - length), value=False)
        # `create_causal_mask` would run these predicates under vmap, 50 times as slow; they broadcast by themselves
        return get_mask_builder(self.config)(
            batch_size=len(input_ids),
            q_length=length,
            kv_length=keys,
            q_offset=past,
            mask_function=and_masks(or_masks(causal, all_keys_for(bidirectional)), segment_mask(segments)),
            attention_mask=None if attention_mask is None else attention_mask.bool(),
            allow_is_causal_skip=False,
            dtype=hidden_states.dtype,
            device=hidden_states.device,
            config=self.config,
        )

    def _decode(self, hidden_states, slots) -> dict[str, torch.Tensor]:
        predictions = {}
        for name, group in slots.items():
            states, mask = group.take(hidden_states)
            predictions[name] = layout.as_keyword(name, self.decoders[name](states, mask, group.size))
        return predictions

    def _pool(self, hidden_states, where) -> torch.Tensor:
        """Unit-norm embedding of the mean of the marked positions."""
        where = where.unsqueeze(-1)
        mean = (hidden_states * where).sum(dim=1) / where.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(self.embedding_projection(mean).float(), dim=-1)

    def _losses(self, predictions, columns, hidden_states, segments, real, labels, tensors) -> dict[str, torch.Tensor]:
        losses = {}
        if labels is not None and TEXT in predictions:
            # a token of the sources sees those that follow it, so it can be no label
            no_text = (segments <= SOURCE_SEGMENT) | (labels >= self.config.special_token_offset)
            labels = labels.masked_fill(no_text, IGNORE_INDEX)
            next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
            losses[TEXT] = next_token_loss(predictions[TEXT], next_labels[:, columns])
            if self.config.ctc_loss_weight > 0:
                losses["ctc"] = self._ctc_loss(hidden_states, real & (segments == SOURCE_SEGMENT), labels)
        for name, names in TENSOR_NAMES.items():
            target, mask = tensors[names.labels], tensors[names.labels_mask]
            if target is None or name not in predictions:
                continue
            if mask is not None:
                mask = mask.unsqueeze({"audio": 1, "image": 1, "video": 2}[name])  # one mask for all bands or colours
                mask = layout.as_keyword(name, mask)
            losses[name] = masked_mse_loss(predictions[name], layout.as_keyword(name, target), mask)
        return losses

    def _ctc_loss(self, hidden_states, source, labels):
        eos = torch.tensor(self.config.eos_token_id, device=labels.device)  # one, or several
        tokens = (labels != IGNORE_INDEX) & ~torch.isin(labels, eos)
        logits = self.lm_head(take_rows(hidden_states, source, hidden_states.shape[1]))
        positions = torch.arange(logits.shape[1], device=logits.device) < source.sum(1, keepdim=True)
        text = take_rows(labels.unsqueeze(-1), tokens, labels.shape[1]).squeeze(-1)
        text_mask = torch.arange(text.shape[1], device=text.device) < tokens.sum(1, keepdim=True)
        return ctc_readout_loss(logits, positions, text, text_mask, blank=self.config.pad_token_id)

    def _contrast(self, source_embeds, target_embeds):
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().squeeze()
        losses = [info_nce_loss(source_embeds, embeds, scale) for embeds in target_embeds.values()]
        return torch.stack(losses).mean()


def resample_rows(states: torch.Tensor, where: torch.Tensor, count: int) -> torch.Tensor:
    """The marked rows of each sample, linearly resampled to `count`: (B, T, D) -> (B, count, D)."""
    packed = take_rows(states, where, states.shape[1])
    length = where.sum(dim=1, keepdim=True).clamp(min=1)
    place = (torch.arange(count, device=states.device) + 0.5) / count * length - 0.5
    place = place.clamp(min=0).minimum(length - 1.0)
    low = place.floor()
    high = (low + 1).minimum(length - 1.0)
    at_low, at_high = (
        packed.gather(1, index.long().unsqueeze(-1).expand(-1, -1, packed.shape[-1])) for index in (low, high)
    )
    return torch.lerp(at_low, at_high, (place - low).unsqueeze(-1).to(states.dtype))


__all__ = ["OmniLatentModel", "OmniLatentOutput", "OmniLatentPreTrainedModel"]
