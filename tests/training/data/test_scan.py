import json

import pytest

from omnilatent.training.data import scan_folder


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names_of(found, folder):
    return [video.path.removeprefix(f"{folder}/") for video in found]


def test_videos_are_found_in_sub_folders_and_in_order(tmp_path):
    suffixes = ["mp4", "AVI", "mkv", "webm", "MOV", "m4v", "mpeg", "mpg"]
    touch(tmp_path, *(f"sub/{7 - i}/v.{suffix}" for i, suffix in enumerate(suffixes)), "a.wav", "b.txt", "c.mp3")
    found, skips = scan_folder(tmp_path)
    assert names_of(found, tmp_path) == [f"sub/{i}/v.{suffixes[7 - i]}" for i in range(8)]
    assert skips == []


def test_hidden_files_are_no_videos(tmp_path):
    touch(tmp_path, "a.mp4", "._a.mp4", ".trash/b.mp4")
    assert names_of(scan_folder(tmp_path)[0], tmp_path) == ["a.mp4"]


def test_the_transcript_with_times_is_preferred(tmp_path):
    touch(
        tmp_path, "a.mp4", "a.txt", "a.srt", "a.en.vtt", "b.mp4", "b.en.vtt", "b.txt", "c.mkv", "other.srt", "s/c.srt"
    )
    found, _ = scan_folder(tmp_path)
    transcripts = [video.transcript and video.transcript.removeprefix(f"{tmp_path}/") for video in found]
    assert transcripts == ["a.srt", "b.en.vtt", None]


def test_metadata_adds_words(tmp_path):
    touch(tmp_path, "sub/a.mp4", "sub/b.mp4", "c.mp4")
    lines = [
        {"file_name": "a.mp4", "text": "a caption"},
        {"file_name": "b.mp4", "caption": "another"},
        {"file_name": "gone.mp4", "text": "nothing"},
    ]
    (tmp_path / "sub/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found, skips = scan_folder(tmp_path)
    assert {video.path.rpartition("/")[2]: video.text for video in found} == {
        "a.mp4": "a caption",
        "b.mp4": "another",
        "c.mp4": None,
    }
    assert len(skips) == 1 and skips[0].path.endswith("gone.mp4")


def test_a_broken_line_of_metadata_is_named(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4"}\n{"file": 3}\n')
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2.*file_name"):
        scan_folder(tmp_path)


def test_an_empty_folder_is_named_with_what_was_looked_for(tmp_path):
    touch(tmp_path, "a.wav")
    with pytest.raises(ValueError, match=rf"{tmp_path}.*\.mp4.*\.webm"):
        scan_folder(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.*is not a folder"):
        scan_folder(tmp_path / "nowhere")
