"""Any-to-any models of text, audio, images and video in the Hugging Face ecosystem."""

import gc
import os
import sys
from pathlib import Path

from .lazy_names import attach

if (Path(__file__).parent.parent / "pyproject.toml").is_file():
    # Run from the repository root this folder hides an installed omnilatent; its sub-packages are our neighbours.
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0.dev0"

_PUBLIC = {
    "OmniLatentConfig": "configuration.configuration_omnilatent",
    "OmniLatentModel": "modeling_omni.omnilatent.modeling_omnilatent",
    "LatentHookConfig": "modeling_omni.hooks.configuration_latent_hook",
    "LatentNeuralHook": "modeling_omni.hooks.latent_neural_hook",
    "record_hooks": "modeling_omni.hooks.hook_recording",
    "draw_hooks": "modeling_omni.hooks.hook_picture",
    "OmniNetConfig": "configuration.configuration_omninet",
    "OmniNetModel": "modeling_omni.omninet.modeling_omninet",
    "OmniNet": "modeling_omni.omninet.omninet",
    "AudioVisualAlignerConfig": "configuration.configuration_audio_visual_aligner",
    "AudioVisualAligner": "modeling_omni.omninet.audio_visual_aligner",
    "draw_similarity": "modeling_omni.omninet.similarity_picture",
    "CrossAttention": "modeling_omni.omninet.stream_attention",
    "SelfAttention": "modeling_omni.omninet.stream_attention",
    "MultiModalCrossAttention": "modeling_omni.fusion.cross_modal",
    "AttentionalPooling": "modeling_omni.fusion.pooling",
    "EncoderConfig": "configuration.configuration_multimodal",
    "DecoderConfig": "configuration.configuration_multimodal",
    "FusionConfig": "configuration.configuration_multimodal",
    "ModelConfig": "configuration.configuration_multimodal",
    "MultiModalConfig": "configuration.configuration_multimodal",
    "MultiModalTransformer": "modeling_omni.multimodal.modeling_multimodal",
    "MultiModalForRetrieval": "modeling_omni.multimodal.modeling_multimodal_retrieval",
    "MultiModalForVisualQuestionAnswering": "modeling_omni.multimodal.modeling_multimodal_classification",
    "MultiModalForClassification": "modeling_omni.multimodal.modeling_multimodal_classification",
    "MultiModalForCaptioning": "modeling_omni.multimodal.modeling_multimodal_generation",
    "MultiModalForConditionalGeneration": "modeling_omni.multimodal.modeling_multimodal_generation",
    "MultiModalForImageGeneration": "modeling_omni.multimodal.modeling_multimodal_image_generation",
    "create_model": "modeling_omni.multimodal.model_factory",
    "MultiModalProcessor": "processing.processing_multimodal",
    "RelPosViTConfig": "configuration.configuration_relpos_vit",
    "RelPosViTModel": "modeling_omni.relpos_vit.modeling_relpos_vit",
    "RelPosViTForImageClassification": "modeling_omni.relpos_vit.modeling_relpos_vit",
    "VisionTransformer": "modeling_omni.relpos_vit.vision_transformer",
    "TransformerBlock": "modeling_omni.relpos_vit.vision_transformer",
    "MultiHeadAttention": "modeling_omni.relpos_vit.multi_head_attention",
    "ScaledDotProductAttention": "modeling_omni.relpos_vit.multi_head_attention",
    "PatchEmbedding": "modeling_omni.relpos_vit.patch_embedding",
    "RelativePositionBias": "modeling_omni.layers.relative_bias",
    "get_relative_position_index_1d": "modeling_omni.layers.relative_position",
    "get_relative_position_index_2d": "modeling_omni.layers.relative_position",
    "get_relative_position_index_3d": "modeling_omni.layers.relative_position",
    "attention_rollout": "training.rollout",
    "visualize_attention_weights": "training.attention_pictures",
    "visualize_relative_position_bias": "training.attention_pictures",
    "visualize_bias_table": "training.attention_pictures",
    "SyntheticImageDataset": "training.data.synthetic_images",
    "train_epoch": "training.epochs",
    "evaluate": "training.epochs",
    "save_checkpoint": "training.plain_checkpoints",
    "load_checkpoint": "training.plain_checkpoints",
    "load_config": "training.yaml_settings",
    "save_config": "training.yaml_settings",
    "convert_timm": "modeling_omni.relpos_vit.foreign_weights",
    "convert_beit": "modeling_omni.relpos_vit.foreign_weights",
    "AttentionConfig": "configuration.configuration_attention",
    "OmniLatentTokenizer": "processing.tokenization_omnilatent",
    "OmniLatentFeatureExtractor": "processing.feature_extraction_omnilatent",
    "OmniLatentImageProcessor": "processing.image_processing_omnilatent",
    "OmniLatentImageProcessorPil": "processing.image_processing_omnilatent",
    "OmniLatentVideoProcessor": "processing.video_processing_omnilatent",
    "OmniLatentProcessor": "processing.processing_omnilatent",
    "AudioVisualAlignerProcessor": "processing.processing_audio_visual_aligner",
}

__getattr__, __dir__, __all__ = attach(__name__, _PUBLIC)
__all__ += ["__version__"]  # `__dir__` reads the same list


def _register():
    """Make transformers and peft know what is ours; they are loaded for it, which takes seconds."""
    collecting = gc.isenabled()
    gc.disable()  # classes stay: to search all of torch's objects for garbage meanwhile takes longer than the import
    try:
        from .registration import register  # needs the sub-packages' path, set above

        register()
    finally:
        if collecting:
            gc.enable()


# The variable is set for the workers of a loader, which use no Auto class. The program of our name reads its options
# first, so that `--help` need not wait, and registers before it runs a command.
if "OMNILATENT_NO_REGISTRATION" not in os.environ and Path(*sys.argv[:1]).stem != __name__:
    _register()
