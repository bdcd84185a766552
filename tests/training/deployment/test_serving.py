"""The server answers as the model does, and says what is wrong with a request."""

import base64
import copy
import io
import json
import re
import socket
import subprocess
import sys

import datasets
import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import ExifTags, Image
from transformers import BertConfig, BertTokenizer, ViTConfig, ViTImageProcessor
from transformers.models.vit import ViTImageProcessorPil

from omnilatent import (
    MultiModalForVisualQuestionAnswering,
    MultiModalProcessor,
    RelPosViTConfig,
    RelPosViTForImageClassification,
)
from omnilatent.training import cli
from omnilatent.training.deployment import served_model
from omnilatent.training.deployment.graphs import graphs_of
from omnilatent.training.deployment.programs import check_lengths
from omnilatent.training.deployment.request_fields import ClassifyFields
from omnilatent.training.deployment.served_model import open_served_model
from omnilatent.training.deployment.serving import make_app

from .conftest import make_task_model

RED, BLUE = Image.new("RGB", (60, 50), "red"), Image.new("RGB", (40, 70), "blue")


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def in_base64(picture):
    return base64.b64encode(png(picture)).decode()


@pytest.fixture(scope="module")
def clients(task_models):
    """By task: a client of the model's application."""
    made = {}

    def make(task):
        if task not in made:
            app = make_app(open_served_model(task_models(task)[2]), max_bytes=100_000)
            made[task] = TestClient(app, base_url="http://127.0.0.1")
        return made[task]

    return make


@torch.no_grad()
def test_command_answers_on_a_free_port_until_it_is_ended(task_models):
    model, processor, folder = task_models("vqa")
    argv = [sys.executable, "-m", "omnilatent.training.cli", "serve", "--model", str(folder), "--port", "0"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        address = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in server.stdout))).group()
        health = httpx.get(f"{address}/health").json()
        assert health == {
            "status": "ok",
            "model": "MultiModalForVisualQuestionAnswering",
            "endpoints": ["/answer"],
        }
        fields = {"image": in_base64(RED), "question": "which colour?", "top_k": 2}
        in_json = httpx.post(f"{address}/answer", json=fields).json()
        upload = {"image": ("red.png", png(RED), "image/png")}
        in_form = httpx.post(
            f"{address}/answer", files=upload, data={"question": "which colour?", "top_k": "2"}
        ).json()
        refused = httpx.get(f"{address}/health", headers={"host": "elsewhere.example"})
    finally:
        server.terminate()
        server.wait(timeout=20)
    logits = model(**processor(text="which colour?", images=RED, return_tensors="pt")).logits[0]
    best = logits.softmax(-1).topk(2)
    assert [entry["label"] for entry in in_json["answers"]] == [
        model.config.id2label[i] for i in best.indices.tolist()
    ]
    assert [entry["score"] for entry in in_json["answers"]] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert in_json["answer"] == in_json["answers"][0]["label"]
    assert in_form == in_json
    assert refused.status_code == 400
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@torch.no_grad()
def test_retrieval_embeds_and_compares(task_models, clients):
    model, processor, _ = task_models("retrieval")
    texts, pictures = ["a red square", "blue"], [RED, BLUE, RED]
    fields = {"texts": texts, "images": [in_base64(picture) for picture in pictures]}
    embedded = clients("retrieval").post("/embed", json=fields).json()
    compared = clients("retrieval").post("/similarity", json=fields).json()
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    expected = model(**inputs, return_loss=False)
    torch.testing.assert_close(torch.tensor(embedded["text_embeds"]), expected.text_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(embedded["image_embeds"]), expected.image_embeds, rtol=0, atol=1e-5)
    scores = torch.tensor(compared["scores_per_text"])
    torch.testing.assert_close(scores, expected.logits_per_text, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(compared["probabilities_per_text"]), scores.softmax(-1))
    upload = [("images", ("a.png", png(BLUE))), ("images", ("b.png", png(RED)))]
    in_form = clients("retrieval").post("/embed", files=upload).json()
    assert in_form == {"image_embeds": [pytest.approx(embedded["image_embeds"][i], abs=1e-5) for i in (1, 0)]}


