"""How tasks judge: unknown labels, pictures of several captions, written answers, and batches of one."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from omnilatent import MultiModalConfig, MultiModalProcessor, create_model
from omnilatent.training.data import EncodedDataset, ImageTextDataset, MultiModalDataset, VQADataset
from omnilatent.training.finetuning import TASKS
from omnilatent.training.finetuning.finetune_data import fit_in_memory


@pytest.fixture(scope="module")
def processor():
    return MultiModalProcessor.from_config(MultiModalConfig.tiny())


def picture(number):
    return Image.new("RGB", (8, 8), (number, 255 - number, 7 * number % 256))


class Answering(torch.nn.Module):
    """Gives the same output for every batch."""

    def __init__(self, **outputs):
        super().__init__()
        self.outputs = SimpleNamespace(loss=torch.tensor(0.5), **outputs)
        self.config = SimpleNamespace(scoring="dual")

    def forward(self, **inputs):
        assert not {"references", "caption_ids", "image_ids"} & set(inputs)
        return self.outputs


def judge(task, model, samples):
    data = [samples[index] for index in range(len(samples))]
    return task.figures(model, task.score(model, task.collator(training=False)(data)))


@pytest.mark.parametrize(("known", "accuracy"), [(["x", "y"], 1 / 3), (["y", "z"], 0.0)])
def test_unknown_labels_count_as_wrong(processor, known, accuracy):
    task = TASKS["classification"](processor, known=known)
    records = [{"image": picture(0), "text": "t", "label": label} for label in ("x", "zebra", "okapi")]
    samples = MultiModalDataset(records, known=known, unknown="keep")
    figures = judge(task, Answering(logits=torch.tensor([[1.0, 0.0]] * 3)), samples)
    assert figures["accuracy"] == pytest.approx(accuracy)


def test_unknown_ones_of_several_labels_count_as_wrong(processor):
    task = TASKS["classification"](processor, known=["x", "y"], several=True)
    records = [{"image": picture(0), "text": "t", "label": labels} for labels in (["x"], ["zebra"], ["x", "okapi"])]
    samples = MultiModalDataset(records, known=["x", "y"], unknown="keep")
    figures = judge(task, Answering(logits=torch.tensor([[1.0, -1], [-1, -1], [1, -1]])), samples)
    assert figures == {"accuracy": pytest.approx(1 / 3), "f1": pytest.approx(2 * 2 / (2 + 4))}


@pytest.mark.parametrize("form", ["path", "bytes", "decoded"])
def test_a_picture_of_several_captions_is_one_candidate(form, processor, tmp_path):
    pictures, captions = 20, 5
    records = []
    for number in range(pictures):
        path = tmp_path / f"{number}.png"
        picture(number).save(path)
        image = {"path": str(path), "bytes": path.read_bytes(), "decoded": picture(number)}[form]
        records += [{"image": image, "caption": f"{number} in words {n}"} for n in range(captions)]
    # of each text the picture after its own is the nearest, its own is second
    own = torch.eye(pictures).repeat_interleave(captions, dim=0)
    model = Answering(image_embeds=own, text_embeds=0.9 * own + own.roll(1, dims=1))
    samples = ImageTextDataset(records)
    figures = judge(TASKS["retrieval"](processor), model, samples)
    assert (figures["text_to_image_R@1"], figures["text_to_image_R@5"]) == (0, 1)
    # of each picture the 5 captions of the one before come first
    assert (figures["image_to_text_R@5"], figures["image_to_text_R@10"]) == (0, 1)
    assert len({sample["sample_id"] for sample in samples.samples}) == pictures


def test_equal_captions_stay_right_for_each_others_pictures(processor):
    words = ["a dog", "a hound", "a dog", "a cat"]
    samples = ImageTextDataset([{"image": picture(n), "caption": text} for n, text in zip((0, 0, 1, 2), words)])
    places = torch.eye(3)[[0, 0, 1, 2]]
    others = torch.eye(3)[[1, 1, 0, 2]]  # the texts of each dog find the other dog
    figures = judge(TASKS["retrieval"](processor), Answering(image_embeds=places, text_embeds=others), samples)
    assert figures["text_to_image_R@1"] == 3 / 4  # all but "a hound", which nobody said of the other


def test_a_crossing_model_ranks_each_picture_once(processor):
    torch.manual_seed(0)
    model = create_model("tiny_text_image_model", task="retrieval", scoring="cross").eval()
    records = [{"image": picture(n // 2), "caption": f"words {n}"} for n in range(6)]
    with torch.no_grad():
        figures = judge(TASKS["retrieval"](processor), model, ImageTextDataset(records))
    assert figures["text_to_image_R@5"] == 1  # there are but three
    assert figures["chance"] == pytest.approx(1 / 3)


def test_one_of_several_written_answers_is_drawn_anew_each_time(processor):
    records = [{"image": picture(0), "question": "q?", "answers": ["a", "b", "c", "d"]}]
    task, samples = TASKS["written-vqa"](processor), VQADataset(records)
    kept = fit_in_memory(samples, task.collator(training=True))
    assert len({tuple(task.collator(training=True)([kept[0]])["labels"][0].tolist()) for _ in range(40)}) == 4
    assert isinstance(fit_in_memory(samples, task.collator(training=False)), EncodedDataset)
    agreed = VQADataset([{**records[0], "answers": ["a", "a"]}])
    assert isinstance(fit_in_memory(agreed, task.collator(training=True)), EncodedDataset)


def test_a_drawing_alone_in_its_batch_is_no_control(processor):
    task = TASKS["drawing"](processor)
    wanted = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    model = Answering(pixel_values=wanted + 0.1)
    rows = task.score(model, {"labels": wanted})
    model.outputs.pixel_values = wanted[:1] + 0.9
    alone = task.score(model, {"labels": wanted[:1]})
    assert task.figures(model, rows + alone) == task.figures(model, rows)
    with pytest.raises(ValueError, match="batches of two"):
        task.figures(model, alone)
