"""One processor for text, pictures, video and sound: files to model inputs, and model outputs to files."""

import numpy as np
import torch
from transformers import BatchFeature
from transformers.audio_utils import AudioInput
from transformers.image_utils import ImageInput, make_flat_list_of_images
from transformers.processing_utils import OmniModalProcessingKwargs, OmniModalProcessorMixin, Unpack
from transformers.video_utils import VideoInput, make_batched_videos

from ..configuration.modalities import AUDIO, IMAGE, SPECIAL_TOKENS, TEXT, VIDEO, check_modality
from .decoding_omnilatent import OmniLatentDecoding
from .feature_extraction_omnilatent import OmniLatentFeatureExtractor
from .image_processing_omnilatent import OmniLatentImageProcessor
from .media import has_audio, is_media_source
from .samples import is_list_of_clips, is_nested_videos, lengths_if_nested, refuse_missing, text_samples
from .tokenization_omnilatent import OmniLatentTokenizer
from .video_processing_omnilatent import OmniLatentVideoProcessor, as_file_list

# Each message's parts in order, one message per line; an answer, given or to come, is opened by the text marker.
CHAT_TEMPLATE = (
    f"""\
{{%- set placeholders = { ({name: SPECIAL_TOKENS[f"{name}_token"] for name in (IMAGE, AUDIO, VIDEO)}) } -%}}
{{%- set answer = '{SPECIAL_TOKENS["text_target_token"]}' + bos_token -%}}
"""
    + """\
{%- for message in messages -%}
{%- if loop.last and message['role'] == 'assistant' -%}{{ answer }}{%- endif -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- else -%}{{ placeholders[part['type']] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ answer }}{%- endif -%}
"""
)


class OmniLatentProcessorKwargs(OmniModalProcessingKwargs, total=False):
    """
    target (`str`, *optional*, defaults to `"text"`): What the model is to produce: `"text"`, `"audio"`, `"image"` or
        `"video"`. `None` writes no target. Text that comes alone is only tokenized unless a target is asked for, and
        the model reads it as plain causal text.
    """

    target: str | None


