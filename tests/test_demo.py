"""The page: its parts in Python, and the whole in a browser where there is one."""

import base64
import contextlib
import io
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyro.distributions import Laplace

import main
from cvae.datasets import Images
from cvae.demo import __main__ as command
from cvae.demo import _choose_images, write_demo
from cvae.demo.weights import LOW_BITS, Layers, encode, extract, round_weights
from cvae.experiment.folder import save_weights
from cvae.experiment.options import Config, Run
from cvae.files import FileError
from cvae.model import CVAE, Decoder, Encoder
from cvae.trained import TrainedCVAE

from .faults import ROOT

TOLERANCE = 0.02  # in a pixel's probability
HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"alert('x')\">"
TINY = "-n 1 -p 2 --num-importance-samples 3 -vi 3 -vs 2 -nq 1".split()


def make_net(activation: str, generation_input: str, num_pixels: int, blocks: int) -> CVAE:
    """Make a small model whose predictions are anything but grey."""
    net = CVAE(3, 16, 12, None, activation, generation_input, num_pixels, blocks)
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            parameter.data *= 1.5
            parameter.data += 0.1 * torch.randn_like(parameter)  # also of blocks, which are zero
    return net


def make_folder(
    path: Path,
    activation: str = "relu",
    generation_input: str = "z",
    shape: tuple[int, int] = (28, 28),
    settings: tuple[int, ...] = (1, 2, 3),
    blocks: int = 0,
    name: str = "images",
    labels: bool = True,
) -> Path:
    """Leave what a run of own images leaves, as far as the page needs it."""
    path.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, *shape)) * (generator.random((60, *shape)) < 0.3)
    data: dict[str, Any] = {"labels": generator.integers(0, 3, 60)} if labels else {}
    np.savez(path / "own.npz", images=images.astype(np.uint8), **data)
    for n in settings:
        net = make_net(activation, generation_input, shape[0] * shape[1], blocks)
        save_weights(Run(Config(output_dir=path), 0, n), {"cvae": net})
    row = {"mean": 12.345, "standard_error": 0.21, "num_images": 10, "num_particles": 7}
    names = ("NN (baseline)", "CVAE (Monte Carlo)", "CVAE (importance sampling)")
    result = {"val": {"rows": dict.fromkeys(names, row), "diagnostics": {}}}
    options: dict[str, Any] = {"activation": activation, "generation_input": generation_input}
    options |= {"residual_blocks": blocks, "val_fraction": 0.5, "holdout": 0, "subset": None}
    metrics = {
        "dataset": str(path / "own.npz"),
        "recipe": f"recipe {name}",
        "arguments": options,
        "image_shape": shape,
        "splits": {"val": {"name": name, "images": 10}},
        "runs": [{"seed": 0, "settings": {}, "results": {f"q{n}": result for n in settings}}],
    }
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


def read_page(path: Path) -> dict[str, Any]:
    """Return the page's JSON."""
    (block,) = re.findall(
        r'<script type="application/json" id="page">(.*?)</script>', path.read_text()
    )
    return json.loads(block)


def decode(code: bytes, shapes: list[tuple[str, int, int]]) -> Layers:
    """Return layers from what ``encode`` made of them."""
    data = zlib.decompress(code, 31)
    num_floats = 2 * sum(rows for _, rows, _ in shapes)
    floats = torch.from_numpy(np.frombuffer(data, "<f4", num_floats).copy())
    low, high = np.frombuffer(data, np.uint8, offset=4 * num_floats).reshape(2, -1)
    whole = torch.from_numpy(high.view(np.int8).astype(np.float32) * 2**LOW_BITS + low)
    layers: Layers = {}
    for name, rows, columns in shapes:
        steps, bias, floats = floats.split([rows, rows, len(floats) - 2 * rows])
        number, whole = whole.split([rows * columns, len(whole) - rows * columns])
        layers[name] = number.view(rows, columns) * steps[:, None], bias
    return layers


def predict(cvae: CVAE, xs: torch.Tensor, eps: torch.Tensor) -> list[torch.Tensor]:
    """Return the baseline's prediction, z of this noise, and completions."""
    missing = (xs[0] < 0).flatten()
    with torch.no_grad():
        y_hat = cvae.baseline_predictions(xs)
        loc, scale = cvae.prior_net(xs, y_hat)
        z = loc + scale * eps
        inputs = [z] + [xs.clamp(min=0).flatten(1)] * (cvae.generation_input == "xz")
        return [y_hat.flatten(1)[:, missing], z, cvae.generation_net(*inputs)[..., missing]]


