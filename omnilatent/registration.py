"""Makes transformers' Auto classes and pipelines know our models."""

from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM
from transformers.models.auto import modeling_auto

from .configuration.configuration_omnilatent import OmniLatentConfig
from .modeling_omni.omnilatent.modeling_omnilatent import OmniLatentModel


def register():
    """Enter configs, models and processors. Doing it twice changes nothing."""
    AutoConfig.register(OmniLatentConfig.model_type, OmniLatentConfig, exist_ok=True)
    AutoModel.register(OmniLatentConfig, OmniLatentModel, exist_ok=True)
    AutoModelForMultimodalLM.register(OmniLatentConfig, OmniLatentModel, exist_ok=True)
    # pipelines compare class names with this table, which `register` does not fill
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[OmniLatentConfig.model_type] = OmniLatentModel.__name__
