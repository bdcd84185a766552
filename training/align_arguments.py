"""Settings of a run that aligns towers: those of transformers with other defaults."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available


@dataclass
class AlignerTrainingArguments(TrainingArguments):
    """
    `transformers.TrainingArguments` for [`AlignerTrainer`].

    Defaults that differ from transformers': `bf16` is on where the GPU can do it, AdamW has `weight_decay` 0.05 and
    learning rate 1e-3, which warms up for 5 % of the steps and follows a cosine, no column is left out, and the data
    goes on at the saved position of its stream.

    Raises:
        ValueError: for `ignore_data_skip=False`.

    Example:

    ```python
    >>> from omnilatent.training import AlignerTrainingArguments

    >>> AlignerTrainingArguments("runs/aligned", max_steps=1000).lr_scheduler_type
    <SchedulerType.COSINE: 'cosine'>
    ```
    """

    bf16: bool | None = field(
        default=None, metadata={"help": "Mixed precision in bfloat16. Default: on if the GPU can do it."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's learning rate after the warm-up."})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Steps, or below 1 the share of all steps, in which the learning rate rises."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps from one line of the log to the next."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Some towers have read-outs that the aligner does not use."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches are clips, not the model's inputs."})
    ignore_data_skip: bool = field(
        default=True, metadata={"help": "Must stay on: the data goes on at the saved position of its stream."}
    )

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        super().__post_init__()
        self._n_gpu = min(self._n_gpu, 1)  # several GPUs need a launcher: nn.DataParallel would cut the negatives
        if not self.ignore_data_skip:
            raise ValueError("`ignore_data_skip=False` would skip data twice: the stream resumes at its own position.")