RECIPES = [
    ("relu", "z", (28, 28), 0),
    ("silu", "xz", (28, 28), 1),
    ("relu", "z", (8, 12), 2),
    ("silu", "xz", (8, 12), 0),
]


def test_code_gives_back_every_weight_to_half_a_step():
    """Also of rows of zeros, and of one with a weight that is much larger than the others."""
    weight = torch.randn(7, 50)
    weight[2], weight[3, 4], weight[5, 6] = 0, 1000, -1000
    layers = {"fc1": (weight, torch.randn(7)), "fc2": (torch.randn(3, 4), torch.randn(3))}
    found = decode(encode(layers), [(name, *each.shape) for name, (each, _) in layers.items()])
    for name, (each, bias) in layers.items():
        size, _ = round_weights(each)
        steps = (found[name][0] - each).abs() / size
        assert (steps <= torch.where(each == each.amax(1, keepdim=True), 1.001, 0.501)).all()
        assert torch.equal(found[name][1], bias)
    assert (found["fc1"][0][2] == 0).all()


def test_largest_networks_take_less_than_6_megabytes():
    """As text of 4 characters for 3 bytes, with weights that are normal."""
    rows = {"baseline": 196 + 500 + 588, "prior": 784 + 3 * 500 + 400, "generation": 200 + 196}
    rows["generation"] += 5 * 500 + 588
    layers = {name: (torch.randn(count, 500), torch.zeros(count)) for name, count in rows.items()}
    assert sum(weight.numel() for weight, _ in layers.values()) > 3.7e6
    assert len(encode(layers)) * 4 / 3 < 6e6


def test_networks_of_other_kinds_are_refused():
    net = make_net("relu", "z", 784, 0)
    net.prior_net = type("OwnEncoder", (Encoder,), {})(3, 16, 12)
    with pytest.raises(FileError, match="the prior network is no Encoder"):
        extract(TrainedCVAE(net, 1))


def test_page_is_the_same_bytes_each_time_and_allows_only_its_own_parts(tmp_path):
    folder = make_folder(tmp_path / "run", settings=(2,))
    first = write_demo(folder, tmp_path).read_bytes()
    assert write_demo(folder, tmp_path).read_bytes() == first
    text = first.decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    markup = text.partition('<script type="application/json"')[0]
    assert not re.search(r"(src|href|action)=|\bon\w+=|\bstyle=|https?:", markup)


def older(metrics: dict[str, Any]) -> None:
    """Metrics of an older version, where the only run was not in a list, and arguments strings."""
    metrics |= metrics.pop("runs")[0]
    metrics["arguments"] = {name: str(value) for name, value in metrics["arguments"].items()}


def odd_batches(metrics: dict[str, Any]) -> None:
    """Metrics of a training whose batches can't be divided among three processes."""
    metrics["arguments"]["batch_size"] = 129


@pytest.mark.parametrize("change, processes", [(older, 1), (odd_batches, 3)])
def test_page_is_the_same_whatever_wrote_the_folder(change, processes, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "run", settings=(2,))
    page = write_demo(folder, tmp_path).read_bytes()
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr("cvae.distributed.world_size", lambda: processes)
    assert write_demo(folder, tmp_path).read_bytes() == page


def test_hostile_names_are_inert(tmp_path):
    folder = make_folder(tmp_path / "run", settings=(1,), name=HOSTILE)
    usual = make_folder(tmp_path / "usual", settings=(1,))
    text, other = (write_demo(each, tmp_path).read_text() for each in (folder, usual))
    assert HOSTILE not in text and text.count("<") == other.count("<")
    page = read_page(folder / "demo.html")
    assert page["recipe"] == f"recipe {HOSTILE}" and HOSTILE in page["settings"][0]["images"]


@pytest.mark.parametrize("labels", [False, True])
def test_images_of_any_kind_are_examples(labels, tmp_path):
    folder = make_folder(tmp_path / "run", "silu", "z", (6, 10), settings=(1,), labels=labels)
    page = read_page(write_demo(folder, tmp_path))
    (setting,) = page["settings"]
    examples = np.frombuffer(base64.b64decode(page["examples"]), np.uint8).reshape(-1, 6, 10)
    images = np.load(folder / "own.npz")["images"]
    assert len({each.tobytes() for each in examples} & {each.tobytes() for each in images}) == 30
    assert setting["rows"][2] == ["Baseline with 7 samples of z", "12.3 ± 0.2"]
    assert setting["images"].endswith("(10 images), which also decided when to stop training")


