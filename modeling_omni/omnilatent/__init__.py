"""OmniLatent: any-to-any model of text, audio, images and video."""
