"""What `OmniLatentTrainer` and `CurriculumTrainer` do in their steps."""

import logging
from functools import partial

import datasets
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import HfArgumentParser, TrainingArguments

from omnilatent import OmniLatentConfig, OmniLatentModel, OmniLatentProcessor, OmniLatentTokenizer
from omnilatent.training import ALL_PAIRS, CurriculumTrainer, OmniLatentTrainer, OmniLatentTrainingArguments, Trainer
from omnilatent.training.data import (
    VideoCollection,
    VideoLoader,
    build_dataloader,
    collate_multimodal,
    encode_bytes,
    make_small_world,
)
from omnilatent.training.trainer import make_tokenizer_fn


def watch_steps(trainer):
    """The keyword arguments of the model at every step of the run."""
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    return seen


def losses_of(trainer, name):
    return [line[name] for line in trainer.state.log_history if name in line]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_small_world(folder, 3, duration=2.0, pixels=32)
    return folder


# --- what is trained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["video->audio", "audio->image", "text->video", "image->text", "past->future"])
def test_loss_falls_on_a_fixed_batch(make_trainer, items, pair):
    trainer = make_trainer(
        items(3), train_pairs=[pair], max_steps=30, logging_steps=5, learning_rate=4e-3, lr_scheduler_type="constant"
    )
    trainer.train()
    losses = losses_of(trainer, f"loss_{pair.replace('->', '_to_')}")
    assert losses[-1] < 0.85 * losses[0]


def test_sixteen_steps_train_all_sixteen_pairs(make_trainer, items):
    trainer = make_trainer(items(5), max_steps=16, logging_steps=16)
    trainer.train()
    logged = {name for name in trainer.state.log_history[0] if name.startswith("loss_")}
    assert logged == {f"loss_{pair.name}" for pair in ALL_PAIRS} | {"loss_contrastive"}


def test_several_targets_share_one_pass(make_trainer, items):
    trainer = make_trainer(items(5), targets_per_step=3, max_steps=4)
    seen = watch_steps(trainer)
    trainer.train()
    assert [len(step["target_sizes"]) for step in seen] == [3, 3, 3, 3]


def test_temporal_step_shows_the_past_and_asks_for_the_future(make_trainer, items):
    data = items(3)
    trainer = make_trainer(data, train_pairs=["past->future"], max_steps=1, data_seed=0)
    seen = watch_steps(trainer)
    trainer.train()
    shown = {tuple(row.flatten().tolist()) for row in seen[0]["pixel_values_videos"]}
    asked = {tuple(row.flatten().tolist()) for row in seen[0]["video_labels"]}
    assert shown == {tuple(item["video"].transpose(0, 1)[:2].flatten().tolist()) for item in data}
    assert asked == {tuple(item["video"].transpose(0, 1)[2:].flatten().tolist()) for item in data}


def test_rows_without_the_needed_modality_are_left_out(make_trainer, items):
    mixed = [*items(2), *items(3, ("image",))]
    trainer = make_trainer(mixed, train_pairs=["image->audio"], max_steps=1, per_device_train_batch_size=5)
    seen = watch_steps(trainer)
    trainer.train()
    given = {tuple(row.flatten().tolist()) for row in seen[0]["pixel_values"]}
    assert given == {tuple(item["image"].flatten().tolist()) for item in mixed[:2]}


def test_step_without_a_usable_row_changes_no_gradient(make_trainer, items):
    trainer = make_trainer([*items(1), *items(7, ("image",))], train_pairs=["image->audio"])
    trainer.train()
    trainer.model.zero_grad()
    batch = collate_multimodal(items(2, ("image",)))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


def test_clips_per_second_waiting_and_usable_share_are_logged(make_trainer, items):
    trainer = make_trainer([*items(4), *items(4, ("image",))], max_steps=8, logging_steps=8, data_seed=1)
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["clips_per_second"] > 0
    assert 0 < line["waiting_for_data"] < 1
    assert 0 < line["usable_clips"] < 1
    assert {"learning_rate", "phase", "epoch", "loss"} <= set(line)


