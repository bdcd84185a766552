"""Byte-level tokenizer of OmniLatent: any UTF-8 text in, the same text out, nothing downloaded."""

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..configuration.configuration_omnilatent import ROOM_FOR_ADDED_TOKENS, OmniLatentConfig
from ..configuration.modalities import FIRST_BYTE_ID, SPECIAL_TOKENS

NUM_TEXT_IDS = FIRST_BYTE_ID + 256
DEFAULT_OFFSET = OmniLatentConfig.vocab_size + ROOM_FOR_ADDED_TOKENS  # where the default config has them


class OmniLatentTokenizer(TokenizersBackend):
    r"""
    One token per UTF-8 byte: padding is 0, BOS 1, EOS 2 and byte `b` is `3 + b`. The placeholders, target markers
    and slots of `SPECIAL_TOKENS` have the ids `special_token_offset`, `special_token_offset + 1`, ...

    Ids between the bytes and the special tokens mean nothing and are decoded to nothing: an untrained model may emit
    them. Text that spells a special token is encoded as that token; `split_special_tokens=True` encodes it as bytes.

    Args:
        special_token_offset (`int`, defaults to that of the default config): Id of the first special token; the
            model's `config.special_token_offset`.
        pad_token, bos_token, eos_token (`str`): How the three control tokens are written.
        add_bos_token, add_eos_token (`bool`, defaults to `False`): Put BOS before, EOS after each text.
        padding_side (`str`, defaults to `"left"`): The side that generation needs.

    Raises:
        ValueError: if `special_token_offset` lies among the text ids.

    Example:

    ```python
    >>> from omnilatent import OmniLatentTokenizer

    >>> tokenizer = OmniLatentTokenizer()
    >>> tokenizer("Hi")["input_ids"]
    [75, 108]
    >>> tokenizer.decode([75, 108])
    'Hi'
    ```
    """

    model_input_names = ["input_ids", "attention_mask"]
    model = BPE

    def __init__(
        self,
        special_token_offset: int = DEFAULT_OFFSET,
        pad_token: str | AddedToken = "<|pad|>",
        bos_token: str | AddedToken = "<|bos|>",
        eos_token: str | AddedToken = "<|eos|>",
        padding_side: str = "left",
        **kwargs,
    ):
        if special_token_offset < NUM_TEXT_IDS:
            raise ValueError(
                f"`special_token_offset` must be at least {NUM_TEXT_IDS} (256 bytes after padding, BOS and EOS), got "
                f"{special_token_offset}."
            )
        for name in ("vocab", "merges"):  # a saved tokenizer.json brings them; they follow from the offset
            kwargs.pop(name, None)
        self._tokenizer = _byte_tokenizer(str(pad_token), str(bos_token), str(eos_token), special_token_offset)
        kwargs.setdefault("extra_special_tokens", list(SPECIAL_TOKENS.values()))
        super().__init__(
            special_token_offset=special_token_offset,
            pad_token=pad_token,
            bos_token=bos_token,
            eos_token=eos_token,
            padding_side=padding_side,
            **kwargs,
        )
        self.special_token_offset = special_token_offset
        # saving keeps these two in the post-processor alone, and loading does not read them back from there
        added = self._tokenizer.encode("").ids
        self._add_bos_token, self._add_eos_token = self.bos_token_id in added, self.eos_token_id in added

    @property
    def vocab_size(self) -> int:
        """Ids of text: padding, BOS, EOS and the bytes, 259. `config.text_vocab_size` is this number."""
        return NUM_TEXT_IDS

    def __len__(self) -> int:
        """One more than the largest id, so that an embedding of this size has a row for each token."""
        return max(self.get_vocab().values()) + 1


def _byte_tokenizer(pad: str, bos: str, eos: str, special_token_offset: int) -> Tokenizer:
    """A BPE without merges over the printable stand-ins that tokenizers' ByteLevel uses for the 256 bytes."""
    stand_in = bytes_to_unicode()
    vocab = {pad: 0, bos: 1, eos: 2} | {stand_in[byte]: FIRST_BYTE_ID + byte for byte in range(256)}
    vocab |= {token: special_token_offset + index for index, token in enumerate(SPECIAL_TOKENS.values())}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [pad, bos, eos, *SPECIAL_TOKENS.values()]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


__all__ = ["OmniLatentTokenizer"]
