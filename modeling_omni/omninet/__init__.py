"""OmniNet: the aligner of vision, audio and text."""