def test_logged_loss_is_the_mean_since_the_last_line(make_trainer, items):
    steps = {"train_pairs": ["image->audio"], "max_steps": 6}
    each, mean = (make_trainer(items(5), logging_steps=every, **steps) for every in (1, 3))
    each.train(), mean.train()
    losses = losses_of(each, "loss_image_to_audio")
    expected = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert losses_of(mean, "loss_image_to_audio") == pytest.approx(expected, rel=1e-5)


def test_data_that_is_not_there_is_announced_once(make_trainer, items, caplog):
    with caplog.at_level(logging.WARNING, "omnilatent"):
        trainer = make_trainer(items(4, ("image", "video")), CurriculumTrainer, max_steps=20)
        trainer.train()
    (record,) = [record for record in caplog.records if "left out" in record.getMessage()]
    for words in ("has image, video;", "video->audio", "Phase 'cross-modal'", "Phase 'grounding'"):
        assert words in record.getMessage()
    assert {pair.source for pair in trainer.schedule.pairs} == {"image", "video", "past"}
    assert trainer.state.global_step == 20


def test_halves_that_are_no_whole_tubes_are_left_out(make_trainer, items):
    trainer = make_trainer(items(3), CurriculumTrainer, config={"video_tubelet_size": 4})
    assert [str(pair) for pair in trainer.schedule.missing] == ["past->future"]


def test_gradient_checkpointing_changes_nothing(make_trainer, items):
    plain, checkpointed = (make_trainer(items(5), activation_checkpointing=on) for on in (False, True))
    plain.train(), checkpointed.train()
    for name, values in plain.model.state_dict().items():
        torch.testing.assert_close(checkpointed.model.state_dict()[name], values)


def test_gradient_accumulation_stays_with_the_pair(make_trainer, items):
    trainer = make_trainer(items(5), gradient_accumulation_steps=3, max_steps=4)
    seen = watch_steps(trainer)
    trainer.train()
    targets = [tuple(step["target_sizes"]) for step in seen]
    assert len(targets) == 12 and all(len(set(targets[start : start + 3])) == 1 for start in range(0, 12, 3))


# --- the data ------------------------------------------------------------------------------------------------------


def test_curriculum_learns_from_a_folder_of_videos(make_trainer, world):
    config = OmniLatentConfig.tiny()
    videos = VideoCollection.from_folder(world, config, clip_duration=0.5, clip_stride=0.5)
    trainer = make_trainer(
        videos, CurriculumTrainer, eval_dataset=videos, max_steps=20, dataloader_num_workers=1, logging_steps=4
    )
    trainer.train()
    assert losses_of(trainer, "phase") == [2, 3, 3, 5, 5]
    metrics = trainer.evaluate()
    assert {"eval_gain_video_to_audio", "eval_loss_text_to_image", "eval_shuffled_loss_past_to_future"} <= set(metrics)


def test_iterable_dataset_trains(make_trainer, items):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(items(7))

    trainer = make_trainer(Stream(), max_steps=4)
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.epoch == 1


def test_steps_follow_from_epochs_where_the_length_is_known(make_trainer, items):
    trainer = make_trainer(items(11), max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=2)
    assert trainer.args.max_steps == 4  # 22 items in steps of 3 * 2


def test_stream_without_length_needs_max_steps(make_trainer, items):
    loader = [collate_multimodal(items(3))].__iter__
    batches = type("Batches", (), {"__iter__": lambda self: loader()})()
    with pytest.raises(ValueError, match="max_steps"):
        make_trainer(batches, max_steps=-1)


def test_evaluation_takes_several_sets(make_trainer, items):
    sets = {"one": items(4), "two": items(5)}
    trainer = make_trainer(
        items(4), train_pairs=["image->audio"], eval_pairs=["image->audio", "image->text"], eval_dataset=sets
    )
    metrics = trainer.evaluate()
    for name in ("one", "two"):
        losses = [metrics[f"eval_{name}_loss_image_to_{target}"] for target in ("audio", "text")]
        assert metrics[f"eval_{name}_loss"] == pytest.approx(sum(losses) / 2)


