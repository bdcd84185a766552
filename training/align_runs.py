"""From the options of `omnilatent align` to a training run."""

import math
from argparse import Namespace

import torch
from transformers import VideoMAEConfig, WhisperConfig
from transformers.integrations import is_tensorboard_available

from ..configuration.modalities import AUDIO
from ..modeling_omni.omninet.audio_visual_aligner import AudioVisualAligner
from ..modeling_omni.towers.tower_tokens import reads_videos
from ..processing.processing_audio_visual_aligner import AudioVisualAlignerProcessor
from .align_arguments import AlignerTrainingArguments
from .align_trainer import AlignerTrainer
from .data import VideoCollection, VideoLoader
from .hub_upload import check_hub, upload
from .runs import open_videos
from .saved_models import check_saved, check_whole, refuse_sizes

NUM_MEL_BINS, SPECTROGRAM_RATE = 80, 100  # bands, frames per second
HEAD_DIM = 32
VIDEO_SIZE, LAYERS = 112, 4  # of new towers
FITTED_CLIPS = 128


def make_aligner(
    image_size: int = VIDEO_SIZE,
    patch_size: int = 16,
    fps: float = 8.0,
    seconds: int = 2,
    width: int = 192,
    layers: int = LAYERS,
    **omninet_settings,
) -> tuple[AudioVisualAligner, AudioVisualAlignerProcessor]:
    """
    An aligner with new, small towers, VideoMAE's and Whisper's encoders, that are trained with it.

    Args:
        image_size: Pixels per side of a frame.
        patch_size: Pixels per side of a token.
        fps: Frames per second.
        seconds: Of a clip.
        width: Of everything, a multiple of 32.
        layers: Of each tower.
        omninet_settings: As in [`OmniNetConfig`].

    Example:

    ```python
    >>> from omnilatent.training import make_aligner

    >>> model, processor = make_aligner(image_size=32, width=64, layers=2)
    >>> model.config.vision_config.num_frames
    16
    ```
    """
    if width % HEAD_DIM != 0:
        raise ValueError(f"`width` must be a multiple of {HEAD_DIM}, got {width}.")
    frames, heads = round(seconds * fps), width // HEAD_DIM
    vision = VideoMAEConfig(
        image_size=image_size,
        patch_size=patch_size,
        num_frames=frames,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    audio = WhisperConfig(
        num_mel_bins=NUM_MEL_BINS,
        max_source_positions=seconds * SPECTROGRAM_RATE // 2,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        architectures=["WhisperEncoder"],
    )
    settings = {"hidden_size": width, "num_attention_heads": heads, "projection_dim": width, **omninet_settings}
    model = AudioVisualAligner.from_towers(vision, audio, freeze=False, video_fps=fps, **settings)
    processor = AudioVisualAlignerProcessor.from_sizes(
        image_size=image_size, num_frames=frames, num_mel_bins=NUM_MEL_BINS, seconds=seconds, video_fps=fps
    )
    return model, processor


def align(options: Namespace) -> AlignerTrainer:
    """Train an aligner and judge it on held-out videos; the options are those of `omnilatent align`."""
    check_hub(options.push_to_hub)
    torch.manual_seed(options.seed)
    model, processor = open_aligner(options)
    train, held_out = open_collections(options, model, processor)
    if AUDIO not in train.modalities:
        raise ValueError("None of the videos has sound to align.")
    if options.audio_tower is None:
        fit_bands(processor, train, options.seed)
    args = AlignerTrainingArguments(
        output_dir=str(options.save_dir),
        max_steps=options.total_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.lr,
        seed=options.seed,
        bf16=False if options.no_amp else None,
        use_cpu=options.cpu,
        logging_steps=options.log_interval,
        save_steps=options.save_interval,
        dataloader_num_workers=options.workers,
        report_to=["tensorboard"] if is_tensorboard_available() else [],
    )
    trainer = AlignerTrainer(model, args, processor, train_dataset=train, eval_dataset=held_out)
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        print(describe(metrics))
        print(
            f"The model is in {options.save_dir}; use it by: from omnilatent import AudioVisualAligner; "
            f"model = AudioVisualAligner.from_pretrained({str(options.save_dir)!r})"
        )
        upload(options.push_to_hub, options.save_dir, model, processor)
    return trainer


def open_aligner(options: Namespace) -> tuple[AudioVisualAligner, AudioVisualAlignerProcessor]:
    """The towers that are named, or new ones.

    Raises:
        ValueError: where only one of the two is named.
        FileNotFoundError: for a name of nothing.
    """
    named = (options.vision_tower, options.audio_tower)
    if all(name is None for name in named):
        return make_aligner(
            image_size=options.video_size or VIDEO_SIZE,
            fps=options.fps,
            seconds=math.ceil(options.clip_duration),
            width=options.dim,
            layers=options.layers or LAYERS,
            gather_loss=True,
        )
    if None in named:
        raise ValueError("Name both --vision-tower and --audio-tower, or none of them for new ones.")
    refuse_sizes(options, "layers", model="vision_tower")
    for name in named:
        check_saved(name)
        check_whole(name)
    model = AudioVisualAligner.from_towers(
        *named, freeze=not options.train_towers, video_fps=options.fps, hidden_size=options.dim, gather_loss=True
    )
    tower = model.towers["vision"]
    if hasattr(tower.config, "image_size"):
        refuse_sizes(options, "video_size", model="vision_tower")
    frames = tower.config.num_frames if reads_videos(tower) and hasattr(tower.config, "num_frames") else None
    processor = AudioVisualAlignerProcessor.from_towers(*named, video_fps=options.fps, num_frames=frames)
    return model, processor


def open_collections(options, model, processor) -> tuple[VideoCollection, VideoCollection]:
    """Videos to learn from and to judge by."""
    size = getattr(model.config.vision_config, "image_size", options.video_size or VIDEO_SIZE)
    measures = Namespace(
        video_fps=options.fps, video_size=size, image_size=size, sampling_rate=16_000, max_text_length=2048
    )
    videos = open_videos(options, measures)
    if options.held_out_dir is None:
        return split_videos(videos, options.held_out, options.seed)
    return videos, open_videos(Namespace(**{**vars(options), "video_dir": options.held_out_dir}), measures)


def fit_bands(processor: AudioVisualAlignerProcessor, videos: VideoCollection, seed: int):
    """Standardise spectrograms by the first clips that have sound, the same on all ranks and after resuming."""
    for batch in VideoLoader(videos, FITTED_CLIPS, seed=seed, epochs=1, rank=0, world_size=1):
        if batch["has_audio"].any():
            return processor.fit_bands(batch["audio"][batch["has_audio"]])
    raise ValueError("None of the clips has sound to align.")


def split_videos(videos: VideoCollection, share: float, seed: int) -> tuple[VideoCollection, VideoCollection]:
    """Two collections of different videos, the second with about this share of them.

    Raises:
        ValueError: for a streamed collection, which cannot be cut, or a single video.
    """
    if videos.rows is None or len(videos.rows) < 2:
        raise ValueError("These videos cannot be split: name others to judge by with --held-out-dir.")
    order = torch.randperm(len(videos.rows), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(max(1, round(share * len(order))), len(order) - 1)
    held_out, kept = sorted(order[:count]), sorted(order[count:])
    return tuple(
        VideoCollection([videos.rows[row] for row in rows], videos.spec, seed=videos.seed) for rows in (kept, held_out)
    )


def describe(metrics: dict[str, float]) -> str:
    """The figures of an evaluation as lines of text."""
    lines = [f"Among {metrics['eval_clips']} held-out clips (chance of R@1 {metrics['eval_chance']:.2%}):"]
    for first, second in (("video", "audio"), ("audio", "video")):
        shares = [f"R@{rank} {metrics[f'eval_{first}_to_{second}_R@{rank}']:.1%}" for rank in (1, 5, 10)]
        lines.append(f"  {first} to {second}: {', '.join(shares)}")
    if "eval_localisation" in metrics:
        lines.append(
            f"Localisation in {metrics['eval_localisation_videos']} videos: {metrics['eval_localisation']:.1%} of the "
            f"sounds find their moment (chance {metrics['eval_localisation_chance']:.1%}), off by "
            f"{metrics['eval_localisation_error']:.2f} s in the mean."
        )
    return "\n".join(lines)
