"""Models for use elsewhere: exported, quantised, served over HTTP."""

from .exporting import ExportedGraph, export_model
from .quantization import model_bytes, quantize_model

__all__ = ["ExportedGraph", "export_model", "model_bytes", "quantize_model"]
