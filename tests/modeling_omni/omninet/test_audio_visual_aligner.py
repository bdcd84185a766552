"""What must hold of an aligner in front of towers, whichever they are."""

import copy

import pytest
import torch
from transformers import (
    ASTConfig,
    AutoModel,
    BertConfig,
    ClapAudioConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    HubertConfig,
    HubertForCTC,
    ResNetConfig,
    SiglipVisionConfig,
    T5Config,
    T5EncoderModel,
    TimesformerConfig,
    Trainer,
    TrainingArguments,
    VideoMAEConfig,
    ViTConfig,
    ViTForImageClassification,
    VivitConfig,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from omnilatent import AudioVisualAligner, AudioVisualAlignerConfig, OmniNetModel

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
OMNINET = {"hidden_size": 16, "num_attention_heads": 2, "projection_dim": 12, "num_hidden_layers": 1}
BATCH, FRAMES = 3, 4

CLIP_VISION = CLIPVisionConfig(image_size=32, patch_size=16, **SIZES)
WHISPER = {"d_model": 32, "num_mel_bins": 16, "max_source_positions": 20, "encoder_layers": 1, "decoder_layers": 1}
WHISPER |= {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in (("attention_heads", 2), ("ffn_dim", 40))
}
CLAP = {"spec_size": 32, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "depths": [1, 1], "hidden_size": 16}
CLAP |= {"num_attention_heads": [2, 2], "window_size": 2}

VISION = {  # -> (what is given, tokens of 4 frames of 32 pixels, width)
    "ViT with a head": (lambda: ViTForImageClassification(ViTConfig(image_size=32, **SIZES)), 4 * 5, 32),
    "VideoMAE": (lambda: VideoMAEConfig(image_size=32, num_frames=FRAMES, **SIZES), 2 * 4, 32),
    "CLIP, whole": (
        lambda: CLIPModel(CLIPConfig(vision_config=CLIP_VISION, text_config=CLIPTextConfig(**SIZES))),
        20,
        32,
    ),
    "CLIP, config": (lambda: CLIP_VISION, 4 * 5, 32),
    "SigLIP": (lambda: SiglipVisionConfig(image_size=32, patch_size=16, **SIZES), 4 * 4, 32),
    "ResNet's maps": (lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), 4 * 16, 16),
    "ViViT": (lambda: VivitConfig(image_size=32, num_frames=FRAMES, **SIZES), 1 + 2 * 4, 32),
    "TimeSformer": (lambda: TimesformerConfig(image_size=32, num_frames=FRAMES, **SIZES), 1 + 4 * 4, 32),
}
AUDIO = {  # -> (what is given, shape of its input, tokens, width)
    "AST": (lambda: ASTConfig(num_mel_bins=32, max_length=60, **SIZES), (60, 32), 2 + 2 * 5, 32),
    "Whisper, whole": (lambda: WhisperForConditionalGeneration(WhisperConfig(**WHISPER)), (16, 40), 20, 32),
    "Whisper, config": (lambda: WhisperConfig(**WHISPER), (16, 40), 20, 32),
    "CLAP's maps": (lambda: ClapAudioConfig(**CLAP), (1, 60, 16), 16, 16),
    "wav2vec 2.0": (lambda: Wav2Vec2Config(conv_dim=(16,) * 7, **SIZES), (4000,), 12, 32),
    "HuBERT with a head": (lambda: HubertForCTC(HubertConfig(conv_dim=(16,) * 7, **SIZES)), (4000,), 12, 32),
}
TEXT = {
    "BERT": lambda: BertConfig(vocab_size=60, **SIZES),
    "CLIP's text": lambda: CLIPTextConfig(vocab_size=60, **SIZES),
    "T5's encoder": lambda: T5EncoderModel(
        T5Config(vocab_size=60, d_model=32, d_kv=16, d_ff=40, num_layers=1, num_heads=2)
    ),
}


