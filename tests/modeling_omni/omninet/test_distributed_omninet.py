"""Two processes that gather make the loss and the gradients of one."""

import torch
from accelerate import debug_launcher
from torch.nn.parallel import DistributedDataParallel

from omnilatent import OmniNetConfig, OmniNetModel


def build(gather_loss):
    torch.manual_seed(0)
    return OmniNetModel(OmniNetConfig.tiny(gather_loss=gather_loss)).double().train()


def one_rank():
    torch.set_num_threads(1)
    assert torch.distributed.get_world_size() == 2  # the launcher has made the group
    gathering, alone = build(gather_loss=True), build(gather_loss=False)
    generator = torch.Generator().manual_seed(1)
    whole = {
        "vision_features": torch.randn(6, 7, 20, generator=generator, dtype=torch.float64),
        "audio_features": torch.randn(6, 5, 12, generator=generator, dtype=torch.float64),
        "audio_present": torch.tensor([True, True, False, True, True, True]),
        "text_features": torch.randn(6, 4, 28, generator=generator, dtype=torch.float64),
        "text_present": torch.tensor([False, False, False, True, True, True]),  # one rank has no text at all
    }
    rank = torch.distributed.get_rank()
    part = {name: values[3 * rank : 3 * rank + 3] for name, values in whole.items()}
    parallel = DistributedDataParallel(gathering)  # has to live until the backward pass
    loss, expected = parallel(**part).loss, alone(**whole).loss
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for found, parameter in zip(gathering.parameters(), alone.parameters()):
        torch.testing.assert_close(found.grad, parameter.grad, rtol=1e-9, atol=1e-9)


def test_two_processes_make_the_loss_and_gradients_of_one(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    debug_launcher(one_rank)
