"""The sound of a stretch of video as 16-bit mono samples on the video's clock."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from av import AudioFrame, AudioResampler

from .clips import EDGE


@dataclass
class _Run:
    """Frames that follow each other without a gap, in one format."""

    start: float  # seconds
    sound_format: tuple[str, str, int]  # sample format, channel layout, samples per second
    rate: int  # to resample to
    pieces: list[np.ndarray] = field(default_factory=list)

    @cached_property
    def samples(self) -> np.ndarray:
        """(samples,) int16, mono. Converted at once: a call of the resampler costs more than a frame's work."""
        name, layout, rate = self.sound_format
        frame = AudioFrame.from_ndarray(np.concatenate(self.pieces, axis=1), format=name, layout=layout)
        frame.sample_rate = rate
        resampler = AudioResampler(format="s16", layout="mono", rate=self.rate)
        converted = [*resampler.resample(frame), *resampler.resample(None)]
        return np.concatenate([part.to_ndarray()[0] for part in converted])


class SoundTrack:
    """
    Takes decoded audio frames in order. A clip has sound only if one run of frames without a gap covers it.

    Args:
        sampling_rate: Samples per second (Hz) to resample to.
    """

    def __init__(self, sampling_rate: int):
        self._rate = sampling_rate
        self._runs: list[_Run] = []
        self._run = None  # what the next frame may continue
        self.reached = float("-inf")  # seconds up to which sound is known

    def add(self, frame, time: float | None) -> None:
        """Take the next frame, heard from `time` seconds on; `None`: right after the last one."""
        time = self.reached if time is None else time
        if time == float("-inf"):
            return  # without a time there is no clip it could belong to
        sound_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._run is None or sound_format != self._run.sound_format or abs(time - self.reached) > EDGE:
            self._run = _Run(time, sound_format, self._rate)
            self._runs.append(self._run)
            self.reached = time
        self._run.pieces.append(frame.to_ndarray())
        # counted, not read: timestamps of some containers are rounded to milliseconds
        self.reached += frame.samples / frame.sample_rate

    def end_run(self) -> None:
        """What comes next does not follow what came before."""
        self._run = None

    def between(self, start: float, num_samples: int) -> np.ndarray | None:
        """
        (num_samples,) int16 from `start` seconds on, or `None` if not all of it was decoded. At most `EDGE` seconds
        at either side may be missing; they are silent.
        """
        edge = round(EDGE * self._rate)
        for run in self._runs:
            first = round((start - run.start) * self._rate)
            lead = max(0, -first)
            taken = run.samples[max(0, first) : max(0, first + num_samples)]
            if len(taken) and lead <= edge and num_samples - lead - len(taken) <= edge:
                return np.pad(taken, (lead, num_samples - lead - len(taken)))
        return None
