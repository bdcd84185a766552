"""From the options of `omnilatent finetune` to a training run."""

from argparse import Namespace
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer, EarlyStoppingCallback, TrainingArguments, set_seed
from transformers.integrations import is_tensorboard_available
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import is_torch_bf16_gpu_available

from ...configuration.configuration_multimodal import EncoderConfig, MultiModalConfig
from ...configuration.multimodal_presets import load_preset
from ...modeling_omni.multimodal.model_factory import TASKS as MODELS
from ...modeling_omni.multimodal.model_factory import create_model
from ...processing.processing_multimodal import MultiModalProcessor
from ..data import SampleStream
from ..hub_upload import check_hub, upload
from ..saved_models import check_saved, check_whole, refuse_sizes
from .finetune_data import fit_in_memory, open_samples
from .finetune_tasks import TASKS, FinetuneTask
from .task_trainer import TaskTrainer
from .word_tokenizer import learn_words

BYTES, WORDS = "bytes", "words"  # values of --tokenizer that are no names
FIRST = 64  # samples of a stream that tell whether there are several answers or labels


def finetune(options: Namespace) -> TaskTrainer:
    """Train a model of one task and judge it; the options are those of `omnilatent finetune`.

    Raises:
        ValueError: for options, data or a model that do not go together.
    """
    if options.model is not None:
        refuse_sizes(options, "config", "tokenizer")
        check_saved(options.model)
        check_whole(options.model)
    check_hub(options.push_to_hub)
    set_seed(options.seed)
    task_class = TASKS[options.task]
    train, val, known = open_data(task_class, options)
    several = has_several(task_class, train)
    model, processor = open_model(task_class, options, train, known, several)
    task = task_class(
        processor,
        known=known,
        several=several,
        max_length=longest_text(model, options.max_length),
        num_beams=options.num_beams,
    )
    metric = f"eval_{task.metric}"
    trainer = TaskTrainer(
        model,
        make_arguments(options, train, metric),
        task,
        train_dataset=fit_in_memory(train, task.collator(training=True)),
        eval_dataset=fit_in_memory(val, task.collator(training=False)),
        callbacks=[EarlyStoppingCallback(options.patience)] if options.patience else None,
    )
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        trainer.save_metrics("eval", metrics)
        print(describe(metrics, task, len(val) if hasattr(val, "__len__") else None))
        print(
            f"The model is in {options.output_dir}; use it by: from omnilatent import {type(model).__name__}, "
            f"MultiModalProcessor; folder = {str(options.output_dir)!r}; model, processor = "
            f"{type(model).__name__}.from_pretrained(folder), MultiModalProcessor.from_pretrained(folder)"
        )
        upload(options.push_to_hub, options.output_dir, model, processor)
    return trainer


# ---- data


def open_data(task_class: type[FinetuneTask], options: Namespace):
    """Samples to learn from and to judge by, and the answers or labels, in the order of the classes.

    Raises:
        ValueError: for streamed data whose classes nobody knows.
    """
    settings = {
        "columns": options.columns,
        "image_folder": options.image_folder,
        "streaming": options.streaming,
        "max_bad_fraction": options.max_bad_fraction,
    }
    order = {"seed": options.seed, "buffer_size": options.shuffle_buffer}
    known = read_known(options) if task_class.has_classes else None
    words = {} if known is None else {"known": known}
    train = open_samples(task_class.dataset_class, options.train_data, **settings, **order, **words)
    if not task_class.has_classes:
        return train, open_samples(task_class.dataset_class, options.val_data, **settings), []
    if known is None:
        if isinstance(train, SampleStream):
            raise ValueError("A stream does not tell its answers or labels: list them in a file by --classes.")
        known = train.known[: options.num_classes]
        if len(known) < len(train.known):  # samples of rarer ones have nothing to teach
            most = {**settings, "max_bad_fraction": 1.0}  # those left out now are meant to be
            train = open_samples(task_class.dataset_class, options.train_data, known=known, **most)
    # a question that has none of the known answers counts as answered wrongly
    val = open_samples(task_class.dataset_class, options.val_data, known=known, unknown="keep", **settings)
    return train, val, known


def read_known(options: Namespace) -> list[str] | None:
    """The classes of a model that training goes on from, or of a file with one a line."""
    if options.classes is not None:
        lines = Path(options.classes).read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()]
    if options.model is None:
        return None
    names = MultiModalConfig.from_pretrained(options.model).id2label
    named = [names[number] for number in sorted(names)]
    return None if named == [f"LABEL_{number}" for number in range(len(named))] else named


def has_several(task_class: type[FinetuneTask], train) -> bool:
    """Whether a sample, of a stream one of the first, has several answers, or a list of labels."""
    if task_class.target is None:
        return False
    samples = islice(train, FIRST) if isinstance(train, SampleStream) else train.samples
    values = [sample[task_class.target] for sample in samples]
    if task_class.target == "answers":
        return any(len(answers) > 1 for answers in values)
    return any(isinstance(label, list) for label in values)


# ---- model


