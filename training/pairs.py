"""What one step of training may ask of the model: from which part of a clip to which other."""

from itertools import product
from typing import NamedTuple

from ..configuration.modalities import AUDIO, IMAGE, MODALITIES, TEXT, VIDEO

# Views of a clip beside its modalities: the first and the second half of its frames.
PAST, FUTURE = "past", "future"
VIEWS = {**{name: name for name in MODALITIES}, PAST: VIDEO, FUTURE: VIDEO}  # view -> modality


class Pair(NamedTuple):
    """
    A source view and a target view: one of the four modalities, or "past" and "future", the halves of a video.

    Example:

    ```python
    >>> from omnilatent.training import Pair

    >>> Pair.parse("video->audio").name
    'video_to_audio'
    ```
    """

    source: str
    target: str

    @property
    def name(self) -> str:
        """The pair's name in logs."""
        return f"{self.source}_to_{self.target}"

    @classmethod
    def parse(cls, text: "str | tuple[str, str]") -> "Pair":
        """From "video->audio", or from the two names.

        Raises:
            ValueError: for anything else, or an unknown name.
        """
        names = tuple(text.split("->")) if isinstance(text, str) else tuple(text)
        names = tuple(name.strip() for name in names)
        if len(names) != 2 or any(name not in VIEWS for name in names):
            raise ValueError(f"A pair is written like 'video->audio', of {', '.join(VIEWS)}; got {text!r}.")
        return cls(*names)

    def __str__(self) -> str:
        return f"{self.source}->{self.target}"


PAST_TO_FUTURE = Pair(PAST, FUTURE)
ALL_PAIRS = tuple(Pair(*names) for names in product((TEXT, AUDIO, IMAGE, VIDEO), repeat=2))
