"""The cross encoder's second ranking: its order within the nearest, the dual encoder's behind them."""

import pytest
import torch
from torch import nn

from omnilatent import MultiModalConfig, create_model
from omnilatent.training.finetuning.reranking import EncodedPair, rerank_nearest


class Stub(nn.Linear):
    """Scores a pair by what its first tokens hold."""

    def __init__(self):
        super().__init__(1, 1)

    def rerank(self, text, second, rows, columns):
        self.asked = len(rows)
        return text.tokens[rows, 0, 0] * second.tokens[columns, 0, 0]


def pairs_of(texts, pictures):
    return [EncodedPair(torch.full((2, 1), t), torch.full((3, 1), p)) for t, p in zip(texts, pictures)]


def test_all_pairs_are_ordered_by_the_cross_encoder_where_all_are_near():
    model, pairs = Stub(), pairs_of([1.0, 2.0, -1.0], [3.0, -5.0, 7.0])
    ranked = rerank_nearest(model, pairs, torch.randn(3, 3), nearest=3)
    assert torch.equal(ranked, torch.tensor([[3.0, -5, 7], [6, -10, 14], [-3, 5, -7]]))


def test_those_further_off_come_behind_in_their_order():
    similarity = torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.1, 0.9, 0.2, 0.3], [0.3, 0.2, 0.9, 0.1], [0.2, 0.3, 0.1, 0.9]])
    model = Stub()
    ranked = rerank_nearest(model, pairs_of([-9.0] * 4, [1.0] * 4), similarity, nearest=1)
    assert model.asked == 4  # the diagonal is nearest both ways
    assert ranked.argsort(dim=1, descending=True).tolist() == similarity.argsort(dim=1, descending=True).tolist()
    assert ranked.diagonal().tolist() == [-9.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_of_a_real_model_score_as_in_its_own_matrix(dtype):
    torch.manual_seed(0)
    layer = {"hidden_size": 16, "num_hidden_layers": 1, "attention": {"num_attention_heads": 2}}
    config = MultiModalConfig(
        text_config={**layer, "vocab_size": 384},
        image_config={**layer, "image_size": 16, "patch_size": 8},
        fusion=layer,
        scoring="cross",
    )
    model = create_model(config, task="retrieval").eval().to(dtype)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    inputs = {
        "input_ids": torch.randint(3, 259, (3, 5)),
        "attention_mask": mask,
        "pixel_values": torch.randn(3, 3, 16, 16, dtype=dtype),
    }
    with torch.no_grad():
        pairs = EncodedPair.of_batch(model, inputs)
        assert [len(pair.text) for pair in pairs] == [5, 2, 3]
        whole = model(**inputs, return_loss=False).logits_per_text
        ranked = rerank_nearest(model, pairs, torch.randn(3, 3), nearest=3)
    close = 1e-5 if dtype == torch.float32 else 2e-2  # bfloat16 has 8 bits, and pads the rows otherwise here
    torch.testing.assert_close(ranked, whole.float(), rtol=close, atol=close)
