"""Images of noise."""

import pytest
import torch

from omnilatent.training.data import SyntheticImageDataset


def test_samples_have_the_specifications_shapes():
    data = SyntheticImageDataset(num_samples=5, img_size=12, patch_size=4, in_channels=2)
    image, label = data[2]
    assert (len(data), image.shape, label.shape, label.dtype) == (5, (2, 12, 12), (), torch.long)


def test_an_index_gives_the_same_sample_and_each_another():
    data, again = (SyntheticImageDataset(5, 12, 4) for _ in range(2))
    assert torch.equal(data[3][0], again[3][0])
    assert torch.equal(data[-2][0], data[3][0])
    assert not torch.equal(data[3][0], data[4][0])
    assert not torch.equal(data[3][0], SyntheticImageDataset(5, 12, 4, seed=1)[3][0])


def test_labels_cover_the_classes():
    labels = {int(label) for _, label in SyntheticImageDataset(200, 4, 4, num_classes=7)}
    assert labels == set(range(7))


def test_what_cannot_be_is_refused():
    with pytest.raises(IndexError):
        SyntheticImageDataset(5, 12, 4)[5]
    with pytest.raises(ValueError, match="cannot be cut"):
        SyntheticImageDataset(5, 12, 5)
    with pytest.raises(ValueError, match="at least 1"):
        SyntheticImageDataset(0, 12, 4)
