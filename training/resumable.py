"""`ResumableTrainer`: transformers' Trainer on a stream of batches, whose checkpoints are exact, whole, or refused."""

import json
import logging
import os
import shutil
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .checkpoints import InvalidCheckpointError, check_manifest, check_model, newest_valid, write_manifest
from .streams import STREAM_STATE, BatchStream

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
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

    def train(self, resume_from_checkpoint: str | os.PathLike | bool | None = None, **kwargs):
        """
        As `Trainer.train`.

        Args:
            resume_from_checkpoint: The folder of a checkpoint; `True`: the one with the highest step that is valid;
                `"auto"`: the same, or a fresh start where there is none.

        Raises:
            InvalidCheckpointError: for a checkpoint that is broken or belongs to another model, or `True` without one.
        """
        folder = self._find_checkpoint(resume_from_checkpoint)
        self._position = self._start if folder is None else self._read_position(folder)
        return super().train(resume_from_checkpoint=folder, **kwargs)

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

    def _find_checkpoint(self, wanted) -> str | None:
        """The same folder on all ranks, checked by the first."""
        folder, error = None, None
        if self.is_world_process_zero():
            try:
                folder = self._choose_checkpoint(wanted)
            except InvalidCheckpointError as reason:
                error = str(reason)
        folder, error = broadcast_object_list([folder, error])
        if error is not None:
            raise InvalidCheckpointError(error)
        return folder

    def _choose_checkpoint(self, wanted):
        if wanted is None or wanted is False:
            return None
        if wanted is not True and wanted != "auto":
            check_manifest(wanted)
            self._check_fit(wanted)
            return str(wanted)
        folder, broken = newest_valid(self.args.output_dir)
        for reason in broken:
            logger.warning("Skipped a broken checkpoint: %s", reason)
        if folder is None:
            if wanted is True:
                raise InvalidCheckpointError(f"There is no valid checkpoint in {self.args.output_dir}.")
            return None
        self._check_fit(folder)
        logger.info("Resuming from %s", folder)
        return folder

    def _check_fit(self, folder):
        check_model(folder, self.model)
        for rank in range(self.args.world_size):
            path = _run_state_file(folder, rank)
            if not path.is_file():
                raise InvalidCheckpointError(f"{path} is missing: the run had fewer processes than this one.")
        if json.loads(_run_state_file(folder, 0).read_text())["only_model"]:
            raise InvalidCheckpointError(
                f"{folder} was saved with `save_only_model`: it has no state of the optimiser."
            )

    def _read_position(self, folder):
        state = json.loads(_run_state_file(folder, self.args.process_index).read_text())
        for name, value in self.run_settings().items():
            if state["run"].get(name) != value and self.is_world_process_zero():
                logger.warning(
                    "The run goes on with another %s than it was saved with: %s, was %s. It will not be the same run.",
                    *(name, value, state["run"].get(name)),
                )
        return state["stream"]

    def _save_checkpoint(self, model, trial):
        run_dir = self._get_output_dir(trial)
        folder = Path(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)  # left by a run that was stopped here, or is being repeated
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # super would rotate too early
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        state = {"stream": self._position, "run": self.run_settings(), "only_model": self.args.save_only_model}
        _run_state_file(folder, self.args.process_index).write_text(json.dumps(state))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(folder)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(run_dir, limit, best_model_checkpoint=best, use_mtime=True)

    def _issue_warnings_after_load(self, load_result):
        # a tied tensor is saved once, under the other name
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))


def _run_state_file(folder, rank) -> Path:
    """Where the data of a rank stands, and the settings that the course of the run depends on."""
    return Path(folder, f"run_state_{rank}.json")
