"""A file in, files out: one text, sound, picture and video made of whatever you have.

    python hub_examples/any_to_any.py photo.jpg --model checkpoints --out made

Without a file it makes a picture, without --model a tiny untrained model, whose output is noise.
"""

import argparse
from pathlib import Path

from PIL import Image

from omnilatent import OmniLatentConfig, OmniLatentModel, OmniLatentProcessor

KEYWORDS = {".txt": "text", ".wav": "audio", ".mp3": "audio", ".flac": "audio", ".mp4": "videos", ".webm": "videos"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", help="a text, sound, picture or video file")
    parser.add_argument("--model", help="folder or repository (default: a tiny untrained model)")
    parser.add_argument("--out", type=Path, default=Path("runs/any_to_any"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.source is None:
        args.source = args.out / "source.png"
        Image.new("RGB", (64, 64), "orange").save(args.source)
    if args.model is None:
        model = OmniLatentModel(OmniLatentConfig.tiny(text_vocab_size=259))
        processor = OmniLatentProcessor.from_config(model.config)
    else:
        model = OmniLatentModel.from_pretrained(args.model)
        processor = OmniLatentProcessor.from_pretrained(args.model)
    model.eval()

    keyword = KEYWORDS.get(args.source.suffix.lower(), "images")
    source = args.source.read_text() if keyword == "text" else str(args.source)

    inputs = processor(**{keyword: source}, target="text", return_tensors="pt")
    text = processor.decode_text(model.generate(**inputs, max_new_tokens=64)[0])
    (args.out / "made.txt").write_text(text, encoding="utf-8")

    # `generate` writes the slots of these targets behind the sources
    inputs = processor(**{keyword: source}, target=None, return_tensors="pt")
    made = {name: model.generate(**inputs, generation_mode=name)[0] for name in ("audio", "image", "video")}
    sound = processor.decode_audio(made["audio"])
    frames = processor.decode_video(made["video"].transpose(0, 1))  # (C, T, H, W) -> (T, C, H, W)
    processor.save_audio(args.out / "made.wav", sound)
    processor.decode_image(made["image"]).save(args.out / "made.png")
    processor.save_video(args.out / "made.mp4", frames, waveform=sound)
    print(f"Made of {args.source}: {', '.join(sorted(path.name for path in args.out.glob('made.*')))} in {args.out}")


if __name__ == "__main__":
    main()
