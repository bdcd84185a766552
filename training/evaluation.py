"""Does the model use its source? Each pair against a control whose sources were shuffled, and retrieval.

Shapes: B batch, L text tokens, V vocabulary, n clips.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from ..configuration.layout import as_keyword
from ..configuration.modalities import IGNORE_INDEX, TENSOR_NAMES, TEXT, check_modality
from .batches import MultimodalBatch, read_batch
from .pairs import FUTURE, PAST, VIEWS, Pair


@dataclass
class PairSamples:
    """
    What each clip gave for one pair: lists of n numbers.

    Args:
        total: Sum of the clip's losses with its own source: cross entropy (nats) of text, else squared errors.
        shuffled_total: The same with the source of another clip.
        count: Terms of those sums: tokens, or numbers of a spectrogram, image or video.
    """

    total: list[float] = field(default_factory=list)
    shuffled_total: list[float] = field(default_factory=list)
    count: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.total)

    def columns(self) -> torch.Tensor:
        """The three lists as (3, n) float64."""
        return torch.tensor([self.total, self.shuffled_total, self.count], dtype=torch.float64)

    def __add__(self, other: "PairSamples") -> "PairSamples":
        return PairSamples(
            self.total + other.total, self.shuffled_total + other.shuffled_total, self.count + other.count
        )


def evaluate_pairs(
    model,
    batches: Iterable[Mapping],
    pairs: Iterable[Pair | tuple[str, str] | str],
    bf16: bool | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict:
    """
    Compare each pair's loss with that of a control: the same targets, with sources rolled by one within the batch.

    All targets of a source are predicted in one pass. Clips that lack the source or the target do not count, nor does
    a clip that is alone with its source in a batch, as it has no control. Neighbours in a batch should not be clips
    of one scene: a control that is nearly the source makes the gain too small.

    Args:
        model: [`OmniLatentModel`], on its device. It is evaluated in `eval` mode and left as it was.
        batches: Finite; what `to_model_inputs` takes.
        pairs: Like `("video", "audio")` or "past->future".
        bf16: Autocast to bfloat16; `None`: on a GPU.
        resamples, seed: Of the bootstrap over clips.

    Returns:
        For each pair, as it was given, a dict: `loss` and `shuffled_loss`, cross entropy per token in nats for text
        (teacher-forced, with the end token), mean squared error for the others; `gain`, bits per token for text and
        dB, 10 log10(shuffled / own), for the others; `interval`, the 95 % bootstrap interval of the gain; `clips`,
        their number; `samples`, the [`PairSamples`].

    Raises:
        ValueError: for an unknown view, or a pair that no batch could serve.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import OmniLatentConfig, OmniLatentModel
    >>> from omnilatent.training import evaluate_pairs

    >>> model = OmniLatentModel(OmniLatentConfig.tiny())
    >>> batch = {"image": torch.rand(4, 3, 32, 32), "audio": torch.rand(4, 16, 24)}
    >>> result = evaluate_pairs(model, [batch], ["image->audio"])["image->audio"]
    >>> result["clips"]
    4
    ```
    """
    pairs = list(pairs)
    parsed = {given: Pair.parse(given) for given in pairs}
    scores = score_pairs(model, batches, list(dict.fromkeys(parsed.values())), bf16)
    results = summarise(scores)
    intervals = {pair: bootstrap_interval(pair, samples, resamples, seed) for pair, samples in scores.items()}
    return {given: {**results[pair], "interval": intervals[pair]} for given, pair in parsed.items()}


@torch.no_grad()
def score_pairs(
    model, batches: Iterable[Mapping], pairs: Sequence[Pair], bf16: bool | None = None
) -> dict[Pair, PairSamples]:
    """The samples behind [`evaluate_pairs`], which those of other processes can be added to."""
    samples = {pair: PairSamples() for pair in pairs}
    targets_of = {source: [pair.target for pair in pairs if pair.source == source] for source, _ in pairs}
    with evaluating(model, bf16) as device:
        for raw in batches:
            batch = read_batch(raw, model.config, device)
            for source, targets in targets_of.items():
                targets = [target for target in targets if batch.rows_with([source, target]).any()]
                rows = batch.take(batch.rows_with([source]))
                if len(rows) < 2 or not targets:
                    continue
                own, shuffled = (_score(model, rows, source, targets, shift) for shift in (0, 1))
                for target in targets:
                    kept = rows.rows_with([target])
                    samples[Pair(source, target)] += _samples(own[target], shuffled[target], kept)
    return samples


def summarise(scores: Mapping[Pair, PairSamples]) -> dict[Pair, dict]:
    """The figures of [`evaluate_pairs`] from its samples, without the interval."""
    empty = [str(pair) for pair, samples in scores.items() if not len(samples)]
    if empty:
        raise ValueError(f"No clip could be evaluated for {', '.join(empty)}: none had both sides and a second clip.")
    results = {}
    for pair, samples in scores.items():
        own, shuffled, gain = _figures(pair, samples.columns().sum(1))
        results[pair] = {
            "loss": own.item(),
            "shuffled_loss": shuffled.item(),
            "gain": gain.item(),
            "clips": len(samples),
            "samples": samples,
        }
    return results


@torch.no_grad()
def retrieval(
    model, batches: Iterable[Mapping], first: str, second: str, bf16: bool | None = None
) -> dict[str, float]:
    """
    How often the nearest of all clips' embeddings in the other modality is the clip's own.

    Args:
        model, batches, bf16: As in [`evaluate_pairs`].
        first, second: Modalities. Clips that lack one of them do not count.

    Returns:
        `<first>_to_<second>` and `<second>_to_<first>`: R@1, 0 to 1; `chance`, 1 / clips; `clips`, their number. Of
        equally near candidates each counts for its share.

    Raises:
        ValueError: for an unknown modality, or no clip with both.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import OmniLatentConfig, OmniLatentModel
    >>> from omnilatent.training import retrieval

    >>> model = OmniLatentModel(OmniLatentConfig.tiny())
    >>> batch = {"image": torch.rand(5, 3, 32, 32), "audio": torch.rand(5, 16, 24)}
    >>> retrieval(model, [batch], "image", "audio")["chance"]
    0.2
    ```
    """
    names = [check_modality(first), check_modality(second)]
    embeddings = {name: [] for name in names}
    with evaluating(model, bf16) as device:
        for raw in batches:
            batch = read_batch(raw, model.config, device)
            rows = batch.rows_with(names)
            if not rows.any():
                continue
            batch = batch.take(rows)
            for name in names:
                embeddings[name].append(model.embed(name, batch.values[name], batch.masks.get(name)).float())
    if not embeddings[first]:
        raise ValueError(f"No clip has both {first} and {second}.")
    similarity = torch.cat(embeddings[first]) @ torch.cat(embeddings[second]).T
    return {
        f"{first}_to_{second}": _recall_at_1(similarity),
        f"{second}_to_{first}": _recall_at_1(similarity.T),
        "chance": 1 / len(similarity),
        "clips": len(similarity),
    }


def _recall_at_1(similarity):
    """Share of rows whose largest entry is on the diagonal."""
    nearest = similarity == similarity.max(dim=1, keepdim=True).values
    return (nearest.diagonal() / nearest.sum(dim=1)).mean().item()


@contextmanager
def evaluating(model, bf16):
    """Evaluation mode and autocast; gives the model's device."""
    device = next(model.parameters()).device
    bf16 = device.type == "cuda" if bf16 is None else bf16
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            yield device
    finally:
        model.train(was_training)


