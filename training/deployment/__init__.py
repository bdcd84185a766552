"""Models for use elsewhere: exported, quantised, served over HTTP."""

from .exporting import ExportedGraph, export_model

__all__ = ["ExportedGraph", "export_model"]
