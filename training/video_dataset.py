"""The names under which the specification has the clips of a folder."""

from .data import VideoWatchingDataset, collate_video_watching

__all__ = ["VideoWatchingDataset", "collate_video_watching"]
