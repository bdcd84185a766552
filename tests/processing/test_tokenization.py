"""Text goes in and comes out byte by byte."""

import random

import pytest

from omnilatent import OmniLatentConfig, OmniLatentTokenizer
from omnilatent.configuration.modalities import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def tokenizer():
    return OmniLatentTokenizer()


def random_text(generator, length):
    """Characters of 1 to 4 bytes, control characters and all; surrogates are no text."""
    ranges = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x110000)]
    return "".join(chr(generator.randrange(*generator.choice(ranges))) for _ in range(length))


def test_any_text_comes_back(tokenizer):
    generator = random.Random(0)
    texts = [random_text(generator, length) for length in range(101)] + ["\r\n\t \x00\x7f", "👩‍👩‍👧 é é  ", " a  b "]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids == [3 + byte for byte in text.encode()]
        assert tokenizer.decode(ids) == text


def test_control_ids_are_those_of_the_config(tokenizer):
    config = OmniLatentConfig()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for name, token in SPECIAL_TOKENS.items():
        assert tokenizer.convert_tokens_to_ids(token) == getattr(config, f"{name}_id")
    assert tokenizer.vocab_size == 259
    assert len(tokenizer) == config.special_token_offset + len(SPECIAL_TOKENS)


def test_special_tokens_are_skipped_only_when_asked(tokenizer):
    ids = tokenizer("a<|image|>b<|eos|>")["input_ids"]
    assert ids == [3 + 97, tokenizer.special_token_offset, 3 + 98, 2]
    assert tokenizer.decode(ids) == "a<|image|>b<|eos|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


def test_text_that_spells_a_special_token_can_be_kept_as_text(tokenizer):
    text = "write <|image|> or <|bos|> here"
    plain = OmniLatentTokenizer(split_special_tokens=True)
    assert plain(text)["input_ids"] == [3 + byte for byte in text.encode()]
    assert plain.decode(plain(text)["input_ids"]) == text


def test_ids_without_a_token_decode_to_nothing(tokenizer):
    assert tokenizer.decode([3 + 72, 259, 31999, 3 + 105, 10**6]) == "Hi"


def test_bytes_that_are_no_text_decode_without_an_error(tokenizer):
    assert tokenizer.decode([3 + 0xFF, 3 + 0xC3, 3 + 65]).endswith("A")


@pytest.mark.parametrize(
    ("side", "expected"), [("left", [[0, 0, 100], [101, 102, 103]]), ("right", [[100, 0, 0], [101, 102, 103]])]
)
def test_batches_are_padded_on_either_side(tokenizer, side, expected):
    batch = tokenizer(["a", "bcd"], padding=True, padding_side=side)
    assert batch["input_ids"] == expected
    assert batch["attention_mask"] == [[int(token != 0) for token in row] for row in expected]


def test_offsets_point_at_the_character_of_each_byte(tokenizer):
    assert tokenizer("aé", return_offsets_mapping=True)["offset_mapping"] == [(0, 1), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("bos", "eos", "expected"), [(True, False, [1, 100]), (False, True, [100, 2]), (False, False, [100])]
)
def test_bos_and_eos_are_added_on_request_and_survive_saving(tmp_path, bos, eos, expected):
    tokenizer = OmniLatentTokenizer(add_bos_token=bos, add_eos_token=eos)
    tokenizer.save_pretrained(tmp_path)
    reloaded = OmniLatentTokenizer.from_pretrained(tmp_path)
    for each in (tokenizer, reloaded):
        assert each("a")["input_ids"] == expected
        assert (each.add_bos_token, each.add_eos_token) == (bos, eos)


def test_offset_and_added_tokens_survive_saving(tmp_path):
    tokenizer = OmniLatentTokenizer(special_token_offset=317)
    tokenizer.add_tokens(["<clap>"])
    tokenizer.save_pretrained(tmp_path)
    reloaded = OmniLatentTokenizer.from_pretrained(tmp_path)
    assert reloaded.special_token_offset == 317
    assert reloaded.get_vocab() == tokenizer.get_vocab()
    assert reloaded("x<|video|><clap>")["input_ids"] == tokenizer("x<|video|><clap>")["input_ids"] == [123, 319, 327]


def test_offset_among_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 259.*got 258"):
        OmniLatentTokenizer(special_token_offset=258)
