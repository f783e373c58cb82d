"""Your own images: an array in an ``.npz``, ``.npy`` or ``.csv`` file, or a folder of files."""

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cvae.files import FILES, DataError

__all__ = ["choose_reader", "find_own_images", "has_bright_background", "load_own_images"]
__all__ += ["read_image"]

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # images and labels by split

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WebP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = {"train": "training", "val": "validation", "test": "test"}  # and their titles
SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
SPLIT_NAMES |= {split: split for split in SPLITS}
# What arrays are called beside the name of a split, the surest first.
IMAGE_NAMES = ("images", "image", "x", "data", "")
LABEL_NAMES = ("labels", "label", "y", "targets", "target", "class")
RUN_FILES = {FILES["metrics"], *(FILES["checkpoint"].format(n=n) for n in (1, 2, 3))}
IMAGES_AT_ONCE = 100
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL has it


def find_own_images(path: str | Path) -> list[Path]:
    """List the files of your own images: the file of arrays, or the image files of a folder.

    Folders are searched breadth first in alphabetical order, links last.  Skipped are a folder that
    is reached again, hidden files and folders, and folders that hold the files of a run.

    Args:
        path: the file or the folder.

    Raises:
        DataError: there is none, or the folder itself holds the files of a run.
    """
    path = Path(os.path.expanduser(path))
    return _list_files(path)[0] if choose_reader(path) is _read_folder else [path]


def choose_reader(path: Path) -> Callable[[Path], Arrays]:
    """Return the function that reads what is there, as arrays by split.

    Raises:
        DataError: it is neither a folder, nor an ``.npz``, ``.npy`` or ``.csv`` file.
    """
    if path.is_dir():
        return _read_folder
    if not path.is_file():
        raise DataError(f"{path} is missing, or neither a file nor a folder")
    suffix, advice = path.suffix.lower(), "put many images of one size into a folder, and give that"
    if reader := {".npz": _read_arrays, ".npy": _read_arrays, ".csv": _read_csv}.get(suffix):
        return reader
    if suffix not in SUFFIXES:
        advice = 'save an array of images: np.savez("images.npz", images=array, labels=labels)'
    raise DataError(f"{path} is neither a folder nor an .npz, .npy or .csv file: {advice}")


