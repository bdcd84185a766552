"""From the options of `omnilatent train` and `omnilatent curriculum` to a training run."""

import json
from argparse import Namespace
from pathlib import Path

import torch
from accelerate import PartialState
from transformers.integrations import is_tensorboard_available

from ..configuration.configuration_omnilatent import OmniLatentConfig
from ..modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel
from ..processing.processing_omnilatent import OmniLatentProcessor
from ..processing.tokenization_omnilatent import NUM_TEXT_IDS
from .arguments import OmniLatentTrainingArguments
from .curriculum import CurriculumTrainer
from .data import VideoCollection, synthetic_collection
from .hub_upload import check_hub, upload
from .trainer import OmniLatentTrainer

SYNTHETIC_VIDEOS = 256


def train(options: Namespace) -> OmniLatentTrainer:
    """Train on random pairs; the options are those of `omnilatent train`."""
    return _run(OmniLatentTrainer, options, train_pairs=options.pairs)


def train_curriculum(options: Namespace) -> CurriculumTrainer:
    """Train in five phases; the options are those of `omnilatent curriculum`."""
    names = ("warmup", "crossmodal", "temporal", "grounding", "joint")
    shares = {f"{name}_fraction": getattr(options, f"{name}_frac") for name in names}
    return _run(CurriculumTrainer, options, **shares)


def _run(trainer_class, options, **settings):
    check_hub(options.push_to_hub)
    config = make_config(options)
    args = OmniLatentTrainingArguments(
        output_dir=str(options.save_dir),
        max_steps=options.total_steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.lr,
        targets_per_step=options.targets_per_step,
        seed=options.seed,
        bf16=False if options.no_amp else None,
        use_cpu=options.cpu,
        activation_checkpointing=torch.cuda.is_available() and not options.cpu,
        logging_steps=options.log_interval,
        save_steps=options.save_interval,
        dataloader_num_workers=options.workers,
        report_to=["tensorboard"] if is_tensorboard_available() else [],
        **settings,
    )
    videos = open_videos(options, config)
    torch.manual_seed(options.seed)
    model = OmniLatentModel(config)
    # the processor goes into each checkpoint, which is then all that `convert` needs
    processor = OmniLatentProcessor.from_config(config)
    trainer = trainer_class(model, args, train_dataset=videos, processing_class=processor)
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model()
    if trainer.is_world_process_zero():
        print(
            f"The model is in {options.save_dir}; use it by: omnilatent convert SRC --to text --model {options.save_dir}"
        )
        upload(options.push_to_hub, options.save_dir, model, processor)
    return trainer


def make_config(options: Namespace) -> OmniLatentConfig:
    """
    The preset, overridden by the file and then by the options. Targets whose length is not given are as long as a clip.

    Raises:
        ValueError: for settings that do not exist or cannot work together.
    """
    settings = {"text_vocab_size": NUM_TEXT_IDS}
    if options.config is not None:
        settings |= _read_settings(options.config)
    given = {"hidden_size": options.dim, "num_hidden_layers": options.layers, "num_attention_heads": options.heads}
    settings |= {name: value for name, value in given.items() if value is not None}
    preset = getattr(OmniLatentConfig, options.preset)
    config = preset(**settings)
    frames = {
        "num_frames": round(options.clip_duration * config.video_fps),
        "audio_target_length": round(options.clip_duration * config.sampling_rate / config.hop_length),
    }
    return preset(**{**settings, **frames})


def _read_settings(path: Path) -> dict:
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds a {type(settings).__name__}, expected an object of settings.")
    aliases = OmniLatentConfig.attribute_map
    return {aliases.get(name, name): value for name, value in settings.items()}


def open_videos(options: Namespace, config: OmniLatentConfig) -> VideoCollection:
    """The folder, the dataset on the Hub, or generated videos in the folder of the run."""
    clips = {"clip_duration": options.clip_duration, "seed": options.seed}
    if options.video_dir is not None:
        return VideoCollection.from_folder(options.video_dir, config, clip_stride=options.clip_stride, **clips)
    if options.dataset is not None:
        return VideoCollection.from_hub(options.dataset, config, clip_stride=options.clip_stride, **clips)
    with PartialState().main_process_first():
        return synthetic_collection(
            options.save_dir / "small_world",
            SYNTHETIC_VIDEOS,
            config=config,
            num_workers=options.workers,
            **clips,
        )
