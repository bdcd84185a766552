"""Training: transformers' Trainer with pairs of modalities, a curriculum, exact resuming, and an evaluation."""

from ..lazy_names import attach

# a loader's worker loads only what it needs
_PUBLIC = {
    "AlignerTrainingArguments": "align_arguments",
    "embed_clips": "align_evaluation",
    "localisation_figures": "align_evaluation",
    "recall_at": "align_evaluation",
    "retrieval_figures": "align_evaluation",
    "make_aligner": "align_runs",
    "AlignerTrainer": "align_trainer",
    "OmniLatentTrainingArguments": "arguments",
    "InvalidCheckpointError": "checkpoints",
    "CurriculumTrainer": "curriculum",
    "bootstrap_interval": "evaluation",
    "evaluate_pairs": "evaluation",
    "retrieval": "evaluation",
    "ALL_PAIRS": "pairs",
    "PAST_TO_FUTURE": "pairs",
    "Pair": "pairs",
    "PairSchedule": "schedule",
    "Phase": "schedule",
    "UNIFORM": "schedule",
    "MultimodalBatch": "batches",
    "read_batch": "batches",
    "ResumableTrainer": "resumable",
    "WholeCheckpointTrainer": "whole_checkpoints",
    "OmniLatentTrainer": "trainer",
    "Trainer": "specification",
    "evaluate": "epochs",
    "train_epoch": "epochs",
    "load_checkpoint": "plain_checkpoints",
    "save_checkpoint": "plain_checkpoints",
    "load_config": "yaml_settings",
    "save_config": "yaml_settings",
    "attention_rollout": "rollout",
    "patch_shares": "rollout",
    "visualize_model": "model_pictures",
    "visualize_shares": "attention_pictures",
    "visualize_attention_weights": "attention_pictures",
    "visualize_bias_table": "attention_pictures",
    "visualize_relative_position_bias": "attention_pictures",
}

__getattr__, __dir__, __all__ = attach(__name__, _PUBLIC)
