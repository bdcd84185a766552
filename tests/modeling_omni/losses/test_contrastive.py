"""Contrastive losses against loops over pairs, and their forms against each other."""

import functools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from omnilatent.modeling_omni.losses import info_nce_loss, sigmoid_loss
from omnilatent.modeling_omni.losses.torch_tiles import TorchTiles

sys.path.append(str(Path(__file__).parent))
import contrast_reference as reference  # noqa: E402

LOSSES = {
    "info_nce": (info_nce_loss, reference.info_nce, (14.0,)),
    "sigmoid": (sigmoid_loss, reference.sigmoid, (9.0, -3.0)),
}
CASES = {
    "pairs in order": (11, 11, False, None, "positive"),
    "one pair": (1, 1, False, None, "positive"),
    "pairs in order, some absent": (11, 11, True, None, "positive"),
    "several positives": (11, 11, False, "both", "positive"),
    "several positives, other lengths": (7, 17, False, "both", "positive"),
    "several positives, other lengths, some absent": (7, 17, True, "both", "positive"),
    "duplicates ignored": (11, 11, False, "one", "ignore"),
    "duplicates ignored, some absent": (11, 11, True, "one", "ignore"),
}


def options_of(case):
    rows, columns, with_present, ids, duplicates = CASES[case]
    first, second, both_ids, present = reference.make_case(rows, columns, with_present)
    options = {"duplicates": duplicates, "present": present}
    options["ids"] = {None: None, "both": both_ids, "one": both_ids[0]}[ids]
    return first, second, options


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(TorchTiles, "shape", (3, 5))


@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiled"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_the_loop(name, case, tiled, small_tiles):
    loss, naive, numbers = LOSSES[name]
    first, second, options = options_of(case)
    expected = reference.with_gradients(naive, first.double(), second.double(), *numbers, **options)
    found = reference.with_gradients(
        functools.partial(loss, tiled=tiled), first.double(), second.double(), *numbers, **options
    )
    for here, there in zip(found, expected):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-12)
    found = reference.with_gradients(functools.partial(loss, tiled=tiled), first, second, *numbers, **options)
    for here, there in zip(found, expected):
        torch.testing.assert_close(here, there.float(), rtol=1e-4, atol=2e-6)


def test_the_cases_hold_what_their_names_say():
    _, _, options = options_of("several positives, other lengths")
    counts = (options["ids"][0][:, None] == options["ids"][1]).sum(1)
    assert counts.max() > 1 and counts.min() == 0
    _, _, options = options_of("duplicates ignored")
    assert options["ids"].unique().numel() < 11


@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiled"])
def test_the_length_of_embeddings_does_not_matter(tiled):
    first, second, _, _ = reference.make_case(7, 7)
    assert info_nce_loss(3 * first, second, 14.0, tiled=tiled).item() == pytest.approx(
        info_nce_loss(first, second, 14.0).item(), rel=1e-5
    )


def test_contrast_of_unrelated_embeddings_is_about_the_logarithm_of_the_batch():
    torch.manual_seed(0)
    loss = info_nce_loss(torch.randn(512, 256), torch.randn(512, 256), 1.0)
    assert loss.item() == pytest.approx(math.log(512), rel=0.02)


def test_cosines_that_overflow_an_exponential_do_not_harm(small_tiles):
    first = torch.eye(7)
    for tiled in (False, True):
        loss, d_first, *_ = reference.with_gradients(
            functools.partial(info_nce_loss, tiled=tiled), first, -first, 1000.0
        )
        assert loss.item() == pytest.approx(1000 + math.log(6), rel=1e-5)
        assert d_first.isfinite().all()


@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiled"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_in_which_all_are_absent_costs_nothing(name, tiled):
    loss, _, numbers = LOSSES[name]
    first, second, _, _ = reference.make_case(5, 5)
    absent = torch.zeros(5, dtype=torch.bool)
    for value in reference.with_gradients(
        functools.partial(loss, tiled=tiled), first, second, *numbers, present=absent
    ):
        assert not value.any()  # also not NaN


@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiled"])
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_a_number_shows_in_the_loss(name, tiled, small_tiles):
    loss, _, numbers = LOSSES[name]
    first, second, _, _ = reference.make_case(11, 11)
    first[4, 2] = math.nan
    assert loss(first, second, *numbers, tiled=tiled).isnan()


