"""Sound becomes a log-mel spectrogram, and a spectrogram becomes sound."""

import numpy as np
import pytest
import torch
import torchaudio

from omnilatent import OmniLatentFeatureExtractor
from omnilatent.processing import media
from omnilatent.processing.feature_extraction_omnilatent import log_mel


def tone(frequency, seconds=1.0, rate=16000, amplitude=1.0):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pitch(waveform, rate=16000):
    """Frequency in Hz of the strongest partial."""
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * rate / len(waveform)


@pytest.fixture(scope="module")
def extractor():
    return OmniLatentFeatureExtractor()


def test_two_seconds_are_two_hundred_frames():
    assert log_mel(torch.zeros(3, 32000)).shape == (3, 128, 200)
    assert log_mel(torch.zeros(32159)).shape == (128, 200)


def test_silence_is_minus_one_and_a_full_scale_tone_about_one(extractor):
    assert (log_mel(torch.zeros(1600)) == -1).all()
    loudest = [log_mel(torch.from_numpy(tone(frequency))).amax().item() for frequency in (100, 440, 1234, 5000)]
    assert loudest == pytest.approx([1.0] * 4, abs=0.1)


def test_no_mel_band_is_empty():
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert (log_mel(noise).mean(dim=-1) > -0.9).all()


def test_features_agree_with_a_spectrogram_taken_by_hand():
    waveform = torch.from_numpy(tone(700, 0.3) + tone(2100, 0.3, amplitude=0.2))
    filters = torchaudio.functional.melscale_fbanks(513, 0.0, 8000.0, 128, 16000)
    padded = np.pad(waveform.numpy(), 512)
    window = torch.hann_window(1024).numpy()
    for frame in (0, 7, 29):
        power = np.abs(np.fft.rfft(padded[160 * frame : 160 * frame + 1024] * window)) ** 2
        expected = np.log10(np.maximum(power @ filters.numpy(), 1e-5)) / 5
        # single precision resolves 1e-7 of the loudest power, and so the quiet bands less well
        np.testing.assert_allclose(log_mel(waveform)[:, frame].clamp_min(-0.2), expected.clip(-0.2), atol=2e-3)


