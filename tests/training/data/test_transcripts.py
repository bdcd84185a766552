import codecs

import pytest

from omnilatent.training.data import parse_cues, read_transcript, text_between

SRT = (
    "1\n00:00:00,500 --> 00:00:02,000\nHello there\n\n2\n00:00:03,000 --> 00:00:04,500\nsecond <i>line</i>\nand more\n"
)


def spoken(transcript):
    return [tuple(cue) for cue in transcript.cues]


EXPECTED = [(0.5, 2.0, "Hello there"), (3.0, 4.5, "second line and more")]


@pytest.mark.parametrize(
    "data",
    [
        SRT.encode(),
        codecs.BOM_UTF8 + SRT.encode(),
        SRT.replace("\n", "\r\n").encode(),
        SRT.replace("\n", "\r").encode(),
        SRT.encode("utf-16"),
        SRT.replace("\n\n", "\n").encode(),  # no blank line between cues
        SRT.replace(",", ".").encode(),
        ("WEBVTT\n\nNOTE a remark\nover two lines\n\n" + SRT.replace(",", ".")).encode(),
    ],
    ids=["plain", "bom", "crlf", "cr", "utf-16", "no blank lines", "points", "vtt header"],
)
def test_cues_are_read_whatever_wrote_them(tmp_path, data):
    path = tmp_path / "a.srt"
    path.write_bytes(data)
    transcript = read_transcript(path, 10.0)
    assert spoken(transcript) == EXPECTED
    assert transcript.broken == 0


def test_latin_1_is_read_where_it_is_no_unicode(tmp_path):
    path = tmp_path / "a.srt"
    path.write_bytes(SRT.replace("Hello", "Grüße").encode("latin-1"))
    assert read_transcript(path, 10.0).cues[0].text == "Grüße there"


def test_vtt_without_hours_and_with_settings(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text("WEBVTT\n\nintro\n00:01.500 --> 00:02.250 align:start position:0%\n<v Ann>Hi <00:02.000>you\n")
    assert spoken(read_transcript(path, 10.0)) == [(1.5, 2.25, "Hi you")]


def test_broken_cues_are_counted_and_the_others_kept():
    text = (
        "1\n00:00:05,000 --> 00:00:02,000\nbackwards\n\n2\nnonsense --> 00:00:02,000\nno time\n\n"
        "3\n00:00:03,000 --> 00:00:04,000\n\n\n4\n00:00:06,000 --> 00:00:07,000\ngood\n"
    )
    transcript = parse_cues(text)
    assert spoken(transcript) == [(6.0, 7.0, "good")]
    assert transcript.broken == 3


def test_overlapping_cues_are_kept_in_order_and_counted():
    text = (
        "00:00:02,000 --> 00:00:05,000\nlater\n\n00:00:01,000 --> 00:00:03,000\nearlier\n\n"
        "00:00:01,000 --> 00:00:03,000\nearlier\n"
    )
    transcript = parse_cues(text)
    assert [cue.text for cue in transcript.cues] == ["earlier", "later"]
    assert transcript.overlapping == 1
    assert text_between(transcript.cues, 2.5, 2.6) == "earlier later"


def test_a_cue_belongs_to_the_times_it_shares():
    cues = parse_cues(SRT).cues
    assert text_between(cues, 0.0, 0.5) == ""
    assert text_between(cues, 1.9, 3.0) == "Hello there"
    assert text_between(cues, 1.9, 3.1) == "Hello there second line and more"


def test_words_without_times_are_spread_over_the_video(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two three\nfour five six seven eight nine ten")
    cues = read_transcript(path, 20.0).cues
    assert text_between(cues, 0.0, 4.0) == "one two"
    assert text_between(cues, 14.0, 20.0) == "eight nine ten"


def test_an_unknown_suffix_is_named(tmp_path):
    path = tmp_path / "a.doc"
    path.write_text("words")
    with pytest.raises(ValueError, match=r"a\.doc.*\.srt, \.vtt, \.txt"):
        read_transcript(path, 1.0)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "no cues at all", "-->", "99999999:00:00,000 --> x", "\0" * 50, "1\n2\n3"]
)
def test_rubbish_has_no_cues(text):
    assert parse_cues(text).cues == ()
