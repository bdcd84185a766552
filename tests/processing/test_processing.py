"""One call from files to model inputs, and from model outputs to files."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    PreTrainedTokenizerFast,
)

from omnilatent import (
    OmniLatentConfig,
    OmniLatentFeatureExtractor,
    OmniLatentImageProcessor,
    OmniLatentModel,
    OmniLatentProcessor,
    OmniLatentTokenizer,
    OmniLatentVideoProcessor,
)
from omnilatent.configuration import layout
from omnilatent.processing import media
from omnilatent.processing.image_processing_omnilatent import OmniLatentImageProcessorPil

CONFIG = OmniLatentConfig.tiny()


@pytest.fixture(scope="module")
def processor():
    return OmniLatentProcessor.from_config(CONFIG)


@pytest.fixture(scope="module")
def auto_classes():
    """Enter the classes into the Auto classes, as importing the models does."""
    AutoConfig.register("omnilatent", OmniLatentConfig, exist_ok=True)
    AutoTokenizer.register(OmniLatentConfig, OmniLatentTokenizer, exist_ok=True)
    backends = {"pil": OmniLatentImageProcessorPil, "torchvision": OmniLatentImageProcessor}
    AutoImageProcessor.register(OmniLatentConfig, image_processor_classes=backends, exist_ok=True)
    AutoVideoProcessor.register(OmniLatentConfig, OmniLatentVideoProcessor, exist_ok=True)
    AutoFeatureExtractor.register(OmniLatentConfig, OmniLatentFeatureExtractor, exist_ok=True)
    AutoProcessor.register(OmniLatentConfig, OmniLatentProcessor, exist_ok=True)


def picture(seed=0, height=32, width=32):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def frames(count=4, seed=0, side=16):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def sound(num_frames, seed=0):
    return 0.3 * np.random.default_rng(seed).standard_normal(160 * num_frames).astype(np.float32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    smooth = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None, None] * 20, (12, 48, 64, 3))
    media.write_video(path, smooth, 12, sound(100), 16000)
    return path


def spell(processor, text):
    """Ids of a text without a target."""
    return processor.tokenizer(text)["input_ids"]


SOURCES = {
    "image": ({"images": picture()}, (32, 32)),
    "video": ({"videos": frames()}, (4, 16, 16)),
    "audio": ({"audio": sound(23)}, (23,)),
}


@pytest.mark.parametrize("target", ["text", "audio", "image", "video"])
@pytest.mark.parametrize("source", ["text", *SOURCES])
def test_every_pair_is_laid_out_as_the_model_lays_it_out(processor, source, target):
    if source == "text":
        inputs = processor(text="Hé", target=target, return_tensors="pt")
        tensors = {"text": torch.tensor([spell(processor, "Hé")])}
    else:
        call, _ = SOURCES[source]
        inputs = processor(**call, target=target, return_tensors="pt")
        name = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}[source]
        tensors = {source: inputs[name].transpose(1, 2) if source == "video" else inputs[name]}
    expected = layout.lay_out(CONFIG, tensors, {target: None})
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(inputs[name], expected[name]), name


def test_missing_placeholders_come_first_in_a_fixed_order(processor):
    inputs = processor(text="ab", audio=sound(5), videos=frames(), images=picture(), target=None, return_tensors="pt")
    expected = [CONFIG.image_token_id] * 16 + [CONFIG.video_token_id] * 8 + [CONFIG.audio_token_id] * 2
    assert inputs["input_ids"].tolist() == [expected + spell(processor, "ab")]
    assert inputs["token_type_ids"].sum() == 0


def test_written_placeholders_stay_where_they_are(processor):
    inputs = processor(text="a<|audio|>b<|image|>", audio=sound(9), images=picture(), target=None)
    audio, image = [CONFIG.audio_token_id] * 3, [CONFIG.image_token_id] * 16
    assert inputs["input_ids"] == [spell(processor, "a") + audio + spell(processor, "b") + image]


def test_sources_stand_without_text(processor):
    inputs = processor(images=[picture(1), picture(2)], audio=[sound(8), sound(8)], return_tensors="pt")
    assert inputs["input_ids"].shape == (2, 16 + 2 + 2)
    assert inputs["pixel_values"].shape[0] == inputs["input_features"].shape[0] == 2


def test_samples_may_have_different_numbers_of_sources(processor):
    texts, pictures = ["none", "one", "two"], [[], [picture(1)], [picture(2), picture(3)]]
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == CONFIG.image_token_id).sum(dim=1).tolist() == [0, 16, 32]
    assert len(inputs["pixel_values"]) == 3


@pytest.mark.parametrize("pictures", [[[picture(1)], []], [[picture(1), picture(2)]], [[picture(1), picture(2)], []]])
def test_the_model_refuses_samples_without_exactly_one_source(processor, pictures):
    model = OmniLatentModel(CONFIG).eval()
    inputs = processor(text=["a", "b"][: len(pictures)], images=pictures, padding=True, return_tensors="pt")
    with pytest.raises(ValueError, match="pixel_values|placeholders of image"):
        model(**inputs)


def test_batch_equals_one_by_one(processor):
    texts, pictures, sounds = ["a", "bcdef"], [picture(1), picture(2)], [sound(7, 1), sound(22, 2)]
    batch = processor(text=texts, images=pictures, audio=sounds, padding=True, return_tensors="pt")
    for row, (text, image, clip) in enumerate(zip(texts, pictures, sounds)):
        alone = processor(text=text, images=image, audio=clip, return_tensors="pt")
        real = batch["attention_mask"][row].bool()
        for name in ("input_ids", "token_type_ids"):
            assert torch.equal(batch[name][row, real], alone[name][0]), name
        assert torch.equal(batch["pixel_values"][row], alone["pixel_values"][0])
        mask = batch["input_features_mask"][row]
        assert torch.equal(batch["input_features"][row][:, mask], alone["input_features"][0])
    assert not batch["attention_mask"][0, 0], "padding is on the left, where generation needs it"


def test_sounds_as_lists_of_numbers_are_told_from_lists_of_sounds(processor):
    wave = sound(5)
    reference = processor(audio=wave)["input_ids"]
    for form in (wave.tolist(), list(wave), [wave.tolist()], [[wave]]):
        assert processor(audio=form)["input_ids"] == reference


@pytest.mark.parametrize("side", ["left", "right"])
def test_segments_are_zero_on_padding(processor, side):
    batch = processor(text=["a", "bcdef"], target="image", padding=True, padding_side=side, return_tensors="pt")
    assert (batch["token_type_ids"][batch["attention_mask"] == 0] == 0).all()
    assert batch["token_type_ids"].sum(dim=1).tolist() == [17, 17]


def test_pictures_that_keep_their_size_have_their_own_number_of_tokens(processor):
    pictures = [picture(1, 16, 24), picture(2, 32, 8)]
    inputs = processor(images=pictures, images_kwargs={"do_resize": False}, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == CONFIG.image_token_id).sum(dim=1).tolist() == [6, 4]
    tokens = layout.token_mask(CONFIG, "image", inputs["pixel_mask"])
    assert tokens.sum(dim=1).tolist() == [6, 4]


def test_videos_of_different_length_have_their_own_number_of_tokens(processor):
    inputs = processor(videos=[frames(2), frames(6)], padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == CONFIG.video_token_id).sum(dim=1).tolist() == [4, 12]
    assert layout.token_mask(CONFIG, "video", inputs["pixel_mask_videos"]).sum(dim=1).tolist() == [4, 12]


def test_text_alone_is_only_tokenized_unless_a_target_is_asked_for(processor):
    assert processor(text="ab")["input_ids"] == [spell(processor, "ab")]
    marker = [CONFIG.text_target_token_id, CONFIG.bos_token_id]
    assert processor(text="ab", target="text")["input_ids"] == [spell(processor, "ab") + marker]


def test_text_alone_has_no_segments_unless_a_target_is_asked_for(processor):
    assert "token_type_ids" not in processor(text=["ab", "cde"], padding=True, return_tensors="pt")
    assert processor(text="ab", target="text")["token_type_ids"] == [[0, 0, 1, 1]]
    assert processor(text="ab<|to_text|>c")["token_type_ids"] == [[0, 0, 1, 1]]
    assert processor(text="ab", target=None)["token_type_ids"] == [[0, 0]]


def test_the_rows_of_a_data_set_are_sounds(processor):
    wave = np.sin(np.arange(8000) / 9).astype(np.float32)
    row = {"array": wave, "sampling_rate": 8000, "path": None}
    expected = processor(audio=wave, sampling_rate=8000, return_tensors="pt")["input_features"]
    assert expected.shape[-1] == 100
    for form in (row, [row], [[row]]):
        assert torch.equal(processor(audio=form, return_tensors="pt")["input_features"], expected)
    assert torch.equal(processor.feature_extractor([row], return_tensors="pt")["input_features"], expected)
    with pytest.raises(ValueError, match="'array' and 'sampling_rate'.*got 'samples'"):
        processor(audio={"samples": wave})


def test_files_bytes_and_arrays_give_the_same_inputs(processor, clip):
    by_path = processor(videos=str(clip), audio=str(clip), return_tensors="pt")
    by_bytes = processor(videos=clip.read_bytes(), audio=clip.read_bytes(), return_tensors="pt")
    nested = processor(videos=[[clip]], audio=[[clip]], return_tensors="pt")
    for name, values in by_path.items():
        assert torch.equal(values, by_bytes[name]) and torch.equal(values, nested[name]), name


def test_announced_rate_holds_for_arrays_and_files_alike(processor, tmp_path):
    wave = np.sin(np.arange(22050) / 9).astype(np.float32)
    media.write_audio(tmp_path / "a.wav", wave, 22050)
    array = processor(audio=wave, sampling_rate=22050, return_tensors="pt")
    file = processor(audio=str(tmp_path / "a.wav"), sampling_rate=22050, return_tensors="pt")
    assert array["input_features"].shape[-1] == file["input_features"].shape[-1] == 100
    torch.testing.assert_close(array["input_features"][:, 6:], file["input_features"][:, 6:], rtol=0, atol=0.3)


def test_the_soundtrack_follows_its_video(processor, clip, tmp_path):
    silent = tmp_path / "silent.mp4"
    media.write_video(silent, frames(8, side=48), 8)
    inputs = processor(videos=[silent, clip], load_audio_from_video=True, padding=True, return_tensors="pt")
    audio = (inputs["input_ids"] == CONFIG.audio_token_id).sum(dim=1).tolist()
    assert audio[0] == 0 and audio[1] == -(-inputs["input_features"].shape[-1] // 4)
    row = inputs["input_ids"][1].tolist()
    assert (
        row.index(CONFIG.audio_token_id) == max(i for i, token in enumerate(row) if token == CONFIG.video_token_id) + 1
    )


# ---- conversations


def test_a_conversation_becomes_sources_and_a_prompt(processor, clip):
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "Why?"}]},
        {"role": "user", "content": [{"type": "audio", "path": str(clip)}, {"type": "video", "path": str(clip)}]},
    ]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert prompt == "Be brief.\n<|image|>Why?\n<|audio|><|video|><|to_text|><|bos|>"
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert {"pixel_values", "input_features", "pixel_values_videos"} <= set(inputs)
    assert inputs["token_type_ids"].sum() == 2
    drawing = processor.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"target": "image"},
    )
    assert (drawing["input_ids"] == CONFIG.image_slot_token_id).sum() == 16
    assert (drawing["input_ids"] == CONFIG.text_target_token_id).sum() == 0


def test_a_conversation_without_media_is_told_from_its_answer(processor):
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert inputs["token_type_ids"] == [[0, 0, 1, 1]]


def test_an_answer_can_be_continued(processor):
    conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good mor"}]
    prompt = processor.apply_chat_template(conversation, continue_final_message=True)
    assert prompt == "Hi\n<|to_text|><|bos|>Good mor"


# ---- the way back


def test_decoded_text_is_what_follows_the_marker_up_to_the_end(processor):
    prompt = processor(images=picture(), text="What?", return_tensors="pt")["input_ids"]
    answers = torch.tensor([spell(processor, "Hé!") + [2, 0, 0], spell(processor, "Hello") + [2, 3 + 65]])
    sequences = torch.cat([prompt.repeat(2, 1), answers], dim=1)
    assert processor.decode_text(sequences) == ["Hé!", "Hello"]
    assert processor.decode_text(sequences[0]) == "Hé!"
    assert processor.decode_text([row.tolist() for row in sequences]) == ["Hé!", "Hello"]
    assert processor.post_process_multimodal_output(sequences)[0].startswith("What?Hé!")


def test_nothing_written_is_empty_text(processor):
    assert processor.decode_text([]) == processor.decode_text(torch.zeros(0, dtype=torch.long)) == ""
    assert processor.decode_text(torch.zeros(0, 7, dtype=torch.long)) == []
    assert processor.decode_text(torch.zeros(2, 0, dtype=torch.long)) == ["", ""]


def test_pictures_and_frames_come_back_exactly(processor):
    inputs = processor(images=picture(), videos=frames(), return_tensors="pt")
    (image,) = processor.post_process_multimodal_output(inputs["pixel_values"], generation_mode="image")
    assert np.array_equal(np.asarray(image), np.asarray(picture()))
    assert np.array_equal(np.asarray(processor.decode_image(inputs["pixel_values"][0])), np.asarray(picture()))
    videos = inputs["pixel_values_videos"]
    for form in (videos, videos.transpose(1, 2)):  # the model writes channels before frames
        (video,) = processor.post_process_multimodal_output(form, generation_mode="video")
        assert np.array_equal(video, frames())
        assert np.array_equal(processor.decode_video(form[0]), frames())


def test_sound_comes_back_one_dimensional_and_without_padding(processor):
    inputs = processor(audio=[sound(11), sound(20)], padding=True, return_tensors="pt")
    clips = processor.decode_audio(inputs["input_features"], inputs["input_features_mask"])
    assert [clip.shape for clip in clips] == [(11 * 160,), (20 * 160,)]
    assert clips[0].dtype == np.float32
    assert processor.decode_audio(inputs["input_features"][0]).shape == (20 * 160,)
    waveforms = processor.post_process_multimodal_output(inputs["input_features"], generation_mode="audio")
    assert len(waveforms) == 2 and waveforms[1].ndim == 1


def test_a_video_is_saved_with_its_sound(processor, tmp_path):
    path, wave = tmp_path / "out.mp4", np.sin(np.arange(16000) / 9).astype(np.float32)
    levels = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None, None] * 30, (8, 32, 48, 3))
    processor.save_video(path, [Image.fromarray(frame) for frame in levels], fps=8, waveform=wave)
    video = media.read_video(path)
    assert video.fps == 8 and video.frames.shape == (8, 32, 48, 3)
    np.testing.assert_allclose(video.frames.mean(axis=(1, 2, 3)), 30 * np.arange(8), atol=3)
    read, rate = media.read_audio(path)
    assert rate == 16000 and abs(read.shape[1] - 16000) < 1100
    processor.save_audio(tmp_path / "out.wav", torch.from_numpy(wave))
    np.testing.assert_allclose(media.read_audio(tmp_path / "out.wav")[0][0], wave, atol=2 / 32768)


# ---- saving and replacing parts


def test_everything_is_found_again_in_a_folder(processor, auto_classes, tmp_path):
    processor.save_pretrained(tmp_path)
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(reloaded, OmniLatentProcessor)
    assert reloaded.to_dict() == processor.to_dict()
    assert reloaded.chat_template == processor.chat_template
    call = {"images": picture(), "audio": sound(9), "videos": frames(), "text": "Hé", "return_tensors": "pt"}
    before, after = processor(**call), reloaded(**call)
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)
    parts = {
        AutoTokenizer: OmniLatentTokenizer,
        AutoImageProcessor: OmniLatentImageProcessor,
        AutoVideoProcessor: OmniLatentVideoProcessor,
        AutoFeatureExtractor: OmniLatentFeatureExtractor,
    }
    for auto, part in parts.items():
        assert type(auto.from_pretrained(tmp_path)) is part


def other_tokenizer(**special):
    words = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, "what": 3, "is": 4, "it": 5, "[UNK]": 6}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", **special)


def test_any_tokenizer_can_take_the_place_of_the_bytes():
    config = OmniLatentConfig.tiny(vocab_size=7, special_token_offset=7)
    tokenizer = other_tokenizer(bos_token="[BOS]", eos_token="[EOS]")
    processor = OmniLatentProcessor.from_config(config, tokenizer=tokenizer)
    inputs = processor(images=picture(), text="what is it", return_tensors="pt")
    expected = [config.image_token_id] * 16 + [3, 4, 5, config.text_target_token_id, 1]
    assert inputs["input_ids"].tolist() == [expected]


def test_a_tokenizer_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"<\|image\|> as 7, the model expects 1344.*`special_token_offset` to 7"):
        OmniLatentProcessor.from_config(CONFIG, tokenizer=other_tokenizer(bos_token="[BOS]"))
    config = OmniLatentConfig.tiny(vocab_size=7, special_token_offset=7)
    processor = OmniLatentProcessor.from_config(config, tokenizer=other_tokenizer())
    with pytest.raises(ValueError, match="no BOS token"):
        processor(images=picture())


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "at least one of text, images, videos and audio"),
        ({"text": "a", "target": "smell"}, "Unknown target 'smell': expected one of text, audio, image, video"),
        ({"text": ["a", 3]}, "string or a list of strings"),
        ({"text": "a<|image|>"}, "found 1 tokens and 0 inputs"),
        ({"text": "a<|image|>", "images": [picture(), picture()]}, "found 1 tokens and 2 inputs"),
        ({"text": ["a", "b", "c"], "images": [picture(), picture()]}, "image for 2 samples, but 3 texts"),
        ({"images": [picture(), picture()], "audio": sound(4)}, "each sample needs one of everything"),
        ({"text": ["a", "b"], "images": [picture(), None]}, "`images` holds None.*\\[\\[first\\], \\[\\], ...\\]"),
        ({"videos": frames(3)}, "3 frames of 16 x 16 pixels cannot be cut into tubes of 2 frames"),
        ({"images": picture(0, 30, 32), "images_kwargs": {"do_resize": False}}, "30 x 32 pixels cannot be cut"),
        ({"text": "abcdef", "target": "text", "truncation": True, "max_length": 4}, "text_target"),
        ({"audio": b"no sound"}, "Cannot decode 8 bytes"),
        ({"videos": b"no video"}, "Cannot decode 8 bytes"),
        ({"images": b"no image"}, "Cannot decode 8 bytes"),
        ({"audio": np.zeros(100)}, "100 samples"),
        ({"videos": frames(), "load_audio_from_video": True}, "Video 0 is a list of frames and has no sound"),
    ],
)
def test_bad_calls_are_refused_by_name(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


def test_video_without_sound_is_no_audio_source(processor, tmp_path):
    media.write_video(tmp_path / "silent.mp4", frames(8, side=48), 8)
    with pytest.raises(ValueError, match="silent.mp4.*no audio track"):
        processor(audio=str(tmp_path / "silent.mp4"))


def test_unknown_generation_mode_is_refused(processor):
    with pytest.raises(ValueError, match="Unknown generation_mode 'smell'"):
        processor.post_process_multimodal_output(torch.zeros(1, 3), generation_mode="smell")
