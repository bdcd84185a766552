"""A file of one modality into a file of another."""

from pathlib import Path

import torch

from ..configuration.configuration_omnilatent import OmniLatentConfig
from ..configuration.layout import lay_out
from ..configuration.modalities import AUDIO, IMAGE, TEXT, VIDEO, check_modality
from ..modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel
from ..processing.processing_omnilatent import OmniLatentProcessor
from .data.transcripts import decode_text
from .saved_models import check_kind

SOURCE_SUFFIXES = {
    TEXT: (".txt", ".md"),
    AUDIO: (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"),
    IMAGE: (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"),
    VIDEO: (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpeg", ".mpg"),
}
# the first is the default
TARGET_SUFFIXES = {
    TEXT: (".txt", ".md"),
    AUDIO: (".wav", ".flac"),
    IMAGE: (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    VIDEO: (".mp4", ".mkv", ".mov"),
}
# the processor's keywords
_KEYWORDS = {AUDIO: "audio", IMAGE: "images", VIDEO: "videos"}


def convert_file(
    source: str | Path,
    target: str,
    model: "str | Path | OmniLatentModel",
    out: str | Path | None = None,
    max_new_tokens: int = 256,
    sound: bool = False,
    processor: OmniLatentProcessor | None = None,
) -> Path:
    """
    Turn a file into a file of another modality, or of its own.

    Args:
        source: A file whose suffix is in `SOURCE_SUFFIXES`. Text that is not Unicode is read as Latin-1, and text that
            spells a special token is only text.
        target: "text", "audio", "image" or "video".
        model: A trained model with its processor, a folder or a repository on the Hub; or the model itself.
        out: Where to; its suffix is in `TARGET_SUFFIXES`. `None`: beside the source, as in `clip.audio.wav`.
        max_new_tokens: Most tokens of text.
        sound: Make the sound of a video as well.
        processor: That of a `model` which is not loaded here.

    Returns:
        The path of the new file.

    Raises:
        ValueError: for a suffix or target that is not known, a file that cannot be read, is empty or is too long, an
            `out` that is the source, a folder without a model.
        FileNotFoundError: where there is no such file.
    """
    source = Path(source)
    modality = _modality_of(source)
    check_modality(target, "target")
    out = source.with_suffix(f".{target}{TARGET_SUFFIXES[target][0]}") if out is None else Path(out)
    if out.suffix.lower() not in TARGET_SUFFIXES[target]:
        raise ValueError(
            f"Cannot write {target} as {out.suffix!r}: expected one of {', '.join(TARGET_SUFFIXES[target])}."
        )
    if sound and target != VIDEO:
        raise ValueError(f"Only a video has sound beside it, not {target}.")
    if not source.is_file():
        raise FileNotFoundError(f"There is no file {str(source)!r}.")
    if out.exists() and out.samefile(source):
        raise ValueError(f"Cannot write to {str(out)!r}: this is the source itself.")
    text = _read_text(source) if modality == TEXT else None
    if not isinstance(model, OmniLatentModel):
        check_kind(model, [OmniLatentConfig], "OmniLatentModel")
        processor = OmniLatentProcessor.from_pretrained(model)
        model = OmniLatentModel.from_pretrained(model).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    # `generate` writes the slots of other targets behind the sources
    opened = TEXT if target == TEXT else None
    if text is None:
        inputs = processor(**{_KEYWORDS[modality]: str(source)}, target=opened, return_tensors="pt").to(model.device)
    else:
        inputs = _text_inputs(text, opened, model, processor)
    out.parent.mkdir(parents=True, exist_ok=True)
    if target == TEXT:
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens)
        out.write_text(processor.decode_text(ids[0]) + "\n", encoding="utf-8")
        return out
    values = model.generate(**inputs, generation_mode=target)[0].cpu()
    if target == AUDIO:
        processor.save_audio(out, processor.decode_audio(values))
    elif target == IMAGE:
        processor.decode_image(values).save(out)
    else:
        heard = model.generate(**inputs, generation_mode=AUDIO)[0].cpu() if sound else None
        waveform = None if heard is None else processor.decode_audio(heard)
        # the model's (C, T, H, W) -> (T, C, H, W)
        processor.save_video(out, processor.decode_video(values.transpose(0, 1)), waveform=waveform)
    return out


def _read_text(source: Path) -> str:
    text = decode_text(source.read_bytes())
    if not text.strip():
        raise ValueError(f"There is no text in {str(source)!r}.")
    return text


def _text_inputs(text: str, opened: str | None, model: OmniLatentModel, processor: OmniLatentProcessor) -> dict:
    """What the processor makes of a text, but that it would take `<|image|>` for the place of a picture."""
    ids = processor.tokenizer(text, split_special_tokens=True, return_tensors="pt")["input_ids"].to(model.device)
    laid_out = lay_out(model.config, {TEXT: ids}, {} if opened is None else {opened: None})
    return {name: laid_out[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def _modality_of(source: Path) -> str:
    for modality, suffixes in SOURCE_SUFFIXES.items():
        if source.suffix.lower() in suffixes:
            return modality
    known = " ".join(suffix for suffixes in SOURCE_SUFFIXES.values() for suffix in suffixes)
    raise ValueError(f"Cannot tell what {str(source)!r} holds by its suffix: expected one of {known}.")