def test_first_image_is_easily_read_and_has_answers_of_several_classes(monkeypatch):
    """Of four, the first is unlike its label, and the second and last have answers of one class."""

    def split(bright: list[int], labels: list[int]) -> Any:
        images = 200 * torch.tensor(bright).byte()[:, None, None].expand(-1, 4, 4)
        return SimpleNamespace(source=Images(images, torch.tensor(labels), ""))

    def complete(images: torch.Tensor, num_samples: int, seed: int) -> torch.Tensor:
        answers = images.repeat(num_samples, 1, 1, 1)
        answers[::2, [0, 2]] = 200 / 255 - answers[::2, [0, 2]]
        return answers

    datasets = {"train": split([0, 1] * 20, [0, 1] * 20), "val": split([0, 0, 1, 0], [1, 0, 1, 0])}
    monkeypatch.setattr("cvae.demo.choose_inputs", lambda *_: [3, 0, 1, 2])
    trained: Any = SimpleNamespace(complete=complete)
    images = datasets["val"].source.images
    assert torch.equal(_choose_images(datasets, trained), images[[2, 0, 1, 3]])


@pytest.mark.parametrize("kind, photo", [("strokes", False), ("dark", True), ("garment", False)])
def test_strokes_are_bright_where_the_border_is_dark(kind, photo, tmp_path):
    folder = make_folder(tmp_path / "run", settings=(1,))
    images = np.zeros((60, 28, 28), np.uint8)
    images[:, 10:20, 12:15] = 255  # strokes
    images[:, 2:-2, 2:-2] = 200 if kind == "garment" else images[:, 2:-2, 2:-2]
    np.savez(folder / "own.npz", images=255 - images if kind == "dark" else images)
    assert read_page(write_demo(folder, tmp_path))["photo"] == photo


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run of two seeds on a few small images, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 4), np.uint8)
    np.savez(folder / "own.npz", images=images)
    return folder, run(folder, "--seeds 0 1")


def run(folder: Path, line: str) -> str:
    words = ["--dataset", str(folder / "own.npz"), "--output-dir", str(folder / "out")]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main.main([*words, *TINY, *line.split()]) == 0
    return printed.getvalue()


def test_last_line_of_a_run_names_the_pages(finished, tmp_path, capsys):
    folder, output = finished
    pages = [folder / f"out/seed_{seed}/demo.html" for seed in (0, 1)]
    assert output.splitlines()[-1] == f"To try it, open {pages[0]}, {pages[1]} in a browser"
    before = [page.read_bytes() for page in pages]
    assert command.main([str(folder / "out"), "--dataset", str(folder / "own.npz")]) == 0
    assert capsys.readouterr().out == "".join(f"Written to {page}\n" for page in pages)
    assert [page.read_bytes() for page in pages] == before


def test_images_that_moved_are_given_and_compared(finished, tmp_path, capsys):
    """As ``metrics.json`` does not tell where somebody keeps them."""
    folder, _ = finished
    for file in (folder / "out").rglob("metrics.json"):
        assert '"own.npz"' in file.read_text() and str(folder) not in file.read_text()
    np.savez(tmp_path / "own.npz", images=np.full((30, 6, 4), 99, np.uint8))
    for more, reason in (
        ([], "no data set is called 'own.npz': --dataset takes auto"),
        (["--dataset", str(tmp_path / "own.npz")], "own.npz holds other images than the run's"),
    ):
        assert command.main([str(folder / "out"), *more]) == 1
        assert reason in capsys.readouterr().err