def load_own_images(path: str | Path) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Load your own images, with the splits that they bring.

    Images are grey, RGB or RGBA, and of the same even height and width.  Colours turn grey, over a
    black background where they are transparent.

    Args:
        path: a file, or a folder of PNG, JPEG, BMP, TIFF and WebP files.  An ``.npz`` file holds
            ``images``, or only one array, of shape (N, h, w), (N, h * w) of squares, or (N, h, w,
            1, 3 or 4), of uint8 or of floats in [0, 1], and perhaps ``labels``, whole numbers of
            shape (N,) or (N, 1); or splits: ``train_images``, ``train_labels``, ``x_val``, ....  An
            ``.npy`` file is such an array.  A ``.csv`` file has a row for each image: its label, if
            any, and the values of a square from 0 to 255.  In the folder, images lie side by side
            or in a folder for each class, perhaps within folders ``train``, ``val`` and ``test``
            (or ``training``, ``valid``, ``validation``, ``testing``, in any letter case).

    Returns:
        ``"train"``, and ``"val"`` and ``"test"`` if there are such splits: the name of each for
        tables and figures, its images, uint8 of shape (N, h, w), in a fixed order, which mixes the
        classes, and their labels, int64 of shape (N,), zeros if there are none; a class of a folder
        has the same label in all splits.

    Warns:
        UserWarning: there are other files or arrays, which are not read; images are nearly black,
            such as those of 0 and 1; floats are rounded to 8 bits.

    Raises:
        DataError: there is no such file, or it does not hold that; the message names the file.
    """
    path = Path(os.path.expanduser(path))
    arrays = choose_reader(path)(path)
    if "train" not in arrays:
        raise DataError(f"{path} holds images for {' and '.join(arrays)}, but none for train")
    # Tables and figures can't show bytes that are not UTF-8, nor control characters.
    name = os.fsencode(os.path.basename(os.path.abspath(path))).decode("utf-8", "replace")
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    splits = {}
    for split in sorted(arrays, key=list(SPLITS).index):
        images, labels = arrays[split]
        if labels.shape == (*images.shape[:1], 1):
            labels = labels[:, 0]
        if images.ndim == 2 and _is_square(images.shape[1]):
            images = images.reshape(len(images), math.isqrt(images.shape[1]), -1)
        if problem := _problem(images, labels):
            raise DataError(f"{path} holds {problem}")
        title = name if len(arrays) == 1 else f"{name} {SPLITS[split]} set"
        order = np.random.default_rng(0).permutation(len(images))  # any first N are of all classes
        splits[split] = title, _grey(images)[order], labels[order].astype(np.int64)
    _warn_of_losses(path, [(arrays[split][0], splits[split][1]) for split in splits])
    return splits


def _list_files(root: Path) -> tuple[list[Path], str]:
    """List the image files in a folder, and say what other files it holds."""
    files: list[Path] = []
    folders, seen = [root], set()
    while folders:
        folder = folders.pop(0)
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            shown = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{folder} can't be read ({error.strerror})") from error
        if run_files := sorted(RUN_FILES & {entry.name for entry in shown}):
            if folder != root:
                continue
            problem = f"{root} holds the files of a run ({run_files[0]})"
            raise DataError(f"{problem}: move the images to a folder of their own")
        shown.sort(key=lambda entry: (os.path.islink(entry), entry.name))
        folders += filter(os.path.isdir, shown)
        files += filter(os.path.isfile, shown)
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    counts = Counter(file.suffix or "without suffix" for file in {*files} - {*images})
    others = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
    if not images:
        but = f", but {others}" if others else ""
        raise DataError(f"{root} holds no PNG, JPEG, BMP, TIFF or WebP file{but}")
    return images, others


def _sort_by_split(root: Path, files: list[Path]) -> dict[str, list[tuple[Path, str]]]:
    """Sort files by split, each with its class.  Where there are no splits, all are ``"train"``."""
    folders = {file: file.relative_to(root).parts[:-1] for file in files}
    tops = {"".join(names[:1]) for names in folders.values()}
    brought = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    splits: dict[str, list[tuple[Path, str]]] = {}
    for file, names in folders.items():
        split = "train"
        if brought:
            if "".join(names[:1]) not in brought:
                raise DataError(f"{file} is in none of the splits ({', '.join(brought)}) of {root}")
            split, names = SPLIT_NAMES[names[0].lower()], names[1:]
        if len(names) > 1:
            layouts = "<class>/, or <class>/ in train/, val/ and test/"
            raise DataError(f"{file} is nested too deeply: images may be in {root}, in {layouts}")
        splits.setdefault(split, []).append((file, "".join(names)))
    return splits


def _read_folder(root: Path) -> Arrays:
    files, others = _list_files(root)
    if others:
        warnings.warn(f"{root} also holds files that are not read: {others}", stacklevel=3)
    splits = _sort_by_split(root, files)
    images = {file: read_image(file) for file in files}
    first = files[0]
    for file, image in images.items():
        if image.shape != images[first].shape:
            sizes = "{} x {} and {} x {}".format(*image.shape, *images[first].shape)
            raise DataError(f"{file} and {first} have {sizes} pixels: all must have the same size")
    names = sorted({name for pairs in splits.values() for _, name in pairs})
    labels = {name: label for label, name in enumerate(names)}
    arrays = {}
    for split, pairs in splits.items():
        pixels = np.stack([images[file] for file, _ in pairs])
        arrays[split] = pixels, np.array([labels[name] for _, name in pairs])
    return arrays


def has_bright_background(pixels: np.ndarray) -> bool:
    """Tell whether the median of the border of images, uint8 of shape (..., h, w), is over 127."""
    border = np.concatenate([pixels[..., [0, -1], :].ravel(), pixels[..., [0, -1]].ravel()])
    return bool(np.median(border) > 127)


def read_image(file: Path) -> np.ndarray:
    """Read an upright image of any of the formats, as grey uint8 of shape (h, w).

    Raises:
        DataError: the file can't be read as an image, or holds several.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A small file can unpack to gigabytes.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Not Image.open(file), which loses the orientation of uncompressed TIFF files.
            with open(file, "rb") as stream, Image.open(stream, formats=FORMATS) as opened:
                number = getattr(opened, "n_frames", 1)
                if number > 1 and opened.format != "MPO":  # a photograph with a preview
                    raise ValueError(f"it holds {number}: save each in a file of its own")
                image = ImageOps.exif_transpose(opened)
                # PIL would cut off what is beyond 8 bits, rather than scale it.
                most = {"I": 2**16 - 1, "F": 1}.get(image.mode[0], 255)
                values = np.asarray(image if most != 255 else image.convert("RGBA"))
                if not 0 <= values.min() <= values.max() <= most:  # nor for NaN
                    raise ValueError(f"{values.min()} to {values.max()}: must be from 0 to {most}")
                return _grey(values.astype(np.uint16)[None] if most > 255 else values[None])[0]
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        reason = " ".join(str(error).split())
        raise DataError(f"{file} can't be read as an image ({reason})") from error


