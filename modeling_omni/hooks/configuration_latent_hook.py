"""Settings of Latent Neural Hooks as a PEFT method."""

import inspect
import math
from dataclasses import dataclass, field, fields

from peft import PeftConfig
from peft.utils import PeftType

FORMAT_VERSION = 1
READS = ("none", "prefix", "prompt")
INITS = {"random": (), "text": ("init_text", "tokenizer_name_or_path"), "states": ("init_states_path",)}


@dataclass
class LatentHookConfig(PeftConfig):
    """
    Configuration of latent hooks: learned tokens that take part in the self-attention of whole transformer layers.

    Args:
        ARGUMENTS

    Raises:
        ValueError: for numbers that make no hook, an unknown way of reading, or a format newer than this library.

    Example:

    ```python
    >>> from omnilatent import LatentHookConfig, OmniLatentConfig, OmniLatentModel
    >>> from peft import get_peft_model

    >>> model = get_peft_model(OmniLatentModel(OmniLatentConfig.tiny()), LatentHookConfig(num_tokens=4))
    >>> model.get_nb_trainable_parameters()[0] > 0
    True
    ```
    """

    num_tokens: int = field(default=8, metadata={"help": "Hook tokens that join the sequence of each layer."})
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Layers to hook: a regex that matches whole names, or a list of names or of their endings, such as "
            "'layers.3'. None: every transformer layer."
        },
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to hook, among those that `target_modules` names."}
    )
    gate_bias_init: float = field(
        default=-4.0,
        metadata={
            "help": "Start b of each gate. Content attends to hooks with weights scaled by sigmoid(b): -4 is nearly "
            "silent (0.018), -20 is silent to float precision."
        },
    )
    use_transform: bool = field(
        default=True,
        metadata={
            "help": "Let a small MLP change the hooks' state on its way into each layer; it starts as identity."
        },
    )
    transform_dim: int = field(default=64, metadata={"help": "Width of that MLP's bottleneck."})
    reads: str | None = field(
        default=None,
        metadata={
            "help": "What hooks read. 'none': nothing but hooks. 'prefix': what the first token sees, which is all of "
            "an encoder's input and the sources of an OmniLatent sequence. 'prompt': what `hook_read_mask` (B, T) marks "
            "at the call, or the prompt of a cached generation. Positions that do not see all of it do not see the "
            "hooks, so that nothing leaks. None: 'prefix', and 'none' in causal layers."
        },
    )
    init: str = field(
        default="random",
        metadata={
            "help": "Where hook tokens start: 'random', 'text' (the model's embeddings of `init_text`) or 'states' "
            "(the tensor 'states' (num_tokens, hidden_size) in the safetensors file `init_states_path`)."
        },
    )
    init_text: str | None = field(
        default=None, metadata={"help": "Text to start from: its first tokens, repeated if it has too few."}
    )
    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "Tokenizer of `init_text`."})
    init_states_path: str | None = field(default=None, metadata={"help": "Safetensors file of states to start from."})
    init_weights: bool = field(
        default=True,
        metadata={"help": "False: a random transform and an open gate, for tests that must see an effect at once."},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules of the base model to train and save beside the hooks."}
    )
    hidden_size: int | None = field(
        default=None, metadata={"help": "Width of the hooked layers. Filled in when hooks are attached, then checked."}
    )
    format_version: int = field(default=FORMAT_VERSION, metadata={"help": "Version of the saved adapter's format."})

    is_loaded = False  # no field: it is not saved, nor is `learns_hidden_size`

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.LATENT_HOOK
        self.learns_hidden_size = self.hidden_size is None  # from each model that it is used for
        if self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"This adapter has format {self.format_version}, this library reads up to {FORMAT_VERSION}: "
                "upgrade omnilatent."
            )
        for name in ("num_tokens", "transform_dim"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"`{name}` is {value!r}, expected a whole number of at least 1.")
        if type(self.gate_bias_init) not in (int, float) or not math.isfinite(self.gate_bias_init):
            raise ValueError(f"`gate_bias_init` is {self.gate_bias_init!r}, expected a finite number.")
        if self.reads not in (None, *READS):
            raise ValueError(f"`reads` is {self.reads!r}, expected one of {', '.join(READS)}, or None.")
        if self.init not in INITS:
            raise ValueError(f"`init` is {self.init!r}, expected one of {', '.join(INITS)}.")
        for name in {name for names in INITS.values() for name in names}:
            if (getattr(self, name) is not None) != (name in INITS[self.init]):
                needed = ", ".join(INITS[self.init]) or "no further field"
                raise ValueError(f"init={self.init!r} goes with {needed}; `{name}` is {getattr(self, name)!r}.")

    @classmethod
    def from_peft_type(cls, **kwargs):
        """As peft reads a config from disk; its weights come along, so that there is nothing to initialise."""
        config = super().from_peft_type(**kwargs)
        config.is_loaded = True
        return config


def _describe(config_class) -> str:
    """The fields of its own with the help on each, as a docstring lists arguments."""
    own = [entry for entry in fields(config_class) if entry.name in config_class.__annotations__]
    return "\n".join(f"    {entry.name}: {entry.metadata['help']}" for entry in own)


LatentHookConfig.__doc__ = inspect.cleandoc(LatentHookConfig.__doc__).replace(
    "    ARGUMENTS", _describe(LatentHookConfig)
)
