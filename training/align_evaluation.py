"""Does a sound find its video, and its moment in it?

Shapes: n clips, P width of the embeddings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .align_batches import to_aligner_inputs
from .evaluation import evaluating


@dataclass
class ClipEmbeddings:
    """
    Args:
        video, audio: (n, P) of the clips that have both, on the CPU.
        path: Of each clip, the video that it comes from.
        start: Of each clip, seconds in that video.
    """

    video: torch.Tensor
    audio: torch.Tensor
    path: list[str]
    start: list[float]

    @classmethod
    def join(cls, parts: Sequence["ClipEmbeddings"]) -> "ClipEmbeddings":
        return cls(
            torch.cat([part.video for part in parts]),
            torch.cat([part.audio for part in parts]),
            [path for part in parts for path in part.path],
            [start for part in parts for start in part.start],
        )


@torch.no_grad()
def embed_clips(model, processor, batches: Iterable[Mapping], bf16: bool | None = None) -> ClipEmbeddings:
    """
    Embeddings of the clips that have sound.

    Args:
        model: [`AudioVisualAligner`], on its device; evaluated in `eval` mode and left as it was.
        processor: [`AudioVisualAlignerProcessor`].
        batches: Finite; raw clips of a `VideoLoader`.
        bf16: Autocast to bfloat16; `None`: on a GPU.

    Raises:
        ValueError: where no clip has sound.
    """
    parts = []
    with evaluating(model, bf16) as device:
        for batch in batches:
            heard = batch["has_audio"].bool().cpu()
            if not heard.any():
                continue
            inputs = to_aligner_inputs(batch, processor, device)
            output = model(**inputs, return_loss=False)
            rows = heard.nonzero().squeeze(1).tolist()
            parts.append(
                ClipEmbeddings(
                    output.vision_embeds.float().cpu()[rows],
                    output.audio_embeds.float().cpu()[rows],
                    [batch["path"][row] for row in rows],
                    [float(batch["start"][row]) for row in rows],
                )
            )
    if not parts:
        raise ValueError("No clip has sound.")
    return ClipEmbeddings.join(parts)


def recall_at(similarity: torch.Tensor, ranks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """
    How often the entry on the diagonal is among the k largest of its row.

    Args:
        similarity: (n, n).
        ranks: Each k.

    Returns:
        For each k a share, 0 to 1. Of equally near candidates each counts for its share.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent.training import recall_at

    >>> recall_at(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), ranks=(1, 2))
    {1: 0.5, 2: 1.0}
    ```
    """
    own = similarity.diagonal().unsqueeze(1)
    nearer, equal = (similarity > own).sum(1), (similarity == own).sum(1)
    return {rank: ((rank - nearer) / equal).clamp(0, 1).mean().item() for rank in ranks}


def retrieval_figures(embeddings: ClipEmbeddings, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """`video_to_audio_R@k` and `audio_to_video_R@k`, 0 to 1; `chance`, that of R@1; `clips`, their number."""
    similarity = embeddings.video @ embeddings.audio.T
    figures = {}
    for name, matrix in (("video_to_audio", similarity), ("audio_to_video", similarity.T)):
        figures |= {f"{name}_R@{rank}": share for rank, share in recall_at(matrix, ranks).items()}
    return {**figures, "chance": 1 / len(similarity), "clips": len(similarity)}


def localisation_figures(embeddings: ClipEmbeddings) -> dict[str, float]:
    """
    Temporal localisation: which moment of its video a sound belongs to.

    The sound of each clip is compared with all clips of the same video. Cut clips closer than they are long
    (`clip_stride` < `clip_duration`) for moments that overlap. Sounds and moments are embedded each by itself, so that
    a place in the sequence cannot give the answer away.

    Returns:
        `localisation`, the share of sounds whose own moment is the nearest, mean over the videos; `chance`, the mean
        of 1 / moments; `error`, the mean distance in seconds of the nearest moment; `videos`, those of several
        moments. Empty without such a video.
    """
    places: dict[str, list[int]] = {}
    for number, path in enumerate(embeddings.path):
        places.setdefault(path, []).append(number)
    shares, chances, errors = [], [], []
    for rows in places.values():
        if len(rows) < 2:
            continue
        similarity = embeddings.audio[rows] @ embeddings.video[rows].T
        starts = torch.tensor([embeddings.start[row] for row in rows])
        shares.append(recall_at(similarity, (1,))[1])
        chances.append(1 / len(rows))
        errors.append((starts[similarity.argmax(1)] - starts).abs().mean().item())
    if not shares:
        return {}
    means = [sum(values) / len(values) for values in (shares, chances, errors)]
    return {"localisation": means[0], "chance": means[1], "error": means[2], "videos": len(shares)}
