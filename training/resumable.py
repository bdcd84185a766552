"""`ResumableTrainer`: transformers' Trainer on a stream of batches, whose checkpoints are exact, whole, or refused."""

import json
import logging
from pathlib import Path

from .checkpoints import InvalidCheckpointError
from .streams import STREAM_STATE, BatchStream
from .whole_checkpoints import WholeCheckpointTrainer

logger = logging.getLogger(__name__)


class ResumableTrainer(WholeCheckpointTrainer):
    """
    A Trainer that reads a `BatchStream` and saves its position with each checkpoint.

    A checkpoint is valid once its manifest is there: Trainer's own files come first, then the position of each rank's
    data, then the manifest with all their hashes, and only after that older checkpoints go.

    Args:
        stream: Of this rank. `None`: nothing is trained.
        kwargs: As in `transformers.Trainer`.
    """

    def __init__(self, stream: BatchStream | None, **kwargs):
        super().__init__(**kwargs)
        self.stream = stream
        self._start = self._position = None if stream is None else stream.state_dict()

    def run_settings(self) -> dict:
        """What the course of the run depends on beside the model and the data; written into checkpoints."""
        names = ("max_steps", "seed", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size")
        return {name: getattr(self.args, name) for name in names}

    def prepare_run(self, folder):
        self._position = self._start if folder is None else self._read_position(folder)

    def get_train_dataloader(self):
        """The stream at its position; Accelerate does not wrap it, as it knows its rank."""
        if self.stream is None:
            raise ValueError("Training needs a `train_dataset`.")
        self.stream.load_state_dict(self._position)
        return self.stream

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._position = inputs[STREAM_STATE]
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs, start_time=None):
        if self.stream is not None:  # Trainer's own epoch begins anew after resuming
            self.state.epoch = float(self._position["epoch"])
        super().log(logs, start_time)

    def check_fit(self, folder):
        super().check_fit(folder)
        for rank in range(self.args.world_size):
            path = _run_state_file(folder, rank)
            if not path.is_file():
                raise InvalidCheckpointError(f"{path} is missing: the run had fewer processes than this one.")
        if json.loads(_run_state_file(folder, 0).read_text())["only_model"]:
            raise InvalidCheckpointError(
                f"{folder} was saved with `save_only_model`: it has no state of the optimiser."
            )

    def save_run_state(self, folder):
        state = {"stream": self._position, "run": self.run_settings(), "only_model": self.args.save_only_model}
        _run_state_file(folder, self.args.process_index).write_text(json.dumps(state))

    def _read_position(self, folder):
        state = json.loads(_run_state_file(folder, self.args.process_index).read_text())
        for name, value in self.run_settings().items():
            if state["run"].get(name) != value and self.is_world_process_zero():
                logger.warning(
                    "The run goes on with another %s than it was saved with: %s, was %s. It will not be the same run.",
                    *(name, value, state["run"].get(name)),
                )
        return state["stream"]


def _run_state_file(folder, rank) -> Path:
    """Where the data of a rank stands, and the settings that the course of the run depends on."""
    return Path(folder, f"run_state_{rank}.json")