def test_captions_continue_a_prompt_as_generate_does(task_models, clients):
    model, processor, _ = task_models("captioning")
    for prompt in ("", "two"):
        fields = {"image": in_base64(BLUE), "prompt": prompt, "max_new_tokens": 7}
        caption = clients("captioning").post("/caption", json=fields).json()["caption"]
        words = {"text": prompt} if prompt else {}
        ids = model.generate(**processor(**words, images=BLUE, return_tensors="pt"), max_new_tokens=7)[0]
        assert caption == processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_an_exported_captioner_answers_as_the_model_does(task_models, onnx_exports, clients):
    exported = open_served_model(onnx_exports("captioning"))
    client = TestClient(make_app(exported), base_url="http://127.0.0.1")
    for prompt in ("", "two"):
        fields = {"image": in_base64(BLUE), "prompt": prompt, "max_new_tokens": 7}
        assert (
            client.post("/caption", json=fields).json() == clients("captioning").post("/caption", json=fields).json()
        )


@torch.no_grad()
def test_captions_end_where_the_decoder_has_no_more_positions(tmp_path):
    layers = {"hidden_size": 32, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}}
    decoder = {**layers, "vocab_size": 384, "max_position_embeddings": 16, "position": "learned", "eos_token_id": 383}
    model = make_task_model("captioning", decoder_config=decoder)
    processor = MultiModalProcessor.from_config(model.config)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    client = TestClient(make_app(open_served_model(tmp_path)), base_url="http://127.0.0.1")
    for prompt in ("", "two", "a" * 15):
        response = client.post("/caption", json={"image": in_base64(RED), "prompt": prompt, "max_new_tokens": 100})
        inputs = processor(**({"text": prompt} if prompt else {}), images=RED, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=16 - len(prompt))[0]
        assert len(ids) == 17  # BOS, and one token from each position
        assert response.json() == {"caption": processor.tokenizer.decode(ids, skip_special_tokens=True)}
    refused = client.post("/caption", json={"image": in_base64(RED), "prompt": "a" * 16})
    assert refused.status_code == 422
    assert refused.json()["detail"] == "prompt: expected at most 15 tokens, got 16"


def test_an_exported_model_refuses_lengths_it_was_not_exported_for(task_models, tmp_path, monkeypatch):
    model, processor, _ = task_models("vqa")
    (graph,) = graphs_of(model)
    inputs = {name: {"shape": list(spec.shape)} for name, spec in graph.inputs.items()}
    told = {"file": "model.onnx", "inputs": inputs, "axes": {"batch": [1, None], **graph.axes}, "outputs": ["logits"]}
    manifest = {"model_class": type(model).__name__, "constants": {}, "graphs": {"model": told}}
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr(served_model, "open_program", lambda *args: lambda **inputs: {"logits": torch.zeros(1, 3)})
    client = TestClient(make_app(open_served_model(tmp_path)), base_url="http://127.0.0.1")
    assert client.post("/answer", json={"image": in_base64(RED), "question": "a" * 48}).status_code == 200
    response = client.post("/answer", json={"image": in_base64(RED), "question": "a" * 3000})
    assert response.status_code == 422
    assert response.json()["detail"] == "The `text_length` of `input_ids` is 3000, expected 1 to 48."

    spectrogram = {
        "inputs": {"sounds": {"shape": ["batch", 7, "frames"]}},
        "axes": {"batch": [1, None], "frames": [8, 20, 4]},
    }
    program = check_lengths(lambda sounds: {"length": sounds.shape[-1]}, spectrogram)
    assert program(sounds=torch.zeros(3, 7, 12)) == {"length": 12}
    with pytest.raises(ValueError, match="`frames` of `sounds` is 13, expected 8 to 20 in steps of 4"):
        program(sounds=torch.zeros(3, 7, 13))


