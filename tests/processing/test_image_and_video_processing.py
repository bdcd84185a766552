"""Pictures and videos become normalised tensors, and tensors become pictures and frames."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from omnilatent import OmniLatentImageProcessor, OmniLatentVideoProcessor
from omnilatent.processing import media
from omnilatent.processing.image_processing_omnilatent import OmniLatentImageProcessorPil
from omnilatent.training.data import ClipSpec, decode_clips

BACKENDS = pytest.mark.parametrize("backend", [OmniLatentImageProcessor, OmniLatentImageProcessorPil])


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array, file_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, file_format, **options)
    return buffer.getvalue()


@BACKENDS
def test_defaults_give_224_pixels_between_minus_one_and_one(backend):
    values = backend()(Image.fromarray(picture(97, 131)), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 224, 224)
    assert values.dtype == torch.float32
    assert -1 <= values.min() < -0.5 and 0.5 < values.max() <= 1


@BACKENDS
def test_every_form_of_a_picture_gives_the_same_pixels(backend, tmp_path):
    array = picture(32, 48)
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(array))
    expected = torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1
    forms = [
        array,
        Image.fromarray(array),
        torch.from_numpy(array).permute(2, 0, 1),
        path,
        str(path),
        path.read_bytes(),
    ]
    for form in forms:
        values = backend(do_resize=False)(form, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(values[0], expected, rtol=0, atol=1e-6)


@BACKENDS
@pytest.mark.parametrize(
    ("shape", "cut"), [((96, 160), (slice(None), slice(32, 128))), ((120, 48), (slice(36, 84), slice(None)))]
)
def test_oblong_pictures_lose_their_ends_and_are_not_squashed(backend, shape, cut):
    array = picture(*shape)
    whole, middle = (backend()(a, return_tensors="pt")["pixel_values"] for a in (array, array[cut]))
    torch.testing.assert_close(whole, middle, rtol=0, atol=1e-6)


@BACKENDS
def test_an_oblong_target_keeps_its_own_share_of_the_picture(backend):
    array = picture(95, 150)
    processor = backend(size={"height": 32, "width": 96})
    values = processor(array, return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 32, 96)
    middle = processor(array[22:72], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(values, middle, rtol=0, atol=1e-6)


@BACKENDS
def test_pictures_come_back_exactly(backend):
    processor = backend(do_resize=False)
    array = picture(32, 48)
    (back,) = processor.post_process_images(processor(array, return_tensors="pt")["pixel_values"])
    assert np.array_equal(np.asarray(back), array)


@BACKENDS
def test_pictures_of_different_sizes_are_padded_and_come_back_whole(backend):
    processor = backend(do_resize=False)
    arrays = [picture(32, 48, 1), picture(64, 16, 2), picture(16, 16, 3)]
    batch = processor(arrays, return_tensors="pt")
    assert batch["pixel_values"].shape == (3, 3, 64, 48)
    assert batch["pixel_mask"].dtype == torch.bool
    assert batch["pixel_mask"].sum(dim=(1, 2)).tolist() == [32 * 48, 64 * 16, 16 * 16]
    assert (batch["pixel_values"] * ~batch["pixel_mask"][:, None] == 0).all()
    for array, back in zip(arrays, processor.post_process_images(**batch)):
        assert np.array_equal(np.asarray(back), array)


@BACKENDS
def test_pictures_of_one_size_have_no_mask(backend):
    assert set(backend()([picture(20, 30), picture(50, 40)], return_tensors="pt")) == {"pixel_values"}


def test_grey_and_transparent_pictures_become_rgb():
    processor = OmniLatentImageProcessor(do_resize=False)
    for mode in ("L", "RGBA", "P"):
        image = Image.fromarray(picture(16, 32)).convert(mode)
        assert processor(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 32)


def test_turned_photographs_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with its top on the right
    values = OmniLatentImageProcessor(do_resize=False)(
        encoded(picture(16, 48), "JPEG", exif=exif), return_tensors="pt"
    )
    assert values["pixel_values"].shape == (1, 3, 48, 16)


def test_values_beyond_the_range_are_clipped():
    values = torch.tensor([-7.0, -1.0, 0.0, 1.0, 9.0]).expand(1, 3, 1, 5)
    (image,) = OmniLatentImageProcessor().post_process_images(values)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_an_image_has_a_token_for_each_patch():
    processor = OmniLatentImageProcessor(patch_size=8)
    assert processor.num_tokens(24, 40) == 15
    with pytest.raises(ValueError, match="24 x 41 pixels.*patches of 8 x 8"):
        processor.num_tokens(24, 41)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "Cannot decode 0 bytes as a picture"),
        (b"no picture", "Cannot decode 10 bytes as a picture"),
        (encoded(picture(64, 64))[:2000], "Cannot decode 2000 bytes as a picture"),
        ("no/such/file.png", "no/such/file.png"),
    ],
)
@BACKENDS
def test_what_is_no_picture_is_refused(backend, source, message):
    with pytest.raises(ValueError, match=message):
        backend()(source)


def test_broken_file_is_named(tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(encoded(picture(64, 64))[:2000])
    with pytest.raises(ValueError, match="half.png"):
        OmniLatentImageProcessor()(path)


@pytest.mark.parametrize(
    "values", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.full((1, 3, 8, 8), torch.nan)]
)
def test_pixels_of_a_wrong_kind_are_refused(values):
    with pytest.raises(ValueError, match="Expected|not finite"):
        OmniLatentImageProcessor().post_process_images(values)


# ---- video


def counting_frames(count, height=48, width=64):
    levels = (10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def indices_of(values):
    """Which of `counting_frames` a normalised video (T, 3, H, W) shows."""
    return ((values.mean(dim=(1, 2, 3)) + 1) * 12.75).round().int().tolist()


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    media.write_video(path, counting_frames(25), 10)
    return path


def test_a_file_is_sampled_at_eight_frames_per_second(clip):
    values = OmniLatentVideoProcessor()(clip, return_tensors="pt")["pixel_values_videos"]
    assert values.shape == (1, 16, 3, 112, 112)
    assert indices_of(values[0]) == [int(i / 8 * 10) for i in range(16)]


def test_training_and_inference_see_the_same_picture(tmp_path):
    height, width = 96, 160
    rows, columns = np.mgrid[:height, :width]
    frames = np.stack(
        [np.stack([rows * 2, columns * 255 // width, (rows + columns + 8 * i) % 256], axis=-1) for i in range(16)]
    )
    media.write_video(tmp_path / "wide.mp4", frames.astype(np.uint8), 8)
    spec = ClipSpec(clip_duration=2.0, fps=8, video_size=64, image_size=80)
    (seen,) = decode_clips(str(tmp_path / "wide.mp4"), [0.0], spec).clips
    processor = OmniLatentVideoProcessor(size={"height": 64, "width": 64})
    values = processor(tmp_path / "wide.mp4", return_tensors="pt")["pixel_values_videos"][0]
    assert (values - (torch.from_numpy(seen["video"]) / 127.5 - 1)).abs().mean() < 0.02
    frame = media.read_video(tmp_path / "wide.mp4").frames[spec.image_frame]
    for backend in (OmniLatentImageProcessor, OmniLatentImageProcessorPil):
        values = backend(size={"height": 80, "width": 80})(frame, return_tensors="pt")["pixel_values"][0]
        assert (values - (torch.from_numpy(seen["image"]) / 127.5 - 1)).abs().mean() < 0.02


def test_a_short_file_gives_whole_tubes(clip):
    processor = OmniLatentVideoProcessor(num_frames=64, tubelet_size=7)
    assert processor(clip, return_tensors="pt")["pixel_values_videos"].shape[1] == 14  # of 20 frames at 8 fps
    with pytest.raises(ValueError, match="clip.mp4.*20 frames.*a tube needs 21"):
        OmniLatentVideoProcessor(num_frames=64, tubelet_size=21)(clip)


def test_a_call_decides_how_a_file_is_sampled(clip):
    processor = OmniLatentVideoProcessor()
    values = processor(clip, fps=2, return_tensors="pt")["pixel_values_videos"]
    assert indices_of(values[0]) == [0, 5, 10, 15, 20]
    values = processor(clip, num_frames=3, return_tensors="pt")["pixel_values_videos"]
    assert indices_of(values[0]) == [0, 1, 2]
    assert processor(clip, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"].shape[1] == 25
    with pytest.raises(ValueError, match="Asked for 50 frames at 8 per second"):
        processor(clip, num_frames=50)


def test_paths_bytes_and_nested_lists_of_files_agree(clip):
    processor = OmniLatentVideoProcessor()
    reference = processor(clip, return_tensors="pt")["pixel_values_videos"]
    for form in (str(clip), clip.read_bytes(), [clip], [[clip.read_bytes()]]):
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values_videos"], reference)
    assert torch.equal(
        processor([clip, str(clip)], return_tensors="pt")["pixel_values_videos"], reference.repeat(2, 1, 1, 1, 1)
    )


def test_every_form_of_frames_gives_the_same_pixels():
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 32, 3), dtype=np.uint8)
    expected = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
    forms = [
        frames,
        list(frames),
        [Image.fromarray(frame) for frame in frames],
        torch.from_numpy(frames).permute(0, 3, 1, 2),
    ]
    for form in [*forms, [frames]]:
        values = OmniLatentVideoProcessor(do_resize=False)(form, return_tensors="pt")["pixel_values_videos"]
        torch.testing.assert_close(values[0], expected, rtol=0, atol=1e-6)


def test_frames_of_known_rate_are_sampled_like_a_file():
    metadata = {"total_num_frames": 25, "fps": 10}
    values = OmniLatentVideoProcessor()(counting_frames(25), video_metadata=metadata, return_tensors="pt")
    assert indices_of(values["pixel_values_videos"][0]) == [int(i / 8 * 10) for i in range(16)]


def test_videos_of_different_sizes_are_padded_and_come_back_whole():
    generator = np.random.default_rng(1)
    videos = [
        generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((4, 16, 32), (8, 32, 16), (4, 16, 16))
    ]
    processor = OmniLatentVideoProcessor(do_resize=False)
    batch = processor(videos, return_tensors="pt")
    assert batch["pixel_values_videos"].shape == (3, 8, 3, 32, 32)
    assert batch["pixel_mask_videos"].shape == (3, 8, 32, 32)
    assert batch["pixel_mask_videos"].sum(dim=(1, 2, 3)).tolist() == [4 * 16 * 32, 8 * 32 * 16, 4 * 16 * 16]
    for video, back in zip(videos, processor.post_process_videos(**batch)):
        assert np.array_equal(back, video)


def test_files_and_frames_in_one_batch_are_refused(clip):
    with pytest.raises(ValueError, match="files and frames in one batch"):
        OmniLatentVideoProcessor()([clip, counting_frames(4)])


def test_a_video_has_a_token_for_each_tube():
    processor = OmniLatentVideoProcessor(patch_size=8, tubelet_size=2)
    assert processor.num_tokens(6, 24, 40) == 45
    for size in ((5, 24, 40), (6, 23, 40), (6, 24, 41)):
        with pytest.raises(ValueError, match="tubes of 2 frames of 8 x 8 pixels"):
            processor.num_tokens(*size)


def test_settings_survive_saving(tmp_path):
    for name, processor in (
        ("image", OmniLatentImageProcessor(size={"height": 48, "width": 80}, patch_size=8)),
        ("video", OmniLatentVideoProcessor(size={"height": 48, "width": 80}, patch_size=8, tubelet_size=2, fps=12.5)),
    ):
        processor.save_pretrained(tmp_path / name)
        assert type(processor).from_pretrained(tmp_path / name).to_dict() == processor.to_dict()
