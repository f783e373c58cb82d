import json

import numpy as np
import pytest
import torch
from PIL import Image

from cvae.complete import complete_files, fit_image, main
from cvae.experiment.folder import save_weights
from cvae.experiment.options import Config, Run
from cvae.figures import MISSING
from cvae.files import DataError
from cvae.model import CVAE

from .test_trained import write_metrics

DARK = np.zeros((28, 28), dtype=np.uint8)
DARK[10:20, 5:23] = 200


@pytest.fixture
def digit(tmp_path):
    Image.fromarray(DARK).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


@pytest.fixture
def folder(tmp_path):
    """What a run with two known quadrants leaves, as far as it takes to use the model."""
    save_weights(Run(Config(output_dir=tmp_path), 0, 2), {"cvae": CVAE(3, 16, 12)})
    arguments = {"activation": "relu", "generation_input": "z"}
    write_metrics(tmp_path, arguments, runs=[{"settings": {}}])
    return tmp_path


def save(path, pixels, mode="L"):
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_image_of_the_models_kind_stays_as_it_is(digit):
    image, warnings = fit_image(digit, (28, 28))
    assert warnings == [] and image.dtype == torch.float32
    assert torch.equal((image * 255).round().byte(), torch.as_tensor(DARK))


def test_dark_strokes_on_a_bright_background_are_inverted(tmp_path):
    image, warnings = fit_image(save(tmp_path / "bright.png", 255 - DARK, "RGB"), (28, 28))
    unlike = "background, unlike the model's images: inverted"
    assert warnings == [f"{tmp_path}/bright.png has a bright {unlike}"]
    assert torch.equal((image * 255).round().byte(), torch.as_tensor(DARK))


def test_bright_image_stays_as_it_is_for_a_model_of_bright_images(folder, tmp_path, capsys):
    metrics = json.loads((folder / "metrics.json").read_text()) | {"bright_background": True}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    bright, dark = save(tmp_path / "bright.png", 255 - DARK), save(tmp_path / "dark.png", DARK)
    words = [str(folder), str(bright), str(dark), "-nq", "2", "--output", f"{tmp_path}/out.png"]
    assert main(words) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "dark.png has a dark background, unlike the model's images: inverted" in line
    images = [fit_image(file, (28, 28), bright=True)[0] for file in (bright, dark)]
    assert torch.equal(*images)


def test_image_of_another_size_is_resized(tmp_path):
    """Two halves of plain grey stay what they are, away from where they meet."""
    halves = np.repeat(np.array([[0, 100]], dtype=np.uint8), 30, axis=1).repeat(44, axis=0)
    image, warnings = fit_image(save(tmp_path / "halves.png", halves), (28, 20))
    assert warnings == [f"{tmp_path}/halves.png has 44 x 60 pixels: resized to 28 x 20"]
    assert image.shape == (28, 20)
    assert (image[:, :8] == 0).all() and (image[:, 12:] * 255).round().eq(100).all()


def test_rows_show_what_is_given_and_completions_of_it(folder, digit, tmp_path, capsys):
    words = [str(folder), str(digit), str(digit), "-nq", "2", "-vs", "3", "--output"]
    assert main([*words, str(tmp_path / "one.png")]) == 0
    assert capsys.readouterr().out == f"Written to {tmp_path}/one.png\n"
    dots = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    missing = (dots == MISSING).all(-1)
    assert missing.sum() == 2 * 28 * 14 * 4 * 4  # the right half of both inputs
    for row in range(2):
        top = len(dots) - 16 - (2 - row) * 120 + 8
        for column in range(5):  # input, mean, and three samples
            left = 16 + column * 120 + (column >= 2) * 16
            pixels = dots[top : top + 112 : 4, left : left + 112 : 4, 0]  # a dot of each
            assert (pixels[1:-1, 1:13] == DARK[1:-1, 1:13]).all()


def test_same_seed_gives_the_same_bytes(folder, digit, tmp_path):
    pictures = []
    for number, seed in enumerate((5, 5, 6)):
        output = tmp_path / f"{number}.png"
        words = [str(folder), str(digit), "-nq", "2", "--seed", str(seed), "--output", str(output)]
        assert main(words) == 0
        pictures.append(output.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_bad_files_are_told_in_one_line(folder, digit, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    for words, complaint in (
        (
            [str(folder), str(tmp_path / "text.png"), "-nq", "2"],
            "text.png can't be read as an image",
        ),
        (
            [str(tmp_path / "no"), str(digit), "-nq", "2"],
            "cvae_net_q2.pth can't be read (No such file",
        ),
        (
            [str(folder), str(digit), "-nq", "2", "--output", str(tmp_path / "no/x.png")],
            "can't write",
        ),
    ):
        assert main(words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("python -m cvae.complete: error: ") and complaint in line
    with pytest.raises(SystemExit, match="2"):
        main([str(folder)])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_output_is_a_png_file_and_no_input(folder, digit, tmp_path, capsys):
    before = digit.read_bytes()
    for output, problem in ((digit, "would be overwritten"), ("x.pdf", "does not end in .png")):
        with pytest.raises(SystemExit) as exit:
            main([str(folder), str(digit), "-nq", "2", "--output", str(output)])
        assert exit.value.code == 2 and problem in capsys.readouterr().err
    assert digit.read_bytes() == before


def test_unreadable_file_draws_nothing(folder, digit, tmp_path):
    with pytest.raises(DataError, match="missing.png can't be read as an image"):
        complete_files(folder, [digit, tmp_path / "missing.png"], 2, 3, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