@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiled"])
@pytest.mark.parametrize("name", LOSSES)
def test_logits_are_float32_under_autocast_and_of_bfloat16(name, tiled):
    loss, _, numbers = LOSSES[name]
    first, second, _, _ = reference.make_case(11, 11)
    expected = loss(first, second, *numbers)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(first, second, *numbers, tiled=tiled), expected)
    first, second = first.bfloat16(), second.bfloat16()
    found = loss(first, second, *numbers, tiled=tiled)
    torch.testing.assert_close(found, loss(first.float(), second.float(), *numbers))


@pytest.mark.parametrize("name", LOSSES)
def test_tiled_form_makes_nothing_larger_than_a_tile(name, monkeypatch):
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.numbers = max(self.numbers, out.numel())
            return out

    monkeypatch.setattr(TorchTiles, "shape", (16, 32))
    loss, _, numbers = LOSSES[name]
    first, second, _, _ = reference.make_case(101, 101)
    sizes = {}
    for tiled in (False, True):
        with Largest() as largest:
            reference.with_gradients(functools.partial(loss, tiled=tiled), first, second, *numbers)
        sizes[tiled] = largest.numbers
    assert sizes == {False: 101 * 101, True: 16 * 32}


def test_a_frozen_side_gets_no_gradient_and_the_other_the_same():
    first, second, _, _ = reference.make_case(7, 7)
    expected = reference.with_gradients(info_nce_loss, first, second, 14.0)[2]
    second.requires_grad_()
    info_nce_loss(first, second, 14.0, tiled=True).backward()
    torch.testing.assert_close(second.grad, expected)


@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiled"])
def test_compiled_forms_equal_eager_and_the_plain_one_has_no_break(tiled, small_tiles):
    first, second, ids, present = reference.make_case(7, 7, with_present=True)
    compiled = torch.compile(functools.partial(info_nce_loss, tiled=tiled), backend="eager", fullgraph=not tiled)
    options = {"ids": ids, "present": present}
    expected = reference.with_gradients(info_nce_loss, first, second, 14.0, **options)
    for here, there in zip(reference.with_gradients(compiled, first, second, 14.0, **options), expected):
        torch.testing.assert_close(here, there)


def test_a_row_of_zeros_has_no_direction_and_breaks_nothing():
    first, second, _, _ = reference.make_case(7, 7)
    first[2] = 0
    expected = reference.with_gradients(info_nce_loss, first, second, 14.0)
    found = reference.with_gradients(functools.partial(info_nce_loss, tiled=True), first, second, 14.0)
    for here, there in zip(found, expected):
        assert here.isfinite().all()
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.randn(4, 3), torch.randn(5, 3), 1.0), r"\(4, 3\) and \(5, 3\)"),
        ((torch.randn(4, 3), torch.randn(4, 2), 1.0), r"\(4, 3\) and \(4, 2\)"),
        ((torch.randn(0, 3), torch.randn(0, 3), 1.0), r"at least one row.*\(0, 3\)"),
        ((torch.randn(4, 2, 3), torch.randn(4, 2, 3), 1.0), r"\(4, 2, 3\)"),
        ((torch.randn(4, 3), torch.randn(4, 3), torch.ones(2)), r"`logit_scale` has shape \(2,\)"),
        ((torch.randn(4, 3), torch.randn(4, 3), 1.0, torch.arange(5)), r"`ids`.*\(5,\).*\(4,\)"),
        ((torch.randn(4, 3), torch.randn(4, 3), 1.0, torch.randn(4)), "`ids`.*float32.*integers"),
        ((torch.randn(4, 3), torch.randn(4, 3), 1.0, None, torch.ones(3).bool()), r"`present`.*\(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        info_nce_loss(*arguments)


def test_lengths_differ_only_with_ids_that_say_what_is_positive():
    first, second, ids, _ = reference.make_case(4, 6)
    with pytest.raises(ValueError, match="different lengths"):
        sigmoid_loss(first, second, 1.0, 0.0, ids, duplicates="ignore")
    with pytest.raises(ValueError, match="`duplicates` is 'mask': expected one of 'positive', 'ignore'"):
        sigmoid_loss(first, second, 1.0, 0.0, ids, duplicates="mask")
