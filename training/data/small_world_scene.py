"""
A scene of the small world: one coloured shape flies through a box and bounces off its walls, with a note at each hit.

Everything in it can be seen, heard and read. Colour is the pitch of the notes and of the drone between them, size
their octave, shape their timbre; two whistles rise and fall with height and with the way from left to right; by day
there is a hum, by night there are crickets. A fading trail shows the direction of flight in a single picture. The
caption names all of it, with the place at the middle of the scene, which is the moment of the single picture.

Units: the box is 1 wide and 1 high, y points down as in pictures; times in seconds from the start of the scene.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (225, 45, 45),
    "green": (50, 185, 70),
    "blue": (60, 85, 235),
    "yellow": (240, 220, 50),
    "cyan": (60, 215, 225),
    "pink": (240, 90, 200),
}
# shape -> partials of its sound: (multiple of the fundamental, amplitude)
SHAPES = {
    "circle": ((1, 1.0),),
    "square": ((1, 0.5), (3, 0.4), (5, 0.3), (7, 0.2)),
    "triangle": ((1, 0.6), (2, 0.5)),
    "cross": tuple((n, 0.6 / n) for n in range(1, 9)),
    "ring": ((1, 0.5), (2.76, 0.4), (5.4, 0.3)),
    "diamond": ((1, 0.5), (4, 0.5)),
}
# size -> (radius, octaves above the lowest)
SIZES = {"tiny": (0.10, 2), "small": (0.14, 1), "big": (0.19, 0)}
TIMES_OF_DAY = {"night": 40, "day": 165}  # grey of the background, 0 to 255
DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")

MAX_HITS = 4
_TRAIL = ((0.15, 0.2), (0.10, 0.35), (0.05, 0.5), (0.0, 1.0))  # (seconds ago, opacity)
_LOWEST = 220.0  # Hz
_HIGHEST = 7000.0  # Hz; partials above are left out


@dataclass(frozen=True)
class Scene:
    """One shape in flight; place and velocity are those at the middle of the scene."""

    colour: str
    shape: str
    size: str
    time_of_day: str
    place: tuple[float, float]  # (x, y)
    velocity: tuple[float, float]  # per second
    duration: float  # seconds

    @property
    def radius(self) -> float:
        return SIZES[self.size][0]

    def places(self, times: np.ndarray) -> np.ndarray:
        """(len(times), 2): where the centre is. Unfolded, the flight is straight; the walls fold it back."""
        room = 1 - 2 * self.radius
        way = np.array(self.place) - self.radius + np.outer(times - self.duration / 2, self.velocity)
        return self.radius + room - np.abs(way % (2 * room) - room)

    def hits(self) -> np.ndarray:
        """Times at which the shape touches a wall."""
        room, times = 1 - 2 * self.radius, []
        for place, velocity in zip(self.place, self.velocity):
            ends = place - self.radius + np.array([-0.5, 0.5]) * velocity * self.duration
            walls = np.arange(np.ceil(ends.min() / room), np.floor(ends.max() / room) + 1) * room
            times.append(self.duration / 2 + (walls - place + self.radius) / velocity)
        return np.sort(np.concatenate(times))

    def caption(self) -> str:
        """All of the scene in about fifty bytes, so that most of them say something."""
        turn = np.arctan2(self.velocity[1], self.velocity[0]) / (2 * np.pi)
        direction = DIRECTIONS[round(turn * len(DIRECTIONS)) % len(DIRECTIONS)]
        x, y = (int(10 * place) for place in self.place)
        hits = " ".join(f"{time:.1f}" for time in self.hits())
        return f"{self.size} {self.colour} {self.shape}, {self.time_of_day}, at {x},{y} {direction}, hits {hits}"

    def frames(self, fps: float, pixels: int) -> np.ndarray:
        """(T, pixels, pixels, 3) uint8."""
        times = np.arange(round(self.duration * fps)) / fps
        margin = 4
        canvas = np.full(
            (len(times), pixels + 2 * margin, pixels + 2 * margin, 3), float(TIMES_OF_DAY[self.time_of_day])
        )
        reach = int(np.ceil(self.radius * pixels)) + 2
        offsets = np.arange(-reach, reach + 1)
        for ago, opacity in _TRAIL:
            centres = self.places(times - ago) * pixels + margin - 0.5
            corners = np.rint(centres).astype(int)
            across = (offsets + (corners - centres)[:, :1])[:, None, :]  # (T, 1, window)
            down = (offsets + (corners - centres)[:, 1:])[:, :, None]  # (T, window, 1)
            radius = self.radius * pixels
            # half a pixel of softness at the edge, so that small movements show
            cover = opacity * np.clip(0.5 - outline(self.shape, across / radius, down / radius) * radius, 0, 1)
            for frame, (column, row), alpha in zip(canvas, corners, cover[..., None]):
                window = frame[row - reach : row + reach + 1, column - reach : column + reach + 1]
                window += alpha * (np.array(COLOURS[self.colour]) - window)
        return np.rint(canvas[:, margin:-margin, margin:-margin]).astype(np.uint8)

    def sound(self, sampling_rate: int) -> np.ndarray:
        """(samples,) float32 in [-1, 1]."""
        times = np.arange(round(self.duration * sampling_rate)) / sampling_rate
        fundamental = _LOWEST * 2 ** (SIZES[self.size][1] + list(COLOURS).index(self.colour) / len(COLOURS))
        since = times - self.hits()[:, None]  # (hits, samples)
        notes = np.where(since >= 0, np.exp(-since / 0.12) * np.minimum(1, since / 0.005), 0).sum(axis=0)
        wave = np.zeros_like(times)
        for multiple, amplitude in SHAPES[self.shape]:
            if multiple * fundamental < _HIGHEST:
                wave += amplitude * np.sin(2 * np.pi * multiple * fundamental * times)
        wave *= 0.06 + 0.35 * notes
        x, y = self.places(times).T
        # a quick vibrato makes the whistles a few mel bands wide
        vibrato = 120 * np.sin(2 * np.pi * 30 * times)
        for frequency in (2500 * 1.7 ** (1 - y) + vibrato, 4800 + 2200 * x + vibrato):
            wave += 0.03 * np.sin(2 * np.pi * np.cumsum(frequency) / sampling_rate)
        bed = 90.0 if self.time_of_day == "day" else 7400.0
        wave += 0.03 * np.sin(2 * np.pi * bed * times)
        return np.clip(wave, -1, 1).astype(np.float32)


def outline(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance from the edge of a shape of radius 1, roughly; negative inside."""
    if shape == "circle":
        return np.hypot(u, v) - 1
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.85
    if shape == "triangle":
        return np.maximum(v - 0.5, 0.866 * np.abs(u) - 0.5 * v - 0.5)
    if shape == "cross":
        bar = np.maximum(np.abs(u) - 1, np.abs(v) - 0.35)
        return np.minimum(bar, np.maximum(np.abs(u) - 0.35, np.abs(v) - 1))
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.75) - 0.25
    if shape == "diamond":
        return (np.abs(u) + np.abs(v) - 1) / np.sqrt(2)
    raise ValueError(f"Unknown shape {shape!r}: expected one of {', '.join(SHAPES)}.")


