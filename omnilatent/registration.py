"""Makes transformers' Auto classes and pipelines, and PEFT, know what is ours."""

from peft.utils import PeftType, register_peft_method
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
)
from transformers.models.auto import modeling_auto
from transformers.models.vit import ViTImageProcessor, ViTImageProcessorPil

from .configuration.configuration_audio_visual_aligner import AudioVisualAlignerConfig
from .configuration.configuration_multimodal import DecoderConfig, EncoderConfig, MultiModalConfig
from .configuration.configuration_omnilatent import OmniLatentConfig
from .configuration.configuration_omninet import OmniNetConfig
from .configuration.configuration_relpos_vit import RelPosViTConfig
from .modeling_omni.hooks import LatentHookConfig, LatentHookModel
from .modeling_omni.multimodal.modeling_multimodal import MultiModalTransformer
from .modeling_omni.multimodal.modeling_multimodal_classification import MultiModalForVisualQuestionAnswering
from .modeling_omni.multimodal.modeling_multimodal_generation import (
    MultiModalForCaptioning,
    MultiModalForConditionalGeneration,
)
from .modeling_omni.multimodal.modeling_multimodal_retrieval import MultiModalForRetrieval
from .modeling_omni.multimodal.token_encoder import TokenEncoder
from .modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel
from .modeling_omni.omninet.audio_visual_aligner import AudioVisualAligner
from .modeling_omni.omninet.modeling_omninet import OmniNetModel
from .modeling_omni.relpos_vit.modeling_relpos_vit import RelPosViTForImageClassification, RelPosViTModel
from .processing.feature_extraction_omnilatent import OmniLatentFeatureExtractor
from .processing.image_processing_omnilatent import OmniLatentImageProcessor, OmniLatentImageProcessorPil
from .processing.processing_audio_visual_aligner import AudioVisualAlignerProcessor
from .processing.processing_multimodal import MultiModalProcessor
from .processing.processing_omnilatent import OmniLatentProcessor
from .processing.tokenization_omnilatent import OmniLatentTokenizer
from .processing.video_processing_omnilatent import OmniLatentVideoProcessor

IMAGE_PROCESSORS = {"pil": OmniLatentImageProcessorPil, "torchvision": OmniLatentImageProcessor}


def register():
    """Enter configs, models, processors and the adapter type. Doing it twice changes nothing."""
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

    AutoConfig.register(OmniNetConfig.model_type, OmniNetConfig, exist_ok=True)
    AutoModel.register(OmniNetConfig, OmniNetModel, exist_ok=True)
    AutoConfig.register(AudioVisualAlignerConfig.model_type, AudioVisualAlignerConfig, exist_ok=True)
    AutoModel.register(AudioVisualAlignerConfig, AudioVisualAligner, exist_ok=True)
    AutoProcessor.register(AudioVisualAlignerConfig, AudioVisualAlignerProcessor, exist_ok=True)

    AutoConfig.register(RelPosViTConfig.model_type, RelPosViTConfig, exist_ok=True)
    AutoModel.register(RelPosViTConfig, RelPosViTModel, exist_ok=True)
    AutoModelForImageClassification.register(RelPosViTConfig, RelPosViTForImageClassification, exist_ok=True)
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[RelPosViTConfig.model_type] = (
        RelPosViTForImageClassification.__name__
    )
    AutoImageProcessor.register(
        RelPosViTConfig,
        image_processor_classes={"pil": ViTImageProcessorPil, "torchvision": ViTImageProcessor},
        exist_ok=True,
    )

    register_multimodal()
    register_latent_hooks()


def register_multimodal():
    """The task models of text and a second modality."""
    AutoConfig.register(EncoderConfig.model_type, EncoderConfig, exist_ok=True)
    AutoConfig.register(DecoderConfig.model_type, DecoderConfig, exist_ok=True)
    AutoConfig.register(MultiModalConfig.model_type, MultiModalConfig, exist_ok=True)
    AutoModel.register(EncoderConfig, TokenEncoder, exist_ok=True)
    AutoModel.register(MultiModalConfig, MultiModalTransformer, exist_ok=True)
    # of several classes the one is taken that the saved config names
    writers = (MultiModalForConditionalGeneration, MultiModalForCaptioning)
    AutoModelForImageTextToText.register(MultiModalConfig, writers, exist_ok=True)
    AutoModelForVisualQuestionAnswering.register(MultiModalConfig, MultiModalForVisualQuestionAnswering, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(MultiModalConfig, MultiModalForRetrieval, exist_ok=True)
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[MultiModalConfig.model_type] = tuple(
        writer.__name__ for writer in writers
    )
    modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES[MultiModalConfig.model_type] = (
        MultiModalForRetrieval.__name__
    )
    AutoProcessor.register(MultiModalConfig, MultiModalProcessor, exist_ok=True)
    AutoTokenizer.register(MultiModalConfig, OmniLatentTokenizer, exist_ok=True)
    AutoImageProcessor.register(
        MultiModalConfig,
        image_processor_classes={"pil": ViTImageProcessorPil, "torchvision": ViTImageProcessor},
        exist_ok=True,
    )


def register_latent_hooks():
    """Make Latent Neural Hooks a PEFT method, "LATENT_HOOK", as LoRA is one."""
    name = "LATENT_HOOK"
    if name in PeftType.__members__:
        return
    # `register_peft_method` takes only members of PeftType, and an Enum cannot be extended. A member of a str Enum is a
    # str with a name and a value which the class can look up; with that, pickle and copy give back this very object.
    member = str.__new__(PeftType, name)
    member._name_, member._value_, member.__objclass__ = name, name, PeftType
    member._sort_order_ = len(PeftType)
    type.__setattr__(PeftType, name, member)  # EnumType's own refuses names of members
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    register_peft_method(name=name.lower(), config_cls=LatentHookConfig, model_cls=LatentHookModel)
