"""The benchmark of tasks, 20 steps of each: what it measures is what it says."""

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "benchmarks" / "bench_tasks.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_tasks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(bench):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield bench.main(["--steps", "20", "--train", "256", "--val", "200"])
    torch.set_num_threads(threads)


@pytest.mark.parametrize("task", ["retrieval", "vqa", "captioning", "classification"])
def test_twenty_steps_lower_the_loss_and_are_judged_beside_a_control(task, results):
    result = results[task]
    assert result["steps"] == 20
    assert sum(result["losses"][-3:]) < 0.97 * sum(result["losses"][:3])
    assert 0 <= result["control"] <= 1 and 0 <= result["figure"] <= 1
    assert result["samples"] == (175 if task == "retrieval" else 200)
    assert 0 < result["wall"] and 0 < result["cpu"]


def test_chance_is_far_below_the_mark(results):
    assert results["retrieval"]["chance"] == pytest.approx(1 / 175)
    assert all(result["chance"] < 0.5 for result in results.values())


def test_what_misses_its_mark_or_takes_too_long_is_named(bench):
    good = {"figure": 0.96, "cpu": 100.0, "threads": 1}
    assert bench.check({"vqa": good}) == []
    assert bench.check({"vqa": {**good, "figure": 0.94}}) == ["vqa: 94.0% is below 95%"]
    assert bench.check({"vqa": {**good, "cpu": 130.0}}) == ["vqa: 130 s"]


def test_exchanged_pictures_keep_their_words(bench):
    encoded = [{"pixel_values": torch.full((1,), n), "labels": torch.tensor(n)} for n in range(50)]
    exchanged = bench.exchange_pictures(encoded)
    assert [int(sample["labels"]) for sample in exchanged] == list(range(50))
    pictures = [int(sample["pixel_values"]) for sample in exchanged]
    assert sorted(pictures) == list(range(50)) and sum(n == m for n, m in enumerate(pictures)) < 5
