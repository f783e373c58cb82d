"""Your own images: an ``.npz`` file, or a folder of image files."""

import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cvae.files import FILES, DataError

__all__ = ["find_own_images", "has_bright_background", "load_own_images", "read_image"]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WebP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = {"train": "training", "val": "validation", "test": "test"}  # and their titles
SPLIT_FOLDERS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
SPLIT_FOLDERS |= {split: split for split in SPLITS}
SPLIT_ARRAYS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))  # as MedMNIST and Keras name them
RUN_FILES = {FILES["metrics"], *(FILES["checkpoint"].format(n=n) for n in (1, 2, 3))}
IMAGES_AT_ONCE = 100
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL has it


def find_own_images(path: str | Path) -> list[Path]:
    """List the files of your own images: the ``.npz`` file, or the image files of a folder.

    Folders are searched breadth first in alphabetical order, links last.  Skipped are a folder that
    is reached again, hidden files and folders, and folders that hold the files of a run.

    Args:
        path: the file or the folder.

    Raises:
        DataError: there is none, or the folder itself holds the files of a run.
    """
    path = Path(os.path.expanduser(path))
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} is missing, or neither a file nor a folder")
    return _list_files(path)[0]


def load_own_images(path: str | Path) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Load your own images, with the splits that they bring.

    Images are grey, RGB or RGBA, and of the same even height and width.  Colours turn grey, over a
    black background where they are transparent.

    Args:
        path: an ``.npz`` file, or a folder of PNG, JPEG, BMP, TIFF and WebP files.  The file holds
            ``images``, or only one array, of shape (N, h, w) or (N, h, w, 1, 3 or 4), of uint8 or
            of floats in [0, 1], and perhaps ``labels``, whole numbers of shape (N,) or (N, 1); or
            splits: ``train_images``, ``train_labels``, ``val_images``, ..., or ``x_train``,
            ``y_train``, ``x_test``, ....  In the folder, images lie side by side or in a folder for
            each class, perhaps within folders ``train``, ``val`` and ``test`` (or ``training``,
            ``valid``, ``validation``, ``testing``, in any letter case).

    Returns:
        ``"train"``, and ``"val"`` and ``"test"`` if there are such splits: the name of each for
        tables and figures, its images, uint8 of shape (N, h, w), in a fixed order, which mixes the
        classes of a folder, and their labels, int64 of shape (N,), zeros if there are none; a class
        has the same label in all splits.

    Warns:
        UserWarning: the folder holds other files, or 16-bit images that are black once scaled.

    Raises:
        DataError: there is no such file, or it does not hold that; the message names the file.
    """
    path = Path(os.path.expanduser(path))
    arrays = _read_folder(path) if path.is_dir() else _read_npz(path)
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
        if problem := _problem(images, labels):
            raise DataError(f"{path} holds {problem}")
        title = name if len(arrays) == 1 else f"{name} {SPLITS[split]} set"
        splits[split] = title, _grey(images), labels.astype(np.int64)
    sizes = {"{1} x {2}".format(*images.shape) for _, images, _ in splits.values()}
    if len(sizes) > 1:
        problem = f"{path} holds images of {' and '.join(sorted(sizes))} pixels"
        raise DataError(f"{problem}: all must have the same size")
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
    brought = sorted(top for top in tops if top.lower() in SPLIT_FOLDERS)
    splits: dict[str, list[tuple[Path, str]]] = {}
    for file, names in folders.items():
        split = "train"
        if brought:
            if "".join(names[:1]) not in brought:
                raise DataError(f"{file} is in none of the splits ({', '.join(brought)}) of {root}")
            split, names = SPLIT_FOLDERS[names[0].lower()], names[1:]
        if len(names) > 1:
            layouts = "<class>/, or <class>/ in train/, val/ and test/"
            raise DataError(f"{file} is nested too deeply: images may be in {root}, in {layouts}")
        splits.setdefault(split, []).append((file, "".join(names)))
    return splits


def _read_folder(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    files, others = _list_files(root)
    if others:
        warnings.warn(f"{root} also holds files that are not read: {others}", stacklevel=2)
    splits = _sort_by_split(root, files)
    images = {file: _read_image(file) for file in files}
    first, dark = files[0], []
    for file, image in images.items():
        if image.shape != images[first].shape:
            sizes = "{} x {} and {} x {}".format(*image.shape, *images[first].shape)
            raise DataError(f"{file} and {first} have {sizes} pixels: all must have the same size")
        if image.dtype != np.uint8 and 0 < image.max() < 256:
            dark.append(file)
    if dark:
        problem = f"16-bit images hold no value above 255 ({len(dark):,}, such as {dark[0]})"
        warnings.warn(f"{problem}: they are black once scaled; save them with 8 bits", stacklevel=2)
    names = sorted({name for pairs in splits.values() for _, name in pairs})
    labels = {name: label for label, name in enumerate(names)}
    arrays = {}
    for split, pairs in splits.items():
        order = np.random.default_rng(0).permutation(len(pairs))  # any first N are of all classes
        shuffled = [pairs[item] for item in order]
        pixels = np.stack([_grey(images[file]) for file, _ in shuffled])
        arrays[split] = pixels, np.array([labels[name] for _, name in shuffled])
    return arrays


def has_bright_background(pixels: np.ndarray) -> bool:
    """Tell whether the median of the border of images, uint8 of shape (..., h, w), is over 127."""
    border = np.concatenate([pixels[..., [0, -1], :].ravel(), pixels[..., [0, -1]].ravel()])
    return bool(np.median(border) > 127)


def read_image(file: Path) -> np.ndarray:
    """Read an upright image of any of the formats, as grey uint8 of shape (h, w).

    Raises:
        DataError: the file can't be read as an image.
    """
    return _grey(_read_image(file))


def _read_image(file: Path) -> np.ndarray:
    """Read an upright image as uint8 of shape (h, w), or as uint16 if it has 16 bits."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A small file can unpack to gigabytes.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Not Image.open(file), which loses the orientation of uncompressed TIFF files.
            with open(file, "rb") as stream, Image.open(stream, formats=FORMATS) as opened:
                image = ImageOps.exif_transpose(opened)
                if not image.mode.startswith("I"):
                    return _grey(np.asarray(image.convert("RGBA"))[None])[0]
                values = np.asarray(image)  # PIL would cut them off rather than scale them
                if not 0 <= values.min() <= values.max() < 2**16:
                    raise ValueError(f"values from {values.min()} to {values.max()}")
                return values.astype(np.uint16)
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        reason = " ".join(str(error).split())
        raise DataError(f"{file} can't be read as an image ({reason})") from error


