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
        own = _of(attn_implementation, "", self.config._attn_implementation)
        if own in ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()):
            self.get_correct_attn_implementation(own)  # refuses before a part is set
            models = {id(module.config) for module in self.modules() if isinstance(module, PreTrainedModel)}
            _set_parts(self.config, attn_implementation, models)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)


def _set_parts(config, wanted, models):
    own = _of(wanted, "", config._attn_implementation)
    for word in config.sub_configs:
        part = getattr(config, word)
        if part is None:
            continue
        wanted_of_part = _of(wanted, word, part._attn_implementation)
        if id(part) not in models:
            part._attn_implementation_internal = wanted_of_part = own
        _set_parts(part, wanted_of_part, models)


def _of(wanted, word, otherwise):
    """What a name of a kernel, or a dict of them as transformers takes it, says of the part `word` of a config."""
    return wanted.get(word, otherwise) if isinstance(wanted, dict) else wanted
