"""Settings of a training run: those of transformers and the few that it lacks."""

import os
from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from .pairs import Pair


@dataclass
class OmniLatentTrainingArguments(TrainingArguments):
    """
    `transformers.TrainingArguments` with the settings of [`OmniLatentTrainer`] and [`CurriculumTrainer`].

    Defaults that differ from transformers': `bf16` is on where the GPU can do it, AdamW has `weight_decay` 0.01, the
    learning rate warms up for 2 % of the steps and follows a cosine, `remove_unused_columns` is off, `ddp_find_unused_parameters` is on (a step uses
    the parameters of its own modalities only), the log has a line every 10 steps, and no step waits for the device to
    look for NaN.

    Raises:
        ValueError: for a negative share, a count below 1, a pair that does not exist, or `label_smoothing_factor`.

    Example:

    ```python
    >>> from omnilatent.training import OmniLatentTrainingArguments

    >>> args = OmniLatentTrainingArguments("runs/first", max_steps=1000, warmup_fraction=0.05)
    >>> args.ignore_data_skip
    True
    ```
    """

    task_seed: int | None = field(
        default=None, metadata={"help": "Seed of the order of pairs. Default: the value of `seed`."}
    )
    targets_per_step: int = field(
        default=1, metadata={"help": "Targets (1 to 4) that a step predicts from its source in one pass."}
    )
    train_pairs: list[str] | None = field(
        default=None, metadata={"help": "Pairs that OmniLatentTrainer draws, like image->text. Default: all 16."}
    )
    warmup_fraction: float = field(
        default=0.10, metadata={"help": "Share of the steps, 0 to 1, of phase 1: reconstruct video and audio."}
    )
    crossmodal_fraction: float = field(
        default=0.25,
        metadata={"help": "Share of the steps of phase 2: adds video and audio, single frame and audio, both ways."},
    )
    temporal_fraction: float = field(
        default=0.25, metadata={"help": "Share of the steps of phase 3: adds past half of the video to future half."}
    )
    grounding_fraction: float = field(
        default=0.15, metadata={"help": "Share of the steps of phase 4: adds video to text and audio to text."}
    )
    joint_fraction: float = field(
        default=0.25,
        metadata={
            "help": "Share of the steps of phase 5: all 16 pairs and past to future. The five shares are divided by "
            "their sum; 0 leaves a phase out."
        },
    )
    eval_pairs: list[str] | None = field(
        default=None,
        metadata={"help": "Pairs to evaluate, like video->audio. Default: all that the run trains."},
    )

    bf16: bool | None = field(
        default=None, metadata={"help": "Mixed precision in bfloat16. Default: on if the GPU can do it."}
    )
    max_steps: int = field(
        default=-1,
        metadata={
            "help": "Optimiser steps. Default: `num_train_epochs` passes over the data, if its length is known."
        },
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay."})
    learning_rate: float = field(default=3e-4, metadata={"help": "AdamW's learning rate after the warm-up."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(
        default=0.02, metadata={"help": "Steps, or below 1 the share of all steps, in which the learning rate rises."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps from one line of the log to the next."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Look at each loss for NaN, for which every step waits for the device."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Must stay on: each pair of modalities uses parameters of its own."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "The columns of a dataset are modalities, not arguments of the model."}
    )
    ignore_data_skip: bool = field(
        default=True, metadata={"help": "Must stay on: the data goes on at the saved position of its stream."}
    )

    def __post_init__(self):
        if self.bf16 is None:
            asked_for = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # by `accelerate launch`
            can_do = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
            self.bf16 = can_do and asked_for in ("no", "bf16")
        super().__post_init__()
        # several GPUs need a launcher: nn.DataParallel, transformers' way without one, cuts the sequence's layout apart
        self._n_gpu = min(self._n_gpu, 1)
        if self.targets_per_step < 1:
            raise ValueError(f"`targets_per_step` counts from 1, got {self.targets_per_step}.")
        shares = {
            name: getattr(self, f"{name}_fraction")
            for name in ("warmup", "crossmodal", "temporal", "grounding", "joint")
        }
        if min(shares.values()) < 0 or sum(shares.values()) == 0:
            raise ValueError(f"The shares of the phases must not be negative, nor all be 0: got {shares}.")
        for text in (*(self.train_pairs or ()), *(self.eval_pairs or ())):
            Pair.parse(text)
        if self.label_smoothing_factor != 0:
            raise ValueError(
                f"`label_smoothing_factor` {self.label_smoothing_factor} has no effect: the model makes the losses of "
                "its targets, most of which have no labels to smooth. Leave it at 0."
            )
        if not self.ignore_data_skip:
            raise ValueError("`ignore_data_skip=False` would skip data twice: the stream resumes at its own position.")
