"""A Trainer for image classifiers."""

import logging

import torch
from accelerate.utils import gather_object
from torch.nn import functional as F
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from ..data.bad_samples import BadSampleLog, TooManyBadSamplesError, warn_of_first
from ..whole_checkpoints import WholeCheckpointTrainer
from .classification_metrics import compute_classification_metrics
from .numbered_streams import NUMBER, NumberedCollator, number_streams

logger = logging.getLogger(__name__)

JUDGED_SAMPLES = 100


class ImageClassificationTrainer(WholeCheckpointTrainer):
    """
    Trains on batches of an [`ImageCollator`], whose labels may be mixed, and counts the broken images on the way. The
    loss is cross-entropy with the arguments' `label_smoothing_factor`.

    Args:
        max_bad_fraction: Largest tolerated share of broken images.
        kwargs: As in `transformers.Trainer`.

    Attributes:
        bad: The broken images that this process was told of, each once.

    Raises:
        TooManyBadSamplesError: in training, beyond `max_bad_fraction`, after 100 images or a pass over fewer.
    """

    def __init__(self, *args, max_bad_fraction: float = 0.5, **kwargs):
        kwargs.setdefault("compute_metrics", compute_classification_metrics)
        super().__init__(*args, **kwargs)
        self.data_collator = NumberedCollator(self.data_collator)
        self.eval_dataset = number_streams(self.eval_dataset)
        self._judged = set()  # numbers of a stream's samples
        self.max_bad_fraction = max_bad_fraction
        self.bad = BadSampleLog()
        self._known_bad = set()
        self._read = self._bad_read = 0  # in training
        self._enough = JUDGED_SAMPLES  # read to judge by, or a pass over fewer
        if has_length(self.train_dataset):
            self._enough = min(JUDGED_SAMPLES, len(self.train_dataset) // self.args.world_size)
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(_EpochTeller(self.train_dataset))

    def note_bad(self, bad) -> None:
        """Count broken images that are not counted yet, and name them in the log."""
        for one in bad:
            if one not in self._known_bad:
                self._known_bad.add(one)
                self.bad.add(one)
                warn_of_first(logger, self.bad.total, "Left out %s", one)

    def count_bad(self) -> int:
        """How many broken images there were on all ranks, which must all call this."""
        return len(set(gather_object(sorted(self._known_bad, key=str))))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        outputs = model(**{name: values for name, values in inputs.items() if name != "labels"})
        loss = F.cross_entropy(
            outputs.logits.float(), labels, label_smoothing=self.args.label_smoothing_factor if model.training else 0.0
        )
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._read += len(inputs["labels"])
        before = self.bad.total
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._bad_read += self.bad.total - before
        if self._read >= self._enough and self._bad_read > self.max_bad_fraction * self._read:
            raise TooManyBadSamplesError(
                f"{self._bad_read} of the first {self._bad_read + self._read} images could not be read, more than "
                f"max_bad_fraction={self.max_bad_fraction} allows:\n{self.bad}"
            )
        return loss

    def get_eval_dataloader(self, eval_dataset=None):
        return super().get_eval_dataloader(number_streams(eval_dataset))

    def get_test_dataloader(self, test_dataset):
        return super().get_test_dataloader(number_streams(test_dataset))

    def evaluation_loop(self, *args, **kwargs):
        """Trainer's; of a stream on several ranks it counts each image once. The loss of a batch that was filled with
        images of the first is the mean of all that it holds."""
        self._judged.clear()
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, *args, **kwargs):
        numbers = inputs.pop(NUMBER, None)
        if numbers is not None and self.accelerator.num_processes > 1:
            new = []
            for number in gather_object(numbers):
                new.append(number not in self._judged)
                self._judged.add(number)
            # the loop gathers losses, logits and labels by this
            self.gather_function = lambda values: self.accelerator.gather(values)[torch.tensor(new)]
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs, start_time=None):
        super().log({**logs, "bad_images": self.bad.total} if self.bad.total else logs, start_time)

    def _prepare_inputs(self, inputs):
        self.note_bad(inputs.pop("bad", ()))
        return super()._prepare_inputs(inputs)


class _EpochTeller(TrainerCallback):
    """Tells a dataset the epoch; accelerate 1.15 does not where it skips batches or shards them."""

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.set_epoch(int(state.epoch or 0))


__all__ = ["ImageClassificationTrainer"]
