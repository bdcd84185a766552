"""The evaluation's figures, on models whose answers are known."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from omnilatent import OmniLatentConfig, OmniLatentModel
from omnilatent.configuration.layout import lay_out
from omnilatent.training import evaluate_pairs, retrieval
from omnilatent.training.data import collate_multimodal


class Oracle(torch.nn.Module):
    """Knows that in `told_batch` everything tells one number, and errs by as much as it is told.

    From a source whose number is s it predicts an audio target of s + `error`, and gives probability `sure` to the
    text token s + 10, or the rest, evenly, to the others.
    """

    def __init__(self, error=0.1, sure=0.75):
        super().__init__()
        self.config = OmniLatentConfig.tiny()
        self.error, self.sure = error, sure
        self.anchor = torch.nn.Parameter(torch.zeros(()))
        self.passes = 0

    def forward(self, pixel_values, labels=None, logits_to_keep=None, audio_labels=None, **kwargs):
        self.passes += 1
        assert not self.training and not torch.is_grad_enabled()
        number = pixel_values[:, 0, 0, 0]
        output = {}
        if audio_labels is not None:
            output["audio"] = (number + self.error).reshape(-1, 1, 1).expand_as(audio_labels)
        if labels is not None:
            vocabulary = self.config.vocab_size
            token = F.one_hot(number.round().long() + 10, vocabulary).bool()
            other = torch.tensor((1 - self.sure) / (vocabulary - 1))
            logits = torch.where(token, torch.tensor(self.sure), other).log()
            output["text"] = logits.unsqueeze(1).expand(-1, len(logits_to_keep), -1)
        return output

    def embed(self, modality, values, mask=None):
        number = values.flatten(1)[:, 0] - (10 if modality == "text" else 0)
        return F.normalize(torch.stack([number.cos(), number.sin()], dim=1), dim=1)


def told_batch(numbers, tokens=3):
    values = torch.tensor(numbers, dtype=torch.float32)
    return {
        "image": values.reshape(-1, 1, 1, 1).expand(-1, 3, 32, 32),
        "audio": values.reshape(-1, 1, 1).expand(-1, 16, 24),
        "text": (values.long() + 10).reshape(-1, 1).expand(-1, tokens),
    }


def test_gain_in_decibels_is_the_known_one():
    result = evaluate_pairs(Oracle(error=0.1), [told_batch([0, 2, 5])], [("image", "audio")])[("image", "audio")]
    # row i gets the source of row i - 1: errors 5 - 0, 0 - 2 and 2 - 5, each with 0.1 more
    shuffled = ((5.1) ** 2 + (-1.9) ** 2 + (-2.9) ** 2) / 3
    assert result["loss"] == pytest.approx(0.01, rel=1e-5)
    assert result["shuffled_loss"] == pytest.approx(shuffled, rel=1e-5)
    assert result["gain"] == pytest.approx(10 * math.log10(shuffled / 0.01), rel=1e-5)
    assert result["clips"] == 3


def test_gain_in_bits_per_token_is_the_known_one():
    result = evaluate_pairs(Oracle(sure=0.75), [told_batch([0, 1, 2, 3])], ["image->text"])["image->text"]
    vocabulary = OmniLatentConfig.tiny().vocab_size
    unsure = -math.log(0.25 / (vocabulary - 1))
    # three tokens of four are told; the end token never is
    own = (3 * -math.log(0.75) + unsure) / 4
    assert result["loss"] == pytest.approx(own, rel=1e-5)
    assert result["shuffled_loss"] == pytest.approx(unsure, rel=1e-5)
    assert result["gain"] == pytest.approx((unsure - own) / math.log(2), rel=1e-5)


def test_all_targets_of_a_source_cost_two_passes():
    model = Oracle()
    evaluate_pairs(model, [told_batch([0, 1])] * 3, ["image->text", "image->audio"])
    assert model.passes == 6


def test_clips_without_source_or_target_do_not_count():
    batch = told_batch([0, 1, 2, 3, 4])
    batch["has_audio"] = torch.tensor([True, False, True, True, True])
    batch["has_image"] = torch.tensor([True, True, False, True, True])
    results = evaluate_pairs(Oracle(error=0.0), [batch], ["image->audio", "image->text"])
    audio, text = results["image->audio"], results["image->text"]
    assert (audio["clips"], text["clips"]) == (3, 4)
    # the sources are those of rows 0, 1, 3, 4, rolled by one: 4 - 0, 1 - 3, 3 - 4 where there is sound
    assert audio["samples"].shuffled_total == pytest.approx([16.0 * 16 * 24, 4.0 * 16 * 24, 1.0 * 16 * 24])


def test_clip_alone_in_its_batch_does_not_count():
    batches = [told_batch([0, 1, 2]), told_batch([3])]
    assert evaluate_pairs(Oracle(), batches, ["image->audio"])["image->audio"]["clips"] == 3


def test_pair_without_any_clip_is_an_error():
    batch = told_batch([0, 1])
    del batch["audio"]
    with pytest.raises(ValueError, match="image->audio"):
        evaluate_pairs(Oracle(), [batch], ["image->audio", "image->text"])


def test_interval_holds_the_gain_and_narrows_with_the_clips():
    torch.manual_seed(0)
    widths = []
    for count in (16, 256):
        numbers = torch.randint(0, 200, (count,)).tolist()
        result = evaluate_pairs(Oracle(), [told_batch(numbers)], ["image->audio"])["image->audio"]
        low, high = result["interval"]
        assert low < result["gain"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_source_that_tells_nothing_has_an_interval_around_zero():
    class Guess(Oracle):
        def forward(self, pixel_values, **kwargs):
            return super().forward(torch.randn_like(pixel_values).abs() * 3, **kwargs)

    torch.manual_seed(1)
    batch = told_batch(torch.randint(0, 9, (200,)).tolist())
    results = evaluate_pairs(Guess(), [batch], ["image->audio", "image->text"])
    for result in results.values():
        assert result["interval"][0] < 0 < result["interval"][1]


def test_losses_are_those_of_the_model(items):
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig.tiny()).eval()
    raw = collate_multimodal(items(4))
    raw["audio_mask"] = torch.arange(24).expand(4, 24) < torch.tensor([[24], [8], [12], [20]])
    pairs = [("video", target) for target in ("text", "audio", "image", "video")] + [("past", "future")]
    results = evaluate_pairs(model, [raw], pairs)
    for pair in pairs[:4]:
        target = pair[1]
        masks = {"audio": raw["audio_mask"]} if target == "audio" else {}
        laid_out = lay_out(model.config, {"video": raw["video"]}, {target: raw[target]}, target_masks=masks)
        with torch.no_grad():
            expected = model(**laid_out).losses[target].item()
        assert results[pair]["loss"] == pytest.approx(expected, rel=1e-4)
    past, future = raw["video"][:, :, :2], raw["video"][:, :, 2:]
    starts = {"video": 2 / model.config.video_fps}  # the future follows the two frames of the past
    expected = model("video", past, "video", target=future, target_starts=starts).losses["video"].item()
    assert results[("past", "future")]["loss"] == pytest.approx(expected, rel=1e-4)


def test_model_is_left_in_the_mode_it_was_in(items):
    model = OmniLatentModel(OmniLatentConfig.tiny()).train()
    evaluate_pairs(model, [collate_multimodal(items(2))], ["image->audio"])
    assert model.training


def test_retrieval_of_a_known_model():
    numbers = [0.0, 0.5, 1.0, 1.5, 2.0]
    batch = told_batch(numbers)
    perfect = retrieval(Oracle(), [batch, told_batch([2.5, 3.0])], "image", "audio")
    assert perfect == {"image_to_audio": 1.0, "audio_to_image": 1.0, "chance": 1 / 7, "clips": 7}
    batch["audio"] = batch["audio"].roll(1, 0)
    assert retrieval(Oracle(), [batch], "image", "audio")["image_to_audio"] == 0.0


def test_retrieval_shares_a_tie():
    result = retrieval(Oracle(), [told_batch([1.0, 1.0, 1.0, 1.0])], "image", "audio")
    assert result["image_to_audio"] == pytest.approx(result["chance"]) == pytest.approx(0.25)


def test_retrieval_leaves_out_clips_that_lack_a_modality():
    batch = told_batch([0.0, 0.5, 1.0])
    batch["has_audio"] = torch.tensor([True, False, True])
    assert retrieval(Oracle(), [batch], "image", "audio")["clips"] == 2
    batch["has_audio"] = torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="No clip"):
        retrieval(Oracle(), [batch], "image", "audio")


def test_unknown_modality_is_refused():
    with pytest.raises(ValueError, match="smell"):
        retrieval(SimpleNamespace(), [], "image", "smell")
