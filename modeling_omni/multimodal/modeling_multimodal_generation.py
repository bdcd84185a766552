"""Writing text about what the encoders read: captions, answers, translations of pictures into words.

Shapes: B batch, T tokens of text, K encoded tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from ...configuration.configuration_multimodal import DecoderConfig, MultiModalConfig
from ...configuration.modalities import IGNORE_INDEX
from ..layers import LearnedPositions
from ..losses import next_token_loss
from .modeling_multimodal import MultiModalPreTrainedModel, MultiModalTransformer
from .multimodal_outputs import MultiModalOutput
from .stream_inputs import MASKS, STREAM_ARGUMENTS, VALUES, Stream, reads_streams, take_streams
from .token_decoder import TokenDecoder, count_real
from .token_encoder import as_numbers


class _TextWriter(MultiModalPreTrainedModel, GenerationMixin):
    """A [`MultiModalTransformer`] whose tokens a decoder reads."""

    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}
    writes_text = True

    def __init__(self, config: MultiModalConfig, encoders: dict[str, PreTrainedModel] | None = None):
        if config.decoder_config is None:
            raise ValueError(f"{type(self).__name__} writes with a decoder, but `decoder_config` is None.")
        super().__init__(config)
        reads = self.reads(config)
        self.model = MultiModalTransformer(self.config, reads, fuses=len(reads) > 1, pools=False, encoders=encoders)
        self.decoder = TokenDecoder._from_config(self.config.decoder_config, context_size=self.config.hidden_size)
        self.lm_head = nn.Linear(config.decoder_config.hidden_size, config.decoder_config.vocab_size, bias=False)
        self.post_init()
        decoder = self.config.decoder_config
        self.generation_config.update(
            decoder_start_token_id=decoder.bos_token_id,
            bos_token_id=decoder.bos_token_id,
            eos_token_id=decoder.eos_token_id,
            pad_token_id=decoder.pad_token_id,
        )

    @staticmethod
    def reads(config: MultiModalConfig) -> tuple[str, ...]:
        """The modalities that are encoded."""
        return tuple(config.encoders)

    def get_input_embeddings(self):
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value):
        self.decoder.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Embedding:
        """As in transformers; the text encoder, which reads the same tokens, grows with the decoder."""
        table = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        encoder = self.model.encoders.get("text")
        if encoder is not None and len(encoder.get_input_embeddings().weight) != len(table.weight):
            encoder.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        return table

    def get_decoder(self):
        return self.decoder

    @can_return_tuple
    @reads_streams
    def forward(
        self,
        streams: dict[str, Stream],
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        encoder_outputs: MultiModalOutput | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """
        Args:
            decoder_input_ids: (B, T) tokens before each of the next ones. By default the labels, shifted behind BOS.
            decoder_attention_mask: (B, T), 1 where they are real; with a cache it covers the cached ones as well.
            decoder_position_ids: (B, T); by default real tokens are counted from 0.
            decoder_inputs_embeds: (B, T, D) in place of `decoder_input_ids`.
            encoder_outputs: What the encoders gave, in place of their inputs.
            past_key_values: `EncoderDecoderCache` of the tokens before.
            use_cache: Return the cache.
            labels: (B, T) tokens to write, -100 where none counts; EOS is among them.
            logits_to_keep: How many of the last positions get logits; 0: all.
        """
        kwargs["return_dict"] = True
        if encoder_outputs is None:
            encoder_outputs = self.encode_for_decoder(streams)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = shift_right(labels, self.config.decoder_config)
        if use_cache is None and labels is not None:
            use_cache = False
        decoded = self.decoder(
            decoder_input_ids,
            encoder_hidden_states=encoder_outputs["last_hidden_state"],
            encoder_attention_mask=encoder_outputs.get("attention_mask"),
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            inputs_embeds=decoder_inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(decoded.last_hidden_state[:, -logits_to_keep:] if logits_to_keep else decoded[0])
        return Seq2SeqLMOutput(
            loss=None if labels is None else next_token_loss(logits, labels),
            logits=logits,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoder_outputs["last_hidden_state"],
        )

    def encode_for_decoder(self, streams: dict[str, Stream]) -> MultiModalOutput:
        """The tokens that the decoder reads, which `forward` takes as `encoder_outputs`.

        Args:
            streams: as `take_streams` makes them of `forward`'s arguments.
        """
        tokens, _ = self.model.encode(streams)
        fused = self.model.fuse(tokens)
        return MultiModalOutput(last_hidden_state=fused.tokens, attention_mask=as_numbers(fused.attention_mask))

    # --- what `generate` asks for ----------------------------------------------------------------------------------

    def _prepare_model_inputs(self, inputs, bos_token_id, model_kwargs: dict[str, Any]):
        """The encoders' first input; which one it is depends on what is given."""
        if model_kwargs.get("encoder_outputs") is not None:
            return super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)
        names = [name for modality in self.model.encoders for group in VALUES[modality] for name in group]
        given = [name for name in names if model_kwargs.get(name) is not None]
        if inputs is not None:
            if self.main_input_name in given:
                raise ValueError(f"`inputs` and `{self.main_input_name}` are the same: give one of them.")
            return inputs, self.main_input_name, model_kwargs
        if not given:
            raise ValueError(f"Nothing to write about: give one of {', '.join(f'`{name}`' for name in names)}.")
        return model_kwargs.pop(given[0]), given[0], model_kwargs

    def _prepare_text_encoder_decoder_kwargs_for_generation(
        self, inputs_tensor, model_kwargs: dict[str, Any], model_input_name, **kwargs
    ) -> dict[str, Any]:
        inputs = {name: model_kwargs.pop(name, None) for name in STREAM_ARGUMENTS} | {model_input_name: inputs_tensor}
        inputs, prompt = self._split_prompt({name: values for name, values in inputs.items() if values is not None})
        return model_kwargs | prompt | {"encoder_outputs": self.encode_for_decoder(take_streams(self.config, inputs))}

    def _split_prompt(self, inputs: dict[str, torch.Tensor]):
        """What the encoders read, and what the decoder is to continue."""
        return inputs, {}

    def prepare_inputs_for_generation(self, input_ids: torch.LongTensor, **kwargs) -> dict[str, Any]:
        if isinstance(self.decoder.positions, LearnedPositions):
            self.decoder.positions.check_length(input_ids.shape[1])  # a static cache counts on the device
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and kwargs.get("decoder_position_ids") is None:
            kwargs["decoder_position_ids"] = count_real(mask)
        return super().prepare_inputs_for_generation(input_ids, **kwargs)


