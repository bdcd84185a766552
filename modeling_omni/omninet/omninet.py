"""OmniNet, the aligner of the specification as a plain module.

Shapes: B batch, S tokens of a stream, D width, H heads.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.utils import is_torchdynamo_compiling

from ..layers.masks import as_attention_mask, zero_blind_queries
from ..layers.token_checks import check_no_nan, check_tokens
from ..losses import info_nce_loss
from .similarity import batch_similarity, check_token_pairs, token_similarity
from .stream_attention import CrossAttention, SelfAttention

# the specification's recommended settings
PRESETS = {
    "research": {"dim": 512, "num_heads": 8, "dropout": 0.1, "parallel": True},
    "production": {"dim": 512, "num_heads": 8, "dropout": 0.0, "parallel": True},
    "small": {"dim": 256, "num_heads": 4, "dropout": 0.1, "parallel": False},
    "large": {"dim": 1024, "num_heads": 16, "dropout": 0.1, "parallel": True},
}


class OmniNet(nn.Module):
    """Aligns vision and audio tokens in one space (OmniAlignNet; Ye et al. 2025, arXiv 2510.15870, section 2.1).

    In each stream one learned query reads the tokens by cross-attention; self-attention and a layer norm follow.
    Symmetric InfoNCE contrasts each sample's two embeddings with those of the rest of the batch.

    At the start the embeddings of different samples are about orthogonal and the loss is near ln B: weights keep the
    variance, biases are 0, and the values' weights have rows of zero sum, so that an offset shared by all features
    does not reach the embedding. Any other mean that all tokens share is taken out by `center_on`.

    Args:
        dim: width of tokens and embeddings.
        num_heads: attention heads of both layers; a head is `dim / num_heads` wide.
        query_heads: query heads of the cross-attention, for grouped-query attention (Ainslie et al. 2023). 1: all
            `num_heads`.
        dropout: on the attention weights, in training.
        kv_heads: key and value heads of the cross-attention, each shared by a group of its query heads. 1: one
            for all query heads, or, where `query_heads` is 1 too, no grouping, a pair for every query head.
        temperature: the cosines are divided by it in the loss.
        parallel: run both streams as one batch where they have the same number of tokens. Hooks on the audio stream's
            modules are not called then.

    Raises:
        HeadsDoNotDivideError: a ValueError and an AssertionError, when heads do not divide.
        ValueError: for a temperature that is not positive.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import OmniNet

    >>> model = OmniNet(dim=64, num_heads=8, query_heads=4, kv_heads=2)
    >>> vision, audio, loss = model(torch.randn(4, 10, 64), torch.randn(4, 8, 64))
    >>> vision.shape, audio.shape, loss.shape
    (torch.Size([4, 1, 64]), torch.Size([4, 1, 64]), torch.Size([]))
    ```
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        query_heads: int = 1,
        dropout: float = 0.0,
        kv_heads: int = 1,
        temperature: float = 0.07,
        parallel: bool = True,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        self.dim = dim
        self.num_heads = num_heads
        self.query_heads = query_heads
        self.dropout = dropout
        self.kv_heads = kv_heads
        self.temperature = temperature
        self.parallel = parallel
        self.gradient_checkpointing = False

        self.vision_self_attn = SelfAttention(dim, num_heads, dropout)
        self.audio_self_attn = SelfAttention(dim, num_heads, dropout)
        heads = {"num_heads": num_heads}
        if (query_heads, kv_heads) != (1, 1):
            heads = {
                "num_heads": num_heads if query_heads == 1 else query_heads,
                "num_key_value_heads": kv_heads,
                "head_dim": dim // num_heads,
            }
        self.vision_cross_attn = CrossAttention(dim, dropout=dropout, **heads)
        self.audio_cross_attn = CrossAttention(dim, dropout=dropout, **heads)
        self.vision_l2_norm = nn.LayerNorm(dim)
        self.audio_l2_norm = nn.LayerNorm(dim)
        self.query_embedding = nn.Parameter(torch.randn(1, 1, dim))
        with torch.no_grad():
            for attention in (self.vision_cross_attn, self.audio_cross_attn):
                weight = attention.v_proj.weight
                weight.sub_(weight.mean(dim=1, keepdim=True))

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "OmniNet":
        """The specification's recommended settings.

        Args:
            name: `"research"`, `"production"`, `"small"` or `"large"`.
            overrides: arguments of the constructor.

        Raises:
            ValueError: for another name.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}: choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    # --- forward -------------------------------------------------------------------------------------------------

    def forward(
        self,
        vision_input: torch.Tensor,
        audio_input: torch.Tensor,
        mask: torch.Tensor | None = None,
        vision_mask: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            vision_input: (B, S_v, D).
            audio_input: (B, S_a, D).
            mask: for both streams, so they must have the same number of tokens; True or 1 = attend. (B, S) or
                (B, H or 1, 1, S).
            vision_mask, audio_mask: for one stream; joined with `mask` by and.

        Returns:
            The embeddings (B, 1, D) of vision and audio, and the loss (). A sample that is masked as a whole in a
            stream has the embedding 0 there and takes no part in the loss.

        Raises:
            ValueError: for shapes that do not fit, no tokens, or NaN (looked for on the CPU only, as a look at a GPU's
                values would stop it each time).
        """
        run = self.forward_parallel if self.parallel else self._forward
        return run(vision_input, audio_input, mask, vision_mask, audio_mask)

    def forward_parallel(self, vision_input, audio_input, mask=None, vision_mask=None, audio_mask=None):
        """`forward` with both streams as one batch, compiled on CUDA.

        Streams of different lengths have no common batch and run one after the other.
        """
        if vision_input.shape != audio_input.shape:
            return self._forward(vision_input, audio_input, mask, vision_mask, audio_mask)
        masks = self._check_inputs(vision_input, audio_input, mask, vision_mask, audio_mask)
        on_cuda = vision_input.is_cuda and not is_torchdynamo_compiling()
        run = _compiled_streams() if on_cuda else _run_streams
        embeddings = self._checkpointed(run, self, vision_input, audio_input, *masks)
        return self._with_loss(*embeddings, *masks)

    def _forward(self, vision_input, audio_input, mask=None, vision_mask=None, audio_mask=None):
        """`forward` with one stream after the other."""
        masks = self._check_inputs(vision_input, audio_input, mask, vision_mask, audio_mask)
        query = self.query_embedding.expand(len(vision_input), -1, -1)
        vision = self._checkpointed(self._process_vision_stream, query, vision_input, masks[0])
        audio = self._checkpointed(self._process_audio_stream, query, audio_input, masks[1])
        return self._with_loss(vision, audio, *masks)

    def gradient_checkpointing_enable(self):
        """Keep no activations of the streams in training, but compute them again in the backward pass."""
        self.gradient_checkpointing = True

    def gradient_checkpointing_disable(self):
        self.gradient_checkpointing = False

    @torch.no_grad()
    def center_on(self, vision_input: torch.Tensor, audio_input: torch.Tensor):
        """Start from a batch: give the values the biases that bring their mean over it to 0.

        Features of one pretrained tower have a large common mean, which makes all embeddings of a fresh model alike.
        Meant to be called once, before training (data-dependent initialisation, Mishkin & Matas 2016, section 3).

        Args:
            vision_input, audio_input: (B, S, D), real tokens only.
        """
        for attention, tokens in ((self.vision_cross_attn, vision_input), (self.audio_cross_attn, audio_input)):
            check_tokens("tokens", tokens, self.dim)
            attention.v_proj.bias.sub_(attention.v_proj(tokens).mean(dim=(0, 1)))

    # --- its parts -----------------------------------------------------------------------------------------------

    def _check_inputs(self, vision_input, audio_input, mask, vision_mask, audio_mask):
        """Raise for what does not fit; returns the mask of each stream, bool and broadcastable to (B, H, 1, S)."""
        for name, tokens in (("vision_input", vision_input), ("audio_input", audio_input)):
            check_tokens(name, tokens, self.dim)
        if len(vision_input) != len(audio_input):
            raise ValueError(
                f"`vision_input` has {len(vision_input)} samples, `audio_input` {len(audio_input)}: they are pairs."
            )
        if mask is not None and vision_input.shape[1] != audio_input.shape[1]:
            raise ValueError(
                f"One `mask` cannot serve {vision_input.shape[1]} vision tokens and {audio_input.shape[1]} audio "
                "tokens: give `vision_mask` and `audio_mask`."
            )
        check_no_nan("vision_input", vision_input)
        check_no_nan("audio_input", audio_input)
        return (
            self._stream_mask(vision_input, self.vision_cross_attn, mask, vision_mask),
            self._stream_mask(audio_input, self.audio_cross_attn, mask, audio_mask),
        )

    @staticmethod
    def _stream_mask(tokens, attention, *masks):
        masks = [
            as_attention_mask(mask, len(tokens), attention.num_heads, 1, tokens.shape[1])
            for mask in masks
            if mask is not None
        ]
        return functools.reduce(torch.logical_and, masks) if masks else None

    def _checkpointed(self, function, *args):
        if self.gradient_checkpointing and self.training:
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def _process_vision_stream(self, query, vision_input, mask=None):
        """(B, 1, D) query and (B, S_v, D) tokens -> (B, 1, D) embedding, 0 where the mask leaves nothing."""
        mask = self._stream_mask(vision_input, self.vision_cross_attn, mask)
        states = self.vision_cross_attn(query, vision_input, vision_input, mask)
        return zero_blind_queries(self.vision_l2_norm(self.vision_self_attn(states)), mask)

    def _process_audio_stream(self, query, audio_input, mask=None):
        """(B, 1, D) query and (B, S_a, D) tokens -> (B, 1, D) embedding, 0 where the mask leaves nothing."""
        mask = self._stream_mask(audio_input, self.audio_cross_attn, mask)
        states = self.audio_cross_attn(query, audio_input, audio_input, mask)
        return zero_blind_queries(self.audio_l2_norm(self.audio_self_attn(states)), mask)

    def _with_loss(self, vision, audio, vision_mask, audio_mask):
        masks = [mask.flatten(1).any(dim=1) for mask in (vision_mask, audio_mask) if mask is not None]
        present = functools.reduce(torch.logical_and, masks).expand(len(vision)) if masks else None
        loss = info_nce_loss(_pool(vision), _pool(audio), 1 / self.temperature, present=present)
        return vision, audio, loss

    # --- loss and similarity -------------------------------------------------------------------------------------

    def _compute_clip_loss(self, vision_embeddings: torch.Tensor, audio_embeddings: torch.Tensor) -> torch.Tensor:
        """L = (L_v->a + L_a->v) / 2, sample by sample, for reading; the batch is what is contrasted.

        Args:
            vision_embeddings, audio_embeddings: (B, S, D); several tokens are averaged.
        """
        check_token_pairs(vision_embeddings, audio_embeddings)
        dtype = torch.promote_types(vision_embeddings.dtype, torch.float32)
        vision = F.normalize(_pool(vision_embeddings).to(dtype), dim=-1)
        audio = F.normalize(_pool(audio_embeddings).to(dtype), dim=-1)
        vision_to_audio, audio_to_vision = [], []
        for i in range(len(vision)):
            # row i of the one is the positive of row i of the other, all other rows are negatives
            scores = audio @ vision[i] / self.temperature
            vision_to_audio.append(scores.logsumexp(dim=0) - scores[i])
            scores = vision @ audio[i] / self.temperature
            audio_to_vision.append(scores.logsumexp(dim=0) - scores[i])
        return (torch.stack(vision_to_audio).mean() + torch.stack(audio_to_vision).mean()) / 2

    def _compute_clip_loss_vectorized(
        self, vision_embeddings: torch.Tensor, audio_embeddings: torch.Tensor
    ) -> torch.Tensor:
        """The same loss from one matrix of similarities.

        Args:
            vision_embeddings, audio_embeddings: (B, S, D); several tokens are averaged.
        """
        check_token_pairs(vision_embeddings, audio_embeddings)
        return info_nce_loss(_pool(vision_embeddings), _pool(audio_embeddings), 1 / self.temperature)

    def get_similarity_matrix(self, vision_embeddings: torch.Tensor, audio_embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines between the tokens of each sample: (B, S_v, D) and (B, S_a, D) -> (B, S_v, S_a).

        For retrieval across the batch see `similarity`.
        """
        return token_similarity(vision_embeddings, audio_embeddings)

    def similarity(self, vision_embeddings: torch.Tensor, audio_embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines between the samples of a batch: (N, S_v, D) and (M, S_a, D) -> (N, M)."""
        return batch_similarity(_pool(vision_embeddings), _pool(audio_embeddings))


def _run_streams(model: OmniNet, vision_input, audio_input, vision_mask, audio_mask):
    """Both streams as one batch: the kernels sum 2 B samples, the projections are batched products (2, B, S, D)."""
    tokens = torch.stack([vision_input, audio_input])
    query = model.query_embedding.expand(2, len(vision_input), -1, -1)
    mask = None
    if vision_mask is not None or audio_mask is not None:
        full = (len(vision_input), model.vision_cross_attn.num_heads, 1, vision_input.shape[1])
        everything = torch.ones((), dtype=torch.bool, device=tokens.device)
        mask = torch.cat([(everything if m is None else m).expand(full) for m in (vision_mask, audio_mask)])

    vision, audio = model.vision_cross_attn, model.audio_cross_attn
    projected = (
        _run_stacked(vision.q_proj, audio.q_proj, query),
        _run_stacked(vision.k_proj, audio.k_proj, tokens),
        _run_stacked(vision.v_proj, audio.v_proj, tokens),
    )
    states = vision.attend(*(states.flatten(0, 1) for states in projected), mask)
    states = _run_stacked(vision.out_proj, audio.out_proj, states.unflatten(0, (2, -1)))

    vision, audio = model.vision_self_attn, model.audio_self_attn
    projected = _run_stacked(vision.qkv_proj, audio.qkv_proj, states).flatten(0, 1)
    states = vision.attend(*projected.chunk(3, dim=-1))
    states = _run_stacked(vision.out_proj, audio.out_proj, states.unflatten(0, (2, -1)))
    states = _run_stacked(model.vision_l2_norm, model.audio_l2_norm, states)
    return zero_blind_queries(states.flatten(0, 1), mask).chunk(2)


def _run_stacked(first: nn.Module, second: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """`first` on states[0] and `second` on states[1] as one batched call; the modules have one shape.

    Modules are called, not their weights read, so that adapters inside them take part.
    """
    others = dict(second.named_parameters())
    weights = {
        name: torch.stack([weight, others[name]]) for name, weight in first.named_parameters() if name in others
    }
    if not len(weights) == len(others) == len(list(first.parameters())):
        raise ValueError("The streams have different parameters, as if one had an adapter: set `parallel=False`.")
    run = torch.vmap(
        lambda weights, states: torch.func.functional_call(first, weights, (states,)), randomness="different"
    )
    return run(weights, states)


@functools.cache
def _compiled_streams():
    return torch.compile(_run_streams)


def _pool(embeddings: torch.Tensor) -> torch.Tensor:
    """(B, S, D) -> (B, D), the mean over tokens."""
    return embeddings.mean(dim=1)


__all__ = ["OmniNet"]
