"""What requests to the server give, checked: pictures as base64 or as uploaded bytes, texts and numbers in bounds."""

import base64
import binascii
import io
from typing import Annotated

from PIL import Image, ImageOps
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MOST_PIXELS = 25_000_000  # of a picture
MOST_PIXELS_TOGETHER = 50_000_000  # of all pictures of a request: decoded they take 150 MB
MOST_ITEMS = 64  # of a list
MOST_CHARACTERS = 10_000


def read_picture(given: str | bytes, info: ValidationInfo) -> Image.Image:
    """The picture in an uploaded file or in base64, which may begin as a data URL does; upright, as `datasets` gives
    pictures to training.

    Args:
        info: Its context counts under "pixels" those of the request so far.

    Raises:
        ValueError: for other types, broken base64, files that are no picture, and pictures that are too large.
    """
    if isinstance(given, str):
        if given.startswith("data:"):
            given = given.partition(",")[2]
        try:
            given = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"expected a picture in base64, but it does not decode: {error}") from error
    if not isinstance(given, bytes):
        raise ValueError(f"expected a picture in base64 or as an uploaded file, got {type(given).__name__}")
    try:
        picture = Image.open(io.BytesIO(given), formats=PICTURE_FORMATS)
    except Exception as error:  # a broken file may raise anything
        raise ValueError(
            f"expected a picture as {', '.join(PICTURE_FORMATS)}, got {len(given)} bytes that are none of them"
        ) from error
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"expected at most {MOST_PIXELS} pixels, got {picture.width} x {picture.height}")
    info.context["pixels"] += picture.width * picture.height
    if info.context["pixels"] > MOST_PIXELS_TOGETHER:
        raise ValueError(
            f"expected at most {MOST_PIXELS_TOGETHER} pixels in all pictures of a request, got "
            f"{info.context['pixels']} up to this one"
        )
    try:
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:
        raise ValueError(f"the {picture.format} file is broken: {error}") from error


Picture = Annotated[
    Image.Image, BeforeValidator(read_picture), WithJsonSchema({"type": "string", "contentEncoding": "base64"})
]
Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class RequestFields(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    @classmethod
    def read(cls, given: dict):
        """The fields of a request, checked."""
        return cls.model_validate(given, context={"pixels": 0})


class ClassifyFields(RequestFields):
    image: Picture
    top_k: int = Field(5, ge=1, le=1000)


class ClassifyWithTextFields(ClassifyFields):
    text: Text


class QuestionFields(RequestFields):
    image: Picture
    question: Text
    top_k: int = Field(5, ge=1, le=1000)


class WrittenAnswerFields(RequestFields):
    image: Picture
    question: Text
    max_new_tokens: int = Field(32, ge=1, le=512)


class CaptionFields(RequestFields):
    image: Picture
    prompt: str = Field("", max_length=MOST_CHARACTERS)
    max_new_tokens: int = Field(64, ge=1, le=512)


class EmbedFields(RequestFields):
    texts: list[Text] = Field([], max_length=MOST_ITEMS)
    images: list[Picture] = Field([], max_length=MOST_ITEMS)

    @model_validator(mode="after")
    def something_is_given(self):
        if not self.texts and not self.images:
            raise ValueError("expected `texts` or `images`, got neither")
        return self


class SimilarityFields(RequestFields):
    texts: list[Text] = Field(min_length=1, max_length=MOST_ITEMS)
    images: list[Picture] = Field(min_length=1, max_length=MOST_ITEMS)
