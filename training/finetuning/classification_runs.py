"""From the options of `omnilatent classify` to a training run."""

import logging
from argparse import Namespace
from collections.abc import Sequence

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    TrainingArguments,
    ViTImageProcessor,
)
from transformers.integrations import is_tensorboard_available
from transformers.utils import is_torch_bf16_gpu_available

from ...configuration.configuration_relpos_vit import DEIT_SIZES, RelPosViTConfig, as_pair
from ...modeling_omni.relpos_vit.modeling_relpos_vit import RelPosViTForImageClassification, RelPosViTPreTrainedModel
from ..hub_upload import check_hub, upload
from ..run_folder import LOG_FILE
from ..saved_models import check_image_classifier, check_whole, refuse_sizes
from .classification_trainer import ImageClassificationTrainer
from .image_augmentation import EvaluationTransform, ImageCollator, TrainingTransform
from .image_tables import open_image_tables
from .labelled_images import LabelledImages, LabelledImageStream

logger = logging.getLogger(__name__)


def classify(options: Namespace) -> ImageClassificationTrainer:
    """Train an image classifier; the options are those of `omnilatent classify`.

    Raises:
        ValueError: for options, data or a model that do not go together.
    """
    if options.model is not None:
        refuse_sizes(options, "preset", "dim", "layers", "heads", "patch_size", "position_embedding", "drop_path")
        check_image_classifier(options.model)
        check_whole(options.model)
    check_hub(options.push_to_hub)
    train_table, val_table = open_image_tables(
        options.data,
        options.data_config,
        options.data_dir,
        options.data_files,
        options.streaming,
        options.train_split,
        options.val_split,
        options.image_column,
        options.label_column,
        options.labels,
        options.held_out,
        options.seed,
    )
    if train_table.is_stream and options.total_steps is None:
        raise ValueError("A stream has no known length: say how long to train by --total-steps.")
    torch.manual_seed(options.seed)
    model, processor = open_classifier(options, train_table.classes)
    transform = TrainingTransform(processor, options.min_crop, not options.no_flip, options.randaugment)
    if train_table.is_stream:
        train = LabelledImageStream(train_table, transform, options.seed, options.shuffle_buffer)
    else:
        train = LabelledImages(train_table, transform, options.seed)
    val, bad = None, []
    if val_table is not None and val_table.is_stream:
        val = LabelledImageStream(val_table, EvaluationTransform(processor))
    elif val_table is not None:
        val, log = LabelledImages(val_table, EvaluationTransform(processor)).without_broken()
        log.check(len(val), options.max_bad_fraction)
        bad = log.examples
    else:
        logger.warning(
            "There are no images to judge by: the last checkpoint becomes the model. Name a split: --val-split."
        )
    trainer = ImageClassificationTrainer(
        model=model,
        args=make_arguments(options, train_table, val),
        train_dataset=train,
        eval_dataset=val,
        data_collator=ImageCollator(len(train_table.classes), options.mixup, options.cutmix),
        processing_class=processor,
        max_bad_fraction=options.max_bad_fraction,
    )
    trainer.note_bad(bad)
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model()
    metrics = {} if val is None else trainer.evaluate()
    left_out = trainer.count_bad()
    if trainer.is_world_process_zero():
        trainer.save_metrics("eval", metrics)
        print(describe(metrics, left_out))
        print(
            f"The model is in {options.save_dir}; use it by: import omnilatent, transformers; "
            f"classify = transformers.pipeline('image-classification', {str(options.save_dir)!r})"
        )
        upload(options.push_to_hub, options.save_dir, model, processor)
    return trainer


