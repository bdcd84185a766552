"""Classification of text and a second modality together, and question answering as a choice among answers.

Shapes: B batch, L labels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from ...configuration.configuration_multimodal import MultiModalConfig
from ...configuration.modalities import IGNORE_INDEX
from ..losses.classification import classification_loss, soft_target_loss
from .modeling_multimodal import MultiModalPreTrainedModel, MultiModalTransformer
from .stream_inputs import Stream, reads_streams


class _Classifier(MultiModalPreTrainedModel):
    """A [`MultiModalTransformer`] whose pooled vector is scored."""

    def __init__(self, config: MultiModalConfig, encoders: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        self.model = MultiModalTransformer(self.config, encoders=encoders)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = self.make_classifier()
        self.post_init()

    def make_classifier(self) -> nn.Module:
        return nn.Linear(self.config.hidden_size, self.config.num_labels)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """A number, from (B, L) logits and labels."""
        raise NotImplementedError(f"{type(self).__name__} must say what its labels are.")

    @can_return_tuple
    @reads_streams
    def forward(
        self, streams: dict[str, Stream], labels: torch.Tensor | None = None, **kwargs
    ) -> SequenceClassifierOutput:
        """
        Args:
            labels: See the class.
        """
        tokens, _ = self.model.encode(streams, **kwargs)
        fused = self.model.fuse(tokens)
        logits = self.classifier(self.dropout(self.model.pooling(fused.tokens, fused.attention_mask)))
        loss = None if labels is None else self.loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class MultiModalForClassification(_Classifier):
    r"""
    Labels of text and a second modality, together or alone.

    `labels` are (B,) whole numbers, one of `config.num_labels` each with -100 for none; (B, L) floats in [0, 1], several
    at once; or, with one label or `config.problem_type="regression"`, numbers to hit. `config.problem_type` says which;
    where it does not, their type and shape do.

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalConfig, MultiModalForClassification

    >>> model = MultiModalForClassification(MultiModalConfig.tiny(num_labels=3))
    >>> text, image = torch.randint(3, 259, (2, 7)), torch.randn(2, 3, 48, 48)
    >>> output = model(input_ids=text, pixel_values=image, labels=torch.tensor([2, 0]))
    >>> output.loss.backward()
    >>> output.logits.shape
    torch.Size([2, 3])
    ```
    """

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return classification_loss(logits, labels, self.config.problem_type)


class MultiModalForVisualQuestionAnswering(_Classifier):
    r"""
    A question about a picture (or a sound, or a video), answered by choosing among `config.num_labels` known answers,
    which `config.id2label` names. To write answers freely, use [`MultiModalForConditionalGeneration`].

    `labels` are (B,) answers, -100 where the answer is none of the known ones, which does not count; or (B, L) soft
    targets in [0, 1], such as the share of people that gave each answer (Teney et al. 2018, section 3.7).

    Example:

    ```python
    >>> import torch
    >>> from omnilatent import MultiModalConfig, MultiModalForVisualQuestionAnswering

    >>> config = MultiModalConfig.tiny(id2label={0: "red", 1: "blue"}, label2id={"red": 0, "blue": 1})
    >>> model = MultiModalForVisualQuestionAnswering(config)
    >>> question, image = torch.randint(3, 259, (2, 7)), torch.randn(2, 3, 48, 48)
    >>> model(input_ids=question, pixel_values=image, labels=torch.tensor([[1.0, 0.3], [0.0, 1.0]])).loss.backward()
    ```
    """

    def make_classifier(self) -> nn.Module:
        size = self.config.hidden_size
        norm = nn.LayerNorm(2 * size, eps=self.config.fusion.norm_eps)
        return nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), norm, nn.Linear(2 * size, self.config.num_labels))

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.is_floating_point():
            return soft_target_loss(logits, labels)
        counted = (labels != IGNORE_INDEX).sum().clamp(min=1)
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum") / counted


__all__ = ["MultiModalForClassification", "MultiModalForVisualQuestionAnswering"]