def _read_arrays(path: Path) -> Arrays:
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = {"images": content} if isinstance(content, np.ndarray) else content
            names, splits = _sort_arrays([*arrays]), {}
            for split, (images, labels) in names.items():
                pixels = arrays[images]
                splits[split] = pixels, arrays[labels] if labels else np.zeros(pixels.shape[:1])
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})") from error
    except Exception as error:  # as above
        reason = "is damaged, encrypted, too large, or holds more than plain arrays"
        raise DataError(f"{path} {reason}; nothing of it was run") from error
    others = ", ".join(name for name in arrays if name not in sum(names.values(), ()))
    if not names:
        wanted = 'name them: np.savez("images.npz", images=array, labels=labels)'
        raise DataError(f"{path} holds the arrays {others or 'none'}: {wanted}")
    if others:
        warnings.warn(f"{path} also holds arrays that are not read: {others}", stacklevel=3)
    return splits


def _sort_arrays(names: list[str]) -> dict[str, tuple[str, str]]:
    """Name the arrays of images and labels of each split; a single array is images to train on."""
    words = {name: set(name.lower().split("_")) for name in names}

    def find(split: str, kinds: Sequence[str]) -> str:
        of_split = [word for word, own in [("", "train"), *SPLIT_NAMES.items()] if own == split]
        wanted = [{kind, word} - {""} for kind in kinds for word in of_split]
        return next((name for each in wanted for name in names if words[name] == each), "")

    if len(names) == 1:
        return {"train": (names[0], "")}
    splits = {split: (find(split, IMAGE_NAMES), find(split, LABEL_NAMES)) for split in SPLITS}
    found = {split: pair for split, pair in splits.items() if pair[0]}
    labelled = all(labels for _, labels in found.values())  # else those of some mean nothing
    return found if labelled else {split: (images, "") for split, (images, _) in found.items()}