@torch.no_grad()
def test_written_answers_and_labels_of_texts_with_images(task_models, clients):
    model, processor, _ = task_models("generation")
    fields = {"image": in_base64(RED), "question": "what is it?", "max_new_tokens": 5}
    inputs = processor(text="what is it?", images=RED, return_tensors="pt")
    written = processor.tokenizer.decode(model.generate(**inputs, max_new_tokens=5)[0], skip_special_tokens=True)
    assert clients("generation").post("/answer", json=fields).json() == {"answer": written}

    model, processor, _ = task_models("classification")
    labels = clients("classification").post("/classify", json={"image": in_base64(RED), "text": "so it is"}).json()
    logits = model(**processor(text="so it is", images=RED, return_tensors="pt")).logits[0]
    given = {entry["label"]: entry["score"] for entry in labels["labels"]}
    assert [given[name] for name in model.config.id2label.values()] == pytest.approx(
        logits.softmax(-1).tolist(), abs=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
def test_answers_of_which_several_may_be_true_have_probabilities_of_their_own(problem_type, task_models, tmp_path):
    model, processor, _ = task_models("vqa")
    model = copy.deepcopy(model)
    model.config.problem_type = problem_type
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    client = TestClient(make_app(open_served_model(tmp_path)), base_url="http://127.0.0.1")
    given = client.post("/answer", json={"image": in_base64(RED), "question": "which?"}).json()["answers"]
    logits = model(**processor(text="which?", images=RED, return_tensors="pt")).logits[0]
    independent = problem_type == "multi_label_classification"
    expected = 1 / (1 + (-logits).exp()) if independent else logits.exp() / logits.exp().sum()
    scores = {entry["label"]: entry["score"] for entry in given}
    assert [scores[name] for name in model.config.id2label.values()] == pytest.approx(expected.tolist(), abs=1e-5)


@torch.no_grad()
def test_image_classifier_names_labels(tmp_path):
    config = RelPosViTConfig.tiny(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    RelPosViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 24, "width": 32}).save_pretrained(tmp_path)
    client = TestClient(make_app(open_served_model(tmp_path)), base_url="http://127.0.0.1")
    labels = client.post("/classify", json={"image": "data:image/png;base64," + in_base64(RED), "top_k": 1}).json()
    assert labels["labels"][0]["label"] in ("cat", "dog") and len(labels["labels"]) == 1


@torch.no_grad()
def test_what_a_tokenizer_makes_beside_the_model_s_inputs_is_left_out(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "colour"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    model = MultiModalForVisualQuestionAnswering.from_pretrained_encoders(
        text=BertConfig(vocab_size=len(words), **sizes),
        image=ViTConfig(image_size=32, **sizes),
        fusion={"hidden_size": 16, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}},
        num_labels=3,
    ).eval()
    processor = MultiModalProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    client = TestClient(make_app(open_served_model(tmp_path)), base_url="http://127.0.0.1")
    given = client.post("/answer", json={"image": in_base64(RED), "question": "what colour"}).json()
    inputs = processor(text="what colour", images=RED, return_tensors="pt")
    assert "token_type_ids" in inputs
    del inputs["token_type_ids"]
    assert given["answers"][0]["score"] == pytest.approx(model(**inputs).logits.softmax(-1).max().item(), abs=1e-5)


JSON = {"content-type": "application/json"}
WRONG = {
    "no question": ({"json": {"image": in_base64(RED)}}, 422, "question: Field required"),
    "no base64": ({"json": {"image": "?", "question": "a"}}, 422, "image: expected a picture in base64"),
    "no picture": (
        {"json": {"image": "AAAA", "question": "a"}},
        422,
        "image: expected a picture as PNG, .* got 3 bytes",
    ),
    "a number": ({"json": {"image": 7, "question": "a"}}, 422, "image: expected a picture .*, got int"),
    "a cut picture": (
        {"json": {"image": base64.b64encode(png(RED)[:60]).decode(), "question": "a"}},
        422,
        "image: the PNG file is broken",
    ),
    "unknown field": ({"json": {"image": in_base64(RED), "question": "a", "seed": 1}}, 422, "seed: Extra inputs"),
    "top_k 0": (
        {"json": {"image": in_base64(RED), "question": "a", "top_k": 0}},
        422,
        "top_k: .* greater than or equal",
    ),
    "long question": ({"json": {"image": in_base64(RED), "question": "a" * 99}}, 422, "makes 99 tokens"),
    "broken JSON": ({"content": "{", "headers": JSON}, 400, "no JSON: .*column 2"),
    "nested JSON": ({"content": "[" * 90_000, "headers": JSON}, 400, "no JSON: .*recursion"),
    "a list": ({"json": [1]}, 422, "Expected a JSON object, got list"),
    "text": (
        {"content": "hello", "headers": {"content-type": "text/plain"}},
        415,
        "Expected application/json .*text/plain",
    ),
    "too large": ({"content": b" " * 100_001, "headers": JSON}, 413, "100001 bytes, expected at most 100000"),
    "no length": ({"content": iter([b"{}"]), "headers": JSON}, 411, "Content-Length"),
    "two images": (
        {"files": [("image", ("a.png", png(RED)))] * 2, "data": {"question": "a"}},
        422,
        "image: expected one, got 2",
    ),
}


