"""`WholeCheckpointTrainer`: transformers' Trainer whose checkpoints are whole, or refused."""

import logging
import os
import shutil
import sys
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .checkpoints import InvalidCheckpointError, check_manifest, check_model, newest_valid, write_manifest

logger = logging.getLogger(__name__)

# settings of the optimiser that are loaded with its state, over what the arguments say; `lr` follows the schedule
KEPT_SETTINGS = {"initial_lr": "learning rate", "weight_decay": "weight decay", "betas": "betas", "eps": "epsilon"}


class WholeCheckpointTrainer(Trainer):
    """
    A Trainer that writes a manifest after all other files of a checkpoint, and goes on only from one whose manifest
    holds. Older checkpoints go after that.
    """

    def train(self, resume_from_checkpoint: str | os.PathLike | bool | None = None, **kwargs):
        """
        As `Trainer.train`.

        Args:
            resume_from_checkpoint: The folder of a checkpoint; `True`: the one with the highest step that is valid;
                `"auto"`: the same, or a fresh start where there is none.

        Raises:
            InvalidCheckpointError: for a checkpoint that is broken or belongs to another model, or `True` without one.
        """
        folder = self.find_checkpoint(resume_from_checkpoint)
        self.prepare_run(folder)
        try:
            return super().train(resume_from_checkpoint=folder, **kwargs)
        except BaseException:
            if self.is_local_process_zero() and not self.args.disable_tqdm:
                print(file=sys.stderr)  # what is said of the error begins below the progress bar
            raise

    def prepare_run(self, folder: str | None) -> None:
        """Called before training with the checkpoint that it goes on from, if any."""

    def check_fit(self, folder: str | os.PathLike) -> None:
        """
        Raises:
            InvalidCheckpointError: where this trainer cannot go on from a whole checkpoint.
        """
        check_model(folder, self.model)

    def save_run_state(self, folder: Path) -> None:
        """Called on each rank after Trainer's own files, before the manifest."""

    def find_checkpoint(self, wanted) -> str | None:
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
            folder = str(wanted)
            check_manifest(folder)
        else:
            folder, broken = newest_valid(self.args.output_dir)
            for reason in broken:
                logger.warning("Skipped a broken checkpoint: %s", reason)
            if folder is None:
                if wanted is True:
                    raise InvalidCheckpointError(f"There is no valid checkpoint in {self.args.output_dir}.")
                return None
        self.check_fit(folder)
        logger.info("Resuming from %s", folder)
        return folder

    def _run_epoch(self, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # a finished run: Trainer would take one step more
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

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
        self.save_run_state(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(folder)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(run_dir, limit, best_model_checkpoint=best, use_mtime=True)

    def _load_optimizer_and_scheduler(self, checkpoint):
        wanted = self._optimizer_settings()
        super()._load_optimizer_and_scheduler(checkpoint)
        kept = self._optimizer_settings()
        for name in wanted:
            if kept[name] != wanted[name] and self.is_world_process_zero():
                logger.warning(
                    "The run goes on with the %s that it was saved with, %s, and not with %s: begin a new run for that.",
                    *(name, _some(kept[name]), _some(wanted[name])),
                )

    def _optimizer_settings(self):
        """What each group of parameters is trained with, by the name of the setting."""
        groups = () if self.optimizer is None else self.optimizer.param_groups
        return {name: [group[key] for group in groups if key in group] for key, name in KEPT_SETTINGS.items()}

    def _issue_warnings_after_load(self, load_result):
        # a tied tensor is saved once, under the other name
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))


def _some(values):
    """Each of the values once."""
    return ", ".join(dict.fromkeys(map(str, values)))