def test_clips_of_a_collection_are_encoded_by_the_tokenizer_of_the_processor(make_trainer, world, tmp_path):
    config = OmniLatentConfig.tiny(max_text_length=9)
    videos = VideoCollection.from_folder(world, clip_duration=0.5, clip_stride=0.5)
    processor = OmniLatentProcessor.from_config(config)
    args = OmniLatentTrainingArguments(tmp_path, max_steps=1, per_device_train_batch_size=3, use_cpu=True)
    trainer = OmniLatentTrainer(OmniLatentModel(config), args, videos, processing_class=processor)
    asked = []
    monitored = processor.tokenizer._encode_plus
    processor.tokenizer._encode_plus = lambda text, *args, **kwargs: (
        asked.append(text) or monitored(text, *args, **kwargs)
    )
    batch = next(iter(trainer.stream))
    assert asked and batch["text"].shape == (3, 9)  # as long as the model allows, not the collection
    plain = next(iter(VideoLoader(videos, 3, seed=trainer.stream.seed, max_text_length=9)))
    assert torch.equal(batch["text"], plain["text"])


def test_words_that_spell_a_special_token_are_plain_text():
    encode = make_tokenizer_fn(OmniLatentTokenizer())
    assert torch.equal(encode("<|image|> ö", 50), encode_bytes("<|image|> ö", 50))
    assert make_tokenizer_fn(None) is None


def test_seed_of_the_run_orders_a_collection(make_trainer, world):
    def order(of_collection, **settings):
        videos = VideoCollection.from_folder(world, clip_duration=0.5, clip_stride=0.5, seed=of_collection)
        stream = make_trainer(videos, OmniLatentTrainer, **settings).stream
        batch = next(iter(stream))
        return list(zip(batch["path"], batch["start"].tolist()))

    assert order(0, seed=5) == order(1, seed=5) == order(0, data_seed=5) != order(0, seed=6)


def test_loader_settings_reach_a_collection(make_trainer, world):
    videos = VideoCollection.from_folder(world, clip_duration=0.5, clip_stride=0.5)
    settings = {
        "dataloader_num_workers": 2,
        "dataloader_prefetch_factor": 3,
        "dataloader_multiprocessing_context": "spawn",
    }
    stream = make_trainer(videos, **settings).stream
    assert (stream.num_workers, stream.prefetch_factor, stream.multiprocessing_context) == (2, 3, "spawn")
    assert make_trainer(videos, dataloader_num_workers=1).stream.prefetch_factor == 1


def test_rows_of_a_dataset_train_and_are_judged(make_trainer, items):
    rows = [{**{k: v.tolist() for k, v in item.items()}, "id": "x"} for item in items(4, ("text", "image"))]
    data = datasets.Dataset.from_list(rows)
    trainer = make_trainer(data, max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.evaluate(data)["eval_loss_image_to_text"] > 0


def test_prediction_tells_the_loss_of_each_clip(make_trainer, items):
    trainer = make_trainer(items(5), train_pairs=["image->audio", "text->image"])
    result = trainer.predict(items(5))
    assert result.label_ids is None
    metrics = trainer.evaluate(items(5))
    del metrics["epoch"]  # added by the log
    assert result.metrics == {name.replace("eval", "test"): value for name, value in metrics.items()}
    assert {name: losses.shape for name, losses in result.predictions.items()} == {
        "image_to_audio": (5,),
        "text_to_image": (5,),
    }
    # all clips have as many terms, so that the mean over clips is that over terms
    assert result.predictions["image_to_audio"].mean() == pytest.approx(result.metrics["test_loss_image_to_audio"])


# --- the specification's ways in -------------------------------------------------------------------------------------


def test_training_with_own_data_as_in_the_specification(tmp_path, items):
    your_dataset = items(9, ("text", "image"))
    config = OmniLatentConfig.tiny()
    model = OmniLatentModel(config)
    dataloader = DataLoader(your_dataset, batch_size=4, collate_fn=collate_multimodal, shuffle=True)
    args = OmniLatentTrainingArguments(tmp_path, max_steps=5, learning_rate=3e-4, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model, config, dataloader, args)
    trainer.train()
    assert trainer.state.global_step == 5
    assert trainer.args.per_device_train_batch_size == 4
    assert {pair.source for pair in trainer.schedule.pairs} == {"text", "image"}


def test_curriculum_training_as_in_the_specification(tmp_path, world, monkeypatch):
    from omnilatent.training.video_dataset import VideoWatchingDataset, collate_video_watching

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config = OmniLatentConfig.tiny()
    model = OmniLatentModel(config)
    dataset = VideoWatchingDataset(video_dir=world, config=config, clip_duration=0.5, clip_stride=1.0)
    dataloader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=collate_video_watching, num_workers=2)
    trainer = CurriculumTrainer(
        model=model, config=config, dataloader=dataloader, total_steps=6, save_dir=tmp_path / "checkpoints"
    )
    trainer.train()
    assert trainer.state.global_step == 6
    assert (tmp_path / "checkpoints" / "checkpoint-6" / "model.safetensors").is_file()


