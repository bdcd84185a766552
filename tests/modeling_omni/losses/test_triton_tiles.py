"""Triton's tiles: interpreted on the CPU, and on a GPU where there is one."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnilatent.modeling_omni.losses import info_nce_loss, sigmoid_loss

sys.path.append(str(Path(__file__).parent))
import contrast_reference as reference  # noqa: E402

LOSSES = {"info_nce": (info_nce_loss, (100.0,)), "sigmoid": (sigmoid_loss, (10.0, -10.0))}


def relative_errors(found, expected):
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, expected)]


def test_interpreted_kernels_equal_float64():
    # the interpreter must be chosen before triton is imported: in a process of its own
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OMNILATENT_NO_REGISTRATION": "1"}
    script = Path(__file__).parent / "interpret_tiles.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOSSES)
def test_float32_on_the_gpu_is_exact_to_1e_5_and_equal_in_every_run(name):
    loss, numbers = LOSSES[name]
    first, second, ids, _ = reference.make_case(4999, 4999, size=512)
    ids = tuple(side.cuda() for side in ids)
    first, second = first.cuda(), 6 * second.cuda() + first.cuda()
    expected = reference.with_gradients(loss, first.double(), second.double(), *numbers, ids=ids)
    tiled = functools.partial(loss, tiled=True, ids=ids)
    found = reference.with_gradients(tiled, first, second, *numbers)
    assert max(relative_errors(found, expected)) < 1e-5
    for here, there in zip(found, reference.with_gradients(tiled, first, second, *numbers)):
        torch.testing.assert_close(here, there, rtol=0, atol=0)
    rough = reference.with_gradients(tiled, first.bfloat16(), second.bfloat16(), *numbers)
    expected = reference.with_gradients(loss, first.bfloat16().double(), second.bfloat16().double(), *numbers, ids=ids)
    assert max(relative_errors(rough, expected)) < 3e-2
