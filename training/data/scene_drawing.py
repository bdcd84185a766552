"""Draws shapes and digits on small pictures."""

import math
from collections.abc import Sequence
from random import Random

from PIL import Image, ImageDraw, ImageFont

SUPERSAMPLING = 2  # drawn so many times larger, then reduced: edges come out smooth


class Canvas:
    """
    A square picture with a dark ground that is a little different each time.

    Args:
        size: Pixels per side.
        random: Chooses the ground.

    Example:

    ```python
    >>> from random import Random
    >>> from omnilatent.training.data.scene_drawing import Canvas

    >>> canvas = Canvas(64, Random(0))
    >>> canvas.shape("circle", (255, 0, 0), (0.5, 0.5), 0.2)
    >>> picture = canvas.picture()
    >>> picture.size, picture.getpixel((32, 32))
    ((64, 64), (255, 0, 0))
    ```
    """

    def __init__(self, size: int, random: Random):
        self.size = size
        self._side = size * SUPERSAMPLING
        ground = tuple(random.randint(10, 70) for _ in range(3))
        self._image = Image.new("RGB", (self._side, self._side), ground)
        self._draw = ImageDraw.Draw(self._image)

    def shape(self, name: str, colour: tuple[int, int, int], centre: Sequence[float], radius: float) -> None:
        """
        Args:
            name: "circle", "square", "triangle" or "cross".
            colour: Red, green and blue, 0 to 255.
            centre: Place across and down, radius: both in parts of the side.
        """
        x, y = (part * self._side for part in centre)
        r = radius * self._side
        if name == "circle":
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        elif name == "square":
            half = 0.86 * r
            self._draw.rectangle((x - half, y - half, x + half, y + half), fill=colour)
        elif name == "triangle":
            corners = [(x + 1.15 * r * math.sin(t), y - 1.15 * r * math.cos(t)) for t in (0, 2.0944, 4.18879)]
            self._draw.polygon(corners, fill=colour)
        elif name == "cross":
            bar = 0.3 * r
            self._draw.rectangle((x - r, y - bar, x + r, y + bar), fill=colour)
            self._draw.rectangle((x - bar, y - r, x + bar, y + r), fill=colour)
        else:
            raise ValueError(f"No shape {name!r}: expected circle, square, triangle or cross.")

    def digit(self, digit: int, colour: tuple[int, int, int], centre: Sequence[float], height: float) -> None:
        """A digit of Pillow's own font; `height` of the font in parts of the side."""
        font = ImageFont.load_default(height * self._side)
        place = tuple(part * self._side for part in centre)
        self._draw.text(
            place, str(digit), fill=colour, font=font, anchor="mm", stroke_width=self._side // 64, stroke_fill=colour
        )

    def picture(self) -> Image.Image:
        return self._image.reduce(SUPERSAMPLING)