def _score(model, rows: MultimodalBatch, source, targets, shift) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each target view the sums of the losses of each row and the number of their terms, (B,) each."""
    passes = [targets]
    if FUTURE in targets or PAST in targets:
        # a half and the whole are one modality, which has one place among the targets
        passes = [[t for t in targets if t not in (PAST, FUTURE)], *([t] for t in targets if t in (PAST, FUTURE))]
    scores = {}
    for together in filter(None, passes):
        laid_out = rows.lay_out(model.config, source, together, shift=shift)
        outputs = model(**laid_out)
        for target in together:
            if target == TEXT:
                scores[target] = _text_terms(outputs[TEXT], laid_out["labels"], laid_out["logits_to_keep"])
            else:
                names = TENSOR_NAMES[VIEWS[target]]
                scores[target] = _error_terms(VIEWS[target], outputs[VIEWS[target]], laid_out, names)
    return scores


def _text_terms(logits, labels, columns):
    """Cross entropy of each row's target tokens; the logits at a column predict the label after it."""
    next_labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)[:, columns]
    losses = F.cross_entropy(logits.float().transpose(1, 2), next_labels, ignore_index=IGNORE_INDEX, reduction="none")
    return losses.sum(1), (next_labels != IGNORE_INDEX).sum(1)


def _error_terms(name, prediction, laid_out, names):
    """Squared errors of each row, where the target is real."""
    error = (prediction.float() - as_keyword(name, laid_out[names.labels]).float()) ** 2
    mask = laid_out.get(names.labels_mask)
    if mask is None:
        real = torch.ones_like(error)
    else:
        real = mask.unsqueeze(1).expand_as(error)
    return (error * real).flatten(1).sum(1), real.flatten(1).sum(1)


def _samples(own, shuffled, kept):
    total, count = (values.double().cpu()[kept] for values in own)
    return PairSamples(total.tolist(), shuffled[0].double().cpu()[kept].tolist(), count.tolist())


def _figures(pair, sums):
    """Own loss, shuffled loss and gain from sums over clips, (3, ...) -> (...) each."""
    total, shuffled_total, count = sums
    own, shuffled = total / count, shuffled_total / count
    if pair.target == TEXT:
        return own, shuffled, (shuffled - own) / math.log(2)
    return own, shuffled, 10 * torch.log10(shuffled / own)


def bootstrap_interval(pair: Pair, samples: PairSamples, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """
    The interval that holds the gain of 95 % of the resampled sets of clips (Efron 1979, percentile method).

    Args:
        pair: Of the samples.
        samples: Of at least one clip.
        resamples: How many sets, each of as many clips as there are, drawn with replacement.
        seed: Of the drawing.
    """
    columns, clips = samples.columns(), len(samples)
    generator = torch.Generator().manual_seed(seed)
    sums = [columns[:, torch.randint(clips, (clips,), generator=generator)].sum(1) for _ in range(resamples)]
    gains = _figures(pair, torch.stack(sums, dim=1))[2]
    low, high = torch.quantile(gains, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
