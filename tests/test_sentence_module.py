"""An aligner as the module of a SentenceTransformer."""

import numpy as np
import pytest
import torch

from omnilatent.training import make_aligner
from omnilatent.training.data import make_small_world

sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6.0")

from omnilatent.sentence_module import AudioVisualAlignerModule  # noqa: E402


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return [str(path) for path in make_small_world(tmp_path_factory.mktemp("world") / "videos", 5, pixels=32)]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    model, processor = make_aligner(image_size=32, width=32, layers=1)
    return AudioVisualAlignerModule(model.eval(), processor)


@pytest.fixture(scope="module")
def encoder(module):
    return sentence_transformers.SentenceTransformer(modules=[module], device="cpu")


def test_encode_takes_files_frames_and_waveforms(encoder, module, paths):
    videos = encoder.encode(paths, batch_size=2)
    assert videos.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(videos, axis=1), 1, rtol=1e-5)
    words = module.processor(videos=paths)["pixel_values_videos"]
    np.testing.assert_allclose(videos, module.model.encode_video(words).detach(), atol=1e-5)
    sounds = encoder.encode([{"audio": path} for path in paths])
    words = module.processor(audio=paths)["input_features"]
    np.testing.assert_allclose(sounds, module.model.encode_audio(words).detach(), atol=1e-5)
    assert encoder.encode([np.zeros(32000, np.float32)]).shape == (1, 32)
    assert encoder.get_embedding_dimension() == 32


def test_semantic_search_ranks_videos_by_sound(encoder, paths):
    sounds, videos = encoder.encode([{"audio": path} for path in paths]), encoder.encode(paths)
    hits = sentence_transformers.util.semantic_search(sounds, videos, top_k=3)
    expected = np.argsort(-(sounds @ videos.T), axis=1)[:, :3]
    assert [[hit["corpus_id"] for hit in row] for row in hits] == expected.tolist()


def test_saved_encoder_gives_the_same(encoder, paths, tmp_path):
    encoder.save(str(tmp_path))
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(loaded.encode(paths), encoder.encode(paths), atol=1e-5)


def test_inputs_that_the_model_has_no_tower_for_are_refused(encoder, module, paths):
    with pytest.raises(ValueError, match="[Mm]odalit"):
        encoder.encode(["some words"])
    with pytest.raises(ValueError, match="mixed"):
        module.preprocess([paths[0], {"audio": paths[1]}])
