"""What the processor of an aligner makes of files, frames and waveforms."""

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, AutoProcessor, ViTImageProcessor, Wav2Vec2FeatureExtractor

from omnilatent import AudioVisualAlignerProcessor
from omnilatent.training.data import make_small_world


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_small_world(tmp_path_factory.mktemp("world") / "videos", 1, pixels=48)[0]


def make(**settings):
    settings = {"image_size": 32, "num_frames": 4, "num_mel_bins": 20, "seconds": 2, **settings}
    return AudioVisualAlignerProcessor.from_sizes(**settings)


def frames(count=9, batch=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, count, 3, 40, 56), generator=generator, dtype=torch.uint8)


def test_frames_equal_those_of_the_image_processor_one_by_one():
    vision = ViTImageProcessor(size={"height": 24, "width": 20})
    processor = AudioVisualAlignerProcessor(vision, Wav2Vec2FeatureExtractor())
    made = processor(videos=frames())["pixel_values_videos"]
    assert made.shape == (3, 9, 3, 24, 20)
    expected = vision([frames()[2, 5]], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(made[2, 5], expected)


def test_chosen_frames_are_spread_evenly_and_keep_their_times():
    processor = make(num_frames=3, video_fps=4.0)
    made = processor(videos=frames(9))
    assert made["vision_timestamps"][1].tolist() == [0.0, 1.0, 2.0]
    whole = make(num_frames=None, video_fps=4.0)(videos=frames(9))
    torch.testing.assert_close(made["pixel_values_videos"], whole["pixel_values_videos"][:, [0, 4, 8]])


def test_file_arrays_and_tensors_of_one_video_are_the_same(path):
    from omnilatent.processing.media import read_video

    array = read_video(path, fps=8.0).frames
    made = make()(videos=[path, array, torch.from_numpy(array).permute(0, 3, 1, 2)])["pixel_values_videos"]
    assert torch.equal(made[0], made[1]) and torch.equal(made[1], made[2])


def test_sound_of_a_video_file_becomes_a_spectrogram_of_the_length_asked_for(path):
    made = make()(audio=[path])
    assert made["input_features"].shape == (1, 20, 200)


def test_waveforms_are_resampled_to_the_extractor():
    processor = AudioVisualAlignerProcessor(ViTImageProcessor(), Wav2Vec2FeatureExtractor(do_normalize=False))
    made = processor(audio=[np.ones(8000, np.float32)], sampling_rate=8000)
    assert made["input_values"].shape == (1, 16000)


def test_padded_sounds_come_with_a_mask():
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    processor = AudioVisualAlignerProcessor(ViTImageProcessor(), extractor)
    made = processor(audio=[torch.randn(700), torch.randn(500)])
    assert made["audio_attention_mask"].sum(dim=1).tolist() == [700, 500]


def test_fitted_bands_have_mean_0_and_deviation_1():
    processor, sounds = make(), torch.randn(5, 32000)
    processor.fit_bands(sounds)
    features = processor(audio=sounds)["input_features"]
    assert features.mean(dim=(0, 2)).abs().max() < 1e-3
    torch.testing.assert_close(features.std(dim=(0, 2)), torch.ones(20), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("extractor", [ASTFeatureExtractor(num_mel_bins=20, max_length=50), None])
def test_saved_processor_makes_the_same(tmp_path, extractor):
    processor = (
        make(video_fps=5.0) if extractor is None else AudioVisualAlignerProcessor(ViTImageProcessor(), extractor)
    )
    sounds = torch.randn(2, 16000)
    if extractor is None:
        processor.fit_bands(sounds)
    processor.save_pretrained(tmp_path)
    loaded = AudioVisualAlignerProcessor.from_pretrained(tmp_path)
    first, second = (each(videos=frames(), audio=sounds) for each in (processor, loaded))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("subfolder", ["", "parts"])
def test_auto_processor_finds_it_in_its_folder(tmp_path, subfolder):
    processor = make(video_fps=5.0)
    processor.save_pretrained(tmp_path / subfolder)
    words = {"subfolder": subfolder} if subfolder else {}
    loaded = AutoProcessor.from_pretrained(tmp_path, num_frames=3, **words)
    assert type(loaded) is AudioVisualAlignerProcessor
    assert (loaded.video_fps, loaded.num_frames, loaded.band_mean) == (5.0, 3, None)
    sounds = torch.randn(2, 16000)
    assert torch.equal(loaded(audio=sounds)["input_features"], processor(audio=sounds)["input_features"])
    with pytest.raises(TypeError, match="number_frames"):
        AutoProcessor.from_pretrained(tmp_path, number_frames=3, **words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "Give `videos`"),
        ({"text": "hello"}, "no tokenizer"),
        ({"videos": [torch.zeros(4, 5, 6, 7)]}, "must be"),
        ({"videos": torch.zeros(1, 0, 3, 8, 8)}, "must be"),
    ],
)
def test_what_cannot_be_read_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        make()(**words)


def test_videos_of_different_lengths_need_a_number_of_frames():
    videos = [frames(4)[0], frames(5)[0]]
    with pytest.raises(ValueError, match="different numbers of frames"):
        make(num_frames=None)(videos=videos)
    assert make()(videos=videos)["pixel_values_videos"].shape == (2, 4, 3, 32, 32)