def test_two_words_for_one_setting_are_refused(items, tmp_path):
    model = OmniLatentModel(OmniLatentConfig.tiny())
    make = partial(CurriculumTrainer, model)
    args = OmniLatentTrainingArguments(tmp_path, max_steps=3, use_cpu=True)
    with pytest.raises(ValueError, match="max_steps"):
        make(args, train_dataset=items(3), total_steps=9)
    with pytest.raises(ValueError, match="not both"):
        make(args, train_dataset=items(3), dataloader=build_dataloader(items(3)))
    with pytest.raises(ValueError, match="differs"):
        make(args, train_dataset=items(3), config=OmniLatentConfig.tiny(hidden_dim=96))


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_can_be_parsed_from_a_command_line():
    (args,) = HfArgumentParser(OmniLatentTrainingArguments).parse_args_into_dataclasses(
        [
            "--output_dir",
            "x",
            "--max_steps",
            "50",
            "--warmup_fraction",
            "0.2",
            "--train_pairs",
            "video->audio",
            "--use_cpu",
        ]
    )
    assert (args.max_steps, args.warmup_fraction, args.train_pairs) == (50, 0.2, ["video->audio"])
    assert args.bf16 is False and args.ddp_find_unused_parameters


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets_per_step": 0},
        {"joint_fraction": -0.1},
        {"train_pairs": ["a->b"]},
        {"ignore_data_skip": False},
        {"label_smoothing_factor": 0.1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        OmniLatentTrainingArguments(use_cpu=True, **wrong)


@pytest.mark.parametrize("name", ["compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics"])
def test_functions_that_would_never_be_called_are_refused(items, tmp_path, name):
    args = OmniLatentTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True)
    with pytest.raises(ValueError, match=name):
        OmniLatentTrainer(OmniLatentModel(OmniLatentConfig.tiny()), args, items(3), **{name: print})


def test_plain_training_arguments_are_refused(items):
    with pytest.raises(ValueError, match="OmniLatentTrainingArguments"):
        OmniLatentTrainer(OmniLatentModel(OmniLatentConfig.tiny()), TrainingArguments(use_cpu=True), items(3))


def test_progress_bar_shows_the_phase(make_trainer, items, capsys):
    trainer = make_trainer(items(3), CurriculumTrainer, max_steps=10, disable_tqdm=False)
    trainer.train()
    assert "phase 5 joint" in capsys.readouterr().err


def test_tensorboard_gets_every_loss(make_trainer, items, tmp_path, monkeypatch):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_trainer(items(3), train_pairs=["image->audio"], report_to="tensorboard", logging_steps=2)
    trainer.train()
    events = event_accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert {"train/loss_image_to_audio", "train/phase", "train/clips_per_second"} <= set(events.Tags()["scalars"])
