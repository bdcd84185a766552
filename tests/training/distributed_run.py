"""A short run for `accelerate launch`: python distributed_run.py FOLDER; every rank saves its weights there."""

import sys
from pathlib import Path

import torch

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.training import CurriculumTrainer, OmniLatentTrainingArguments


class HalfSilent(torch.utils.data.Dataset):
    """Every other item lacks sound and text, so that with single rows ranks are often without a usable one."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        item = {
            "image": torch.rand(3, 32, 32, generator=generator),
            "video": torch.rand(3, 4, 16, 16, generator=generator),
        }
        if index % 2 == 0:
            return item
        audio, text = torch.rand(16, 24, generator=generator), torch.randint(3, 259, (6,), generator=generator)
        return {**item, "audio": audio, "text": text}


def run(folder, contrast=True, **settings):
    """Train, evaluate and save what this rank has."""
    torch.manual_seed(0)
    args = OmniLatentTrainingArguments(
        str(folder),
        **{
            "max_steps": 12,
            "per_device_train_batch_size": 1,
            "save_steps": 6,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "eval_pairs": ["video->audio", "image->text"],
            **settings,
        },
    )
    model = OmniLatentModel(OmniLatentConfig.tiny(**({} if contrast else {"contrastive_loss_weight": 0})))
    trainer = CurriculumTrainer(model, args, train_dataset=HalfSilent(), eval_dataset=HalfSilent())
    trainer.train(resume_from_checkpoint="auto")
    metrics = trainer.evaluate()
    torch.save({"weights": model.state_dict(), "metrics": metrics}, Path(folder, f"rank{args.process_index}.pt"))


if __name__ == "__main__":
    run(sys.argv[1])
