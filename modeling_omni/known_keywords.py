"""Models that refuse misspelt keywords, which their `**kwargs` would otherwise take without a word."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

from transformers.utils import TransformersKwargs

# what comes beside a model's own arguments: from transformers and peft, and through a model to a part of it
PASSED_ON = frozenset(
    {
        *TransformersKwargs.__annotations__,
        "return_dict",
        "use_cache",  # transformers and peft set these three whatever the model takes
        "cache_position",
        "adapter_names",
        "skip_logits",  # Trainer's, with Liger's kernels and in context parallelism
        "shift_labels",
        "labels",  # Trainer's collators make them of a column "label"
        "token_type_ids",  # made by the tokenizers of some towers
        "hook_read_mask",  # the part that is hooked takes these two
        "hook_states",
        "debug_io",  # `merge_with_config_defaults` reads these three
        "debug_io_dir",
        "prune_layers",
    }
)


def refuse_unknown_keywords(owner: str, given: dict[str, Any], known: Collection[str]):
    """
    Args:
        owner: Whose keywords they are, as the error calls it.
        given: Keyword arguments by name. `None` says nothing: peft hands it on for arguments that a model lacks.
        known: The names of arguments; those in `PASSED_ON` are known besides.

    Raises:
        TypeError: for another name, with the nearest known one.
    """
    for name, value in given.items():
        if value is None or name in known or name in PASSED_ON:
            continue
        close = difflib.get_close_matches(name, [*known, *PASSED_ON], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else f" It takes {', '.join(known)}."
        raise TypeError(f"{owner} got an unexpected keyword argument {name!r}.{hint}")


def knows_its_keywords(forward: Callable) -> Callable:
    """Let a `forward` with `**kwargs` refuse what is neither one of its arguments nor passed on by a library."""
    known = argument_names(forward)

    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        refuse_unknown_keywords(f"{type(self).__name__}.forward()", kwargs, known)
        return forward(self, *args, **kwargs)

    return wrapper


def argument_names(method: Callable) -> tuple[str, ...]:
    """The names of a method's arguments, without `self` and what takes all others."""
    parameters = inspect.signature(method).parameters.values()
    return tuple(p.name for p in parameters if p.name != "self" and p.kind is not inspect.Parameter.VAR_KEYWORD)
