import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from cvae.errors import FileError
from cvae.figures.animation import FRAMES_PER_SECOND, Animation, encode_gif, encode_mp4
from cvae.figures.sheet import OUTLINE

from .test_sheet import assert_nothing_is_cut_off

LOSSES = [30.0, 20.0, 25.0]


def animation(height=28, width=28, epochs=3):
    known = torch.zeros(height, width, dtype=torch.bool)
    known[height // 2 :, : width // 2] = True
    generator = torch.Generator().manual_seed(0)
    snapshots = [
        torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
        for _ in range(epochs)
    ]
    truth = torch.rand(3, height, width, generator=generator)
    return (
        Animation(LOSSES[:epochs], snapshots, truth, known, "some images, 1 quadrant known"),
        snapshots,
        truth,
        known,
    )


@pytest.mark.parametrize("height, width", [(28, 28), (28, 20), (64, 64)])
def test_frames_show_each_sample_of_each_epoch(height, width):
    film, snapshots, truth, known = animation(height, width)
    scale = max(1, round(84 / max(height, width)))
    number = -1
    for number, figure in enumerate(film.frames()):
        epoch, sample = divmod(number, 2)
        assert film.line.get_ydata() == LOSSES[: epoch + 1]
        assert f"Epoch {epoch + 1}: validation loss {LOSSES[epoch]:.1f}" in film.heading.get_text()
        sheet = np.asarray(figure.images[0].get_array()) / 255
        shown = sheet[-height * scale :: scale, : width * scale : scale]
        outlined = np.isclose(shown * 255, OUTLINE).all(-1)
        expected = torch.where(known, truth[0], snapshots[epoch][sample][0] / 255).numpy()
        assert (outlined <= known.numpy()).all()
        np.testing.assert_allclose(
            shown[~outlined], expected[~outlined][:, None].repeat(3, 1), atol=0.51 / 255
        )
    assert number == 5
    assert_nothing_is_cut_off(film.figure)


def test_gif_has_the_frames_and_the_same_bytes_every_time():
    content = encode_gif(animation()[0].render())
    assert content == encode_gif(animation()[0].render())
    with Image.open(io.BytesIO(content)) as picture:
        assert len(list(ImageSequence.Iterator(picture))) == 6 and picture.info["loop"] == 0
        assert picture.info["duration"] == pytest.approx(1000 / FRAMES_PER_SECOND, abs=10)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not here")
def test_mp4_has_the_same_bytes_every_time():
    frames = animation()[0].render()
    content = encode_mp4(frames)
    assert b"ftyp" in content[:16] and content == encode_mp4(frames)


def test_a_single_epoch_can_be_shown():
    assert len(list(animation(epochs=1)[0].frames())) == 2


@pytest.mark.parametrize("damage", ["fewer", "none", "size", "number", "kind"])
def test_snapshots_must_be_of_the_same_images_one_for_each_epoch(damage):
    _, snapshots, truth, known = animation()
    if damage == "fewer":
        snapshots.pop()
    elif damage == "none":
        snapshots.clear()
    elif damage == "size":
        snapshots[1] = snapshots[1][..., :5]
    elif damage == "number":
        snapshots[2] = snapshots[2][:, :2]
    else:
        snapshots[0] = "picture"
    with pytest.raises(FileError, match="are of other images: start afresh"):
        Animation(LOSSES, snapshots, truth, known, "title")
