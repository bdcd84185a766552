"""Makes transformers' Auto classes and pipelines know our models and processors."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
)
from transformers.models.auto import modeling_auto

from .configuration.configuration_omnilatent import OmniLatentConfig
from .modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel
from .processing.feature_extraction_omnilatent import OmniLatentFeatureExtractor
from .processing.image_processing_omnilatent import OmniLatentImageProcessor, OmniLatentImageProcessorPil
from .processing.processing_omnilatent import OmniLatentProcessor
from .processing.tokenization_omnilatent import OmniLatentTokenizer
from .processing.video_processing_omnilatent import OmniLatentVideoProcessor

IMAGE_PROCESSORS = {"pil": OmniLatentImageProcessorPil, "torchvision": OmniLatentImageProcessor}


def register():
    """Enter configs, models and processors. Doing it twice changes nothing."""
    AutoConfig.register(OmniLatentConfig.model_type, OmniLatentConfig, exist_ok=True)
    AutoModel.register(OmniLatentConfig, OmniLatentModel, exist_ok=True)
    AutoModelForMultimodalLM.register(OmniLatentConfig, OmniLatentModel, exist_ok=True)
    # pipelines compare class names with this table, which `register` does not fill
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[OmniLatentConfig.model_type] = OmniLatentModel.__name__

    AutoTokenizer.register(OmniLatentConfig, OmniLatentTokenizer, exist_ok=True)
    AutoFeatureExtractor.register(OmniLatentConfig, OmniLatentFeatureExtractor, exist_ok=True)
    AutoImageProcessor.register(OmniLatentConfig, image_processor_classes=IMAGE_PROCESSORS, exist_ok=True)
    AutoVideoProcessor.register(OmniLatentConfig, OmniLatentVideoProcessor, exist_ok=True)
    AutoProcessor.register(OmniLatentConfig, OmniLatentProcessor, exist_ok=True)
