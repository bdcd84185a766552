"""The five phases in which a model learns from watching video, and the trainer that runs through them."""

from ..configuration.modalities import AUDIO, IMAGE, TEXT, VIDEO
from .arguments import OmniLatentTrainingArguments
from .pairs import ALL_PAIRS, PAST_TO_FUTURE, Pair
from .schedule import Phase
from .specification import translate
from .trainer import OmniLatentTrainer

WARMUP = (Pair(VIDEO, VIDEO), Pair(AUDIO, AUDIO))
CROSS_MODAL = (Pair(VIDEO, AUDIO), Pair(AUDIO, VIDEO), Pair(IMAGE, AUDIO), Pair(AUDIO, IMAGE))
TEMPORAL = (PAST_TO_FUTURE,)
GROUNDING = (Pair(VIDEO, TEXT), Pair(AUDIO, TEXT))
JOINT = (*ALL_PAIRS, PAST_TO_FUTURE)


def curriculum_phases(args: OmniLatentTrainingArguments) -> tuple[Phase, ...]:
    """Each phase draws from its own pairs and those of the phases before it; the last one from all."""
    steps = (
        ("warmup", args.warmup_fraction, WARMUP),
        ("cross-modal", args.crossmodal_fraction, CROSS_MODAL),
        ("temporal", args.temporal_fraction, TEMPORAL),
        ("grounding", args.grounding_fraction, GROUNDING),
        ("joint", args.joint_fraction, JOINT),
    )
    phases, pairs = [], ()
    for number, (name, share, adds) in enumerate(steps, start=1):
        pairs = tuple(dict.fromkeys((*pairs, *adds)))
        phases.append(Phase(name, share, pairs, adds, number))
    return tuple(phases)


class CurriculumTrainer(OmniLatentTrainer):
    """
    [`OmniLatentTrainer`] whose pairs follow the five phases of `curriculum_phases`. It takes the specification's words
    as well: `CurriculumTrainer(model=…, config=…, dataloader=…, total_steps=…, save_dir=…)`.

    Example:

    ```python
    >>> from omnilatent import OmniLatentConfig, OmniLatentModel
    >>> from omnilatent.training import CurriculumTrainer, OmniLatentTrainingArguments
    >>> from omnilatent.training.data import VideoCollection

    >>> config = OmniLatentConfig.tiny()
    >>> args = OmniLatentTrainingArguments("runs/first", max_steps=5, per_device_train_batch_size=2)
    >>> videos = VideoCollection.from_folder("videos", config)
    >>> trainer = CurriculumTrainer(OmniLatentModel(config), args, train_dataset=videos)
    >>> [phase.name for phase in trainer.schedule.phases]
    ['warmup', 'cross-modal', 'temporal', 'grounding', 'joint']
    >>> trainer.train().global_step
    {'train_runtime': ...
    5
    ```
    """

    def __init__(
        self,
        model,
        args=None,
        train_dataset=None,
        eval_dataset=None,
        *,
        config=None,
        dataloader=None,
        total_steps=None,
        save_dir=None,
        **kwargs,
    ):
        words = translate(model, args, train_dataset, config, dataloader, total_steps, save_dir)
        super().__init__(eval_dataset=eval_dataset, **words, **kwargs)

    def phases(self) -> tuple[Phase, ...]:
        if self.args.train_pairs is not None:
            raise ValueError(
                "`train_pairs` is for OmniLatentTrainer: the phases of a curriculum have their own pairs."
            )
        return curriculum_phases(self.args)
