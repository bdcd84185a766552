"""The specification's words for a trainer, translated into those of transformers."""

from .arguments import OmniLatentTrainingArguments
from .trainer import OmniLatentTrainer


def translate(model, args, train_dataset, config=None, dataloader=None, total_steps=None, save_dir=None) -> dict:
    """
    Keyword arguments of [`OmniLatentTrainer`].

    Args:
        model, args, train_dataset: As there.
        config: The model's own; given a second time it has to agree.
        dataloader: The training data.
        total_steps, save_dir: `max_steps` and `output_dir`, instead of `args`.

    Raises:
        ValueError: when two of them say different things.
    """
    if config is not None and config is not model.config and config.to_dict() != model.config.to_dict():
        raise ValueError("`config` differs from `model.config`, which is the one that counts.")
    if dataloader is not None and train_dataset is not None:
        raise ValueError("Give `dataloader` or `train_dataset`, not both.")
    words = {"max_steps": total_steps, "output_dir": save_dir}
    words = {name: value for name, value in words.items() if value is not None}
    if words and args is not None:
        raise ValueError(f"With `args`, {' and '.join(words)} are set there and not by `total_steps` and `save_dir`.")
    if args is None:
        args = OmniLatentTrainingArguments(**words)
    return {"model": model, "args": args, "train_dataset": train_dataset if dataloader is None else dataloader}


class Trainer(OmniLatentTrainer):
    """
    [`OmniLatentTrainer`] as the specification calls it, `Trainer(model, config, dataloader)`. What it has in the config
    (learning rate, steps, mixed precision) belongs into `args`.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import OmniLatentConfig, OmniLatentModel
    >>> from omnilatent.training import OmniLatentTrainingArguments, Trainer
    >>> from omnilatent.training.data import build_dataloader

    >>> config = OmniLatentConfig.tiny()
    >>> items = [{"text": torch.randint(3, 259, (7,)), "image": torch.rand(3, 32, 32)} for _ in range(8)]
    >>> args = OmniLatentTrainingArguments("runs/own_data", max_steps=4)
    >>> trainer = Trainer(OmniLatentModel(config), config, build_dataloader(items, batch_size=2), args)
    >>> trainer.train().global_step
    {'train_runtime': ...
    4
    ```
    """

    def __init__(self, model, config=None, dataloader=None, args=None, total_steps=None, save_dir=None, **kwargs):
        words = translate(model, args, kwargs.pop("train_dataset", None), config, dataloader, total_steps, save_dir)
        super().__init__(**words, **kwargs)
