"""What the page about deployment shows works as it stands there."""

import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import uvicorn
from PIL import Image
from transformers.models.vit import ViTImageProcessorPil

from omnilatent.training import cli
from omnilatent.training.deployment.served_model import open_served_model
from omnilatent.training.deployment.serving import make_app

PAGE = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text(encoding="utf-8")
ANSWER, CAPTION, INT8, CLIENT = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
WITHOUT_TORCH = "import sys; sys.modules.update(torch=None, transformers=None, omnilatent=None)\n"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    image = Image.effect_noise((50, 40), 90).convert("RGB")
    image.paste("orange", (10, 5, 40, 30))
    image.save(path)
    return path


def run_without_torch(script, *argv):
    command = [sys.executable, "-c", WITHOUT_TORCH + script, *map(str, argv)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.removesuffix("\n")


def exact_pixels(model, picture):
    size = model.config.image_config.image_size
    processor = ViTImageProcessorPil(size={"height": size, "width": size})
    return processor(Image.open(picture), return_tensors="pt")["pixel_values"]


@torch.no_grad()
def test_script_of_ten_lines_answers_without_torch(task_models, onnx_exports, picture):
    lines = [line for line in ANSWER.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10
    model, processor, _ = task_models("vqa")
    for question in ("what colour is it?", "a"):
        inputs = processor(text=question, return_tensors="pt")
        expected = model(**inputs, pixel_values=exact_pixels(model, picture)).logits[0].argmax().item()
        given = run_without_torch(ANSWER, onnx_exports("vqa"), picture, question)
        assert given == model.config.id2label[expected]


def test_loop_over_the_decoder_writes_the_caption_of_generate(task_models, onnx_exports, picture):
    model, processor, _ = task_models("captioning")
    ids = model.generate(pixel_values=exact_pixels(model, picture), max_length=20)[0]
    given = run_without_torch(CAPTION, onnx_exports("captioning"), picture)
    assert given == processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_int8_model_is_saved(task_models, tmp_path, monkeypatch, capsys):
    shutil.copytree(task_models("vqa")[2], tmp_path / "runs" / "vqa")
    monkeypatch.chdir(tmp_path)
    exec(INT8, {})
    before, after = re.search(r"([\d.]+) -> ([\d.]+) MB", capsys.readouterr().out).groups()
    assert float(after) < 0.7 * float(before)
    assert (tmp_path / "runs" / "vqa-int8" / "model.safetensors").is_file()


def test_client_gets_answers(task_models, picture, monkeypatch, capsys):
    model, _, folder = task_models("vqa")
    # uvicorn's own logging would close the handlers that there are, and absl's closes pytest's captured output with itself
    server = uvicorn.Server(uvicorn.Config(make_app(open_served_model(folder)), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        monkeypatch.chdir(picture.parent)
        exec(CLIENT.replace(":8000", f":{port}"), {})
    finally:
        server.should_exit = True
        thread.join()
    answers = capsys.readouterr().out.split()
    assert len(answers) == 2 and set(answers) <= set(model.config.id2label.values())


@pytest.mark.parametrize("command", re.findall(r"^omnilatent [^#\n]*", PAGE, flags=re.MULTILINE))
def test_command_is_understood(command):
    assert callable(cli.make_parser().parse_args(command.split()[1:]).run)
