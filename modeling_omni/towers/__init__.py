"""Encoders of one modality in models of transformers: finding them, and reading their tokens."""
