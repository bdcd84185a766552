"""Learn from a folder of videos: the five phases of the curriculum, then figures on held-out videos.

    python hub_examples/train_from_folder.py --video-dir my_videos --held-out-dir other_videos --steps 5000

Without folders it generates small ones and trains a tiny model, to show that everything works.
"""

import argparse
from pathlib import Path

from omnilatent import OmniLatentConfig, OmniLatentModel, OmniLatentProcessor
from omnilatent.training import CurriculumTrainer, OmniLatentTrainingArguments
from omnilatent.training.data import VideoCollection, make_small_world


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video-dir", type=Path, help="folder of videos (default: generated ones)")
    parser.add_argument("--held-out-dir", type=Path, help="folder of videos to judge by (default: generated ones)")
    parser.add_argument("--preset", choices=("tiny", "base", "large"), default="tiny")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/train_from_folder"))
    args = parser.parse_args(argv)
    if args.video_dir is None:
        args.video_dir = args.out / "videos"
        make_small_world(args.video_dir, num_videos=8, pixels=32)
    if args.held_out_dir is None:
        args.held_out_dir = args.out / "held_out_videos"
        make_small_world(args.held_out_dir, num_videos=4, split="validation", pixels=32)

    config = getattr(OmniLatentConfig, args.preset)()
    trainer = CurriculumTrainer(
        OmniLatentModel(config),
        OmniLatentTrainingArguments(
            str(args.out),
            max_steps=args.steps,
            per_device_train_batch_size=4,
            eval_pairs=["video->audio", "audio->video"],
        ),
        train_dataset=VideoCollection.from_folder(args.video_dir, config),
        eval_dataset=VideoCollection.from_folder(args.held_out_dir, config),
        processing_class=OmniLatentProcessor.from_config(config),  # saved with each checkpoint
    )
    trainer.train(resume_from_checkpoint="auto")  # goes on where an interrupted run stood
    trainer.save_model()
    for name, value in trainer.evaluate().items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