def make(vision="VideoMAE", audio="AST", text=None, **settings):
    torch.manual_seed(0)
    given = VISION[vision][0](), AUDIO[audio][0](), None if text is None else TEXT[text]()
    return AudioVisualAligner.from_towers(*given, **{"freeze": False, **OMNINET, **settings}).eval()


def inputs(audio="AST", text=None, batch=BATCH):
    generator = torch.Generator().manual_seed(1)
    words = {
        "pixel_values_videos": torch.randn(batch, FRAMES, 3, 32, 32, generator=generator),
        "input_values": torch.randn(batch, *AUDIO[audio][1], generator=generator),
    }
    if text is not None:
        words["input_ids"] = torch.randint(3, 50, (batch, 7), generator=generator)
    return words


@pytest.mark.parametrize(
    ("vision", "audio", "text"),
    [
        *((vision, "AST", None) for vision in VISION),
        *(("VideoMAE", audio, None) for audio in AUDIO),
        *(("VideoMAE", "AST", text) for text in TEXT),
    ],
)
def test_any_tower_gives_its_tokens_and_comes_back_from_disk(tmp_path, vision, audio, text):
    model = make(vision, audio, text, time_embedding="constrained_rotary")
    words = inputs(audio, text)
    tokens = model.get_tower_tokens(**words)
    assert tokens["vision"].features.shape == (BATCH, *VISION[vision][1:])
    assert tokens["audio"].features.shape == (BATCH, *AUDIO[audio][2:])
    output = model(**words)
    assert torch.allclose(output.vision_embeds.norm(dim=-1), torch.ones(BATCH))
    model.save_pretrained(tmp_path)
    loaded, info = AudioVisualAligner.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(loaded.eval()(**words).loss, output.loss, rtol=1e-5, atol=1e-6)
    assert {type(tower) for tower in loaded.towers.values()} == {type(tower) for tower in model.towers.values()}


def test_towers_keep_the_weights_they_were_given():
    tower = ViTForImageClassification(ViTConfig(image_size=32, **SIZES))
    before = copy.deepcopy(tower.vit.state_dict())
    model = AudioVisualAligner.from_towers(tower, AUDIO["AST"][0](), **OMNINET)
    after = model.towers["vision"].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_tower_is_loaded_from_a_folder(tmp_path):
    tower = CLIPModel(CLIPConfig(vision_config=CLIP_VISION, text_config=CLIPTextConfig(**SIZES)))
    tower.save_pretrained(tmp_path)
    model = AudioVisualAligner.from_towers(str(tmp_path), AUDIO["AST"][0](), **OMNINET)
    expected, found = tower.vision_model.state_dict(), model.towers["vision"].state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_auto_model_knows_the_type(tmp_path):
    make().save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), AudioVisualAligner)


# ---- the forward pass is the aligner's on the towers' tokens


def test_output_equals_the_aligner_on_tokens_of_the_towers():
    model, words = make("ViT with a head", "AST"), inputs()
    pixels = words["pixel_values_videos"]
    by_frame = [model.towers["vision"](pixels[:, frame]).last_hidden_state for frame in range(FRAMES)]
    audio = model.towers["audio"](words["input_values"]).last_hidden_state
    expected = model.aligner(vision_features=torch.cat(by_frame, dim=1), audio_features=audio)
    found = model(**words)
    assert isinstance(model.aligner, OmniNetModel)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.logits_per_vision_audio, expected.logits_per_vision_audio)


def test_encode_equals_the_embeddings_of_forward():
    model, words = make(text="BERT"), inputs(text="BERT")
    output = model(**words)
    torch.testing.assert_close(model.encode_video(words["pixel_values_videos"]), output.vision_embeds)
    torch.testing.assert_close(model.encode_audio(words["input_values"]), output.audio_embeds)
    torch.testing.assert_close(model.encode_text(words["input_ids"]), output.text_embeds)