def test_half_precision_regions_do_not_coarsen_features():
    waveform = torch.from_numpy(tone(700, 0.2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(waveform), log_mel(waveform.float()))


def test_batch_equals_one_by_one_and_padding_is_masked(extractor):
    clips = [tone(300, 0.31), tone(500, 0.5), tone(700, 0.05)]
    batch = extractor(clips, return_tensors="pt")
    assert batch["input_features_mask"].dtype == torch.bool
    assert batch["input_features_mask"].sum(dim=1).tolist() == [31, 50, 5]
    for clip, features, mask in zip(clips, batch["input_features"], batch["input_features_mask"]):
        alone = extractor(clip, return_tensors="pt")["input_features"][0]
        assert torch.equal(features[:, mask], alone)
        assert (features[:, ~mask] == extractor.padding_value).all()


def test_zeros_after_a_clip_do_not_change_its_features():
    clip = torch.from_numpy(tone(440, 0.25))
    padded = torch.nn.functional.pad(clip, (0, 4000))
    torch.testing.assert_close(log_mel(padded)[:, :25], log_mel(clip), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled(extractor, rate):
    features = extractor(tone(440, rate=rate), sampling_rate=rate, return_tensors="pt")["input_features"]
    reference = extractor(tone(440), return_tensors="pt")["input_features"]
    assert features.shape == reference.shape
    band = reference[0, :, 50].argmax()
    assert features[0, band, 50] == pytest.approx(reference[0, band, 50].item(), abs=0.01)


def test_every_form_of_a_waveform_gives_the_same_features(extractor):
    mono = tone(440, 0.2, amplitude=0.5)
    reference = extractor(mono, return_tensors="np")["input_features"]
    stereo = np.stack([mono * 1.5, mono * 0.5])
    forms = [
        mono.tolist(),
        torch.from_numpy(mono),
        [mono],
        mono.astype(np.float64),
        stereo,
        [torch.from_numpy(stereo)],
    ]
    for form in forms:
        np.testing.assert_allclose(extractor(form, return_tensors="np")["input_features"], reference, atol=1e-4)
    loud = reference > 0
    for integers in ((mono * 32768).astype(np.int16), (mono.astype(np.float64) * 2**31).astype(np.int32)):
        features = extractor(integers, return_tensors="np")["input_features"]
        np.testing.assert_allclose(features[loud], reference[loud], atol=1e-3)


def test_files_and_bytes_are_read_at_their_own_rate(tmp_path, extractor):
    path = tmp_path / "tone.wav"
    media.write_audio(path, tone(440, 0.5, 22050, 0.9), 22050)
    loud = extractor(tone(440, 0.5, amplitude=0.9), return_tensors="np")["input_features"]
    for source in (path, str(path), path.read_bytes(), [path]):
        features = extractor(source, return_tensors="np")["input_features"]
        assert features.shape == (1, 128, 50)
        np.testing.assert_allclose(features[loud > 0.2], loud[loud > 0.2], atol=0.05)
    assert len(extractor.fetch_audio([str(path), [path.read_bytes()]])[1][0]) == 8000


@pytest.mark.parametrize("frequency", [220, 440, 1000, 3000])
def test_a_tone_keeps_its_pitch_and_loudness_on_the_way_back(extractor, frequency):
    original = tone(frequency, amplitude=0.5)
    features = extractor(original, return_tensors="pt")["input_features"]
    waveform = extractor.to_waveform(features)
    assert waveform.shape == (1, 16000)
    assert pitch(waveform[0].numpy()) == pytest.approx(frequency, rel=0.01)
    inner = slice(1600, -1600)
    ratio = waveform[0, inner].square().mean().sqrt() / np.sqrt(np.mean(original[inner] ** 2))
    assert ratio == pytest.approx(1, abs=0.15)


def test_features_of_the_way_back_are_the_features(extractor):
    generator = torch.Generator().manual_seed(0)
    waveform = torch.from_numpy(tone(330, amplitude=0.3)) + 0.05 * torch.randn(16000, generator=generator)
    features = log_mel(waveform)
    again = log_mel(extractor.to_waveform(features))
    assert (again - features).abs().mean() < 0.05  # 2.5 dB


def test_the_way_back_is_the_same_every_time(extractor):
    features = log_mel(torch.from_numpy(tone(440, 0.2)))
    assert torch.equal(extractor.to_waveform(features), extractor.to_waveform(features))


def test_a_vocoder_takes_the_place_of_griffin_lim(extractor):
    features = torch.randn(2, 128, 7)
    assert torch.equal(extractor.to_waveform(features, vocoder=lambda x: x.mean(dim=1)), features.mean(dim=1))


def test_settings_survive_saving(tmp_path):
    extractor = OmniLatentFeatureExtractor(feature_size=40, sampling_rate=8000, hop_length=80, target_length=37)
    extractor.save_pretrained(tmp_path)
    assert OmniLatentFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()


def test_tokens_are_groups_of_four_frames_rounded_up(extractor):
    assert [extractor.num_tokens(frames) for frames in (1, 4, 5, 200)] == [1, 1, 2, 50]


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0), "shape \\(0,\\)"),
        ([], "empty list"),
        (np.zeros(159), "159 samples.*needs 160"),
        (np.full(800, np.nan), "not finite"),
        (np.zeros((2, 3, 800)), "shape \\(2, 3, 800\\)"),
        (np.zeros(800, dtype=np.int64), "got int64"),
        (b"not a sound", "Cannot decode 11 bytes"),
    ],
)
def test_what_is_no_sound_is_refused(extractor, sound, message):
    with pytest.raises(ValueError, match=message):
        extractor(sound)


def test_features_of_another_size_are_refused(extractor):
    with pytest.raises(ValueError, match=r"\(..., 128, frames\), got \(2, 80, 11\)"):
        extractor.to_waveform(torch.zeros(2, 80, 11))
