"""Small data and small trainers for the tests of training."""

import pytest
import torch

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.training import OmniLatentTrainer, OmniLatentTrainingArguments

torch.set_num_threads(1)


def make_item(index: int, modalities=("text", "audio", "image", "video")) -> dict[str, torch.Tensor]:
    """An item of `OmniLatentConfig.tiny()`'s sizes whose modalities all tell its index."""
    generator = torch.Generator().manual_seed(index)
    item = {
        "text": torch.randint(3, 259, (5 + index % 3,), generator=generator),
        "audio": torch.rand(16, 24, generator=generator) * 2 - 1,
        "image": torch.rand(3, 32, 32, generator=generator) * 2 - 1,
        "video": torch.rand(3, 4, 16, 16, generator=generator) * 2 - 1,
    }
    return {name: item[name] for name in modalities}


@pytest.fixture
def items():
    """A maker of lists of items: `items(count, modalities)`."""
    return lambda count, *args: [make_item(index, *args) for index in range(count)]


@pytest.fixture
def make_trainer(tmp_path):
    """A maker of trainers on the CPU that are equal whenever their arguments are."""

    def make(train_dataset, cls=OmniLatentTrainer, config=None, folder="run", eval_dataset=None, **settings):
        settings = {
            "max_steps": 7,
            "per_device_train_batch_size": 3,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        }
        torch.manual_seed(11)
        model = OmniLatentModel(OmniLatentConfig.tiny(**(config or {})))
        args = OmniLatentTrainingArguments(str(tmp_path / folder), **settings)
        return cls(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset)

    return make
