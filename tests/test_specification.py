"""The examples of the OmniLatent specification, with the sizes it tells (on the CPU)."""

import pytest
import torch
from torch.utils.data import DataLoader

from omnilatent import LatentNeuralHook, OmniLatentConfig, OmniLatentModel
from omnilatent.training import CurriculumTrainer, OmniLatentTrainingArguments, Trainer
from omnilatent.training.data import build_dataloader, collate_multimodal, make_small_world
from omnilatent.training.video_dataset import VideoWatchingDataset, collate_video_watching


@pytest.fixture(scope="module")
def model():
    return OmniLatentModel(OmniLatentConfig()).eval()


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 224, 224)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(1, 32000, (1, 64))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("specification") / "videos"
    make_small_world(folder, num_videos=4, pixels=32)
    return folder


def test_default_model_has_about_140_million_parameters(model):
    assert 130e6 < model.num_parameters() < 150e6


@torch.no_grad()
def test_image_to_text_reads_out_at_the_patches(model, image):
    assert model("image", image, "text")["output"].shape == (1, 196, 32000)


@torch.no_grad()
def test_text_to_image_has_the_default_size(model, tokens):
    assert model("text", tokens, "image")["output"].shape == (1, 3, 224, 224)


@torch.no_grad()
def test_reconstruction_has_the_size_of_its_input(model, image):
    assert model.reconstruct("image", image)["output"].shape == image.shape


@torch.no_grad()
def test_several_inputs_at_once(model, image, tokens):
    results = model.forward_multimodal(inputs={"text": tokens, "image": image}, target_modalities=["text", "image"])
    assert results["text"].shape == (1, 64 + 196, 32000)
    assert results["image"].shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("source", "shape"), [("audio", (1, 128, 96)), ("video", (1, 3, 16, 112, 112)), ("image", (1, 3, 224, 224))]
)
@torch.no_grad()
def test_batches_have_the_shapes_of_the_table(model, source, shape):
    assert model.reconstruct(source, torch.randn(shape))["output"].shape == shape


@pytest.mark.parametrize(
    ("sizes", "hidden_size"),
    [
        ({"hidden_dim": 128, "num_layers": 4, "num_heads": 4}, 128),
        ({"hidden_dim": 1024, "num_layers": 16, "num_heads": 16}, 1024),
    ],
)
def test_config_is_scaled_in_the_specifications_words(sizes, hidden_size):
    config = OmniLatentConfig(**sizes)
    assert (config.hidden_size, config.num_hidden_layers) == (hidden_size, sizes["num_layers"])


@pytest.mark.parametrize(
    "word", ["batch_size", "learning_rate", "max_steps", "mixed_precision", "gradient_checkpointing"]
)
def test_training_words_in_the_config_name_their_place(word):
    with pytest.raises(ValueError, match="TrainingArguments"):
        OmniLatentConfig(**{word: 1})


def arguments(folder, **settings):
    return OmniLatentTrainingArguments(str(folder), report_to="none", save_strategy="no", use_cpu=True, **settings)


def test_trainer_takes_model_config_and_dataloader(tmp_path):
    config = OmniLatentConfig.tiny()
    items = [{"text": torch.randint(3, 259, (7,)), "image": torch.randn(3, 32, 32)} for _ in range(6)]
    dataloader = DataLoader(items, batch_size=2, collate_fn=collate_multimodal, shuffle=True)
    trainer = Trainer(OmniLatentModel(config), config, dataloader, arguments(tmp_path, max_steps=3))
    assert trainer.train().global_step == 3


def test_own_data_can_be_loaded_by_build_dataloader():
    items = [{"audio": torch.randn(128, 50)}, {"audio": torch.randn(128, 50)}, {"audio": torch.randn(128, 50)}]
    assert next(iter(build_dataloader(items, batch_size=3)))["audio"].shape == (3, 128, 50)


def test_curriculum_trainer_learns_from_a_video_watching_dataset(videos, tmp_path):
    config = OmniLatentConfig.tiny()
    dataset = VideoWatchingDataset(video_dir=videos, config=config, clip_duration=2.0, clip_stride=1.0)
    dataloader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=collate_video_watching, num_workers=0)
    trainer = CurriculumTrainer(
        model=OmniLatentModel(config), config=config, dataloader=dataloader, total_steps=5, save_dir=str(tmp_path)
    )
    assert trainer.train().global_step == 5


def test_custom_tokenizer_reads_the_transcripts(videos):
    def encode(text, max_len):
        return torch.tensor([len(word) for word in text.split()][:max_len], dtype=torch.long)

    dataset = VideoWatchingDataset(video_dir=videos, config=OmniLatentConfig.tiny(), tokenizer_fn=encode)
    assert dataset[0]["text"].max() < 20 and dataset[0]["text"].dtype == torch.long


def test_a_hook_is_registered_used_trained_and_removed(image):
    torch.manual_seed(0)
    model = OmniLatentModel(OmniLatentConfig(num_hidden_layers=6)).eval()
    before = model("image", image, "text")["output"]
    hook = LatentNeuralHook(
        name="style_control",
        num_tokens=8,
        dim=768,
        target_layers=[0, 1, 2, 3, 4, 5],
        gate_bias_init=-4.0,
        use_transform=True,
    )
    model.register_hook(hook)
    hooked = model("image", image, "text")["output"]
    assert hooked.shape == (1, 196, 32000) and not torch.equal(hooked, before)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    hooked.mean().backward()
    optimizer.step()
    model.remove_hook("style_control")
    assert model("image", image, "text")["output"].shape == (1, 196, 32000)