class MultiModalForConditionalGeneration(_TextWriter):
    r"""
    Text, a picture (or a sound, or a video) or both in, text out: free answers to questions about pictures, captions of
    what the text asks for.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalConfig, MultiModalForConditionalGeneration

    >>> model = MultiModalForConditionalGeneration(MultiModalConfig.tiny())
    >>> question, image = torch.randint(3, 259, (2, 7)), torch.randn(2, 3, 48, 48)
    >>> model(input_ids=question, pixel_values=image, labels=torch.tensor([[9, 8, 2], [7, 2, -100]])).loss.backward()
    >>> model.generate(input_ids=question, pixel_values=image, max_new_tokens=4, min_new_tokens=4).shape
    torch.Size([2, 5])
    ```
    """


class MultiModalForCaptioning(_TextWriter):
    r"""
    A picture (or a sound, or a video) in, text out. There is no text encoder: text given to `generate` is a prompt, the
    beginning of the caption.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalConfig, MultiModalForCaptioning

    >>> model = MultiModalForCaptioning(MultiModalConfig.tiny())
    >>> images = torch.randn(2, 3, 48, 48)
    >>> model(pixel_values=images, labels=torch.tensor([[9, 8, 2], [7, 2, -100]])).loss.backward()
    >>> model.generate(pixel_values=images, num_beams=3, max_new_tokens=4, min_new_tokens=4).shape
    torch.Size([2, 5])
    ```
    """

    def __init__(self, config: MultiModalConfig, encoders: dict[str, PreTrainedModel] | None = None):
        super().__init__(config, encoders)
        self.main_input_name = VALUES[config.second_modality][0][0]

    @staticmethod
    def reads(config: MultiModalConfig) -> tuple[str, ...]:
        return (config.second_modality,)

    def _split_prompt(self, inputs):
        names = {name: f"decoder_{kind}" for kind, group in PROMPT.items() for name in group if name in inputs}
        # an empty prompt is none
        prompt = {names[name]: values for name, values in inputs.items() if name in names and values.shape[1] > 0}
        return {name: values for name, values in inputs.items() if name not in names}, prompt


PROMPT = {"input_ids": VALUES["text"][0], "attention_mask": MASKS["text"]}


def shift_right(labels: torch.LongTensor, config: DecoderConfig) -> torch.LongTensor:
    """The tokens before each label: BOS, then the labels but the last, with padding where none counts."""
    begin = torch.full_like(labels[:, :1], config.bos_token_id)
    return torch.cat([begin, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE_INDEX, config.pad_token_id)], dim=1)


__all__ = ["MultiModalForCaptioning", "MultiModalForConditionalGeneration"]