def _read_npz(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            splits = {}
            for split, (images, labels) in _name_arrays(path, arrays.files).items():
                pixels = arrays[images]
                splits[split] = pixels, np.asarray(arrays.get(labels, np.zeros(pixels.shape[:1])))
            return splits
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})") from error
    except Exception as error:  # as above
        reason = "is damaged, encrypted, too large, or holds more than plain arrays"
        raise DataError(f"{path} {reason}; nothing of it was run") from error


def _name_arrays(path: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    """Name the arrays of images and labels of each split; a single array is ``"train"``."""
    if "images" in names or len(names) == 1:
        return {"train": ("images" if "images" in names else names[0], "labels")}
    for images, labels in SPLIT_ARRAYS:
        if found := [split for split in SPLITS if images.format(split) in names]:
            return {split: (images.format(split), labels.format(split)) for split in found}
    wanted = "images, or train_images, val_images and test_images"
    raise DataError(f"{path} holds the arrays {', '.join(names) or 'none'}: name them {wanted}")


def _problem(images: np.ndarray, labels: np.ndarray) -> str:
    """Say in what way arrays are not images and labels, if any."""
    if images.ndim < 3 or images.shape[3:] not in ((), (1,), (3,), (4,)):
        return f"images of shape {images.shape}: must be (N, h, w), or (N, h, w, 1, 3 or 4)"
    if not len(images):
        return f"no images, but an array of shape {images.shape}"
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
