"""What `omnilatent finetune` makes of streams and tokenizers."""

from argparse import Namespace

import pytest
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from omnilatent import MultiModalConfig
from omnilatent.training.data import CaptioningDataset, MultiModalDataset
from omnilatent.training.finetuning import TASKS
from omnilatent.training.finetuning.finetune_data import open_samples
from omnilatent.training.finetuning.finetune_runs import fit_vocabulary, has_several, open_data

PICTURE = Image.new("RGB", (8, 8))


def test_a_stream_is_learned_in_another_order_each_epoch_and_judged_as_it_comes(tmp_path):
    words = [str(number) for number in range(20)]
    table = Dataset.from_dict({"image": [PICTURE] * 20, "caption": words}).cast_column("image", ImageColumn())
    table.save_to_disk(tmp_path)
    options = Namespace(
        columns=None, image_folder=None, streaming=True, max_bad_fraction=0.5, seed=3, shuffle_buffer=20
    )
    options.train_data = options.val_data = str(tmp_path)
    train, val, _ = open_data(TASKS["captioning"], options)
    orders = []
    for epoch in (0, 1, 0):
        train.set_epoch(epoch)
        orders.append([sample["captions"][0] for sample in train])
    assert sorted(orders[0], key=int) == words and orders[0] == orders[2]
    assert len({tuple(order) for order in (*orders, words)}) == 3
    assert [sample["captions"][0] for sample in val] == words
    few = open_samples(CaptioningDataset, str(tmp_path), streaming=True, seed=3, buffer_size=2)
    assert all(int(sample["captions"][0]) <= place + 2 for place, sample in enumerate(few))


@pytest.mark.parametrize(("labels", "several"), [([["a", "b"], ["a"]], True), (["a", "b"], False)])
def test_the_first_samples_of_a_stream_tell_whether_labels_are_several(labels, several):
    table = Dataset.from_dict({"image": [PICTURE] * 2, "text": ["t"] * 2, "label": labels})
    assert has_several(TASKS["classification"], MultiModalDataset.stream(table.to_iterable_dataset())) is several


def tokenizer_of(**special):
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "red"])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="red")), **special)


@pytest.mark.parametrize(
    ("special", "ids"),
    [
        ({"pad_token": "<pad>", "eos_token": "</s>"}, (0, 0, 1)),  # as T5's
        ({"bos_token": "</s>", "eos_token": "</s>"}, (1, 1, 1)),  # as GPT-2's
    ],
)
def test_tokenizers_without_a_begin_or_padding_token_serve(special, ids):
    config, tokenizer = MultiModalConfig.tiny(), tokenizer_of(**special)
    fit_vocabulary(config, tokenizer)
    decoder = config.decoder_config
    assert (decoder.pad_token_id, decoder.bos_token_id, decoder.eos_token_id) == ids
    assert tokenizer.pad_token_id == ids[0] and decoder.vocab_size == 3


def test_a_tokenizer_without_an_end_token_is_refused():
    with pytest.raises(ValueError, match="neither an EOS nor a SEP"):
        fit_vocabulary(MultiModalConfig.tiny(), tokenizer_of(pad_token="<pad>"))