@pytest.mark.parametrize("title", WRONG)
def test_what_is_wrong_with_a_request_is_said(title, clients):
    request, status, message = WRONG[title]
    response = clients("vqa").post("/answer", **request)
    assert response.status_code == status
    assert re.search(message, response.json()["detail"])


def test_unknown_endpoints_are_answered_with_those_there_are(clients):
    response = clients("vqa").post("/caption", json={})
    assert response.status_code == 404
    assert "MultiModalForVisualQuestionAnswering answers POST /answer" in response.json()["detail"]
    assert clients("vqa").get("/answer").status_code == 405
    assert "/answer" in clients("vqa").get("/openapi.json").json()["paths"]


def test_a_large_picture_in_a_small_file_is_refused(clients):
    bomb = Image.new("1", (6000, 6000))
    response = clients("vqa").post("/answer", files={"image": ("b.png", png(bomb))}, data={"question": "a"})
    assert response.status_code == 422
    assert "expected at most 25000000 pixels, got 6000 x 6000" in response.json()["detail"]


def test_pictures_of_a_request_are_limited_together(clients):
    half = in_base64(Image.new("1", (5000, 4000)))
    fields = {"texts": ["a"], "images": [half, half, half]}
    response = clients("retrieval").post("/embed", json=fields)
    assert response.status_code == 422
    assert response.json()["detail"] == (
        "images.2: expected at most 50000000 pixels in all pictures of a request, got 60000000 up to this one"
    )
    fields["images"] = [in_base64(RED)]  # each request is counted by itself
    assert clients("retrieval").post("/embed", json=fields).status_code == 200


def test_pictures_are_turned_upright_as_for_training():
    stored = Image.new("RGB", (64, 32), "blue")
    stored.paste("red", (0, 0, 32, 32))  # the left half, which orientation 6 shows above
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    picture = ClassifyFields.read({"image": file.getvalue()}).image
    assert picture.size == (32, 64)
    assert picture.getpixel((16, 8)) == (255, 0, 0) and picture.getpixel((16, 56)) == (0, 0, 255)
    trained_on = datasets.Image().decode_example({"bytes": file.getvalue(), "path": None})
    assert picture.tobytes() == trained_on.tobytes()


@pytest.mark.parametrize(
    ("host", "status"),
    [("[::1]:8000", 200), ("[::1]", 200), ("127.0.0.1:8000", 200), ("[::2]:8000", 400), ("a.example", 400)],
)
def test_a_server_is_called_by_its_own_addresses_alone(host, status, clients):
    assert clients("vqa").get("/health", headers={"host": host}).status_code == status


def test_a_model_without_processor_or_endpoint_is_not_served(task_models, tmp_path):
    model = task_models("vqa")[0]
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="There is no processor in"):
        open_served_model(tmp_path)
    with pytest.raises(ValueError, match="MultiModalForImageGeneration cannot be served: expected one of"):
        make_app(open_served_model(task_models("image_generation")[2]))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        argv = ["serve", "--model", str(task_models("vqa")[2]), "--port", str(taken.getsockname()[1])]
        assert cli.main(argv) == 1
