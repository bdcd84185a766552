"""The command `omnilatent`: its options, its errors, and whole small runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image
from transformers import BertConfig

from omnilatent import OmniLatentConfig, OmniLatentModel, OmniLatentProcessor
from omnilatent.processing.media import write_audio
from omnilatent.training import cli
from omnilatent.training.convert import SOURCE_SUFFIXES, convert_file
from omnilatent.training.data import make_small_world
from omnilatent.training.runs import make_config


def parse(*argv):
    return cli.make_parser().parse_args([str(part) for part in argv])


def run(capfd, *argv):
    """Exit code, standard output and standard error of a command."""
    code = cli.main([str(part) for part in argv])
    return (code, *capfd.readouterr())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "videos"
    make_small_world(folder, num_videos=5, pixels=32)
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "model"
    config = OmniLatentConfig.tiny(text_vocab_size=259)
    OmniLatentModel(config).save_pretrained(folder)
    OmniLatentProcessor.from_config(config).save_pretrained(folder)
    return folder


# ---- options


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", "--dim --layers --heads --no-amp --steps --batch-size --log-interval --save-dir --resume"),
        (
            "curriculum",
            "--video-dir --total-steps --dim --layers --heads --warmup-frac --crossmodal-frac --temporal-frac --resume "
            "--synthetic --save-dir --batch-size --log-interval --no-amp",
        ),
    ],
)
def test_every_option_of_the_specification_is_there(command, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(command, "--help")
    assert stopped.value.code == 0
    assert set(options.split()) <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_help_tells_defaults_and_units(capsys):
    with pytest.raises(SystemExit):
        parse("curriculum", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "seconds of a clip (default: 2.0)" in text
    assert "optimiser steps (default: 100000)" in text
    assert "None" not in text and "False" not in text


@pytest.mark.parametrize(
    ("command", "samples"),
    [("train", "clips"), ("curriculum", "clips"), ("align", "clips"), ("classify", "images"), ("finetune", "samples")],
)
def test_help_tells_what_a_batch_is_of(command, samples, capsys):
    with pytest.raises(SystemExit):
        parse(command, "--help")
    assert f"{samples} of a step, per process" in " ".join(capsys.readouterr().out.split())


def test_sizes_of_the_command_line_reach_the_config():
    config = make_config(parse("train", "--dim", 96, "--layers", 3, "--heads", 6))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (96, 3, 6)


def test_settings_file_is_overridden_by_options(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"hidden_dim": 36, "num_mel_bins": 40}))
    config = make_config(parse("train", "--preset", "tiny", "--config", tmp_path / "settings.json", "--dim", 24))
    assert (config.hidden_size, config.num_mel_bins, config.num_hidden_layers) == (24, 40, 2)


def test_default_targets_are_as_long_as_a_clip():
    config = make_config(parse("train", "--preset", "tiny", "--clip-duration", 1.5))
    assert (config.num_frames, config.audio_target_length) == (12, 150)


# ---- errors


@pytest.mark.parametrize(
    "argv",
    [
        ["curriculum"],
        ["curriculum", "--video-dir", "here", "--synthetic"],
        ["train", "--steps", "0"],
        ["train", "--steps", "many"],
        ["curriculum", "--synthetic", "--warmup-frac", "1.2"],
        ["convert", "a.wav", "--to", "smell", "--model", "m"],
        ["fly"],
        [],
    ],
)
def test_impossible_options_leave_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["classify", "--held-out"], ["curriculum", "--video-dir=v", "--joint-frac"]])
def test_a_share_is_between_nothing_and_all(command, capsys):
    with pytest.raises(SystemExit):
        parse(*command, "1.5")
    assert "must be a share, from 0 to 1; got 1.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["align", "--video-dir=v", "--vision-tower=a", "--audio-tower=b", "--layers=2"], "--layers shape"),
        (
            ["finetune", "--task=vqa", "--train-data=a", "--val-data=b", "--model=m", "--tokenizer=words"],
            "--tokenizer",
        ),
        (["curriculum", "--video-dir", "nowhere", "--preset", "tiny"], "nowhere"),
        (["train", "--dim", "100", "--heads", "3"], "100"),
        (["train", "--config", "missing.json"], "missing.json"),
        (["train", "--synthetic", "--preset", "tiny", "--pairs", "smell->text"], "smell->text"),
        (["train", "--synthetic", "--preset", "tiny", "--resume", "no_checkpoint"], "no_checkpoint"),
        (["convert", "missing.wav", "--to", "text", "--model", "m"], "missing.wav"),
        (["convert", "file.xyz", "--to", "text", "--model", "m"], "expected one of .txt"),
        (["convert", "a.wav", "--to", "video", "--model", "m", "--out", "a.gif"], "expected one of .mp4"),
        (["convert", "a.wav", "--to", "image", "--model", "m", "--sound"], "sound"),
        (["report", "--model", "no_model", "--video-dir", "nowhere"], "neither a folder 'no_model' nor"),
        (["export", "--model", "./runs/no_model", "--out", "programs"], "no folder './runs/no_model'"),
        (["serve", "--model", "runs/no_model"], "neither a folder 'runs/no_model' nor"),
        (["classify", "--model", "no_model", "--data-dir", "nowhere"], "neither a folder 'no_model' nor"),
        (["finetune", "--task=vqa", "--train-data=a", "--val-data=b", "--model=a/b/c"], "no folder 'a/b/c'"),
        (["visualize", "--image", "missing.jpg", "--model", "m"], "There is no file 'missing.jpg'."),
        (["align", "--video-dir", "v", "--vision-tower", "no_a", "--audio-tower", "no_b"], "a folder 'no_a' nor"),
    ],
)
def test_mistakes_are_told_in_one_line(argv, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("omnilatent.training.runs.SYNTHETIC_VIDEOS", 3)
    # a name that is no folder is looked for on the Hub, whose client would try again for minutes
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, error = run(capfd, *argv)
    assert code == 1
    line = error.splitlines()[-1]
    assert line.startswith(f"omnilatent {argv[0]}: error: ") and told in line
    assert "Traceback" not in error


def test_traceback_is_shown_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        cli.main(["convert", "missing.wav", "--to", "text", "--model", "m", "--traceback"])


def test_module_runs_like_the_command(tmp_path):
    """`accelerate launch -m omnilatent.training.cli` starts it this way."""
    command = [
        sys.executable,
        "-m",
        "omnilatent.training.cli",
        "convert",
        "missing.wav",
        "--to",
        "text",
        "--model",
        "m",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: There is no file 'missing.wav'." in done.stderr


@pytest.fixture
def program(tmp_path):
    """A runner of the program `omnilatent` as pip writes it, in a process that tells what it imports."""
    script = tmp_path / "omnilatent"
    script.write_text("import sys\nfrom omnilatent.training.cli import main\nsys.exit(main())")

    def start(*options):
        command = [sys.executable, "-X", "importtime", script, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
        return done.returncode, said, loaded

    return start


@pytest.mark.parametrize(("options", "code"), [(["--help"], 0), (["classify", "--held-out", "1.5"], 2)])
def test_program_reads_its_options_before_it_loads_torch(program, options, code):
    stopped, _, loaded = program(*options)
    assert stopped == code
    assert "omnilatent.training.cli" in loaded and not loaded & {"torch", "transformers", "peft"}


def test_program_knows_our_models_when_it_runs_a_command(program, model_dir, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code, said, _ = program("visualize", "--image", tmp_path / "a.png", "--model", model_dir)
    assert code == 1
    assert said[-1].endswith("model is no classifier of images: it holds OmniLatentModel.")


# ---- runs


SMALL = ["--preset", "tiny", "--dim", 24, "--cpu", "--workers", 0, "--batch-size", 2, "--log-interval", 1]


def test_curriculum_learns_from_a_folder_and_can_be_resumed(videos, tmp_path, capfd):
    argv = ["curriculum", "--video-dir", videos, *SMALL, "--save-dir", tmp_path / "run", "--save-interval", 2]
    code, out, _ = run(capfd, *argv, "--total-steps", 4)
    assert code == 0 and "omnilatent convert" in out
    code, *_ = run(capfd, *argv, "--total-steps", 6, "--resume", tmp_path / "run" / "checkpoint-4")
    state = json.loads((tmp_path / "run" / "checkpoint-6" / "trainer_state.json").read_text())
    assert code == 0 and [line["step"] for line in state["log_history"] if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert OmniLatentModel.from_pretrained(tmp_path / "run").config.hidden_size == 24


def test_broken_videos_are_named_in_the_log_of_the_run(videos, tmp_path, capfd):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "none.mp4").write_bytes(b"this is no video")
    late = sorted(folder.glob("train-*.mp4"))[0]
    data = bytearray(late.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)  # found when it is decoded
    late.write_bytes(data)
    options = ["--total-steps", 12, "--save-dir", tmp_path / "run"]
    code, _, err = run(capfd, "train", "--video-dir", folder, *SMALL, "--clip-duration", 0.5, *options)
    assert code == 0, err
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count(f"Could not read {folder / 'none.mp4'} at") == 1
    assert f"Could not read {late} at" in log


def test_training_without_data_trains_on_generated_videos(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("omnilatent.training.runs.SYNTHETIC_VIDEOS", 4)
    code, *_ = run(capfd, "train", *SMALL, "--save-dir", tmp_path / "run", "--steps", 3, "--pairs", "video->audio")
    assert code == 0
    assert len(list((tmp_path / "run" / "small_world").glob("*.mp4"))) == 4
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert all("loss_video_to_audio" in line for line in state["log_history"] if "loss" in line)


def test_report_is_one_page_with_honest_figures(videos, model_dir, tmp_path, capfd):
    page = tmp_path / "page.html"
    code, out, _ = run(
        capfd, "report", "--model", model_dir, "--video-dir", videos, "--out", page, "--clip-duration", 0.5
    )
    assert code == 0
    figures = json.loads((tmp_path / "page.json").read_text())
    assert len(figures["pairs"]) == 17 and figures["chance"] == 1 / figures["clips"]
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert text.count("data:audio/wav") >= 5 and text.count("data:image/png") >= 5 and "data:video/mp4" in text
    for name, result in figures["pairs"].items():
        if result["interval"][0] <= 0:  # an untrained model
            assert name in out.splitlines()[-1]


@pytest.mark.parametrize("command", [["convert", "a.txt", "--to", "image"], ["report", "--video-dir", "."]])
def test_model_of_another_kind_is_named(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("words")
    BertConfig(architectures=["BertModel"]).save_pretrained("bert")
    code, _, err = run(capfd, *command, "--model", "bert")
    assert code == 1
    assert err.splitlines()[-1].endswith("bert is no OmniLatentModel: it holds BertModel.")


# ---- convert


@pytest.fixture(scope="module")
def sources(tmp_path_factory, videos):
    folder = tmp_path_factory.mktemp("sources")
    (folder / "words.txt").write_text("ein kleines, rötliches Dreieck", encoding="utf-8")
    write_audio(folder / "tone.flac", [0.1, -0.1] * 6000, 22050)
    Image.new("RGB", (50, 70), "orange").save(folder / "picture.jpg")
    (folder / "film.mp4").write_bytes(next(iter(sorted(videos.glob("*.mp4")))).read_bytes())
    return folder


@pytest.mark.parametrize("source", ["words.txt", "tone.flac", "picture.jpg", "film.mp4"])
def test_every_file_becomes_every_file(source, sources, model_dir, tmp_path):
    model, processor = OmniLatentModel.from_pretrained(model_dir), OmniLatentProcessor.from_pretrained(model_dir)
    made = {
        target: convert_file(sources / source, target, model, tmp_path / f"made.{suffix}", 12, processor=processor)
        for target, suffix in (("text", "txt"), ("audio", "wav"), ("image", "png"), ("video", "mp4"))
    }
    assert made["text"].read_text(encoding="utf-8").endswith("\n")
    assert Image.open(made["image"]).size == (32, 32)
    with av.open(str(made["audio"])) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 24 * 160
    with av.open(str(made["video"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4 and not container.streams.audio


def test_video_can_come_with_its_sound(sources, model_dir, tmp_path, capfd):
    out = tmp_path / "new" / "made.mp4"
    code, printed, _ = run(
        capfd, "convert", sources / "words.txt", "--to", "video", "--model", model_dir, "--sound", "--out", out
    )
    assert code == 0 and printed.strip() == str(out)
    with av.open(str(out)) as container:
        assert len(container.streams.audio) == 1


def test_converted_file_stands_beside_its_source_by_default(sources, model_dir, tmp_path):
    source = tmp_path / "picture.jpg"
    source.write_bytes((sources / "picture.jpg").read_bytes())
    before = source.read_bytes()
    assert convert_file(source, "image", model_dir) == tmp_path / "picture.image.png"
    assert source.read_bytes() == before


def test_text_in_the_old_code_page_is_read(sources, model_dir, tmp_path):
    for name, data in (("new.txt", "rötlich".encode()), ("old.txt", "rötlich".encode("latin-1"))):
        (tmp_path / name).write_bytes(data)
    new, old = (convert_file(tmp_path / name, "image", model_dir) for name in ("new.txt", "old.txt"))
    assert new.read_bytes() == old.read_bytes()


def test_text_that_spells_a_special_token_is_only_text(model_dir, tmp_path):
    (tmp_path / "a.txt").write_text("<|image|> and <|to_text|>")
    assert convert_file(tmp_path / "a.txt", "text", model_dir, max_new_tokens=3).is_file()
    assert convert_file(tmp_path / "a.txt", "image", model_dir).is_file()


@pytest.mark.parametrize(
    ("name", "target", "out", "message"),
    [
        ("a.txt", "smell", None, "'smell': expected one of text, audio, image, video"),
        ("empty.txt", "image", None, "no text in .*empty.txt"),
        ("a.txt", "text", "a.txt", "a.txt.*source itself"),
        ("a.txt", "text", "folder/../a.txt", "a.txt.*source itself"),
    ],
)
def test_pointless_conversions_are_refused_before_the_model_is_read(tmp_path, name, target, out, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match=message):
        convert_file(tmp_path / name, target, tmp_path / "no_model", out and tmp_path / out)
    assert (tmp_path / "a.txt").read_text() == "words"


@pytest.mark.parametrize("suffix", [".wav", ".png", ".mp4"])
def test_broken_source_is_refused_by_name(suffix, model_dir, tmp_path, capfd):
    (tmp_path / f"broken{suffix}").write_bytes(b"this is no media file")
    code, _, error = run(capfd, "convert", tmp_path / f"broken{suffix}", "--to", "text", "--model", model_dir)
    assert code == 1
    assert f"broken{suffix}" in error.splitlines()[-1]


def test_every_source_suffix_has_one_modality():
    suffixes = [suffix for modality in SOURCE_SUFFIXES.values() for suffix in modality]
    assert len(suffixes) == len(set(suffixes)) and all(Path(f"a{suffix}").suffix == suffix for suffix in suffixes)
