"""Align a vision and an audio tower on videos with sound, then find videos by their sound.

    python hub_examples/align_towers.py --video-dir my_videos --steps 2000 \\
        --vision-tower MCG-NJU/videomae-base --audio-tower facebook/wav2vec2-base

Without towers it trains small new ones, without a folder on generated videos, to show that everything works.
"""

import argparse
from pathlib import Path

import torch

from omnilatent import AudioVisualAligner, AudioVisualAlignerProcessor
from omnilatent.training import AlignerTrainer, AlignerTrainingArguments, make_aligner
from omnilatent.training.data import VideoCollection, VideoLoader, make_small_world


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video-dir", type=Path, help="folder of videos (default: generated ones)")
    parser.add_argument("--vision-tower", help="model on the Hub, or folder (default: a small new one)")
    parser.add_argument("--audio-tower", help="model on the Hub, or folder (default: a small new one)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/align_towers"))
    args = parser.parse_args(argv)
    if args.video_dir is None:
        args.video_dir = args.out / "videos"
        make_small_world(args.video_dir, num_videos=8, pixels=32)

    torch.manual_seed(0)
    if (args.vision_tower is None) != (args.audio_tower is None):
        parser.error("name both towers or none")
    if args.vision_tower:
        towers = (args.vision_tower, args.audio_tower)
        model = AudioVisualAligner.from_towers(*towers, freeze=True)
        processor = AudioVisualAlignerProcessor.from_towers(*towers, num_frames=16)
    else:
        model, processor = make_aligner(image_size=32, width=64, layers=2)
    size = model.config.vision_config.image_size
    videos = VideoCollection.from_folder(args.video_dir, video_size=size, image_size=size)
    if not args.audio_tower:
        processor.fit_bands(next(iter(VideoLoader(videos, batch_size=64)))["audio"])
    trainer = AlignerTrainer(
        model,
        AlignerTrainingArguments(str(args.out), max_steps=args.steps, per_device_train_batch_size=8),
        processor,
        train_dataset=videos,
        eval_dataset=videos,
    )
    trainer.train(resume_from_checkpoint="auto")  # goes on where an interrupted run stood
    trainer.save_model()

    model = AudioVisualAligner.from_pretrained(args.out).eval()
    processor = AudioVisualAlignerProcessor.from_pretrained(args.out)
    paths = sorted(args.video_dir.rglob("*.mp4"))[:8]
    with torch.no_grad():
        seen = model.encode_video(processor(videos=paths)["pixel_values_videos"])
        inputs = processor(audio=paths)
        heard = model.encode_audio(next(inputs[name] for name in ("input_features", "input_values") if name in inputs))
    nearest = model.aligner.similarity(heard, seen).argmax(dim=1)
    for path, found in zip(paths, nearest.tolist()):
        print(f"the sound of {path.name} is nearest to {paths[found].name}")


if __name__ == "__main__":
    main()
