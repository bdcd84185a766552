"""A tokenizer of whole words, learned from the texts of a small world."""

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>", "unk_token": "<|unk|>"}


def learn_words(texts: Iterable[str], vocab_size: int = 30_000) -> PreTrainedTokenizerFast:
    """
    A tokenizer with an id for each of the commonest words, in lower case, and for each mark of punctuation. Padding, BOS
    and EOS have the ids 0, 1 and 2, as in a byte-level tokenizer; other words are unknown.

    Words make sequences four or five times shorter than bytes, and a model need not learn to spell. It is for texts of
    few different words; for open text take bytes, or a pretrained tokenizer.

    Example:

    ```python
    >>> from omnilatent.training.finetuning import learn_words

    >>> tokenizer = learn_words(["a red circle", "is it red?"])
    >>> tokenizer.decode(tokenizer("Is a circle red?")["input_ids"])
    'is a circle red?'
    ```
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=True, **SPECIAL
    )
