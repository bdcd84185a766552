"""Two processes with half of a batch each make the loss and the gradients of one with all of it."""

import sys
from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from omnilatent.modeling_omni.losses import info_nce_loss, sigmoid_loss
from omnilatent.modeling_omni.losses.torch_tiles import TorchTiles

sys.path.append(str(Path(__file__).parent))
import contrast_reference as reference  # noqa: E402


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 3)
        self.scale, self.bias = nn.Parameter(torch.tensor(7.0)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, first, second):
        return self.first(first), self.second(second), self.scale, self.bias


def loss_and_gradients(name, model, first, second, options):
    *embeddings, scale, bias = model(first, second)
    for embedding in embeddings:
        embedding.retain_grad()
    if name == "info_nce":
        loss = info_nce_loss(*embeddings, scale, **options) + 0 * bias
    else:
        loss = sigmoid_loss(*embeddings, scale, bias, **options)
    loss.backward()
    parameters = {key.removeprefix("module."): p.grad for key, p in model.named_parameters()}
    return loss.detach(), [embedding.grad for embedding in embeddings], parameters


def one_rank(names):
    torch.set_num_threads(1)
    TorchTiles.shape = (2, 3)
    rank, group = torch.distributed.get_rank(), torch.distributed.group.WORLD
    assert torch.distributed.get_world_size() == 2
    own = [slice(length * rank, length * rank + length) for length in (5, 7)]
    for name in names:
        for rows, columns, duplicates in ((10, 10, "ignore"), (10, 14, "positive")):
            first, second, ids, present = reference.make_case(rows, columns, with_present=True)
            if duplicates == "ignore":
                ids, own[1] = (ids[0], ids[0]), own[0]
            whole = {"ids": ids, "present": present, "duplicates": duplicates}
            expected = loss_and_gradients(name, Towers(), first, second, whole)
            own = [slice(n // 2 * rank, n // 2 * (rank + 1)) for n in (rows, columns)]
            part = {
                "ids": tuple(v[s] for v, s in zip(ids, own)),
                "present": tuple(v[s] for v, s in zip(present, own)),
                "duplicates": duplicates,
                "group": group,
            }
            for tiled in (False, True):
                model = DistributedDataParallel(Towers())
                found = loss_and_gradients(name, model, first[own[0]], second[own[1]], part | {"tiled": tiled})
                torch.testing.assert_close(found[0], expected[0])
                for here, there, s in zip(found[1], expected[1], own):
                    # twice, because the mean over two ranks follows
                    torch.testing.assert_close(here, 2 * there[s], rtol=1e-4, atol=1e-6)
                assert len(found[2]) == 6
                for key, gradient in found[2].items():
                    torch.testing.assert_close(gradient, expected[2][key], rtol=1e-4, atol=1e-6)
    # without ids the row in the same place of the same rank is the positive
    first, second, _, _ = reference.make_case(10, 10)
    for tiled in (False, True):
        found = info_nce_loss(first[own[0]], second[own[0]], 7.0, tiled=tiled, group=group)
        torch.testing.assert_close(found, info_nce_loss(first, second, 7.0))


@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_two_processes_make_the_loss_and_gradients_of_one(name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    debug_launcher(one_rank, ((name,),))
