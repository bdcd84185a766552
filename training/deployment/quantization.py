"""Models in int8: by torchao for PyTorch, by onnxruntime for ONNX programs."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

QUANTIZATIONS = ("int8", "int8_weight_only")


def quantize_model(model: PreTrainedModel, method: str = "int8") -> PreTrainedModel:
    r"""
    A copy of a model whose linear layers are in int8, by torchao through transformers' `TorchAoConfig`. It is saved and
    loaded like any other; embeddings, norms and output layers that share their weights stay as they are.

    Args:
        model: In floating point; it stays as it is.
        method: `"int8"`: weights per output channel, and activations per token while it runs (dynamic quantisation),
            which is what GPUs and CPUs with int8 instructions multiply faster. `"int8_weight_only"`: weights alone, for
            a quarter of the memory at the speed of before.

    Raises:
        ValueError: for an unknown method, and where torchao is not installed.

    Example:

    ```python
    >>> from omnilatent import RelPosViTConfig, RelPosViTForImageClassification
    >>> from omnilatent.training.deployment import model_bytes, quantize_model

    >>> model = RelPosViTForImageClassification(RelPosViTConfig.tiny(hidden_size=256))
    >>> quantized = quantize_model(model, "int8_weight_only")
    >>> model_bytes(model) / model_bytes(quantized) > 3
    True
    ```
    """
    if method not in QUANTIZATIONS:
        raise ValueError(f"`method` must be one of {', '.join(QUANTIZATIONS)}, got {method!r}.")
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
        from transformers import TorchAoConfig
    except ImportError as error:
        raise ValueError("int8 needs torchao: pip install 'omnilatent[quantization]'") from error
    kind = Int8DynamicActivationInt8WeightConfig if method == "int8" else Int8WeightOnlyConfig
    with tempfile.TemporaryDirectory() as folder:  # transformers quantises while it loads
        model.save_pretrained(folder)
        quantized = type(model).from_pretrained(folder, quantization_config=TorchAoConfig(kind()), dtype=model.dtype)
    quantized.config._name_or_path = model.config._name_or_path
    return quantized.to(model.device).train(model.training)


def model_bytes(model: nn.Module) -> int:
    """What parameters and buffers take in memory; those that are shared count once."""
    tensors = {}
    for tensor in (*model.parameters(), *model.buffers()):
        parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]] if _has_parts(tensor) else [tensor]
        tensors |= {part.data_ptr(): part.numel() * part.element_size() for part in parts if part is not None}
    return sum(tensors.values())


def quantize_onnx(path: Path) -> Path:
    """
    Write an ONNX program in int8 beside the one it comes from: weights per channel, activations while it runs.

    Returns:
        `NAME.int8.onnx`.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    out = path.with_suffix(".int8.onnx")
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / path.name
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        # 7 bits of weights: without VNNI instructions 8 bits overflow the 16-bit sums of pairs
        quantize_dynamic(prepared, out, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    return out


def relative_deviation(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest difference, as a share of the greatest expected value."""
    return ((given - expected).abs().max() / expected.abs().max()).item()


def _has_parts(tensor):
    return hasattr(tensor, "__tensor_flatten__")