def test_image_is_a_video_of_one_frame():
    model, images = make("ViT with a head"), torch.randn(BATCH, 3, 32, 32)
    torch.testing.assert_close(model.encode_video(images), model.encode_video(images.unsqueeze(1)))


def test_either_name_of_an_input_means_the_same():
    model, words = make(), inputs()
    renamed = {"pixel_values": words["pixel_values_videos"], "input_features": words["input_values"]}
    torch.testing.assert_close(model(**renamed).loss, model(**words).loss)


# ---- time


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ("ViT with a head", [0.0] * 5 + [0.5] * 5 + [1.0] * 5 + [1.5] * 5),
        ("VideoMAE", [0.25] * 4 + [1.25] * 4),  # tubes of two frames
        ("ViViT", [0.75] + [0.25] * 4 + [1.25] * 4),  # a class token before them
        ("TimeSformer", [0.75] + [0.0, 0.5, 1.0, 1.5] * 4),  # places first
    ],
)
def test_frames_tell_the_times_of_vision_tokens(vision, expected):
    tokens = make(vision).get_tower_tokens(pixel_values_videos=inputs()["pixel_values_videos"])["vision"]
    assert tokens.timestamps(2.0)[1].tolist() == expected  # frames per second
    frames = torch.arange(FRAMES).expand(BATCH, -1) / 2.0
    assert tokens.timestamps_of(frames)[1].tolist() == expected


def test_columns_of_a_spectrogram_tell_the_times_of_audio_tokens():
    tokens = make().get_tower_tokens(input_values=inputs()["input_values"])["audio"]
    columns = [6.0, 18.0, 30.0, 42.0, 54.0]  # of 60 frames
    assert tokens.positions.tolist() == [29.5, 29.5, *columns, *columns]  # two class tokens, two bands


@pytest.mark.parametrize("vision", ["ViT with a head", "VideoMAE"])
def test_what_lies_at_the_time_of_a_frame_comes_from_it(vision):
    model = make(vision)
    tower, embeddings = model.towers["vision"], model.towers["vision"].embeddings
    mask = (None,) if vision == "VideoMAE" else ()

    def embed_only(pixel_values, **kwargs):  # without layers, which mix the frames
        return BaseModelOutput(last_hidden_state=embeddings(pixel_values, *mask))

    tower.forward = embed_only
    pixels = inputs()["pixel_values_videos"]
    changed = pixels.clone()
    changed[:, 3] += 1
    first, second = (model.get_tower_tokens(pixel_values_videos=values)["vision"] for values in (pixels, changed))
    moved = (first.features != second.features).any(dim=-1)[0]
    assert moved.any() and (first.positions[moved] > 2).all()


def test_timestamps_move_embeddings_only_with_a_time_embedding():
    words, later = inputs(), torch.arange(FRAMES).expand(BATCH, -1) * 1.5
    for name, moves in (("none", False), ("constrained_rotary", True)):
        model = make(time_embedding=name)
        same = torch.equal(model(**words).vision_embeds, model(**words, vision_timestamps=later).vision_embeds)
        assert same != moves


# ---- masks


def test_masked_frames_change_nothing():
    model, words = make("ViT with a head"), inputs()
    mask = torch.ones(BATCH, FRAMES, dtype=torch.long)
    mask[1, 2:] = 0
    changed = words["pixel_values_videos"].clone()
    changed[1, 2:] = 7.0
    first = model.encode_video(words["pixel_values_videos"], attention_mask=mask)
    torch.testing.assert_close(model.encode_video(changed, attention_mask=mask), first)
    short = model.encode_video(words["pixel_values_videos"][1:2, :2])
    torch.testing.assert_close(short[0], first[1])


def test_padded_waveform_equals_the_short_one():
    config = Wav2Vec2Config(conv_dim=(16,) * 7, feat_extract_norm="layer", do_stable_layer_norm=True, **SIZES)
    model = AudioVisualAligner.from_towers(VISION["VideoMAE"][0](), Wav2Vec2Model(config), **OMNINET).eval()
    sounds = torch.randn(2, 4000)
    mask = torch.ones(2, 4000, dtype=torch.long)
    mask[1, 2500:] = 0
    padded = model.encode_audio(sounds * mask, attention_mask=mask)
    torch.testing.assert_close(padded[1], model.encode_audio(sounds[1:, :2500])[0], rtol=1e-4, atol=1e-5)


