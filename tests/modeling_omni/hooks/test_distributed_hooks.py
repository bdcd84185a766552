"""Two processes make the gradients of one."""

import pytest
import torch
from accelerate import debug_launcher
from peft import get_peft_model
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from omnilatent import LatentHookConfig


def build():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40
    )
    return get_peft_model(
        LlamaForCausalLM(config), LatentHookConfig(num_tokens=3, transform_dim=5, init_weights=False)
    )


def gradients(model, ids, forward=None):
    (forward or model)(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in grads.items()}


def one_rank(kind):
    torch.set_num_threads(1)
    assert torch.distributed.get_world_size() == 2  # the launcher has made the group
    ids = torch.randint(3, 99, (4, 7), generator=torch.Generator().manual_seed(2))
    expected = gradients(build(), ids)
    model, forward = build(), None
    if kind == "ddp":
        forward = DistributedDataParallel(model)
    else:
        for layer in model.base_model.model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    rank = torch.distributed.get_rank()
    found = gradients(model, ids[2 * rank : 2 * rank + 2], forward)
    assert len(found) == len(expected) == 1 + 3 * 5
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_make_the_gradients_of_one(kind, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    debug_launcher(one_rank, (kind,))