def _read_csv(path: Path) -> Arrays:
    """Read a row for each image: its label, unless it has none, and the values of a square."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            header = [name.strip(' "') for name in file.readline().strip().lower().split(",")]
        labelled, named = _is_square(len(header) - 1), not all(map(str.isdecimal, header))
        if not header[0] or not (labelled or _is_square(len(header))):
            wanted = "a label or none, and the values of a square; no row numbers (index=False)"
            raise ValueError(f"{len(header)} columns: must be {wanted}")
        if labelled and named and not {*header} & {*LABEL_NAMES}:
            raise ValueError(f"none of its {len(header)} columns is called label")
        headed = named or header == [str(n) for n in range(len(header))]  # as pandas names them
        options: Any = dict(encoding="utf-8-sig", quotechar='"', comments=None, ndmin=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # NumPy 1 changes what is no byte
            warnings.simplefilter("ignore", UserWarning)  # no rows, which is told below
            rows = np.loadtxt(path, np.uint8, delimiter=",", skiprows=int(headed), **options)
        if not len(rows):
            raise ValueError("it holds no images")
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise DataError(f"{path} can't be read as a table of images ({reason})") from error
    place = next((header.index(name) for name in LABEL_NAMES if name in header), 0)
    labels = rows[:, place] if labelled else np.zeros(len(rows))
    return {"train": (np.delete(rows, place, axis=1) if labelled else rows, labels)}


def _is_square(num_pixels: int) -> bool:
    """Tell whether so many pixels make a square of an even height."""
    return num_pixels > 0 and math.isqrt(num_pixels) ** 2 == num_pixels and num_pixels % 2 == 0


def _warn_of_losses(path: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Warn of images that 8 bits do not hold, before and after: rounded ones, nearly black ones."""
    for values in (before[:: len(before) // 10 + 1] * 255.0 for before, _ in pairs):  # some rows
        if np.abs(values - np.rint(values)).max() > 0.1:  # more than the error of float16
            warnings.warn(f"{path} holds floats, rounded to 8 bits: steps of 1/255", stacklevel=3)
    tops = np.concatenate([after.max(axis=(1, 2)) for _, after in pairs])
    limit = tops.max() if tops.max() <= 16 else 1  # as of masks, or of 12 bits among 16
    if dark := np.count_nonzero(tops <= limit):
        problem = f"{dark:,} of {len(tops):,} images in {path} are nearly black: no value is above"
        advice = "scale them so that white is 255 (1 in floats, 65,535 with 16 bits)"
        warnings.warn(f"{problem} {limit} of 255; {advice}", stacklevel=3)


def _problem(images: np.ndarray, labels: np.ndarray) -> str:
    """Say in what way arrays are not images and labels, if any."""
    if not images.size:
        return f"no images, but an array of shape {images.shape}"
    if images.ndim < 3 or images.shape[3:] not in ((), (1,), (3,), (4,)):
        return f"images of shape {images.shape}: must be (N, h, w), or (N, h, w, 1, 3 or 4)"
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        return f"{images.dtype}: must be uint8, or floats in [0, 1]"
    if images.dtype.kind == "f" and not 0 <= images.min() <= images.max() <= 1:  # nor for NaN
        return "floats that are not in [0, 1]: divide them by the greatest possible"
    with np.errstate(invalid="ignore"):  # NaN and infinity equal no integer
        whole = labels.dtype.kind in "biuf" and (labels == labels.astype(np.int64)).all()
    if labels.shape != (len(images),) or not whole:
        kind = f"shape {labels.shape} and type {labels.dtype}"
        return f"labels of {kind}: must be a whole number for each image"
    return ""


def _grey(images: np.ndarray) -> np.ndarray:
    """Turn colours, floats and 16 bits into greys of uint8; transparent pixels turn black."""
    if images.dtype == np.uint8 and images.ndim < 4:
        return images
    grey = np.empty(images.shape[:3], np.uint8)
    for start in range(0, len(images), IMAGES_AT_ONCE):  # computing takes 30 bytes a pixel
        some = slice(start, start + IMAGES_AT_ONCE)
        grey[some] = _to_bytes(images[some])
    return grey


def _to_bytes(images: np.ndarray) -> np.ndarray:
    white = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(images.dtype, 1)
    if images.ndim == 4:
        channels = images.shape[3]
        grey = images[..., 0] if channels == 1 else images[..., :3] @ np.array(LUMA)
        images = grey * (images[..., 3] / white) if channels == 4 else grey
    return np.rint(images * (255 / white)).astype(np.uint8)
