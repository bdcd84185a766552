"""Which pair is trained at which step: a pure function of the seed and the step, the same on every rank."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from .pairs import ALL_PAIRS, Pair


class Phase(NamedTuple):
    """A part of the run that draws from one set of pairs."""

    name: str
    share: float  # of the steps, relative to the shares of the other phases
    pairs: tuple[Pair, ...]
    adds: tuple[Pair, ...]  # those that it is for; without any of them it has no purpose
    number: int = 1  # in the curriculum, which may lack some


class Draw(NamedTuple):
    """What a step trains: one source and, in the same pass, one or more targets."""

    source: str
    targets: tuple[str, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(Pair(self.source, target) for target in self.targets)


UNIFORM = (Phase("all pairs", 1.0, ALL_PAIRS, ALL_PAIRS),)


class PairSchedule:
    """
    Draws pairs phase by phase. Within a phase every block of as many steps as there are pairs holds each pair once, in
    an order of its own, so coverage is uniform and not only so on average.

    Args:
        phases: In the order of the run.
        total_steps: Steps of the run. The last phase goes on where there are more.
        seed: Of the order.
        targets_per_step: How many targets share a source and a pass. The first is drawn as described, the others at
            random from the phase's pairs with the same source, as far as there are any.
        available: Views that the data has, see `pairs.VIEWS`. Pairs that need another are left out; a phase none of whose additions is
            left gives its steps to the other phases in proportion to their shares.

    Attributes:
        phases: Those that have steps.
        missing: Pairs that were left out.
        missing_phases: Names of the phases that were left out for it.

    Raises:
        ValueError: when nothing can be trained, or for shares and counts that make no sense.

    Example:

    ```python
    >>> from omnilatent.training import PairSchedule, UNIFORM

    >>> schedule = PairSchedule(UNIFORM, total_steps=16, seed=0)
    >>> len({schedule.draw(step) for step in range(16)})
    16
    ```
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        total_steps: int,
        seed: int,
        targets_per_step: int = 1,
        available: Collection[str] | None = None,
    ):
        if total_steps < 1 or targets_per_step < 1:
            raise ValueError(f"Steps and targets are counted from 1, got {total_steps} and {targets_per_step}.")
        if any(phase.share < 0 for phase in phases):
            raise ValueError(f"Shares of phases cannot be negative: {[(p.name, p.share) for p in phases]}.")
        self.total_steps, self.seed, self.targets_per_step = total_steps, seed, targets_per_step
        wanted = [phase for phase in phases if phase.share > 0]

        def kept(pairs):
            return tuple(pair for pair in pairs if available is None or set(pair) <= set(available))

        self.missing = tuple(dict.fromkeys(p for phase in wanted for p in phase.pairs if p not in kept(phase.pairs)))
        self.missing_phases = tuple(phase.name for phase in wanted if not kept(phase.adds))
        self.phases = tuple(
            phase._replace(pairs=kept(phase.pairs), adds=kept(phase.adds)) for phase in wanted if kept(phase.adds)
        )
        if not self.phases:
            raise ValueError(
                f"Nothing to train: of {[str(p) for phase in phases for p in phase.pairs]} none can be made from "
                f"{sorted(available or ())} with the shares {[phase.share for phase in phases]}."
            )
        shares = np.array([phase.share for phase in self.phases])
        ends = np.rint(np.cumsum(shares) / shares.sum() * total_steps).astype(int)
        self.starts = (0, *ends[:-1].tolist())

    def phase_at(self, step: int) -> Phase:
        """The phase of a step counted from 0."""
        return self.phases[self._index_at(step)]

    def _index_at(self, step):
        # of phases too short for a single step the later one counts
        return max(index for index, start in enumerate(self.starts) if start <= step)

    def draw(self, step: int) -> Draw:
        """What to train at a step counted from 0."""
        index = self._index_at(step)
        pairs = self.phases[index].pairs
        block, place = divmod(step - self.starts[index], len(pairs))
        order = np.random.default_rng((self.seed, index, block)).permutation(len(pairs))
        source, first = pairs[order[place]]
        others = [pair.target for pair in pairs if pair.source == source and pair.target != first]
        more = np.random.default_rng((self.seed, index, block, place)).permutation(len(others))
        return Draw(source, (first, *(others[i] for i in more[: self.targets_per_step - 1])))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs that the run can draw."""
        return tuple(dict.fromkeys(pair for phase in self.phases for pair in phase.pairs))
