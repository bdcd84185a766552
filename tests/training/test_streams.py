"""Endless streams that resume anywhere."""

from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from omnilatent import OmniLatentConfig
from omnilatent.training.data import build_dataloader, collate_multimodal
from omnilatent.training.streams import DatasetStream, LoaderStream, find_views, make_stream, one_pass

ITEMS = [{"text": torch.tensor([number + 5])} for number in range(11)]


def ids(batches):
    return [batch["text"].flatten().tolist() for batch in batches]


def stream_of(data, batch_size=3, rank=0, world_size=1, **settings):
    return make_stream(data, batch_size, collate_multimodal, seed=7, rank=rank, world_size=world_size, **settings)


class Noise(torch.utils.data.Dataset):
    """Items drawn at random."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"image": torch.rand(3, 8, 8)}


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(ITEMS)


def test_every_epoch_holds_each_item_once_in_another_order():
    numbers = sum(ids(islice(DatasetStream(ITEMS, 3, collate_multimodal), 22)), [])
    epochs = [numbers[start : start + 11] for start in range(0, 66, 11)]
    assert all(sorted(epoch) == list(range(5, 16)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6


def test_ranks_share_the_order_of_one_process():
    whole = ids(islice(stream_of(ITEMS, batch_size=6), 7))
    halves = [ids(islice(stream_of(ITEMS, batch_size=3, rank=rank, world_size=2), 7)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*halves)] == whole


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("consumed", [1, 4, 13])
def test_stream_resumes_after_any_batch(workers, consumed):
    batches = list(islice(stream_of(ITEMS, num_workers=workers), 17))
    resumed = stream_of(ITEMS, num_workers=workers)
    resumed.load_state_dict(batches[consumed - 1]["stream_state"])
    assert ids(islice(resumed, 17 - consumed)) == ids(batches[consumed:])


def test_what_workers_draw_at_random_resumes_as_well():
    batches = list(islice(stream_of(Noise(), batch_size=2, num_workers=2), 6))
    resumed = stream_of(Noise(), batch_size=2, num_workers=1)
    resumed.load_state_dict(batches[2]["stream_state"])
    for batch, again in zip(batches[3:], islice(resumed, 3)):
        assert torch.equal(batch["image"], again["image"])
    images = torch.cat([batch["image"] for batch in batches])
    assert len(images.flatten(1).unique(dim=0)) == 12


def test_stream_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for data in (ITEMS, DataLoader(Numbers(), 3, collate_fn=collate_multimodal)):
        list(islice(stream_of(data), 9))
        assert torch.equal(torch.get_rng_state(), before)


def test_dataloader_keeps_batch_size_collate_function_and_order():
    plain = stream_of(DataLoader(ITEMS, 2, collate_fn=collate_multimodal))
    assert ids(islice(plain, 3)) == [[5, 6], [7, 8], [9, 10]]
    shuffled = stream_of(build_dataloader(ITEMS, batch_size=4, seed=1))
    numbers = sum(ids(islice(shuffled, 11)), [])
    assert len(numbers) == 44 and sorted(numbers[:11]) == list(range(5, 16)) != numbers[:11]


def test_own_sampler_is_kept_and_resumes():
    def loader():
        return DataLoader(ITEMS, 3, sampler=WeightedRandomSampler([1.0] * 11, 9), collate_fn=collate_multimodal)

    batches = list(islice(stream_of(loader()), 8))
    assert ids(batches[:3]) != ids(batches[3:6])
    torch.manual_seed(99)
    resumed = stream_of(loader())
    resumed.load_state_dict(batches[4]["stream_state"])
    assert ids(islice(resumed, 3)) == ids(batches[5:])


def test_iterable_dataset_is_batched_shared_and_resumed():
    assert ids(islice(stream_of(Numbers(), batch_size=4), 4)) == [
        [5, 6, 7, 8],
        [9, 10, 11, 12],
        [13, 14, 15],
        [5, 6, 7, 8],
    ]
    second = stream_of(Numbers(), batch_size=4, rank=1, world_size=2)
    batches = list(islice(second, 2))  # the third batch of a pass has no partner
    assert ids(batches) == [[9, 10, 11, 12], [9, 10, 11, 12]]
    assert [batch["stream_state"] for batch in batches] == [{"epoch": 0, "batch": 2}, {"epoch": 1, "batch": 2}]


def test_what_can_be_read_only_once_is_refused():
    with pytest.raises(ValueError, match="only once"):
        stream_of(batch for batch in [collate_multimodal(ITEMS)])


def test_fewer_batches_than_ranks_is_an_error_not_a_hang():
    with pytest.raises(ValueError, match="fewer batches"):
        next(iter(LoaderStream(DataLoader(TensorDataset(torch.zeros(1))), world_size=2)))


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="empty"):
        stream_of([])


def test_modalities_are_found_and_the_position_stays(items):
    mixed = [*items(2, ("image",)), *items(9, ("image", "audio"))]
    stream = stream_of(mixed)
    assert find_views(stream, OmniLatentConfig.tiny()) == {"image", "audio"}
    assert stream.state_dict() == {"epoch": 0, "sample": 0}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_one_pass_gives_every_item_once_over_all_ranks(world_size):
    for data in (ITEMS, DataLoader(ITEMS, 4, collate_fn=collate_multimodal)):
        found = [ids(one_pass(data, 4, collate_multimodal, rank, world_size)) for rank in range(world_size)]
        assert sorted(number for batches in found for batch in batches for number in batch) == list(range(5, 16))
