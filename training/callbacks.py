"""What the training loop shows: the progress bar with the phase."""

from transformers.trainer_callback import ProgressCallback

from .schedule import PairSchedule


class PhaseProgress(ProgressCallback):
    """Transformers' progress bar with the phase before it."""

    def __init__(self, schedule: PairSchedule):
        super().__init__()
        self.schedule = schedule

    def on_step_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            phase = self.schedule.phase_at(state.global_step)
            self.training_bar.set_description_str(f"phase {phase.number} {phase.name}", refresh=False)
