"""Streamed videos, and pictures with words: from folders, JSON files and `datasets` to batches and samples."""

from importlib import import_module

# public name -> module that defines it; loaded at first use, so that a loader's worker loads only what it needs
_PUBLIC = {
    "answer_scores": "vqa_scores",
    "BadSample": "bad_samples",
    "BadSampleError": "bad_samples",
    "BadSampleLog": "bad_samples",
    "SchemaError": "bad_samples",
    "TooManyBadSamplesError": "bad_samples",
    "ClipSpec": "clips",
    "past_and_future": "clips",
    "collate_multimodal": "collate",
    "collate_video_watching": "watching",
    "encode_bytes": "collate",
    "VideoCollection": "collection",
    "UnreadableVideoError": "decode",
    "decode_clips": "decode",
    "probe": "decode",
    "to_model_inputs": "device",
    "VideoLoader": "loader",
    "build_dataloader": "loader",
    "MultiModalDataset": "multimodal_dataset",
    "SampleStream": "multimodal_dataset",
    "prepare_proxies": "proxies",
    "make_sample_data": "sample_data",
    "sample_records": "sample_data",
    "scan_folder": "scan",
    "NoUsableClipsError": "skips",
    "Skip": "skips",
    "SkipLog": "skips",
    "TooManyBadClipsError": "skips",
    "make_small_world": "small_world",
    "synthetic_collection": "small_world",
    "SyntheticImageDataset": "synthetic_images",
    "CaptioningCollator": "task_collators",
    "ClassificationCollator": "task_collators",
    "EncodedDataset": "encoded_dataset",
    "DrawingCollator": "task_collators",
    "RetrievalCollator": "task_collators",
    "TaskCollator": "task_collators",
    "VQACollator": "task_collators",
    "WrittenAnswersCollator": "task_collators",
    "CaptioningDataset": "task_datasets",
    "ImageTextDataset": "task_datasets",
    "VQADataset": "task_datasets",
    "parse_cues": "transcripts",
    "read_transcript": "transcripts",
    "text_between": "transcripts",
    "VideoWatchingDataset": "watching",
}

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