def open_classifier(options: Namespace, classes: list[str]) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The model that is named, with a head for these classes, or a new ViT with relative position bias."""
    words = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
        "problem_type": "single_label_classification",
    }
    if options.model is not None:
        model = AutoModelForImageClassification.from_pretrained(options.model, ignore_mismatched_sizes=True, **words)
        try:
            processor = AutoImageProcessor.from_pretrained(options.model)
        except OSError:  # a model that was converted and saved alone
            processor = ViTImageProcessor(size=as_size(model.config.image_size))
    else:
        given = {
            "hidden_size": options.dim,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.heads,
            "patch_size": options.patch_size,
            "image_size": options.image_size,
            "drop_path_rate": options.drop_path,
            "position_embedding": options.position_embedding,
        }
        given = {name: value for name, value in given.items() if value is not None}
        config = RelPosViTConfig(**{**DEIT_SIZES[options.preset or "small"], "drop_path_rate": 0.1, **given}, **words)
        model = RelPosViTForImageClassification(config)
        processor = ViTImageProcessor(size=as_size(config.image_size))
    if options.model is not None and options.image_size is not None:
        set_input_size(model, processor, options.image_size)
    if isinstance(model, RelPosViTPreTrainedModel):
        model.set_attn_implementation("relative")  # it looks the bias up where the device can
    return model, processor


def set_input_size(model: PreTrainedModel, processor: BaseImageProcessor, size: int) -> None:
    """Make a model and its image processor ones for pictures of this many pixels per side.

    Raises:
        ValueError: for a model that cannot be changed.
    """
    if isinstance(model, RelPosViTPreTrainedModel):
        model.resize_positions(size)
    elif getattr(model.config, "image_size", size) not in (size, [size, size]):
        raise ValueError(
            f"This {type(model).__name__} reads {model.config.image_size} pixels: --image-size {size} needs another model."
        )
    processor.size = type(processor)(size=as_size(size)).size
    processor.do_center_crop = False


def as_size(image_size: int | Sequence[int]) -> dict[str, int]:
    """The size of an image processor, from that of a model."""
    height, width = as_pair("image_size", image_size)
    return {"height": height, "width": width}


def make_arguments(options: Namespace, train_table, val) -> TrainingArguments:
    """An evaluation with each checkpoint, every epoch or every so many steps; the best checkpoint is kept."""
    when = "epoch" if options.save_interval is None and not train_table.is_stream else "steps"
    interval = options.save_interval or min(1000, options.total_steps or 1000)
    workers = min(options.workers, train_table.rows.num_shards) if train_table.is_stream else options.workers
    return TrainingArguments(
        output_dir=str(options.save_dir),
        max_steps=options.total_steps or -1,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        warmup_steps=0.05,
        lr_scheduler_type="cosine",
        label_smoothing_factor=options.label_smoothing,
        max_grad_norm=1.0,
        seed=options.seed,
        bf16=not options.no_amp and not options.cpu and is_torch_bf16_gpu_available(),
        use_cpu=options.cpu,
        logging_steps=options.log_interval,
        save_strategy=when,
        save_steps=interval,
        eval_strategy="no" if val is None else when,
        eval_steps=interval,
        save_total_limit=3,  # the best, the newest, and one more in case the newest is not whole
        load_best_model_at_end=val is not None,
        metric_for_best_model=None if val is None else "accuracy",
        greater_is_better=None if val is None else True,
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available() and not options.cpu,
        accelerator_config={"dispatch_batches": False},  # each rank reads for itself: names of images are no tensors
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=["tensorboard"] if is_tensorboard_available() else [],
    )


def describe(metrics: dict[str, float], bad: int) -> str:
    """The figures of an evaluation in a line or two of text."""
    lines = []
    if metrics:
        top5 = f", top-5 {metrics['eval_top5']:.1%}" if "eval_top5" in metrics else ""
        lines.append(f"Held out: accuracy {metrics['eval_accuracy']:.1%}, macro F1 {metrics['eval_f1']:.1%}{top5}.")
    if bad:
        lines.append(f"{bad} images could not be read and were left out; {LOG_FILE} names them.")
    return "\n".join(lines) or "There was nothing to judge by."


__all__ = ["classify"]
