"""A Trainer for image classifiers."""

import logging

from accelerate.utils import gather_object
from torch.nn import functional as F
from transformers import TrainerCallback

from ..data.bad_samples import BadSampleLog, TooManyBadSamplesError
from ..whole_checkpoints import WholeCheckpointTrainer
from .classification_metrics import compute_classification_metrics

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
        TooManyBadSamplesError: in training, beyond `max_bad_fraction`.
    """

    def __init__(self, *args, max_bad_fraction: float = 0.5, **kwargs):
        kwargs.setdefault("compute_metrics", compute_classification_metrics)
        super().__init__(*args, **kwargs)
        self.max_bad_fraction = max_bad_fraction
        self.bad = BadSampleLog()
        self._known_bad = set()
        self._read = self._bad_read = 0  # in training
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(_EpochTeller(self.train_dataset))

    def note_bad(self, bad) -> None:
        """Count broken images that are not counted yet, and name them in the log."""
        for one in bad:
            if one not in self._known_bad:
                self._known_bad.add(one)
                self.bad.add(one)
                logger.warning("Left out %s", one)

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
        if self._read >= JUDGED_SAMPLES and self._bad_read > self.max_bad_fraction * self._read:
            raise TooManyBadSamplesError(
                f"{self._bad_read} of the first {self._bad_read + self._read} images could not be read, more than "
                f"max_bad_fraction={self.max_bad_fraction} allows:\n{self.bad}"
            )
        return loss

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
