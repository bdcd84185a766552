"""The picture of a sample, whatever a table holds of it: a path, bytes, a decoded image."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...processing.pixels import open_images
from .bad_samples import BadSampleError
from .json_records import shorten

PictureSource = str | bytes | Image.Image
REMOTE = "://"  # in addresses that `datasets` opens, as zip://0.png::pictures.zip or hf://datasets/...


def find_picture(value, folder: Path | None) -> PictureSource:
    """
    Where the picture of a record is; it is not opened yet.

    Args:
        value: A path or an address, bytes, `{"path", "bytes"}` as `datasets` has it, a `PIL.Image`, or an array
            (H, W, 3) uint8.
        folder: What relative paths are relative to.

    Raises:
        BadSampleError: for no picture, or a file that is not there.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray)) and value:
        return bytes(value)
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        return Image.fromarray(value)
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise BadSampleError(f"expected a picture, got {shorten(repr(value))}")
    if isinstance(value, str) and REMOTE in value:
        return value
    path = Path(value) if folder is None else folder / value
    if not path.is_file():
        raise BadSampleError(f"the picture {value} is missing: no file {path}")
    return str(path)


def open_picture(source: PictureSource) -> Image.Image:
    """
    The picture upright, in RGB.

    Raises:
        BadSampleError: for what cannot be decoded to its end.
    """
    if isinstance(source, str) and REMOTE in source:
        source = _open_remote(source)
    try:
        if isinstance(source, Image.Image):
            return ImageOps.exif_transpose(source).convert("RGB")
        return open_images(source)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise BadSampleError(str(error)) from None


def _open_remote(address):
    import datasets

    try:
        return datasets.Image().decode_example({"path": address, "bytes": None})
    except Exception as error:  # file systems and decoders have errors of many types
        raise BadSampleError(f"the picture {address} cannot be read: {error}") from None