def test_page_that_can_not_be_written_costs_one_warning(finished, tmp_path, capsys):
    shutil.copytree(finished[0] / "out/seed_0", tmp_path / "out", dirs_exist_ok=True)
    (tmp_path / "out/demo.html").unlink()
    (tmp_path / "out/demo.html").mkdir()
    words = ["--dataset", str(finished[0] / "own.npz"), "--output-dir", str(tmp_path / "out")]
    assert main.main([*words, *TINY]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("Warning: demo.html was not written: can't write ")
    assert (tmp_path / "out/results.csv").read_bytes() == (
        finished[0] / "out/seed_0/results.csv"
    ).read_bytes()


@pytest.mark.parametrize(
    "break_it, reason",
    [
        (lambda folder: (folder / "metrics.json").unlink(), "metrics.json can't be read (No such"),
        (lambda folder: (folder / "metrics.json").write_text("{}"), "metrics.json is damaged"),
        (lambda folder: (folder / "metrics.json").write_text('{"runs": []}'), "of another vers"),
        (lambda folder: (folder / "metrics.json").write_text("[1]"), "metrics.json is damaged"),
        (lambda folder: (folder / "own.npz").unlink(), "no data set is called"),
        (
            lambda folder: np.savez(folder / "own.npz", images=np.full((60, 6, 6), 255, np.uint8)),
            "images of another size",
        ),
        (lambda folder: (folder / "cvae_net_q1.pth").unlink(), "holds no trained model"),
    ],
)
def test_what_is_missing_is_told_in_one_line(break_it, reason, tmp_path, capsys):
    folder = make_folder(tmp_path / "run", settings=(1,))
    break_it(folder)
    assert command.main([str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m cvae.demo: error: ") and reason in line


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    luminances = []
    for colour in (one, other):
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        luminances.append(0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    return max(luminances) / min(luminances)


def test_text_has_enough_contrast_in_both_schemes():
    css = (ROOT / "cvae/demo/page.css").read_text()
    roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(roots) == 2
    for root in roots:
        colours = dict(re.findall(r"--(\w+): (#\w{6});", root))
        for name in ("ink", "soft", "accent"):
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
        assert contrast(colours["given"], colours["sheet"]) >= 3


# ---- In a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright, of tests/requirements.txt"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    if not (path := next(filter(None, map(shutil.which, names)), None)):
        pytest.skip("needs a browser: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A page of three settings, with hostile names."""
    folder = make_folder(tmp_path_factory.mktemp("page") / "run", "silu", "xz", name=HOSTILE)
    return write_demo(folder, folder)


@pytest.fixture
def visit(browser):
    """Open pages; no console message, error, dialog or request is allowed but that of the file."""
    problems: list[str] = []
    requests: list[str] = []
    contexts: list[Any] = []

    def open_page(path: Path, hash: str = "", script: str = "", **options: Any) -> Any:
        options = {"viewport": {"width": 900, "height": 900}, "reduced_motion": "reduce"} | options
        contexts.append(browser.new_context(**options))
        contexts[-1].add_init_script(script)
        page = contexts[-1].new_page()
        url = f"file://{path}"
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url.partition("#")[0]))
        page.goto(url + hash)
        wait(page, "!problem.textContent.startsWith('Loading')")
        if page.text_content("#problem"):
            problems.clear()  # the error that is told
        else:
            ready(page)
        assert set(requests) == {url}
        requests.clear()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == requests == []


def wait(page: Any, condition: str) -> None:
    """Wait until a JavaScript condition holds, which the page's policy forbids Playwright's own."""
    poll = f"() => (({condition}) ? done() : requestAnimationFrame(poll))"
    page.evaluate(f"new Promise((done) => {{ const poll = {poll}; poll(); }})")


def ready(page: Any) -> None:
    """Wait until the networks are there and what was asked for is painted."""
    page.wait_for_selector("#main[aria-busy=false]")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pictures(page: Any) -> list[str]:
    """Return all canvases as text."""
    script = "Array.from(document.querySelectorAll('main canvas'), (each) => each.toDataURL())"
    ready(page)
    return page.evaluate(script)


def answers(page: Any) -> list[str]:
    ready(page)
    return page.evaluate("tiles.map(({ canvas }) => canvas.toDataURL())")


def draw(page: Any, start: tuple[float, float] = (0.1, 0.6), end: Any = (0.4, 0.9)) -> None:
    """Draw a line between two points, as parts of width and height."""
    box = page.locator("#drawing").bounding_box()
    (x0, y0), (x1, y1) = (
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)
    )
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move(x1, y1, steps=5)
    page.mouse.up()


def test_page_opens_from_a_file_and_a_stroke_changes_every_answer(visit, written):
    page = visit(written)
    before = answers(page)
    assert len(set(before)) == 12
    draw(page)
    assert all(one != other for one, other in zip(before, answers(page), strict=True))
    assert page.title() == "Twelve answers to one question"
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert HOSTILE in page.locator("footer").text_content()
    drawn = page.evaluate("Array.from(image, (value, i) => (isKnown(i) ? value : 0))")
    page.click("label:has(#eraser)")
    draw(page)
    erased = page.evaluate("Array.from(image, (value, i) => (isKnown(i) ? value : 0))")
    assert sum(erased) < sum(drawn)
    page.click("text=Clear")
    assert page.evaluate("Math.max(...image)") == 0


def test_strokes_stay_in_the_known_quadrants_and_are_as_wide_as_mnists(visit, written):
    page = visit(written)
    page.click("text=Clear")
    draw(page, (0.25, 0.4), (0.25, 0.9))
    rows = np.array(page.evaluate("Array.from(image)")).reshape(28, 28)
    assert (rows[17:24].sum(1) > 1.5).all() and (rows[17:24].sum(1) < 3.5).all()
    assert not rows[:14].any()


def test_settings_switch_and_keep_what_is_given(visit, written):
    page = visit(written, "#image=3")
    image = page.evaluate("Array.from(image)")
    page.click("#settings >> text=3")
    ready(page)
    assert page.evaluate("Array.from(image)") == image
    page.wait_for_url("**given=3&image=3")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.querySelectorAll('[name=example]')[2].checked")
    draw(page)
    seen = set()
    for n, known in (("1", 196), ("2", 392), ("3", 588)):
        page.click(f"#settings >> text={n}")
        seen.add(tuple(answers(page)))
        assert page.evaluate("[model.known.length, example]") == [known, None]
        page.wait_for_url(f"**given={n}&drawing**")
        assert page.evaluate("image.some((value) => value > 0.9)")
    assert len(seen) == 3


def test_what_changes_nothing_keeps_the_example(visit, written):
    page = visit(written, "#image=3")
    page.click("label:has(#eraser)")
    page.evaluate("image.fill(0)")
    for point, cursor in (((0.7, 0.2), "not-allowed"), ((0.2, 0.7), "crosshair")):
        draw(page, point, point)
        assert page.evaluate("[example, past.length, drawing.style.cursor]") == [2, 0, cursor]
    page.click("#settings >> text=3")
    ready(page)
    page.evaluate("$('eraser').checked = false, stroke([0, 2], [28, 2])")
    assert page.evaluate("[example, Math.max(...image)]") == [None, 1]


@pytest.mark.parametrize("n, length", [(1, 131), (2, 262), (3, 392)])
def test_drawing_is_in_the_address_and_can_be_undone(n, length, visit, written):
    page = visit(written, f"#image=3&given={n}")
    example = answers(page)
    draw(page)
    drawn = answers(page)
    page.click("text=Clear")
    assert answers(page) not in (drawn, example)
    page.keyboard.press("Control+z")
    assert answers(page) == drawn and page.evaluate("[example, past.length]") == [None, 1]
    wait(page, "location.hash.includes('drawing')")
    hash = page.evaluate("location.hash")
    assert len(re.findall("drawing=([^&]*)", hash)[0]) == length
    other = visit(written, hash, color_scheme="light")
    assert pictures(other) == pictures(page)
    page.click("text=Undo")
    assert answers(page) == example and page.evaluate("example") == 2
    assert visit(written, hash[:-1]).evaluate("example") == 0  # a damaged address


def test_size_of_images_is_shown_and_what_is_larger_told(visit, tmp_path):
    folder = make_folder(tmp_path / "run", settings=(1,))
    images = np.load(folder / "own.npz")["images"]
    images[:, :4], images[:, -3:], images[:, :, :6], images[:, :, -2:] = 0, 0, 0, 0
    np.savez(folder / "own.npz", images=images)
    page = visit(write_demo(folder, tmp_path))
    assert read_page(folder / "demo.html")["margins"] == dict(left=6, right=2, top=4, bottom=3)
    sheet, box = (page.locator(each).bounding_box() for each in (".sheet", "#box"))
    found = (box["x"] - sheet["x"]) / sheet["width"], (box["y"] - sheet["y"]) / sheet["height"]
    assert found == pytest.approx((6 / 28, 4 / 28), abs=0.01)
    page.click("text=Clear")
    ready(page)
    assert page.is_visible("text=Draw here")
    page.evaluate("stroke([10, 16], [10, 22])")
    ready(page)
    assert "the whole would fill" in page.text_content("#hint")
    page.evaluate("stroke([3, 15], [3, 27])")
    ready(page)
    assert "so much ink outside" in page.text_content("#hint")
    assert page.is_hidden("text=Draw here")


def test_page_draws_by_itself_until_it_is_touched(visit, written):
    script = """window.drawn = [];
        addEventListener("DOMContentLoaded", () => { const usual = refresh;
            refresh = () => { usual(); drawn.push(model.known.reduce((s, i) => s + image[i], 0)); };
        });"""
    page = visit(written, script=script, reduced_motion="no-preference")
    wait(page, "new Set(drawn).size > 3")
    page.keyboard.press("Shift")
    wait(page, "turn")
    ready(page)
    drawn = page.evaluate("drawn")
    assert min(drawn) < drawn[-1] and page.evaluate("example") == 0
    assert page.text_content("#hint").startswith("Your turn")
    assert page.evaluate("image.every((value, i) => value === exampleOf(0)[i])")
    assert not visit(written, page.evaluate("location.hash"), script).evaluate("turn")


def test_sentences_say_what_is_seen(visit, written):
    page = visit(written)
    each = np.array(page.evaluate("Array.from(completions)")).reshape(12, -1)
    baseline = np.array(page.evaluate("Array.from(view.baseline)"))
    wide = int((each.std(0) > 0.25).sum())
    undecided = ((each > 0.25) & (each < 0.75)).sum(1).mean()
    grey = int(((baseline > 0.25) & (baseline < 0.75)).sum())
    apart = [np.abs(values - baseline).mean() for values in (each.mean(0), each)]
    for name, words in {
        "deviation": f"over 0.25 in {wide} pixels",
        "answers": f"leaves {undecided + 1e-6:.0f} pixels",
        "baseline": f"leaves {grey} of 588 pixels",
        "mean": f"by {apart[0]:.2f} a pixel, one alone by {apart[1]:.2f}.",
    }.items():
        assert words in page.text_content(f"#{name}-caption")


@pytest.mark.parametrize("where, y", [("hatching", 0.4), ("drawing", 0.9)])
def test_finger_scrolls_on_the_hatching_and_draws_beside_it(where, y, visit, written):
    size = {"width": 360, "height": 660}
    page = visit(written, viewport=size, has_touch=True, is_mobile=True)
    page.evaluate("drawing.scrollIntoView({ block: 'center' })")
    box = page.locator("#drawing").bounding_box()
    touch, top = page.context.new_cdp_session(page), page.evaluate("scrollY")
    for step in range(12):
        point = {"x": box["x"] + 0.2 * box["width"], "y": box["y"] + y * box["height"] - 8 * step}
        kind = "touchMove" if step else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    if where == "hatching":
        wait(page, f"scrollY > {top + 20}")
    ready(page)
    assert page.evaluate("example") == (0 if where == "hatching" else None)
    assert where == "hatching" or page.evaluate("scrollY") == top


def test_older_browsers_decode_the_same(visit, written):
    script = "delete Uint8Array.fromBase64; delete globalThis.scheduler;"
    assert pictures(visit(written, script=script)) == pictures(visit(written))


def test_of_two_fingers_the_first_draws(visit, written):
    page = visit(written)
    page.click("text=Clear")
    script = """([type, pointerId, x, y]) => {
        drawing.setPointerCapture = () => {};
        const box = drawing.getBoundingClientRect();
        const [clientX, clientY] = [box.left + x * box.width, box.top + y * box.height];
        drawing.dispatchEvent(new PointerEvent(type, { pointerId, clientX, clientY }));
    }"""
    for event in (
        ["pointerdown", 1, 0.1, 0.6],
        ["pointerdown", 2, 0.4, 0.95],
        ["pointermove", 1, 0.1, 0.65],
        ["pointermove", 2, 0.4, 0.9],
        ["lostpointercapture", 2, 0.4, 0.9],
        ["pointermove", 1, 0.1, 0.7],
    ):
        page.evaluate(script, event)
    drawn = np.array(page.evaluate("Array.from(image)")).reshape(28, 28)
    assert drawn[18, 2] > 0.9 and not drawn[:, 7:].any()


def test_clicks_while_a_setting_loads_do_no_harm(visit, written):
    page = visit(written)
    page.evaluate("chooseSetting(1), $('again').click(), $('save').click(), chooseSetting(2)")
    ready(page)
    assert page.evaluate("[seed, setting, model.known.length]") == [1, 2, 588]


def test_the_same_address_shows_the_same_pixels(visit, written):
    first, second = visit(written, "#seed=123"), visit(written, "#seed=123")
    assert pictures(first) == pictures(second)
    first.click("text=New samples")
    assert answers(first) != answers(second) and "seed=124" in first.url
    third = visit(written, "#" + first.url.partition("#")[2])
    first.mouse.move(0, 0)
    assert pictures(third) == pictures(first)
    second.evaluate("location.hash = '#seed=124'")
    assert answers(second) == answers(third)


@pytest.mark.parametrize("activation, generation_input, shape, blocks", RECIPES)
def test_browser_predicts_as_pytorch_does(
    visit, activation, generation_input, shape, blocks, tmp_path
):
    options = activation, generation_input, shape, (1, 3), blocks
    path = write_demo(make_folder(tmp_path / "run", *options), tmp_path)
    assert read_page(path)["shape"] == list(shape)
    for n, setting in zip((1, 3), read_page(path)["settings"], strict=True):
        trained = TrainedCVAE.load(tmp_path / "run", n)
        assert setting["mask"] == "".join(str(int(k)) for k in trained.known.flatten())
        rows = {name: rows for name, rows, _ in setting["layers"]}
        assert rows["baseline.fc3"] == rows["generation.fc3"] == (~trained.known).sum()
        page = visit(path, f"#given={n}")
        eps = torch.tensor(page.evaluate("Array.from(eps)")).view(12, 1, 3)
        for k in range(5):
            image = torch.tensor(page.evaluate(f"chooseExample({k}), refresh(), Array.from(image)"))
            xs = trained.mask({"original": image.view(1, 1, *shape)})["input"]
            baseline, z, expected = predict(trained.cvae, xs, eps)
            script = "(z) => Array.from(model.complete(view, Float32Array.from(z)))"
            for found, wanted in (
                (page.evaluate("Array.from(view.baseline)"), baseline),
                (page.evaluate(script, z.flatten().tolist()), expected),
                (page.evaluate("Array.from(completions)"), expected),
            ):
                assert 0 < (torch.tensor(found) - wanted.flatten()).abs().max() < TOLERANCE


def test_page_of_a_changed_model_says_that_it_can_not_compute_it(visit, tmp_path, monkeypatch):
    folder, logits = make_folder(tmp_path / "run", settings=(1,)), Decoder.logits
    monkeypatch.setattr(Decoder, "logits", lambda *args: 1.5 * logits(*args))
    page = visit(write_demo(folder, folder))
    assert "the model was changed" in page.text_content("#problem")
    assert page.evaluate("completions") is None
    prior = lambda cvae, xs: Laplace(*cvae.prior_net(xs, xs)).to_event(1)  # noqa: E731
    monkeypatch.setattr(CVAE, "prior", prior)
    with pytest.raises(FileError, match="the page can't compute the model's Laplace"):
        write_demo(folder, folder)


@pytest.mark.parametrize("keep", [0.2, 0.5, -2000, -1])
def test_file_that_is_cut_or_damaged_says_so(keep, visit, written, tmp_path):
    text = written.read_text()
    if keep == -1:
        text = re.sub('("weights": ".{2000}).{400}', r"\1" + "A" * 400, text)
    else:
        text = text[: int(keep if keep < 0 else keep * len(text))]
    (tmp_path / "demo.html").write_text(text)
    page = visit(tmp_path / "demo.html")
    assert "incomplete or damaged" in page.text_content("#problem")
    assert not page.is_visible("main")


def test_numbers_are_normal_and_a_walk_keeps_their_length(visit, written):
    page = visit(written)
    numbers = np.array(page.evaluate("Array.from(normals(7, 20000))"))
    assert abs(numbers.mean()) < 0.03 and abs(numbers.std() - 1) < 0.03
    assert abs((numbers < 1.2816).mean() - 0.9) < 0.01
    script = "Array.from(slerp(normals(1, 500), normals(2, 500), %s))"
    lengths = [np.linalg.norm(page.evaluate(script % t)) for t in (0, 0.25, 0.5, 1)]
    assert max(lengths) / min(lengths) < 1.1
    assert np.allclose(page.evaluate(script % 1), page.evaluate("Array.from(normals(2, 500))"))
    assert page.evaluate("slerp([1], [-0.5], 0.5)") == pytest.approx([0.25])


def test_walk_ends_at_the_answer_that_was_chosen(visit, written):
    page = visit(written, reduced_motion="reduce")
    page.click("#grid button >> nth=6")
    page.mouse.move(0, 0)
    assert page.evaluate("$('slider').value") == "100"
    page.evaluate("document.activeElement.blur()")
    large, tile = page.evaluate("[$('large').toDataURL(), tiles[6].canvas.toDataURL()]")
    assert large == tile and page.text_content("#to") == "B: answer 7"
    assert (
        page.locator("#grid button >> nth=6").get_attribute("aria-label").startswith("Answer 7, B")
    )
    page.hover("#grid button >> nth=2")
    assert page.text_content("#caption") == "Answer 3"


def test_keyboard_alone_reaches_and_does_everything(visit, written):
    page = visit(written)
    page.keyboard.press("Tab")
    reached = []
    for _ in range(30):
        name = page.evaluate(
            "(({ id, name, parentNode }) => id || name || parentNode.id)(document.activeElement)"
        )
        if not name or (name in reached and name != "grid"):
            break
        reached.append(name)
        before = answers(page)
        outline = page.evaluate(
            "(({ type, nextElementSibling: next }) => getComputedStyle(type === 'radio' ? next : "
            "document.activeElement).outlineStyle)(document.activeElement)"
        )
        assert outline == "solid", name
        if name == "setting":
            page.keyboard.press("ArrowRight")
            assert answers(page) != before and page.evaluate("setting") == 1
        if name == "drawing":
            assert page.is_visible("text=The arrow keys move the pen") and page.evaluate(
                "drawing.dispatchEvent(new KeyboardEvent('keydown',"
                "{ key: 'ArrowLeft', altKey: true, cancelable: true }))"
            )  # as it is the browser's own
            page.keyboard.down("Space")
            for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
                page.keyboard.press(key)
            page.keyboard.up("Space")
            page.keyboard.press("ArrowUp")
            assert answers(page) != before and page.evaluate("example") is None
        if name == "again":
            page.keyboard.press("Enter")
            assert answers(page) != before
        if name == "slider":
            page.keyboard.press("End")
            assert page.text_content("#caption").startswith("100 %")
        if name == "example":
            page.keyboard.press("Space")
            assert page.evaluate("example") is not None
        page.keyboard.press("Tab")
    expected = {"setting", "drawing", "tool", "undo", "clear", "again", "save", "slider", "example"}
    assert expected <= set(reached) and reached.count("grid") == 12


def test_picture_of_the_answers_can_be_saved(visit, written, tmp_path):
    page = visit(written)
    with page.expect_download() as download:
        page.click("text=Save as PNG")
    assert download.value.suggested_filename == "answers_q1_seed0.png"
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as picture:
        assert picture.format == "PNG" and picture.width > 5 * 28 * 6
        assert len(np.unique(np.asarray(picture.convert("RGB")))) > 50


@pytest.mark.parametrize("width, height", [(360, 660), (820, 1180), (1200, 900), (1440, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_narrow_and_wide_screens(visit, written, width, height, scheme):
    script = """window.shift = 0;
        new PerformanceObserver((list) => {
            for (const { value } of list.getEntries()) shift += value;
        }).observe({ type: "layout-shift", buffered: true });"""
    size = {"width": width, "height": height}
    page = visit(written, script=script, color_scheme=scheme, viewport=size)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("shift") < 0.02
    top, *bottoms = page.evaluate(
        "[drawing.getBoundingClientRect().top, ...[$('baseline'), tiles[11].button, $('large')]"
        ".map((each) => each.getBoundingClientRect().bottom)]"
    )
    assert max(bottoms[:2]) - top < height - 20  # with the question in one view
    assert width < 1440 or max(bottoms) < height
    small = page.evaluate(
        "[...document.querySelectorAll('button, label, input[type=range]')].filter((each) =>"
        "Math.min(each.offsetWidth, each.offsetHeight) < 44).length"
    )
    assert small == 0
    assert page.evaluate(
        "[...document.querySelectorAll('input')].every((each) => each.autocomplete === 'off')"
    )
    dark = page.evaluate("palette.print[0] > palette.sheet[0]")
    assert dark == (scheme == "dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("palette.print[0] < palette.sheet[0]")
    page.emulate_media(forced_colors="active")
    assert "gradient" in page.evaluate("getComputedStyle(drawing).backgroundImage")