def open_model(task_class: type[FinetuneTask], options: Namespace, train, known: list[str], several: bool):
    """The model that is named, or a new one of the preset, and its processor.

    Raises:
        ValueError: for a single label.
    """
    words = label_words(known)
    if task_class.target == "label":  # a model that is served tells by it what its logits mean
        words["problem_type"] = "multi_label_classification" if several else "single_label_classification"
        if len(known) < 2 and not several:
            raise ValueError(f"There are no two labels to tell apart in {options.train_data}: it has {known}.")
    if options.model is not None:
        processor = MultiModalProcessor.from_pretrained(options.model)
        model = MODELS[task_class.model_task].from_pretrained(options.model, **words)
        return model, processor
    config = load_preset(options.config or "tiny_text_image_model", **words)
    tokenizer = open_tokenizer(options.tokenizer or BYTES, task_class, train)
    if tokenizer is not None:
        fit_vocabulary(config, tokenizer)
    processor = MultiModalProcessor.from_config(config, tokenizer)
    return create_model(config, task=task_class.model_task), processor


def label_words(known: list[str]) -> dict:
    """Names of the classes, as a config has them."""
    if not known:
        return {}
    return {"id2label": dict(enumerate(known)), "label2id": {name: number for number, name in enumerate(known)}}


def open_tokenizer(name: str, task_class: type[FinetuneTask], train):
    """`None` for bytes, else the words of the training texts or the tokenizer of that name."""
    if name == BYTES:
        return None
    if name != WORDS:
        check_saved(name, TOKENIZER_CONFIG_FILE)
        return AutoTokenizer.from_pretrained(name)
    if isinstance(train, SampleStream):
        raise ValueError("--tokenizer words learns them from all training texts, which a stream does not hold.")
    texts = []
    for sample in train.samples:
        for key in task_class.texts:
            texts += sample[key] if isinstance(sample[key], list) else [sample[key]]
    return learn_words(texts)


def fit_vocabulary(config: MultiModalConfig, tokenizer) -> None:
    """
    Give a new model's tables of words the tokenizer's size and its special ids. A tokenizer without a padding token, as
    GPT-2's, pads with the end token, which the mask hides; with one without a begin token, as T5's, texts begin with
    the padding token, as T5's own do.

    Raises:
        ValueError: for a tokenizer without an end token.
    """
    end = tokenizer.sep_token if tokenizer.eos_token_id is None else tokenizer.eos_token
    if end is None:
        raise ValueError(f"The {type(tokenizer).__name__} has neither an EOS nor a SEP token: texts need an end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = end
    if isinstance(config.text_config, EncoderConfig):
        config.text_config.vocab_size = len(tokenizer)
    if config.decoder_config is not None:
        begins = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.pad_token_id)
        config.decoder_config.vocab_size = len(tokenizer)
        config.decoder_config.pad_token_id = tokenizer.pad_token_id
        config.decoder_config.bos_token_id = next(one for one in begins if one is not None)
        config.decoder_config.eos_token_id = tokenizer.convert_tokens_to_ids(end)


def longest_text(model, wanted: int | None) -> int | None:
    """The most tokens of a text that the model reads and writes, or fewer where that is wanted."""
    parts = [model.config.text_config, model.config.decoder_config]
    limits = [getattr(part, "max_position_embeddings", None) for part in parts if part is not None]
    return min((limit for limit in (wanted, *limits) if limit is not None), default=None)


# ---- training


def make_arguments(options: Namespace, train, metric: str) -> TrainingArguments:
    """Trainer's, from ours.

    Raises:
        ValueError: for a stream without a number of steps.
    """
    if options.max_steps is None and not hasattr(train, "__len__"):
        raise ValueError("A stream has no known length: say how long to train by --max-steps.")
    pace = "epoch" if options.eval_steps is None else "steps"
    if not hasattr(train, "__len__") and options.eval_steps is None:
        options.eval_steps, pace = max(1, options.max_steps // 10), "steps"
    return TrainingArguments(
        output_dir=str(options.output_dir),
        num_train_epochs=options.num_epochs,
        max_steps=-1 if options.max_steps is None else options.max_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.eval_batch_size or options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        adam_beta2=0.98,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup,
        eval_strategy=pace,
        save_strategy=pace,
        eval_steps=options.eval_steps,
        save_steps=options.eval_steps or 500,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=True,
        logging_steps=options.log_interval,
        seed=options.seed,
        bf16=is_torch_bf16_gpu_available() and not options.cpu and not options.no_amp,
        use_cpu=options.cpu,
        dataloader_num_workers=options.workers,
        accelerator_config={"dispatch_batches": False},  # each rank reads for itself: references are no tensors
        remove_unused_columns=False,
        report_to=["tensorboard"] if is_tensorboard_available() else [],
    )


def describe(metrics: dict[str, float], task: FinetuneTask, samples: int | None) -> str:
    """The figures of an evaluation as lines of text."""
    among = "held-out samples" if samples is None else f"{samples} held-out samples"
    figures = {
        name.removeprefix("eval_"): value
        for name, value in metrics.items()
        if not name.endswith(("runtime", "per_second", "epoch"))
    }
    lines = [f"Among {among}:"]
    for name, value in figures.items():
        shown = (
            f"{value:.2f} dB"
            if name == "gain"
            else f"{value:.3f}"
            if "mse" in name or name == "loss"
            else f"{value:.1%}"
        )
        lines.append(f"  {name}: {shown}")
    return "\n".join(lines)
