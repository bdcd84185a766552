r"""Train a model of pictures and words for one task, and judge it on held-out samples.

    python hub_examples/train_model.py \
        --config configs/base_text_image_model.json \
        --task retrieval \
        --train_data data/sample/train.json \
        --val_data data/sample/val.json \
        --output_dir outputs \
        --batch_size 32 \
        --num_epochs 10 \
        --learning_rate 5e-5

Without options a tiny model learns retrieval on a few drawn pictures, to show that everything works. The command
`omnilatent finetune` does the same with more options.
"""

import argparse

from transformers import AutoProcessor, TrainingArguments, set_seed

from omnilatent import MultiModalProcessor, create_model
from omnilatent.training.data import make_sample_data
from omnilatent.training.finetuning import TASKS, TaskTrainer


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny_text_image_model", help="preset or JSON file of the model")
    parser.add_argument("--task", choices=TASKS, default="retrieval")
    parser.add_argument("--train_data", help="JSON file to learn from (default: drawn pictures)")
    parser.add_argument("--val_data", help="JSON file to judge by")
    parser.add_argument("--output_dir", default="runs/train_model")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_epochs", type=float, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    args = parser.parse_args(argv)
    if args.train_data is None or args.val_data is None:
        paths = make_sample_data("data/sample", num_train=64, num_val=32)
        args.train_data, args.val_data = paths["train"], paths["val"]

    set_seed(0)
    task_class = TASKS[args.task]
    train = task_class.dataset_class(args.train_data)
    classes = {}
    if task_class.has_classes:  # answers or labels, which the model keeps by name
        classes = {"known": train.known, "unknown": "keep"}
        names = {"id2label": dict(enumerate(train.known)), "label2id": {n: i for i, n in enumerate(train.known)}}
    model = create_model(args.config, task=task_class.model_task, **(names if classes else {}))
    task = task_class(MultiModalProcessor.from_config(model.config), known=classes.get("known", ()))
    trainer = TaskTrainer(
        model,
        TrainingArguments(
            args.output_dir,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size,
            num_train_epochs=args.num_epochs,
            learning_rate=args.learning_rate,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model=f"eval_{task.metric}",
            greater_is_better=True,
            save_total_limit=1,
            remove_unused_columns=False,  # the collator reads them
        ),
        task,
        train_dataset=train,
        eval_dataset=task_class.dataset_class(args.val_data, **classes),
    )
    trainer.train(resume_from_checkpoint="auto")  # goes on where an interrupted run stood
    trainer.save_model()

    model = type(model).from_pretrained(args.output_dir)
    processor = AutoProcessor.from_pretrained(args.output_dir)
    metrics = trainer.evaluate()
    print(f"{type(model).__name__} with {type(processor).__name__}: {args.task} {task.metric} ", end="")
    print(f"{metrics[f'eval_{task.metric}']:.3f}")
    return metrics


if __name__ == "__main__":
    main()
