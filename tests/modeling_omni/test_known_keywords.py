"""A misspelt keyword of any model is an error, and what transformers and peft hand on is none."""

import peft
import pytest
import torch
from transformers import ASTConfig, ViTConfig

from omnilatent import (
    AudioVisualAligner,
    MultiModalConfig,
    MultiModalForCaptioning,
    MultiModalForClassification,
    MultiModalForConditionalGeneration,
    MultiModalForImageGeneration,
    MultiModalForRetrieval,
    MultiModalForVisualQuestionAnswering,
    MultiModalTransformer,
    OmniLatentConfig,
    OmniLatentModel,
    OmniNetConfig,
    OmniNetModel,
    RelPosViTConfig,
    RelPosViTForImageClassification,
    RelPosViTModel,
)

TEXT = {"input_ids": torch.arange(3, 17).reshape(2, 7)}
IMAGE = {"pixel_values": torch.zeros(2, 3, 48, 48)}
LABELS = {"labels": torch.tensor([[9, 8, 2], [7, 2, -100]])}


def small_tasks(cls):
    return lambda: cls(MultiModalConfig.tiny())


def small_aligner():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    towers = ViTConfig(image_size=32, **sizes), ASTConfig(num_mel_bins=32, max_length=60, **sizes)
    return AudioVisualAligner.from_towers(*towers, hidden_size=16, num_attention_heads=2, projection_dim=12)


# name: (how it is made, what it reads, a misspelt keyword, the one that was meant)
MODELS = {
    "transformer": (small_tasks(MultiModalTransformer), TEXT | IMAGE, "pixel_vals", "pixel_values"),
    "retrieval": (small_tasks(MultiModalForRetrieval), TEXT | IMAGE, "sampel_ids", "sample_ids"),
    "answers": (small_tasks(MultiModalForVisualQuestionAnswering), TEXT | IMAGE, "label", "labels"),
    "classes": (small_tasks(MultiModalForClassification), TEXT | IMAGE, "atention_mask", "attention_mask"),
    "captions": (small_tasks(MultiModalForCaptioning), IMAGE | LABELS, "decoder_inputs_ids", "decoder_input_ids"),
    "writing": (
        small_tasks(MultiModalForConditionalGeneration),
        TEXT | IMAGE | LABELS,
        "logit_to_keep",
        "logits_to_keep",
    ),
    "drawing": (small_tasks(MultiModalForImageGeneration), TEXT, "text_input", "text_inputs"),
    "any to any": (lambda: OmniLatentModel(OmniLatentConfig.tiny()), TEXT, "token_types_ids", "token_type_ids"),
    "omninet": (
        lambda: OmniNetModel(OmniNetConfig.tiny()),
        {"vision_features": torch.ones(2, 7, 20)},
        "audio_feature",
        "audio_features",
    ),
    "aligner": (small_aligner, {"pixel_values": torch.zeros(2, 3, 32, 32)}, "input_feature", "input_features"),
    "vision transformer": (
        lambda: RelPosViTModel(RelPosViTConfig.tiny()),
        {"pixel_values": torch.zeros(2, 3, 24, 32)},
        "pixel_msk",
        "pixel_mask",
    ),
    "image classes": (
        lambda: RelPosViTForImageClassification(RelPosViTConfig.tiny(num_labels=5)),
        {"pixel_values": torch.zeros(2, 3, 24, 32)},
        "lables",
        "labels",
    ),
}


@pytest.fixture(scope="module")
def models():
    made = {}

    def get(name):
        if name not in made:
            made[name] = MODELS[name][0]().eval()
        return made[name]

    return get


@pytest.mark.parametrize("name", MODELS)
def test_a_misspelt_keyword_is_named_with_the_one_that_was_meant(name, models):
    _, inputs, wrong, meant = MODELS[name]
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'.*Did you mean '{meant}'"):
        models(name)(**inputs, **{wrong: torch.ones(2)})


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_hands_on_is_taken(name, models):
    words = {
        "num_items_in_batch": torch.tensor(2),
        "output_hidden_states": False,
        "output_attentions": False,
        "use_cache": False,
        "cache_position": torch.arange(7),
        "unknown_to_the_model": None,  # peft hands on None for arguments that a model lacks
    }
    output = models(name)(**MODELS[name][1], **words, return_dict=False)
    assert isinstance(output, tuple)


def test_a_keyword_like_no_other_is_answered_with_all_of_them(models):
    with pytest.raises(TypeError, match="'zzz'. It takes vision_features, audio_features"):
        models("omninet")(vision_features=torch.ones(2, 7, 20), zzz=1)


def test_the_triple_names_its_own_keywords(models):
    with pytest.raises(TypeError, match="'tagret'. Did you mean 'target'"):
        models("any to any")("image", torch.zeros(1, 3, 32, 32), "text", tagret=TEXT["input_ids"][:1])
    with pytest.raises(TypeError, match="'target'"):  # which a laid-out sequence has not
        models("any to any")(**TEXT, target=TEXT["input_ids"])


def test_an_adapter_of_peft_passes_its_task_through():
    model = MultiModalForClassification(MultiModalConfig.tiny(num_labels=3))
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])
    output = peft.get_peft_model(model, config)(**TEXT, **IMAGE, labels=torch.tensor([0, 2]))
    assert output.logits.shape == (2, 3)
