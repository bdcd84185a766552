"""Reading a laid-out sequence: which token belongs to which segment, and where it stands.

Shapes: B batch, T tokens.
"""

import torch

from ...configuration import layout
from ...configuration.configuration_omnilatent import OmniLatentConfig
from ...configuration.modalities import TENSOR_NAMES, TEXT
from ..layers.token_rows import place_rows, take_rows
from ..layers.value_checks import check_values
from .coordinates import token_coordinates


def is_marker(config: OmniLatentConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """True at the tokens that open a target."""
    return (input_ids >= config.text_target_token_id) & (input_ids <= config.video_target_token_id)


def is_placeholder(config: OmniLatentConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """True at the placeholders of sources that are not text."""
    return (input_ids >= config.image_token_id) & (input_ids <= config.video_token_id)


def find_segments(config: OmniLatentConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """The segments of a sequence that came without `token_type_ids`: 0 for sources, k for the k-th target.

    A marker opens a target. In a row without markers, what follows the last placeholder is a causal text target: a
    plain row of text is an ordinary language model's input.
    """
    markers = is_marker(config, input_ids).long().cumsum(dim=1)
    placeholders_to_come = is_placeholder(config, input_ids).flip(1).long().cumsum(dim=1).flip(1)
    return torch.where(markers[:, -1:] > 0, markers, (placeholders_to_come == 0).long())


def is_bidirectional(config: OmniLatentConfig, input_ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """True at tokens that see later tokens of their segment: all but those of text targets."""
    text_target = (segments > 0) & (
        (input_ids < config.special_token_offset) | (input_ids == config.text_target_token_id)
    )
    return ~text_target


def text_positions(
    config: OmniLatentConfig, input_ids: torch.Tensor, segments: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Index of each text token or marker among those of its segment, (B, T); 0 at other tokens."""
    real = attention_mask.bool()
    counted = real & ((input_ids < config.special_token_offset) | is_marker(config, input_ids))
    count = counted.long().cumsum(dim=1)
    # the segment of the nearest real token before each token; -inf before the first
    order = torch.arange(input_ids.shape[1], device=input_ids.device)
    last_real = torch.where(real, order, -1).cummax(dim=1).values
    before = torch.cat([torch.full_like(last_real[:, :1], -1), last_real[:, :-1]], dim=1)
    previous = segments.gather(1, before.clamp(min=0))
    begins = real & ((before < 0) | (previous != segments))
    base = torch.where(begins, count - counted.long(), 0).cummax(dim=1).values
    return (count - 1 - base).clamp(min=0) * counted


class TokenGroup:
    """The tokens of one modality in a sequence, sources or slots: where they are, and what goes there.

    Args:
        where: (B, T), True at this modality's placeholders (or slots).
        grid_mask: (B, tokens), True at the tokens of the modality's grid that are real; `None`: all.
        size: the modality's size, see `layout.target_size`.
        start: seconds at which it begins.
    """

    def __init__(self, config: OmniLatentConfig, name: str, where, grid_mask, size, start: float = 0.0):
        self.config, self.name, self.where, self.size, self.start = config, name, where, size, start
        self.tokens = layout.count_tokens(config, name, size)
        self.grid_mask = grid_mask

    def check(self, what: str):
        """Raise a ValueError unless every row has a placeholder for each real token."""
        if self.grid_mask is None:
            expected = torch.full_like(self.where[:, 0], self.tokens, dtype=torch.long)
        else:
            expected = self.grid_mask.sum(dim=1)
        found = self.where.sum(dim=1)
        check_values(
            expected == found,
            f"The sequence does not have as many {what} of {self.name} as its tensors make tokens.",
            lambda: (
                f"The sequence has {found.tolist()} {what} of {self.name}, its tensors make "
                f"{expected.tolist()} tokens; scattering anyway would pair pictures with the wrong rows."
            ),
        )

    def coordinates(self) -> torch.Tensor:
        """(time, row, column) of each token of the grid, (B or 1, tokens, 3)."""
        return token_coordinates(self.config, self.name, self.size, self.grid_mask, self.start, self.where.device)

    def place(self, grid_rows: torch.Tensor) -> torch.Tensor:
        """Rows of the grid (B or 1, tokens, D) into the sequence (B, T, D), 0 elsewhere."""
        rows = grid_rows.expand(len(self.where), -1, -1)
        if self.grid_mask is not None:
            rows = take_rows(rows, self.grid_mask, self.tokens)
        return place_rows(rows, self.where)

    def take(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse: from the sequence (B, T, D) the grid's rows (B, tokens, D) and which are real (B, tokens)."""
        rows = take_rows(states, self.where, self.tokens)
        if self.grid_mask is None:
            return rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return place_rows(rows, self.grid_mask), self.grid_mask


def source_groups(config: OmniLatentConfig, input_ids: torch.Tensor, tensors: dict) -> dict[str, TokenGroup]:
    """The groups of placeholders. A modality that is no source may be there as a target's twin: then its labels fill it."""
    groups = {}
    for name, names in TENSOR_NAMES.items():
        values, mask = tensors.get(names.values), tensors.get(names.mask)
        if values is None:
            continue
        size = layout.size_of(name, layout.as_keyword(name, values))
        grid_mask = None if mask is None else layout.token_mask(config, name, mask.bool())
        groups[name] = TokenGroup(config, name, input_ids == getattr(config, f"{name}_token_id"), grid_mask, size)
    return groups


def slot_groups(
    config: OmniLatentConfig, input_ids: torch.Tensor, target_sizes: dict, target_starts: dict, tensors: dict
) -> dict[str, TokenGroup]:
    """The groups of target slots; text has none."""
    groups = {}
    for name, size in target_sizes.items():
        if name == TEXT:
            continue
        mask = tensors.get(TENSOR_NAMES[name].labels_mask)
        grid_mask = None if mask is None else layout.token_mask(config, name, mask.bool())
        where = input_ids == getattr(config, f"{name}_slot_token_id")
        groups[name] = TokenGroup(config, name, where, grid_mask, tuple(size), target_starts.get(name, 0.0))
    return groups


__all__ = [
    "TokenGroup",
    "find_segments",
    "is_bidirectional",
    "is_marker",
    "is_placeholder",
    "slot_groups",
    "source_groups",
    "text_positions",
]
