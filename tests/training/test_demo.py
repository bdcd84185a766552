"""The demonstration, in small: what it measures is what it tells."""

import json

import pytest
import torch
from torch import nn

from omnilatent.training.demo import GradientWatch, run_demo
from omnilatent.training.figures import Figures, describe_gradients, describe_verdict
from omnilatent.training.report_page import film_strip, mel_picture


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of a very short demonstration."""
    out = tmp_path_factory.mktemp("demo")
    run_demo(out, num_videos=6, num_held_out=5, steps=19)
    return out


def test_demo_leaves_a_page_its_figures_and_a_model(demo):
    assert (demo / "model" / "model.safetensors").is_file()
    figures = json.loads((demo / "report.json").read_text())
    assert figures["clips"] == 5 and figures["chance"] == 0.2
    page = (demo / "report.html").read_text()
    assert page.count("Held-out clip ") == 3 and "Training" in page
    for name in figures["pairs"]:
        assert name.replace("->", " → ") in page


def test_demo_measures_the_gradient_of_every_parameter(demo):
    seen = json.loads((demo / "model" / "gradients.json").read_text())
    assert seen["steps"] == 19 and seen["tensors"] > 50 and seen["not_finite"] == []
    assert (demo / "report.json").read_text().count('"silent"') == 1


def test_demo_runs_all_five_phases(demo):
    log = json.loads((demo / "model" / "trainer_state.json").read_text())["log_history"]
    assert {line["phase"] for line in log if "phase" in line} == {1, 2, 3, 4, 5}


def test_gradient_watch_names_silent_and_broken_parameters():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2, bias=False), "broken": nn.Linear(2, 2)})
    watch = GradientWatch()
    model["used"](torch.ones(1, 3)).sum().backward()
    watch.on_pre_optimizer_step(None, None, None, model=model)
    model["broken"].weight.grad = torch.full((2, 2), float("nan"))
    model["broken"].bias.grad = torch.zeros(2)
    watch.on_pre_optimizer_step(None, None, None, model=model)
    assert watch.summary(model) == {
        "tensors": 5,
        "steps": 2,
        "silent": ["unused.weight", "broken.weight", "broken.bias"],
        "not_finite": ["broken.weight"],
    }


def test_gradients_are_told_with_their_exceptions():
    fine = {"tensors": 7, "steps": 11, "silent": [], "not_finite": []}
    assert "every one of 7" in describe_gradients(fine)
    told = describe_gradients({**fine, "silent": ["head.weight"], "not_finite": ["norm.bias"]})
    assert "5 of 7" in told and "none or zero: head.weight" in told and "not finite: norm.bias" in told


def test_pair_whose_interval_touches_zero_has_not_beaten_its_control():
    results = {
        "audio->text": {"gain": 0.1, "interval": (0.0, 0.2)},
        "text->audio": {"gain": 0.1, "interval": (0.01, 0.2)},
    }
    figures = Figures(results, {}, 0.1, clips=10, parameters=1)
    assert figures.not_beaten() == ["audio->text"]
    assert describe_verdict(figures) == "1 of 2 pairs beat their control; these did not: audio->text."


def test_spectrogram_shows_low_notes_below():
    features = torch.full((5, 3), -1.0)
    features[0] = 1.0  # the lowest band is loud
    picture = mel_picture(features)
    assert picture.shape == (5, 3, 3) and picture[-1].mean() > 200 and picture[0].mean() < 10


def test_film_strip_spans_the_whole_video():
    frames = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 4, 5, 3).numpy()
    strip = film_strip(frames, count=3)
    assert strip.shape == (4, 3 * 5 + 2, 3)
    assert strip[0, [0, 6, 12], 0].tolist() == [0, 3, 6]
