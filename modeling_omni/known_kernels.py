"""Models that refuse an attention kernel which they cannot use when it is set, and not at their first forward."""

from transformers.integrations.hub_kernels import is_kernel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .layers import (
    linear_attention,  # noqa: F401  these register our kernels
    relative_attention,
    sparse_attention,  # noqa: F401
)

# kernels with settings or weights of their own, for which an attention has to be built
KINDS = ("sparse", "linear", "performer")


class KnowsItsKernels:
    """Mixin in front of `PreTrainedModel`, which takes every registered kernel, whatever the kernel asks for.

    Kernels that users register are taken as before.
    """

    _supports_relative_attn = False  # as `_supports_flex_attn` and the like in transformers

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """What transformers asks at construction and in `set_attn_implementation`, of this model and of its parts.

        Raises:
            ValueError: for a name that is not registered or that this model cannot use, with those that it can; and for
                "relative" where the config asks for attention weights, which it does not make.
        """
        registered = ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys())
        if requested_attention is not None and (
            requested_attention not in registered or self._refuses(requested_attention)
        ):
            raise self._refusal(requested_attention)
        if requested_attention == relative_attention.NAME and self.config.output_attentions:
            raise ValueError(relative_attention.NO_WEIGHTS)
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args, **kwargs) -> str:
        # transformers fetches a kernel of the Hub without asking whether the model can use it
        if is_kernel(attn_implementation) and self._refuses(attn_implementation):
            raise self._refusal(attn_implementation)
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)

    def _refuses(self, name: str) -> bool:
        """Whether it is one of ours that needs more than a name, or flash attention of the Hub, which takes no bias.

        Of its own kernels transformers tells itself why it refuses them.
        """
        if name == relative_attention.NAME:
            return not self._supports_relative_attn
        return name in KINDS or (is_kernel(name) and not self._is_usable(name))

    def _refusal(self, name: str) -> ValueError:
        registered = ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys())
        usable = [repr(other) for other in registered if not self._refuses(other) and self._is_usable(other)]
        hint = " Kinds of attention are set by `AttentionConfig`, in models whose config has one."
        return ValueError(
            f'Specified `attn_implementation="{name}"` is not supported by {type(self).__name__}: choose one of '
            f"{', '.join(usable)}.{hint if name in KINDS else ''}"
        )

    def _is_usable(self, name: str) -> bool:
        """Whether transformers' flags let this model use a kernel of transformers."""
        if name.startswith("paged|"):
            return False
        if "flash" in name:
            return self._supports_flash_attn
        return self._supports_flex_attn or name != "flex_attention"


__all__ = ["KnowsItsKernels"]
