"""The vision transformer with relative position bias."""