def held_out(colour: str, shape: str) -> bool:
    """Whether a combination is kept for validation: every colour and every shape has one."""
    return (list(COLOURS).index(colour) + list(SHAPES).index(shape)) % len(COLOURS) == 0


def draw_scene(rng: np.random.Generator, split: str, duration: float) -> Scene:
    """A random scene of a split ("train" or "validation") in which the shape hits a wall one to four times."""
    pairs = [(c, s) for c in COLOURS for s in SHAPES if held_out(c, s) == (split == "validation")]
    while True:
        colour, shape = pairs[rng.integers(len(pairs))]
        size = str(rng.choice(list(SIZES)))
        radius = SIZES[size][0]
        angle, way = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 2.0)  # way: widths of the box in one scene
        scene = Scene(
            colour=colour,
            shape=shape,
            size=size,
            time_of_day=str(rng.choice(list(TIMES_OF_DAY))),
            place=tuple(rng.uniform(radius, 1 - radius, size=2).tolist()),
            velocity=(float(way / duration * np.cos(angle)), float(way / duration * np.sin(angle))),
            duration=duration,
        )
        hits = scene.hits()
        # hits apart from each other and from the edges, so that each can be told
        gaps = np.diff(hits, prepend=-0.05 * duration, append=1.05 * duration)
        if 1 <= len(hits) <= MAX_HITS and gaps.min() >= 0.1 * duration:
            return scene
