"""Training: transformers' Trainer with pairs of modalities, a curriculum, exact resuming, and an evaluation."""

from importlib import import_module

# public name -> module that defines it; loaded at first use, so that a loader's worker loads only what it needs
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

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
