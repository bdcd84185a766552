"""The figures of a trained model: what was measured on held-out clips, and in training."""

from dataclasses import dataclass, field
from itertools import combinations

from ..configuration.modalities import MODALITIES, TEXT
from ..modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel
from .evaluation import evaluate_pairs, retrieval
from .pairs import Pair


@dataclass
class Figures:
    """
    Args:
        pairs: Of each pair, as "video->audio", `loss`, `shuffled_loss`, `gain`, `interval` and `clips`; see
            `evaluate_pairs`.
        retrieval: R@1 of each direction, as "video_to_audio".
        chance: R@1 of guessing.
        clips: Held-out clips.
        parameters: Numbers in the model.
        gradients: What `GradientWatch` saw in training, where it did.
        log: Lines of the training log, where there is one.
    """

    pairs: dict[str, dict]
    retrieval: dict[str, float]
    chance: float
    clips: int
    parameters: int
    gradients: dict = field(default_factory=dict)
    log: list[dict] = field(default_factory=list)

    def beaten(self) -> list[str]:
        """Pairs whose interval lies above 0: the model certainly uses the source."""
        return [name for name, result in self.pairs.items() if result["interval"][0] > 0]

    def not_beaten(self) -> list[str]:
        return [name for name in self.pairs if name not in self.beaten()]


def measure(model: OmniLatentModel, batches: list[dict], pairs: list[Pair]) -> Figures:
    """Each pair against its shuffled control, and retrieval between all modalities of the pairs."""
    results = {}
    for pair, result in evaluate_pairs(model, batches, pairs).items():
        results[str(pair)] = {name: value for name, value in result.items() if name != "samples"}
    names = [name for name in MODALITIES if any(name in pair for pair in pairs)]
    recalls, chance = {}, 0.0
    for first, second in combinations(names, 2):
        result = retrieval(model, batches, first, second)
        chance = max(chance, result.pop("chance"))
        result.pop("clips")
        recalls |= result
    clips = max(result["clips"] for result in results.values())
    return Figures(results, recalls, chance, clips, model.num_parameters())


def describe_figures(figures: Figures) -> str:
    """The figures as lines of text."""
    lines = [f"Held-out clips: {figures.clips}. Gain over the same model with shuffled sources, 95 % interval:"]
    for name, result in figures.pairs.items():
        low, high = result["interval"]
        verdict = "" if low > 0 else "   does not beat its control"
        lines.append(f"  {name:<14} {result['gain']:7.3f} {gain_unit(name)}  [{low:7.3f}, {high:7.3f}]{verdict}")
    lines.append(f"Retrieval R@1 (chance {figures.chance:.3f}):")
    lines += [f"  {name.replace('_to_', '->'):<14} {recall:.3f}" for name, recall in figures.retrieval.items()]
    if figures.gradients:
        lines.append(describe_gradients(figures.gradients))
    lines.append(describe_verdict(figures))
    return "\n".join(lines)


def gain_unit(pair: str) -> str:
    return "bit/token" if pair.endswith(f"->{TEXT}") else "dB"


def describe_gradients(gradients: dict) -> str:
    """What `GradientWatch` saw, in a sentence."""
    tensors, steps = gradients["tensors"], gradients["steps"]
    silent, broken = gradients["silent"], gradients["not_finite"]
    if not silent and not broken:
        return f"Gradients: every one of {tensors} parameter tensors received a finite, non-zero one in {steps} steps."
    parts = [f"{tensors - len({*silent, *broken})} of {tensors} parameter tensors received finite, non-zero ones"]
    parts += [f"none or zero: {', '.join(silent)}"] if silent else []
    parts += [f"not finite: {', '.join(broken)}"] if broken else []
    return f"Gradients in {steps} steps: {'; '.join(parts)}."


def describe_verdict(figures: Figures) -> str:
    """Which pairs beat their control, and which did not."""
    failed = figures.not_beaten()
    if not failed:
        return f"All {len(figures.pairs)} pairs beat their control."
    return f"{len(figures.beaten())} of {len(figures.pairs)} pairs beat their control; these did not: {', '.join(failed)}."
