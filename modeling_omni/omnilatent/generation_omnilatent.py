"""Generation: text token by token through transformers' own `generate`, everything else in one pass.

An image, a sound or a video has no order in which it must be told: its slots are filled together. So
`generate(generation_mode="image")` lays the target's slots behind the given sources, runs the model once and returns
the tensor.
"""

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor
from transformers.cache_utils import Cache

from ...configuration import layout
from ...configuration.modalities import SOURCE_SEGMENT, TENSOR_NAMES, TEXT, check_modality
from . import sequence

# what `lay_out` says of a single pass, which `generate` decides anew for each of its own
SINGLE_PASS = ("target_sizes", "target_starts", "twins", "logits_to_keep")


class TextVocabulary(LogitsProcessor):
    """Keeps ids that the tokenizer lacks from being emitted."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        known = torch.arange(scores.shape[-1], device=scores.device) < self.size
        return scores.masked_fill(~known, float("-inf"))


class OmniLatentGenerationMixin(GenerationMixin):
    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *args,
        generation_mode: str | None = None,
        target_size: tuple[int, ...] | int | None = None,
        target_start: float = 0.0,
        **kwargs,
    ):
        """
        Generate text, or with `generation_mode` another modality.

        Args:
            inputs: the sequence, as `input_ids`; further tensors of the sources as in `forward`. What `lay_out` or
                the processor returns can be passed as it is.
            generation_mode: `"text"` (default), `"image"`, `"audio"` or `"video"`.
            target_size: size of a target that is not text: audio frames, image (height, width), video (frames,
                height, width). `None`: the config's default.
            target_start: seconds on the sources' clock at which an audio or video target begins.
            kwargs: those of transformers' `generate` for text. A prompt that ends within its sources gets the marker
                and BOS of a text target; plain `input_ids` of text are continued as they stand.

        Returns:
            For text the sequences, as transformers returns them. Otherwise the tensor: image (B, C, H, W), audio
            (B, M, F), video (B, C, N, H, W).

        Raises:
            ValueError: for an unknown mode, a word that nobody takes, or a size of text.
        """
        mode = check_modality(generation_mode or TEXT, "generation_mode")
        for name in SINGLE_PASS:
            kwargs.pop(name, None)
        if mode != TEXT:
            input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
            return self._fill_slots(mode, input_ids, target_size, target_start, **kwargs)
        if target_size is not None or target_start:
            raise ValueError("Text has no `target_size` and no `target_start`: its length is `max_new_tokens`.")
        if (kwargs.get("max_new_tokens") or 0) > self.config.max_text_length:
            raise ValueError(
                f"`max_new_tokens` {kwargs['max_new_tokens']} is above the config's `max_text_length` "
                f"{self.config.max_text_length}."
            )
        return super().generate(*self._open_text_target(inputs, kwargs), *args, **kwargs)

    def _fill_slots(self, mode, input_ids, size, start, attention_mask=None, token_type_ids=None, **kwargs):
        """One pass over the sources with the slots of a target behind them."""
        if input_ids is None:
            raise ValueError(f"`generate(generation_mode={mode!r})` needs `input_ids`, the sequence of the sources.")
        names = [name for group in TENSOR_NAMES.values() for name in group[:2]]
        settings = {
            *GenerationConfig().to_dict(),
            "generation_config",
            *(key for key in kwargs if key.startswith("_")),
        }
        if unknown := sorted(set(kwargs) - {*names} - settings):
            raise ValueError(f"`generate(generation_mode={mode!r})` does not take {', '.join(unknown)}.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            # without a marker all is source here, text behind a placeholder too
            token_type_ids = sequence.is_marker(self.config, input_ids).long().cumsum(dim=1)
        # targets that the prompt opened, the text target of a chat prompt for one, become padding
        is_source = token_type_ids == SOURCE_SEGMENT
        prefix = {
            "input_ids": input_ids.masked_fill(~is_source, self.config.pad_token_id),
            "attention_mask": attention_mask * is_source,
        }
        laid_out = layout.lay_out(self.config, {}, {mode: size}, prefix=prefix, target_starts={mode: start})
        tensors = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        return self(**laid_out, **tensors, return_dict=True).output

    def _open_text_target(self, inputs, kwargs) -> tuple:
        """`generate`'s positional argument; the target is opened in place where the prompt ends within its sources."""
        given = kwargs.get("input_ids") if inputs is None else inputs
        if given is None or given.is_floating_point() or kwargs.get("past_key_values") is not None:
            return (inputs,)
        segments = kwargs.get("token_type_ids")
        if segments is None:
            segments = sequence.find_segments(self.config, given)
        if (segments[:, -1] != SOURCE_SEGMENT).any():
            return (inputs,)
        prefix = {"input_ids": given, "attention_mask": kwargs.get("attention_mask")}
        laid_out = layout.lay_out(self.config, {}, {TEXT: None}, prefix=prefix)
        kwargs |= {name: laid_out[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        return ()

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        """Places of the prompt's tokens (3, B, T); each new token has the last one's place plus one."""
        input_ids = inputs_tensor
        if inputs_tensor.is_floating_point():
            input_ids = self.embed_tokens.find_special(inputs_tensor)
        real = model_kwargs.get("attention_mask")
        length = input_ids.shape[1]
        segments = model_kwargs.get("token_type_ids")
        if segments is None:
            segments = sequence.find_segments(self.config, input_ids)
        real = torch.ones_like(input_ids) if real is None else real[:, -length:]
        groups = sequence.source_groups(self.config, input_ids, model_kwargs)
        return self._position_ids(input_ids, segments[:, -length:], real.bool(), groups, {}, None)

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask=None,
        token_type_ids=None,
        **kwargs,
    ):
        if past_key_values is not None and past_key_values.is_compileable and token_type_ids is not None:
            # transformers would build a plain causal mask here, before the model sees the segments
            new_ids = input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:]
            states = torch.empty((*new_ids.shape, 0), dtype=self.dtype, device=new_ids.device)
            attention_mask = self._attention_mask(states, new_ids, attention_mask, token_type_ids, past_key_values)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            **kwargs,
        )
        if token_type_ids is not None:
            # of cached tokens too: what other targets hold stays hidden
            model_inputs["token_type_ids"] = token_type_ids
        return model_inputs

    def _get_logits_processor(self, *args, **kwargs):
        processors = super()._get_logits_processor(*args, **kwargs)
        if self.config.text_vocab_size is not None and self.config.text_vocab_size < self.config.vocab_size:
            # first: top-k and top-p shall choose among what is left
            processors.insert(0, TextVocabulary(self.config.text_vocab_size))
        return processors
