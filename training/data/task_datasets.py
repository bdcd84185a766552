"""The datasets of three tasks: retrieval, question answering, captioning."""

from collections import Counter
from hashlib import blake2b

from PIL import Image

from .multimodal_dataset import MultiModalDataset, by_frequency
from .sample_readers import CaptionReader, QuestionReader


class ImageTextDataset(MultiModalDataset):
    """
    Pictures with captions, to find one by the other. Columns `image` and `caption` (or `captions`: a list for each
    picture; or else `text`, which the log tells). Otherwise as [`MultiModalDataset`].

    A sample's `sample_id` is that of its caption, so that equal captions of different pictures all count as right.
    Where a picture stands in several records, it is that of the picture.

    Example:

    ```python
    >>> from omnilatent.training.data import ImageTextDataset, make_sample_data

    >>> data = ImageTextDataset(make_sample_data("data/sample", num_train=20, num_val=10)["val"])
    >>> sorted(data[0]), len(data[0]["captions"])
    (['captions', 'image', 'sample_id'], 1)
    ```
    """

    reader_class = CaptionReader

    def finish(self) -> None:
        pictures = [id_of_picture(sample["image"]) for sample in self.samples]
        by_picture = any(count > 1 for count in Counter(pictures).values())
        for sample, picture in zip(self.samples, pictures):
            sample["sample_id"] = picture if by_picture else id_of(sample["captions"][0])


class CaptioningDataset(MultiModalDataset):
    """
    Pictures with captions, to write one for the other. Columns `image` and `caption` (or `captions`: a list for each
    picture, all of which are references in an evaluation; or else `text`, which the log tells). Otherwise as [`MultiModalDataset`].

    Example:

    ```python
    >>> from omnilatent.training.data import CaptioningDataset, make_sample_data

    >>> data = CaptioningDataset(make_sample_data("data/sample", num_train=20, num_val=10)["train"])
    >>> sorted(data[0])
    ['captions', 'image']
    ```
    """

    reader_class = CaptionReader

    def finish(self) -> None:
        pass


class VQADataset(MultiModalDataset):
    """
    Questions about pictures. Columns `image`, `question` and `answer` (or `answers`: those of several people).
    Otherwise as [`MultiModalDataset`], whose `known` and `unknown` speak of answers here: `known` numbers the classes.

    Example:

    ```python
    >>> from omnilatent.training.data import VQADataset, make_sample_data

    >>> paths = make_sample_data("data/sample", num_train=60, num_val=10)
    >>> train = VQADataset(paths["train"])
    >>> sorted(train[0]), len(train.known) > 10
    (['answers', 'image', 'question'], True)
    >>> val = VQADataset(paths["val"], known=train.known, unknown="keep")
    ```
    """

    reader_class = QuestionReader

    def finish(self) -> None:
        self.known = self.known or by_frequency(answer for sample in self.samples for answer in sample["answers"])


def id_of(words: str | bytes) -> int:
    """The same number for the same words in every process, below 2**63."""
    words = words.encode() if isinstance(words, str) else words
    return int.from_bytes(blake2b(words, digest_size=8).digest()) >> 1


def id_of_picture(picture: str | bytes | Image.Image) -> int:
    """The same number for the same path, file or pixels; those of one picture in several forms differ."""
    if not isinstance(picture, Image.Image):
        return id_of(picture)
    return id_of(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