class OmniLatentProcessor(OmniModalProcessorMixin, OmniLatentDecoding):
    r"""
    Puts an image processor, a video processor, a feature extractor and a tokenizer behind one call, which writes
    `[sources | target]` into `input_ids`: a placeholder token for each patch, tube or group of mel frames, and after
    the sources the marker of the target, followed by BOS for text and by empty slots for anything else.

    Args:
        image_processor ([`OmniLatentImageProcessor`]): For `images`.
        video_processor ([`OmniLatentVideoProcessor`]): For `videos`.
        feature_extractor ([`OmniLatentFeatureExtractor`]): For `audio`.
        tokenizer ([`OmniLatentTokenizer`] or any other): For `text`. Special tokens that it lacks are added to it.
        chat_template (`str`, *optional*): Jinja template of a conversation; `from_config` gives one.

    Example:

    ```python
    >>> from PIL import Image
    >>> from omnilatent import OmniLatentConfig, OmniLatentProcessor

    >>> processor = OmniLatentProcessor.from_config(OmniLatentConfig.tiny())
    >>> inputs = processor(images=Image.new("RGB", (64, 64)), text="What is it?", return_tensors="pt")
    >>> inputs["input_ids"].shape  # 16 patches, 11 bytes, marker and BOS
    torch.Size([1, 29])
    >>> inputs["token_type_ids"][0, -3:]
    tensor([0, 1, 1])
    ```
    """

    valid_processor_kwargs = OmniLatentProcessorKwargs
    target = TEXT

    def __init__(self, image_processor, video_processor, feature_extractor, tokenizer, chat_template=None):
        for name, token in SPECIAL_TOKENS.items():
            if token not in tokenizer.get_vocab():
                tokenizer.add_tokens(token, special_tokens=True)
            setattr(self, name, token)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        super().__init__(image_processor, video_processor, feature_extractor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_config(cls, config, tokenizer=None, chat_template: str | None = CHAT_TEMPLATE) -> "OmniLatentProcessor":
        """
        The processor that fits a model.

        Args:
            config ([`OmniLatentConfig`]): The model's configuration.
            tokenizer (*optional*): Used in place of the byte-level one; its special tokens must have the config's ids.
            chat_template (`str`, *optional*): Jinja template of a conversation.

        Raises:
            ValueError: if the tokenizer's ids and the config's disagree.
        """
        processor = cls(
            OmniLatentImageProcessor(size=_square(config.image_size), patch_size=config.image_patch_size),
            OmniLatentVideoProcessor(
                size=_square(config.video_size),
                patch_size=config.video_patch_size,
                tubelet_size=config.video_tubelet_size,
                num_frames=config.num_frames,
                fps=config.video_fps,
            ),
            OmniLatentFeatureExtractor(
                feature_size=config.num_mel_bins,
                sampling_rate=config.sampling_rate,
                hop_length=config.hop_length,
                target_length=config.audio_target_length,
            ),
            OmniLatentTokenizer(special_token_offset=config.special_token_offset) if tokenizer is None else tokenizer,
            chat_template=chat_template,
        )
        for index, (name, token) in enumerate(SPECIAL_TOKENS.items()):
            got, expected = getattr(processor, f"{name}_id"), config.special_token_offset + index
            if got != expected:
                raise ValueError(
                    f"The tokenizer writes {token} as {got}, the model expects {expected}: set the config's "
                    f"`special_token_offset` to {got - index}."
                )
        return processor

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        videos: VideoInput | None = None,
        audio: AudioInput | None = None,
        audio_from_video_indices: list[int] | None = None,
        **kwargs: Unpack[OmniLatentProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Where the text holds no `<|image|>`, `<|video|>` or `<|audio|>`, the placeholders of what was passed in are
        put before it, in this order; without text the sources stand alone.

        Samples with several sources of a modality, and batches in which only some have one, are written as asked, for
        models that read them. [`OmniLatentModel`] does not: it takes one source of a modality in each row, or in none,
        and raises a ValueError for anything else.

        Args:
            images (*optional*): Picture or list of pictures: PIL, array, tensor, path, URL or bytes. A list of lists
                gives each sample its own, which may be none.
            text (`str` or `list[str]`, *optional*): With several samples, one string for each.
            videos (*optional*): Video or list of videos: frames, path, URL or bytes; lists of lists as for images.
            audio (*optional*): Clip or list of clips: waveform, dict with `array` and `sampling_rate`, path, URL or
                bytes; lists of lists as for images.
            audio_from_video_indices (`list[int]`, *optional*): With `load_audio_from_video=True`, the video that each
                clip belongs to, `None` for a clip of its own.
            kwargs: `target`, and the settings of the four parts.

        Returns:
            [`BatchFeature`] with `input_ids`, `attention_mask` and `token_type_ids` (0 source, 1 target) of shape
            (batch, length), and of what was passed in `pixel_values`, `pixel_values_videos`, `input_features`, with
            `pixel_mask`, `pixel_mask_videos`, `input_features_mask`. Text alone, for which no target is asked, has no
            `token_type_ids`: as a source it would be read in both directions.

        Raises:
            ValueError: for an unknown target, placeholders that do not match what was passed in, sizes that cannot be
                cut into tokens, files that cannot be decoded.
        """
        inputs = super().__call__(
            images=images,
            text=text,
            videos=videos,
            audio=audio,
            audio_from_video_indices=audio_from_video_indices,
            **kwargs,
        )
        if "input_ids" in inputs and ("target" in kwargs or self._has_special_tokens(inputs["input_ids"])):
            inputs["token_type_ids"] = self._segments(inputs)
        return inputs

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "token_type_ids"]

    def _has_special_tokens(self, input_ids) -> bool:
        special = self.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values()))
        return any(np.isin(np.asarray(row), special).any() for row in input_ids)

    def _segments(self, inputs):
        """`token_type_ids` in the type of `input_ids`: k from the k-th target marker on, 0 on padding."""
        input_ids = inputs["input_ids"]
        markers = list(self._target_markers().values())
        rows = [np.isin(np.asarray(row), self.tokenizer.convert_tokens_to_ids(markers)).cumsum() for row in input_ids]
        if "attention_mask" in inputs:
            rows = [row * np.asarray(mask) for row, mask in zip(rows, inputs["attention_mask"])]
        if isinstance(input_ids, torch.Tensor):
            return torch.as_tensor(np.stack(rows), dtype=torch.long)
        return np.stack(rows) if isinstance(input_ids, np.ndarray) else [row.tolist() for row in rows]

    def _target_markers(self) -> dict[str, str]:
        return {modality: getattr(self, f"{modality}_target_token") for modality in (TEXT, AUDIO, IMAGE, VIDEO)}

    # ---- before the parts run: files, placeholders and the target

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Read files, flatten lists, and complete the text. Called by `__call__`."""
        check_modality(kwargs.get("target") or TEXT, "target")
        images, images_per_sample = self._flat_images(images)
        videos, videos_per_sample = self._flat_videos(videos)
        audio, audio_per_sample = self._flat_audio(audio, **kwargs)
        sources = {
            IMAGE: (images, images_per_sample),
            VIDEO: (videos, videos_per_sample),
            AUDIO: ([] if kwargs.get("load_audio_from_video") and videos else audio, audio_per_sample),
        }
        if text is None and not (images or videos or audio):
            return None, None, None, None
        text_alone = not (images or videos or audio)
        samples = text_samples(text, sources)
        samples = self._prepend_placeholders(samples, sources)
        if "target" in kwargs or not text_alone:
            samples = [self._open_target(sample, **kwargs) for sample in samples]
        return images or None, samples, videos or None, audio or None

    def _flat_images(self, images):
        if images is None:
            return [], None
        refuse_missing(images, "images")
        images = self.image_processor.fetch_images(images)
        return make_flat_list_of_images(images), lengths_if_nested(images)

    def _flat_videos(self, videos):
        if videos is None:
            return [], None
        refuse_missing(videos, "videos")
        per_sample = lengths_if_nested(videos) if is_nested_videos(videos) else None
        return as_file_list(videos) or make_batched_videos(videos), per_sample

    def _flat_audio(self, audio, sampling_rate=None, audio_kwargs=None, **kwargs):
        if audio is None:
            return [], None
        refuse_missing(audio, "audio")
        # files are decoded to the rate that the call announces for its waveforms
        rate = sampling_rate or (audio_kwargs or {}).get("sampling_rate")
        audio = self.feature_extractor.fetch_audio(audio, sampling_rate=rate)
        if not is_list_of_clips(audio):
            return [audio], None
        if not audio or not all(is_list_of_clips(clips) for clips in audio):
            return audio, None
        return [clip for clips in audio for clip in clips], [len(clips) for clips in audio]

    def _prepend_placeholders(self, samples: list[str], sources: dict) -> list[str]:
        """Write the placeholders that no sample has, in the order of `sources`."""
        prefixes = ["" for _ in samples]
        for modality, (items, per_sample) in sources.items():
            token = getattr(self, f"{modality}_token")
            if not items or any(token in sample for sample in samples):
                continue
            if per_sample is None:
                per_sample = [len(items)] if len(samples) == 1 else [1] * len(items)
            if len(per_sample) != len(samples):
                raise ValueError(
                    f"Got {modality} for {len(per_sample)} samples, but {len(samples)} texts: pass a list of lists, or "
                    f"write {token} where each belongs."
                )
            prefixes = [prefix + token * count for prefix, count in zip(prefixes, per_sample)]
        return [prefix + sample for prefix, sample in zip(prefixes, samples)]

    def _open_target(self, sample: str, **kwargs) -> str:
        """Append the target, unless one is written already; a target asked for replaces a chat's text prompt."""
        if "target" in kwargs:
            sample = sample.removesuffix(f"{self.text_target_token}{self.tokenizer.bos_token}")
        target = kwargs.get("target", self.target)
        if target is None or any(marker in sample for marker in self._target_markers().values()):
            return sample
        return sample + self.target_prompt(target)

    def target_prompt(self, target: str) -> str:
        """
        What follows the sources: the marker of a modality, and BOS for text, or as many slots as a picture, video or
        sound of the default size has tokens.
        """
        marker = self._target_markers()[check_modality(target, "target")]
        if target == TEXT:
            if self.tokenizer.bos_token is None:
                raise ValueError(f"{type(self.tokenizer).__name__} has no BOS token to open a text target with.")
            return marker + self.tokenizer.bos_token
        return marker + getattr(self, f"{target}_slot_token") * self._target_num_tokens(target)

    def _target_num_tokens(self, target: str) -> int:
        if target == AUDIO:
            return self.feature_extractor.num_tokens(self.feature_extractor.target_length)
        if target == IMAGE:
            return self.image_processor.num_tokens(*_height_and_width(self.image_processor))
        return self.video_processor.num_tokens(
            self.video_processor.num_frames, *_height_and_width(self.video_processor)
        )

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Refuse a call without input, and placeholders that do not match what was passed in."""
        if text is None:
            raise ValueError("Got no input: pass at least one of text, images, videos and audio.")
        for modality, items in ((IMAGE, images), (VIDEO, videos), (AUDIO, audio)):
            token, passed = getattr(self, f"{modality}_token"), len(items or ())
            found = sum(sample.count(token) for sample in text)
            if found != passed:
                raise ValueError(
                    f"The total number of {token} tokens in the prompts should be the same as the number of "
                    f"{modality} inputs: found {found} tokens and {passed} inputs."
                )

    def _check_special_mm_tokens(self, text, text_inputs, modalities):
        """Truncation must cut neither a source nor the target."""
        targets = [
            name.removesuffix("_token") for name in SPECIAL_TOKENS if name.endswith(("target_token", "slot_token"))
        ]
        super()._check_special_mm_tokens(text, text_inputs, [*modalities, *targets])

    # ---- how many placeholder tokens each part takes

    def _process_videos(self, videos, processed_audio=None, video_to_audio_indices=None, **kwargs):
        # the video processor tells lists of picture files from lists of videos by their depth
        nested = [videos] if isinstance(videos[0], (list, tuple)) else videos
        processed = self.video_processor(nested, **kwargs["videos_kwargs"])
        context = {"processed_audio": processed_audio, "video_to_audio_indices": video_to_audio_indices}
        indices = range(len(processed["pixel_values_videos"]))
        return processed, [self.replace_video_token(processed, index, **context) for index in indices]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        size = _real_size(image_inputs, "pixel_values", "pixel_mask", image_idx)
        return self.image_token * self.image_processor.num_tokens(*size)

    def replace_video_token(
        self, video_inputs: dict, video_idx: int, processed_audio=None, video_to_audio_indices=None, **kwargs
    ) -> str:
        size = _real_size(video_inputs, "pixel_values_videos", "pixel_mask_videos", video_idx)
        tokens = self.video_token * self.video_processor.num_tokens(*size)
        audio_idx = video_to_audio_indices[video_idx] if video_to_audio_indices else None
        if audio_idx is None:
            return tokens
        return tokens + self.replace_audio_token(processed_audio, audio_idx)  # the soundtrack follows its video

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs) -> str:
        mask = audio_inputs.get("input_features_mask")
        frames = np.shape(audio_inputs["input_features"][audio_idx])[-1]
        if mask is not None:
            frames = int(np.asarray(mask[audio_idx]).sum())
        return self.audio_token * self.feature_extractor.num_tokens(frames)

    def _resolve_audio_from_video(self, videos, audio=None, audio_from_video_indices=None):
        """Decode soundtracks with PyAV, where the library would need torchcodec. Silent videos have none."""
        own_clips = iter(audio or [])
        if audio_from_video_indices is None:
            if audio:
                raise ValueError(
                    "`audio` beside `load_audio_from_video=True` needs `audio_from_video_indices`, which says where "
                    "each clip belongs."
                )
            audio_from_video_indices = list(range(len(videos)))
        if audio and len(audio) == len(audio_from_video_indices):
            return super()._resolve_audio_from_video(videos, audio, audio_from_video_indices)
        clips, video_to_audio = [], [None] * len(videos)
        for video_idx in audio_from_video_indices:
            if video_idx is None:
                clips.append(next(own_clips))
                continue
            if not is_media_source(videos[video_idx]):
                raise ValueError(f"Video {video_idx} is a list of frames and has no sound: pass a file.")
            if has_audio(videos[video_idx]):
                video_to_audio[video_idx] = len(clips)
                clips.append(self.feature_extractor.fetch_audio(videos[video_idx]))
        return clips or None, video_to_audio

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, load_audio_from_video=False):
        """Decode the sound files of a conversation with PyAV, which reads what the library's loader cannot."""
        rate = audio_loading_params["sampling_rate"]
        decoded = [
            [self._with_decoded_audio(message, rate) for message in conversation] for conversation in conversations
        ]
        return super()._multimodal_inputs_from_conversations(decoded, audio_loading_params, load_audio_from_video)

    def _with_decoded_audio(self, message: dict, sampling_rate: int) -> dict:
        if not isinstance(message.get("content"), list):
            return message
        content = []
        for part in message["content"]:
            source = next((part[key] for key in ("audio", "url", "path") if part.get(key) is not None), None)
            if part["type"] == "audio" and source is not None:
                waveform = self.feature_extractor.fetch_audio(source, sampling_rate=sampling_rate)
                part = {"type": "audio", "audio": np.asarray(waveform)}
            content.append(part)
        return {**message, "content": content}

    # ---- the way back

    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens: bool = True, generation_mode: str | None = None, **kwargs
    ) -> list:
        """
        What `generate` returned, as one object for each sample: the whole sequence as text, or a waveform, a picture,
        or frames. transformers' any-to-any pipeline calls this.

        Args:
            generated_outputs: Ids (batch, length), or the tensor of the modality.
            skip_special_tokens (`bool`, defaults to `True`): Leave special tokens out of the text.
            generation_mode (`str`, *optional*): `"text"`, `"audio"`, `"image"` or `"video"`. `None`: text.
            kwargs: For the tokenizer's `decode`.
        """
        mode = check_modality(generation_mode or TEXT, "generation_mode")
        if mode == TEXT:
            return super().post_process_multimodal_output(generated_outputs, skip_special_tokens, **kwargs)
        return {AUDIO: self.decode_audio, IMAGE: self.decode_image, VIDEO: self.decode_video}[mode](generated_outputs)


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _height_and_width(processor) -> tuple[int, int]:
    size = processor.size
    if size.height is None or size.width is None:
        raise ValueError(f"A target needs a fixed size; {type(processor).__name__} has {dict(size)}.")
    return size.height, size.width


def _real_size(inputs: dict, values: str, mask: str, index: int) -> list[int]:
    """Height and width of one picture, or frames, height and width of one video, without padding."""
    if mask in inputs:
        return (np.argwhere(np.asarray(inputs[mask][index])).max(axis=0) + 1).tolist()
    *frames, _, height, width = np.shape(inputs[values][index])
    return [*frames, height, width]


__all__ = ["OmniLatentProcessor"]