def test_sample_without_sound_takes_no_part():
    model, words = make(), inputs()
    present = torch.tensor([True, False, True])
    output = model(**words, audio_present=present)
    kept = {name: values[present] for name, values in words.items()}
    torch.testing.assert_close(output.loss, model(**kept).loss)
    assert (output.audio_embeds[1] == 0).all()


# ---- training


def test_frozen_towers_neither_move_nor_drop_out(tmp_path):
    model = make(freeze={"vision": True, "audio": False})
    model.save_pretrained(tmp_path)
    for candidate in (model, AudioVisualAligner.from_pretrained(tmp_path)):
        candidate.train()
        frozen, trained = candidate.towers["vision"], candidate.towers["audio"]
        assert not frozen.training and trained.training and candidate.aligner.training
        candidate(**inputs()).loss.backward()
        assert all(not parameter.requires_grad and parameter.grad is None for parameter in frozen.parameters())
        assert all(parameter.grad is not None for parameter in trained.parameters())
        assert all(parameter.grad is not None for parameter in candidate.aligner.parameters())


def test_centring_takes_the_common_mean_out_of_the_tokens():
    model, words = make(), inputs()
    model.center_on(**words)
    for name, read in model.get_tower_tokens(**words).items():
        tokens = model.aligner.streams[name].embed_tokens(read.features)
        assert tokens.mean(dim=(0, 1)).abs().max() < 1e-5


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = make()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        model(**inputs()).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_plain_trainer_trains_and_evaluates(tmp_path):
    words = inputs(batch=8)
    rows = [{name: values[row] for name, values in words.items()} for row in range(8)]
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 3e-3,
    }
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, **settings
    )
    trainer = Trainer(make(), args, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


# ---- bad input


def test_what_is_no_tower_is_refused():
    audio = AUDIO["AST"][0]()
    for wrong, words in (
        (BertConfig(**SIZES), "no vision tower"),
        (torch.nn.Linear(2, 2), "must be a transformers model"),
        (audio, "reads `input_values`"),
    ):
        with pytest.raises(ValueError, match=words):
            AudioVisualAligner.from_towers(wrong, audio, **OMNINET)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"freeze": {"text": True}}, "no text tower"),
        ({"vision_hidden_size": 5}, "the tower's"),
        ({"num_querys": 5}, "num_query_tokens"),
        ({"video_fps": 0.0}, "positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        make(**words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"pixel_values_videos": torch.zeros(3, 32, 32)}, "Pixels must be"),
        ({"input_values": torch.zeros(0, 60, 32)}, "Audio must be"),
        ({"input_ids": torch.zeros(3, 5, dtype=torch.long)}, "no text tower"),
        (
            {"pixel_values": torch.zeros(3, 4, 3, 32, 32), "pixel_values_videos": torch.zeros(3, 4, 3, 32, 32)},
            "same input",
        ),
        ({"input_values": torch.zeros(3, 60, 32), "audio_attention_mask": torch.ones(3, 59)}, "audio_attention_mask"),
        (
            {"pixel_values": torch.zeros(3, 4, 3, 32, 32), "vision_attention_mask": torch.ones(3, 5)},
            "vision_attention_mask",
        ),
        ({}, "one modality at least"),
    ],
)
def test_inputs_that_cannot_be_read_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        make()(**words)


def test_config_round_trip_keeps_the_towers():
    config = make(text="BERT", freeze={"audio": True}).config
    again = AudioVisualAlignerConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.aligner_config.streams == {"vision": 32, "audio": 32, "text": 32}
    assert again.frozen_towers == ["audio"]
