"""Fine-tuning on labelled data: what each task reads, and how it is judged."""

from ...lazy_names import attach

# a loader's worker loads only what it needs
_PUBLIC = {
    "accuracy": "classification_metrics",
    "compute_classification_metrics": "classification_metrics",
    "f1_score": "classification_metrics",
    "top_k_accuracy": "classification_metrics",
    "ImageClassificationTrainer": "classification_trainer",
    "EvaluationTransform": "image_augmentation",
    "ImageCollator": "image_augmentation",
    "TrainingTransform": "image_augmentation",
    "ImageTable": "image_tables",
    "open_image_tables": "image_tables",
    "LabelledImages": "labelled_images",
    "LabelledImageStream": "labelled_images",
    "TASKS": "finetune_tasks",
    "FinetuneTask": "finetune_tasks",
    "recall_among": "recall_metrics",
    "retrieval_metrics": "recall_metrics",
    "TaskTrainer": "task_trainer",
    "caption_metrics": "text_metrics",
    "vqa_accuracy": "text_metrics",
    "learn_words": "word_tokenizer",
}

__getattr__, __dir__, __all__ = attach(__name__, _PUBLIC)
