"""Setting the attention kernel of models whose configs have parts that are no models."""

from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..known_kernels import KnowsItsKernels


class SetsKernelsOfParts(KnowsItsKernels):
    """Mixin in front of `PreTrainedModel`.

    transformers warns of each part of a config for which it finds no model: ours of attentions and fusions, and of
    encoders that a task does without. They take what the model around them has.
    """

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs):
        if isinstance(attn_implementation, str) and attn_implementation in (
            "eager",
            *ALL_ATTENTION_FUNCTIONS.valid_keys(),
        ):
            self.get_correct_attn_implementation(attn_implementation)  # refuses before a part is set
            kept = {id(module.config) for module in self.modules() if isinstance(module, PreTrainedModel)}
            _set_parts(self.config, attn_implementation, kept)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)


def _set_parts(config, name, kept):
    for word in config.sub_configs:
        part = getattr(config, word)
        if part is not None:
            if id(part) not in kept:
                part._attn_implementation_internal = name
            _set_parts(part, name, kept)
