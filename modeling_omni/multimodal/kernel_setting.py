"""Setting the attention kernel of models whose configs have parts that are no models."""

from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..known_kernels import KnowsItsKernels


class SetsKernelsOfParts(KnowsItsKernels):
    """Mixin in front of `PreTrainedModel`.

    transformers warns of each part of a config for which it finds no model: ours of attentions and fusions, and of
    encoders that a task does without. They take the name that is set for the model around them. A dict of names, as
    transformers takes it, sets those that it names and what lies in them.
    """

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs):
        own = attn_implementation
        if isinstance(attn_implementation, dict):
            own = attn_implementation.get("", self.config._attn_implementation)
        if own in ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()):
            self.get_correct_attn_implementation(own)  # refuses before a part is set
            models = {id(module.config) for module in self.modules() if isinstance(module, PreTrainedModel)}
            _set_parts(self.config, attn_implementation, models)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)


def _set_parts(config, wanted, models):
    for word in config.sub_configs:
        part = getattr(config, word)
        if part is None:
            continue
        if isinstance(wanted, dict):
            _set_parts(part, wanted.get(word, part._attn_implementation), models)
            continue
        if id(part) not in models:
            part._attn_implementation_internal = wanted
        _set_parts(part, wanted, models)
