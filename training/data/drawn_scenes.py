"""What sample pictures show: two things side by side, several alike, or a digit, with the words for each.

A scene knows its caption, the words of it that tell what is seen, questions with their answers, and its drawing.
One combination in five is held out: it is never drawn for training, whatever the seed.
"""

import itertools
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .scene_drawing import Canvas

COLOURS = {
    "red": (226, 48, 42),
    "green": (44, 176, 66),
    "blue": (52, 100, 235),
    "yellow": (240, 212, 40),
    "purple": (170, 64, 205),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
NUMBERS = ("one", "two", "three", "four")
PAIR_CELLS = {"left of": ((0, 1), (2, 1)), "above": ((1, 0), (1, 2))}  # (across, down), in the middle of a side
PLACES = {"left of": ("left", "right"), "above": ("top", "bottom")}
HELD_OUT_EVERY = 5
GRID = 3  # cells along each side; a cell holds one thing, whole
CELLS = tuple(itertools.product(range(GRID), repeat=2))


@dataclass(frozen=True)
class Thing:
    """A coloured shape."""

    colour: str
    shape: str

    @property
    def index(self) -> int:
        """Its place among all things."""
        return list(COLOURS).index(self.colour) * len(SHAPES) + SHAPES.index(self.shape)

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


THINGS = tuple(Thing(colour, shape) for colour in COLOURS for shape in SHAPES)


@dataclass(frozen=True)
class PairScene:
    """Two things of different colour and shape, the first left of or above the second.

    Example:

    ```python
    >>> from omnilatent.training.data.drawn_scenes import PairScene, Thing

    >>> scene = PairScene(Thing("red", "circle"), Thing("blue", "square"), "left of")
    >>> scene.caption
    'a red circle left of a blue square'
    >>> scene.questions()[0]
    ('what colour is the circle?', 'red')
    ```
    """

    first: Thing
    second: Thing
    relation: str

    kind: ClassVar[str] = "pair"

    @property
    def caption(self) -> str:
        return f"a {self.first} {self.relation} a {self.second}"

    @property
    def held_out(self) -> bool:
        """Whether these two things are never shown together in training, whichever is first."""
        return (self.first.index + self.second.index) % HELD_OUT_EVERY == 0

    def questions(self) -> list[tuple[str, str]]:
        questions = []
        for thing, place in zip((self.first, self.second), PLACES[self.relation]):
            questions += [
                (f"what colour is the {thing.shape}?", thing.colour),
                (f"what shape is {thing.colour}?", thing.shape),
                (f"where is the {thing.shape}?", place),
                (f"what colour is at the {place}?", thing.colour),
                (f"what shape is at the {place}?", thing.shape),
            ]
        return questions

    @property
    def blanks(self) -> list[str]:
        return [self.first.colour, self.first.shape, self.second.colour, self.second.shape]

    def draw(self, canvas: Canvas, random: Random) -> None:
        for thing, cell in zip((self.first, self.second), PAIR_CELLS[self.relation]):
            draw_thing(thing, cell, canvas, random)


@dataclass(frozen=True)
class CountScene:
    """One to four things, all alike."""

    number: int
    thing: Thing

    kind: ClassVar[str] = "count"

    @property
    def caption(self) -> str:
        return f"{NUMBERS[self.number - 1]} {self.thing.colour} {self._shapes}"

    @property
    def held_out(self) -> bool:
        return (self.number + self.thing.index) % HELD_OUT_EVERY == 0

    @property
    def _shapes(self):
        return (
            self.thing.shape
            if self.number == 1
            else f"{self.thing.shape}{'es' if self.thing.shape == 'cross' else 's'}"
        )

    def questions(self) -> list[tuple[str, str]]:
        return [
            ("how many things are there?", NUMBERS[self.number - 1]),
            ("what colour is it?" if self.number == 1 else "what colour are they?", self.thing.colour),
            ("what shape is it?" if self.number == 1 else "what shape are they?", self.thing.shape),
        ]

    @property
    def blanks(self) -> list[str]:
        return [NUMBERS[self.number - 1], self.thing.colour, self._shapes]

    def draw(self, canvas: Canvas, random: Random) -> None:
        for cell in random.sample(CELLS, self.number):
            draw_thing(self.thing, cell, canvas, random)


@dataclass(frozen=True)
class DigitScene:
    """A digit in a colour."""

    digit: int
    colour: str

    kind: ClassVar[str] = "digit"

    @property
    def caption(self) -> str:
        return f"the digit {self.digit} in {self.colour}"

    @property
    def held_out(self) -> bool:
        return (self.digit + list(COLOURS).index(self.colour)) % HELD_OUT_EVERY == 0

    def questions(self) -> list[tuple[str, str]]:
        return [("which digit is it?", str(self.digit)), ("what colour is the digit?", self.colour)]

    @property
    def blanks(self) -> list[str]:
        return [str(self.digit), self.colour]

    def draw(self, canvas: Canvas, random: Random) -> None:
        centre = place_in(random.choice(CELLS), random)
        canvas.digit(self.digit, COLOURS[self.colour], centre, random.uniform(0.33, 0.37))


Scene = PairScene | CountScene | DigitScene


def place_in(cell: tuple[int, int], random: Random) -> tuple[float, float]:
    """A place near the middle of a cell, across and down in parts of the side."""
    return tuple((number + 0.5) / GRID + random.uniform(-0.025, 0.025) for number in cell)


def draw_thing(thing: Thing, cell: tuple[int, int], canvas: Canvas, random: Random) -> None:
    canvas.shape(thing.shape, COLOURS[thing.colour], place_in(cell, random), random.uniform(0.11, 0.13))


def all_scenes() -> list[Scene]:
    """Every scene there is, 876: as many captions, no two the same."""
    pairs = [
        PairScene(first, second, relation)
        for first, second in itertools.permutations(THINGS, 2)
        if first.colour != second.colour and first.shape != second.shape
        for relation in PAIR_CELLS
    ]
    counts = [CountScene(number, thing) for number in range(1, len(NUMBERS) + 1) for thing in THINGS]
    digits = [DigitScene(digit, colour) for digit in range(10) for colour in COLOURS]
    return [*pairs, *counts, *digits]
