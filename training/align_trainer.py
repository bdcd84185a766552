"""Trains an aligner on streamed videos."""

from collections.abc import Mapping

from accelerate.utils import gather_object
from transformers import set_seed

from .align_arguments import AlignerTrainingArguments
from .align_batches import to_aligner_inputs
from .align_evaluation import ClipEmbeddings, embed_clips, localisation_figures, retrieval_figures
from .data import collate_multimodal
from .resumable import ResumableTrainer
from .streams import STREAM_STATE, make_stream, one_pass
from .trainer import set_max_steps, stream_place


class AlignerTrainer(ResumableTrainer):
    """
    Trains an [`AudioVisualAligner`] on the clips of videos, and evaluates by retrieval and localisation.

    The plain `transformers.Trainer` works as well, on data that hold what the towers read; this one takes raw clips,
    resumes exactly (see `train`) and centres the tokens of a new model.

    Args:
        model: [`AudioVisualAligner`].
        args: [`AlignerTrainingArguments`].
        processing_class: [`AudioVisualAlignerProcessor`] of its towers, saved with each checkpoint.
        train_dataset: A `VideoCollection` or a `VideoLoader`.
        eval_dataset: The same, a loader with `epochs=1`. Localisation needs several clips of a video.
        kwargs: As in `transformers.Trainer`.

    Example:

    ```python
    >>> from omnilatent.training import AlignerTrainer, AlignerTrainingArguments, make_aligner
    >>> from omnilatent.training.data import VideoCollection, make_small_world

    >>> model, processor = make_aligner(image_size=32, width=32, layers=1)
    >>> _ = make_small_world("world", num_videos=6, pixels=32)
    >>> videos = VideoCollection.from_folder("world", video_size=32, image_size=32)
    >>> args = AlignerTrainingArguments("runs/align", max_steps=2, per_device_train_batch_size=3, report_to="none")
    >>> trainer = AlignerTrainer(model, args, processor, train_dataset=videos, eval_dataset=videos)
    >>> trainer.train().global_step
    {'train_runtime': ...
    2
    >>> sorted(trainer.evaluate())[:3]
    ['epoch', 'eval_audio_to_video_R@1', 'eval_audio_to_video_R@10']
    ```
    """

    def __init__(
        self,
        model,
        args: AlignerTrainingArguments,
        processing_class,
        train_dataset=None,
        eval_dataset=None,
        **kwargs,
    ):
        set_seed(args.seed)
        stream = None
        if train_dataset is not None:
            stream = make_stream(train_dataset, args.train_batch_size, collate_multimodal, **stream_place(args))
            args.per_device_train_batch_size = stream.batch_size  # a loader brings its own
            set_max_steps(args, stream)
        super().__init__(
            stream,
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collate_multimodal,
            **kwargs,
        )

    def prepare_run(self, folder):
        """A run that begins takes the first batch's common mean out of the tokens."""
        super().prepare_run(folder)
        if folder is None:
            self._center()

    def _center(self):
        self.stream.load_state_dict(self._start)
        batch = next(iter(self.stream))
        self.stream.load_state_dict(self._start)
        self.model.to(self.args.device)
        inputs = self._prepare_inputs(batch)
        self.model.center_on(**{name: inputs[name] for name in inputs if name.startswith(("pixel_", "input_"))})

    def _prepare_inputs(self, inputs: Mapping):
        if STREAM_STATE not in inputs:  # made already
            return inputs
        return to_aligner_inputs(inputs, self.processing_class, self.args.device)

    def floating_point_ops(self, inputs) -> int:
        """0: not counted, as each tower has its own way to count tokens."""
        return 0

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        Retrieval and localisation among the clips of the data, over all ranks.

        Returns:
            With the prefix: the figures of `retrieval_figures`, and under `localisation_` those of
            `localisation_figures`.

        Raises:
            ValueError: without data, or without a clip that has sound.
        """
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if data is None:
            raise ValueError("Evaluation needs an `eval_dataset`.")
        place = stream_place(self.args)
        place.pop("seed")
        batches = one_pass(data, self.args.eval_batch_size, collate_multimodal, **place)
        own = embed_clips(self.model, self.processing_class, batches, bf16=self.args.bf16)
        embeddings = ClipEmbeddings.join(gather_object([own]))
        figures = retrieval_figures(embeddings)
        moments = localisation_figures(embeddings)
        figures |= {("" if name == "localisation" else "localisation_") + name: moments[name] for name in moments}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
