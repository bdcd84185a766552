"""Trains and judges a model of one task."""

import torch
from transformers.trainer_utils import EvalLoopOutput

from ..whole_checkpoints import WholeCheckpointTrainer
from .finetune_tasks import FinetuneTask
from .numbered_streams import NUMBER, NumberedCollator, each_once, number_streams


class TaskTrainer(WholeCheckpointTrainer):
    """
    A Trainer whose evaluation gives the metrics of a task: whole matrices of retrieval, written texts, and
    other things that are no logits. Everything else, from accumulation to DDP, is Trainer's own.

    Under FSDP a model trains, but is not judged where that bypasses its `forward`: by texts that it writes (captioning,
    written answers) or by a cross encoder that ranks again. Judge such a model after training, in one process.

    Args:
        model: A model of the task.
        args: `TrainingArguments`; `remove_unused_columns` must be off, as the collator reads the columns.
            Streams on several processes need `accelerator_config={"dispatch_batches": False}`.
        task: [`FinetuneTask`].
        train_dataset, eval_dataset: Samples of `task.dataset_class`, or streams or [`EncodedDataset`]s of them.
        kwargs: As of Trainer.

    Example:

    ```python
    >>> from transformers import TrainingArguments
    >>> from omnilatent import MultiModalProcessor, create_model
    >>> from omnilatent.training.data import ImageTextDataset, make_sample_data
    >>> from omnilatent.training.finetuning import TASKS, TaskTrainer

    >>> paths = make_sample_data("data/sample", num_train=16, num_val=8)
    >>> model = create_model("tiny_text_image_model", task="retrieval")
    >>> task = TASKS["retrieval"](MultiModalProcessor.from_config(model.config))
    >>> args = TrainingArguments("runs/retrieval", max_steps=2, report_to="none", remove_unused_columns=False)
    >>> data = {split: ImageTextDataset(path) for split, path in paths.items()}
    >>> trainer = TaskTrainer(model, args, task, train_dataset=data["train"], eval_dataset=data["val"])
    >>> trainer.train().global_step
    {'train_runtime': ...
    2
    >>> "eval_text_to_image_R@5" in trainer.evaluate()
    True
    ```
    """

    def __init__(self, model, args, task: FinetuneTask, train_dataset=None, eval_dataset=None, **kwargs):
        if args.remove_unused_columns:
            raise ValueError("The collator reads the columns of the samples: pass `remove_unused_columns=False`.")
        super().__init__(
            model=model,
            args=args,
            data_collator=kwargs.pop("data_collator", None) or task.collator(training=True),
            processing_class=kwargs.pop("processing_class", task.processor),
            train_dataset=train_dataset,
            eval_dataset=number_streams(eval_dataset),
            **kwargs,
        )
        self.task = task
        self._eval_collator = NumberedCollator(task.collator(training=False))

    def get_eval_dataloader(self, eval_dataset=None):
        """Batches with references, where the task has them."""
        own, self.data_collator = self.data_collator, self._eval_collator
        try:
            return super().get_eval_dataloader(number_streams(eval_dataset))
        finally:
            self.data_collator = own

    def get_test_dataloader(self, test_dataset):
        own, self.data_collator = self.data_collator, self._eval_collator
        try:
            return super().get_test_dataloader(number_streams(test_dataset))
        finally:
            self.data_collator = own

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Scores of all samples on all ranks, and the task's metrics of them; `predictions` are those scores."""
        model = self._wrap_model(self.model, training=False)
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        rows = []
        for inputs in dataloader:
            inputs = self._prepare_inputs(inputs)
            numbers = inputs.pop(NUMBER, None)
            with self.compute_loss_context_manager():
                scores = self.task.score(model, inputs)
            if numbers is not None:
                scores = [{**row, NUMBER: one} for row, one in zip(scores, numbers)]
            rows += self.accelerator.gather_for_metrics(scores, use_gather_object=True)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        rows = each_once(rows)
        if not rows:
            raise ValueError("There is no sample to judge by.")
        figures = {"loss": sum(row["loss"] for row in rows) / len(rows), **self.task.figures(model, rows)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return EvalLoopOutput(predictions=rows, label_ids=None, metrics=metrics, num_samples=len(rows))
