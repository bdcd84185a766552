"""Aligning on videos: batches, retrieval, localisation, the trainer and the command."""

import json

import pytest
import torch
from transformers import (
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from omnilatent import AudioVisualAligner, AudioVisualAlignerProcessor
from omnilatent.training import (
    AlignerTrainer,
    AlignerTrainingArguments,
    cli,
    embed_clips,
    localisation_figures,
    make_aligner,
    recall_at,
    retrieval_figures,
)
from omnilatent.training.align_batches import to_aligner_inputs
from omnilatent.training.align_evaluation import ClipEmbeddings
from omnilatent.training.align_runs import split_videos
from omnilatent.training.checkpoints import check_manifest
from omnilatent.training.data import VideoCollection, VideoLoader, make_small_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align") / "videos"
    make_small_world(folder, num_videos=7, duration=3.0, pixels=32)
    return folder


@pytest.fixture
def videos(folder):
    return VideoCollection.from_folder(folder, clip_stride=1.0, video_size=32, image_size=32)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return make_aligner(image_size=32, width=32, layers=1, num_hidden_layers=1)


def batch_of(videos, size=5):
    return next(iter(VideoLoader(videos, size, shuffle=False)))


# ---- figures


def test_recall_counts_ranks_like_a_naive_search():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(23, 23, generator=generator)
    for rank, share in recall_at(similarity, (1, 3, 7)).items():
        found = [row in similarity[row].topk(rank).indices.tolist() for row in range(23)]
        assert share == pytest.approx(sum(found) / 23)


def test_equal_candidates_share_a_rank():
    assert recall_at(torch.ones(5, 5), (1, 2, 5, 10)) == pytest.approx({1: 0.2, 2: 0.4, 5: 1.0, 10: 1.0})


def embeddings(video, audio, path, start):
    unit = torch.nn.functional.one_hot
    return ClipEmbeddings(unit(torch.tensor(video), 7).float(), unit(torch.tensor(audio), 7).float(), path, start)


def test_retrieval_looks_both_ways():
    figures = retrieval_figures(embeddings([0, 1, 2, 3], [0, 1, 1, 3], list("abcd"), [0.0] * 4), ranks=(1,))
    # audio 2 lies with video 1; video 2 is near to none, so that its 4 candidates share the rank
    assert figures == {
        "video_to_audio_R@1": 0.6875 - 0.125,
        "audio_to_video_R@1": 0.75,
        "chance": 0.25,
        "clips": 4,
    } | {"video_to_audio_R@1": pytest.approx((1 + 0.5 + 0.25 + 1) / 4)}


def test_localisation_searches_within_a_video_only():
    found = localisation_figures(
        embeddings(
            [0, 1, 2, 0, 1, 5], [0, 1, 1, 1, 0, 5], ["a"] * 3 + ["b"] * 2 + ["c"], [0.0, 0.5, 1.5, 0.0, 4.0, 0.0]
        )
    )
    assert found["videos"] == 2
    assert found["localisation"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["error"] == pytest.approx((1.0 / 3 + 4.0) / 2)


def test_localisation_of_single_clips_is_empty():
    assert localisation_figures(embeddings([0, 1], [0, 1], ["a", "b"], [0.0, 0.0])) == {}


# ---- batches


def test_embeddings_of_clips_equal_those_of_the_model(videos, parts):
    model, processor = parts
    batch = batch_of(videos)
    found = embed_clips(model, processor, [batch])
    words = processor(videos=batch["video"], audio=batch["audio"])
    torch.testing.assert_close(found.video, model.eval().encode_video(words["pixel_values_videos"]))
    assert found.path == batch["path"] and found.start == batch["start"].tolist()


def test_clips_without_sound_are_left_out(videos, parts):
    batch = batch_of(videos)
    batch["has_audio"][2] = False
    found = embed_clips(*parts, [batch])
    assert found.path == [path for row, path in enumerate(batch["path"]) if row != 2]
    assert not to_aligner_inputs(batch, parts[1], "cpu")["audio_present"][2]
    batch["has_audio"][:] = False
    with pytest.raises(ValueError, match="No clip has sound"):
        embed_clips(*parts, [batch])


def test_split_shares_no_video(videos):
    train, held_out = split_videos(videos, 0.3, seed=0)
    paths = [{row.label for row in part.rows} for part in (train, held_out)]
    assert [len(part) for part in paths] == [5, 2] and not paths[0] & paths[1]


# ---- the trainer


def make_trainer(folder, videos, **settings):
    torch.manual_seed(0)
    model, processor = make_aligner(image_size=32, width=32, layers=1, num_hidden_layers=1)
    settings = {"max_steps": 6, "per_device_train_batch_size": 5, "save_steps": 3, **settings}
    args = AlignerTrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    return AlignerTrainer(model, args, processor, train_dataset=videos, eval_dataset=videos)


def test_resumed_run_equals_the_whole_one(tmp_path, videos):
    whole = make_trainer(tmp_path, videos)
    whole.train()
    check_manifest(tmp_path / "checkpoint-6")
    resumed = make_trainer(tmp_path, videos)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    expected = whole.model.state_dict()
    for name, values in resumed.model.state_dict().items():
        assert torch.equal(values, expected[name]), name


def test_run_begins_with_centred_tokens(tmp_path, videos):
    trainer = make_trainer(tmp_path, videos, max_steps=1, learning_rate=1e-12, save_strategy="no")
    trainer.train()
    batch = next(iter(VideoLoader(videos, 5, seed=trainer.args.seed)))
    inputs = to_aligner_inputs(batch, trainer.processing_class, "cpu")
    inputs.pop("audio_present"), inputs.pop("vision_timestamps")
    for name, read in trainer.model.eval().get_tower_tokens(**inputs).items():
        tokens = trainer.model.aligner.streams[name].embed_tokens(read.features)
        assert tokens.mean(dim=(0, 1)).abs().max() < 1e-3


def test_evaluation_reports_retrieval_and_localisation(tmp_path, videos):
    metrics = make_trainer(tmp_path, videos).evaluate()
    assert metrics["eval_clips"] == 14 and metrics["eval_chance"] == pytest.approx(1 / 14)
    assert {f"eval_{way}_R@{rank}" for way in ("video_to_audio", "audio_to_video") for rank in (1, 5, 10)} <= set(
        metrics
    )
    assert metrics["eval_localisation_videos"] == 7 and metrics["eval_localisation_chance"] == 0.5


def test_checkpoint_holds_model_and_processor(tmp_path, videos):
    make_trainer(tmp_path, videos, max_steps=3).train()
    model = AudioVisualAligner.from_pretrained(tmp_path / "checkpoint-3").eval()
    processor = AudioVisualAlignerProcessor.from_pretrained(tmp_path / "checkpoint-3")
    path = videos.rows[0].label
    words = processor(videos=[path], audio=[path])
    assert model.encode_video(words["pixel_values_videos"]).shape == (1, 32)


def test_settings_that_would_repeat_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ignore_data_skip"):
        AlignerTrainingArguments(str(tmp_path), ignore_data_skip=False)


# ---- the command


def align(folder, out, *options):
    sizes = [] if "--vision-tower" in options else ["--video-size", "32", "--layers", "1"]  # of new towers
    steps = ["--dim", "32", "--batch-size", "5", "--workers", "0", "--cpu", "--steps", "2", "--held-out", "0.3"]
    return cli.main(["align", "--video-dir", str(folder), "--save-dir", str(out), *sizes, *steps, *options])


def test_command_trains_new_towers_and_prints_retrieval(tmp_path, folder, capfd):
    assert align(folder, tmp_path / "out") == 0
    printed = capfd.readouterr().out
    assert "video to audio: R@1" in printed and "Localisation in 2 videos" in printed
    found = {}
    exec(printed.split("use it by: ")[1].splitlines()[0], found)
    assert isinstance(found["model"], AudioVisualAligner) and found["model"].config.frozen_towers == []


def test_command_takes_saved_towers_and_leaves_them_frozen(tmp_path, folder, capfd):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    vision, audio = (
        ViTModel(ViTConfig(image_size=32, **sizes)),
        Wav2Vec2Model(Wav2Vec2Config(conv_dim=(16,) * 7, **sizes)),
    )
    for name, tower, processor in (
        ("vision", vision, ViTImageProcessor(size={"height": 32, "width": 32})),
        ("audio", audio, Wav2Vec2FeatureExtractor()),
    ):
        tower.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    options = ["--vision-tower", str(tmp_path / "vision"), "--audio-tower", str(tmp_path / "audio"), "--fps", "2"]
    assert align(folder, tmp_path / "out", *options, "--video-size", "32") == 1
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.endswith("--video-size shape a new model, and --vision-tower names a saved one.")
    assert align(folder, tmp_path / "out", *options) == 0
    model = AudioVisualAligner.from_pretrained(tmp_path / "out")
    assert model.config.frozen_towers == ["audio", "vision"]
    expected = audio.state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in model.towers["audio"].state_dict().items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["video_fps"] == 2.0


def test_command_names_what_is_wrong(tmp_path, folder, capfd):
    assert align(folder, tmp_path / "out", "--vision-tower", "somewhere") == 1
    assert "both --vision-tower and --audio-tower" in capfd.readouterr().err
    assert cli.main(["align", "--video-dir", str(tmp_path / "nothing")]) == 1
