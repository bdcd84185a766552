"""`OmniLatentTrainer`: transformers' Trainer that draws what each step predicts from what."""

import logging
import math
import time
from collections.abc import Callable

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PredictionOutput, set_seed

from ..configuration.modalities import MODALITIES
from .arguments import OmniLatentTrainingArguments
from .batches import MultimodalBatch, blank_batch, read_batch
from .callbacks import PhaseProgress
from .data import collate_multimodal
from .evaluation import PairSamples, score_pairs, summarise
from .meter import StepMeter
from .pairs import ALL_PAIRS, PAST_TO_FUTURE, VIEWS, Pair
from .resumable import ResumableTrainer
from .schedule import UNIFORM, PairSchedule, Phase
from .streams import find_views, items_per_pass, make_stream, one_pass

logger = logging.getLogger(__name__)


class OmniLatentTrainer(ResumableTrainer):
    """
    Trains an [`OmniLatentModel`] on random (source, target) pairs that cover all 16 evenly.

    Which pair a step trains is a pure function of the seed and the step, the same on every rank; gradient accumulation
    stays with it. Rows that lack a modality of the pair are left out of the step. A rank without any such row computes
    a blank one with weight 0, because the others wait for it; ranks weigh by their rows. Pairs whose modalities the
    data does not have at all are left out of the run, which says so once, at the start.

    `train(resume_from_checkpoint=...)` takes a path, `True` (the newest valid checkpoint) or `"auto"` (the same, or a
    fresh start where there is none) and goes on exactly where the run stood.

    Args:
        model: [`OmniLatentModel`], bare or with adapters.
        args: [`OmniLatentTrainingArguments`].
        train_dataset: A map-style dataset (or `IterableDataset`) of dicts with any of "text", "audio", "image" and
            "video", a `VideoCollection`, a `VideoLoader`, or a DataLoader of such.
        eval_dataset: The same, finite.
        data_collator: Makes batches of the items of a dataset.
        kwargs: As in `transformers.Trainer`. The tokenizer of `processing_class`, which may be a processor, encodes
            the texts of a `VideoCollection`; without one a token is a byte.

    The order of a dataset or a `VideoCollection` follows from `args.data_seed`, or `args.seed` where that is `None`,
    and not from the collection's own seed; a `VideoLoader` keeps its own order and tokenizer.

    Attributes:
        schedule: [`PairSchedule`] of the run.

    Raises:
        ValueError: for data that holds nothing of the four modalities, or of which no wanted pair can be made, and for
            `compute_metrics` and its like, which would have no effect.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import OmniLatentConfig, OmniLatentModel
    >>> from omnilatent.training import OmniLatentTrainer, OmniLatentTrainingArguments

    >>> items = [{"text": torch.randint(3, 259, (7,)), "image": torch.rand(3, 32, 32)} for _ in range(8)]
    >>> args = OmniLatentTrainingArguments("runs/own_data", max_steps=4, per_device_train_batch_size=2)
    >>> trainer = OmniLatentTrainer(OmniLatentModel(OmniLatentConfig.tiny()), args, train_dataset=items)
    >>> trainer.train().global_step
    {'train_runtime': ...
    4
    ```
    """

    def __init__(
        self,
        model,
        args: OmniLatentTrainingArguments | None = None,
        train_dataset=None,
        eval_dataset=None,
        data_collator=collate_multimodal,
        **kwargs,
    ):
        args = OmniLatentTrainingArguments() if args is None else args
        if not isinstance(args, OmniLatentTrainingArguments):
            raise ValueError(f"`args` must be OmniLatentTrainingArguments, got {type(args).__name__}.")
        for name in ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}` has no effect: each pair of modalities has its own outputs, loss and figures. Override "
                    "`compute_loss` or `evaluate`, or take the figures of `evaluate_pairs`."
                )
        set_seed(args.seed)
        self._text_settings = {
            "tokenizer_fn": make_tokenizer_fn(kwargs.get("processing_class")),
            "max_text_length": model.config.max_text_length,
        }
        stream = None
        if train_dataset is not None:
            place = {**stream_place(args), "text_settings": self._text_settings}
            stream = make_stream(train_dataset, args.train_batch_size, data_collator, **place)
            # a loader brings its own
            args.per_device_train_batch_size = getattr(stream, "batch_size", args.per_device_train_batch_size)
            set_max_steps(args, stream)
        super().__init__(
            stream,
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self._tokens = 0  # of the last batch, for the count of operations
        self._meter = StepMeter(args.device)
        self.schedule = None if stream is None else self._make_schedule()
        if stream is not None and self.pop_callback(ProgressCallback):
            self.add_callback(PhaseProgress(self.schedule))

    # --- what is trained when ------------------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        """The phases of the run; here a single one."""
        if self.args.train_pairs is None:
            return UNIFORM
        pairs = tuple(dict.fromkeys(Pair.parse(text) for text in self.args.train_pairs))
        return (Phase("chosen pairs", 1.0, pairs, pairs),)

    def _make_schedule(self):
        found = frozenset().union(*gather_object([find_views(self.stream, self.model.config)]))
        seed = self.args.seed if self.args.task_seed is None else self.args.task_seed
        schedule = PairSchedule(self.phases(), self.args.max_steps, seed, self.args.targets_per_step, found)
        if schedule.missing and self.is_world_process_zero():
            logger.warning(
                "The data has %s; left out: %s.%s",
                ", ".join(name for name in MODALITIES if name in found),
                ", ".join(str(pair) for pair in schedule.missing),
                "".join(f" Phase {name!r} gives its steps to the others." for name in schedule.missing_phases),
            )
        return schedule

    def run_settings(self) -> dict:
        phases = [[phase.name, phase.share, [str(pair) for pair in phase.pairs]] for phase in self.schedule.phases]
        names = ("task_seed", "targets_per_step")
        return {**super().run_settings(), **{name: getattr(self.args, name) for name in names}, "phases": phases}

    # --- a step ----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self):
        self._meter = StepMeter(self.args.device)
        return super().get_train_dataloader()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        begun = time.perf_counter()
        result = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._meter.add_waiting(time.perf_counter() - begun)
        return result

    def _prepare_inputs(self, inputs) -> MultimodalBatch:
        if isinstance(inputs, MultimodalBatch):
            return inputs
        return read_batch(inputs, self.model.config, self.args.device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of this step's draw over the rows of the batch that have what it needs."""
        batch = self._prepare_inputs(inputs)
        config = self.model.config
        draw = self.schedule.draw(self.state.global_step)
        views = (draw.source, *draw.targets)
        usable = batch.rows_with(views)
        count = int(usable.sum())
        rows = batch.take(usable) if count else blank_batch(config, views, batch.device)
        laid_out = rows.lay_out(config, draw.source, draw.targets, contrast=config.contrastive_loss_weight > 0)
        outputs = model(**laid_out)
        # DDP waits for the gradients of whatever the output depends on, so all of it takes part
        loss = outputs.loss * self._weight(count) + 0.0 * outputs.source_embeds.sum()

        self._tokens = laid_out["input_ids"].numel()
        self._meter.add_rows(len(batch), count)
        self._meter.add_losses(_by_pair(draw, outputs.losses), count)
        return (loss, outputs) if return_outputs else loss

    def _weight(self, count):
        """Makes the mean over ranks a mean over their rows."""
        if self.args.world_size == 1:
            return float(count > 0)
        counts = torch.tensor(float(count), device=self.args.device)
        total = self.accelerator.reduce(counts.clone(), reduction="sum")
        return counts * self.args.world_size / total.clamp(min=1)

    def floating_point_ops(self, inputs) -> int:
        return 6 * self._tokens * self.model.num_parameters()

    # --- what is shown ---------------------------------------------------------------------------------------------

    def log(self, logs, start_time=None):
        if "loss" in logs:  # a line of the training loop, which all ranks write at the same step
            logs |= self._meter.drain(lambda sums: self.accelerator.reduce(sums, reduction="sum"))
            logs["phase"] = self.schedule.phase_at(self.state.global_step - 1).number
        super().log(logs, start_time)

    # --- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        The figures of `evaluate_pairs` for `args.eval_pairs`, or for all pairs of the run that the data can serve.

        Returns:
            `eval_loss_<pair>`, `eval_shuffled_loss_<pair>` and `eval_gain_<pair>` (bits per token for text, dB for
            the others), and `eval_loss`, the mean over pairs.

        Raises:
            ValueError: for data that no pair, or not each of `args.eval_pairs`, can be evaluated on.
        """
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(data, dict):
            metrics = {}
            for name, part in data.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        if data is None:
            raise ValueError("Evaluation needs an `eval_dataset`.")
        metrics = _metrics(self._score(data), metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """
        Judge each clip. To see what the model makes of a clip, call the model.

        Returns:
            `metrics` as those of `evaluate`; `predictions`, for the name of each pair (n,) float64, the losses of its
            n clips in the order of the data (on several processes rank by rank); no `label_ids`.

        Raises:
            ValueError: as `evaluate`.
        """
        scores = self._score(test_dataset)
        metrics = _metrics(scores, metric_key_prefix)
        predictions = {}
        for pair, samples in scores.items():
            total, _, count = samples.columns()
            predictions[pair.name] = (total / count).numpy()
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(predictions=predictions, label_ids=None, metrics=metrics)

    def _score(self, data) -> dict[Pair, PairSamples]:
        """The samples of all ranks."""
        wanted = [Pair.parse(text) for text in self.args.eval_pairs or ()]
        pairs = wanted or (self.schedule.pairs if self.schedule else (*ALL_PAIRS, PAST_TO_FUTURE))
        place = {**stream_place(self.args), "text_settings": self._text_settings}
        place.pop("seed")
        batches = one_pass(data, self.args.eval_batch_size, self.data_collator, **place)
        of_all_ranks = gather_object([score_pairs(self.model, batches, pairs, bf16=self.args.bf16)])
        scores = {pair: sum((part[pair] for part in of_all_ranks), start=PairSamples()) for pair in pairs}
        if wanted or not any(scores.values()):
            return scores
        return {pair: samples for pair, samples in scores.items() if len(samples)}


def make_tokenizer_fn(processing_class) -> Callable[[str, int], torch.Tensor] | None:
    """What a loader asks for ids, out of a tokenizer or a processor with one; `None` for anything else."""
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None

    def encode(text, max_length):
        # what is said in a video is no markup of ours, and the layout adds BOS and EOS
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        ids = tokenizer(text, truncation=True, max_length=max_length, **plain)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)

    return encode


def _metrics(scores, prefix) -> dict[str, float]:
    """The figures of each pair under their names in the log, and the mean loss."""
    results = summarise(scores)
    metrics = {
        f"{prefix}_{figure}_{pair.name}": result[figure]
        for pair, result in results.items()
        for figure in ("loss", "shuffled_loss", "gain")
    }
    return {**metrics, f"{prefix}_loss": sum(result["loss"] for result in results.values()) / len(results)}


def stream_place(args):
    """The settings of a stream that follow from those of the run."""
    settings = {
        "seed": args.seed if args.data_seed is None else args.data_seed,
        "rank": args.process_index,
        "world_size": args.world_size,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and args.device.type == "cuda",
    }
    if args.dataloader_num_workers > 0:
        settings["prefetch_factor"] = args.dataloader_prefetch_factor
        settings["multiprocessing_context"] = args.dataloader_multiprocessing_context
    return settings


def set_max_steps(args, stream):
    if args.max_steps > 0:
        return
    items = items_per_pass(stream)
    if items is None:
        raise ValueError("`max_steps` must be positive: the length of the data is not known.")
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    args.max_steps = math.ceil(args.num_train_epochs * items / per_step)


def _by_pair(draw, losses):
    """The losses of a step under the names of its pairs."""
    named = {pair.name: losses[VIEWS[pair.target]] for pair in draw.pairs}
    return named | {name: losses[name] for name in ("contrastive", "ctc") if name in losses}
