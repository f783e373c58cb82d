"""Compare two runs image by image: python -m cvae.compare results other-results

Either may be a CSV file of any method: a column "image", the index of each image in its split, and
columns of numbers.  A name that ends in "_q1.csv" says how many quadrants are known, and a column
"split" (val or test) which images they are.
"""

import re
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cvae.evaluate import with_error
from cvae.experiment.command_line import OneLineParser, png_file
from cvae.experiment.console import run_command
from cvae.experiment.metrics import read_metrics
from cvae.experiment.options import setting_name
from cvae.figures import plot_differences, save_figure
from cvae.files import FILES, SEED_FOLDER, FileError, UsageError

__all__ = ["compare", "main", "paired_difference"]


class Column(NamedTuple):
    """The values of one setting and split; None is what a CSV file does not say."""

    path: Path
    setting: int | None
    split: str | None
    seeds: dict[int, pd.DataFrame]  # by seed, a line for each image
    name: str
    fingerprint: str | None = None
    likelihood: str | None = None
    particles: dict[str, int] = {}  # by row of the table

    @property
    def values(self) -> pd.DataFrame:
        """Those of the first seed."""
        return next(iter(self.seeds.values()))


def paired_difference(
    ours: np.ndarray, theirs: np.ndarray, same_seeds: bool = False
) -> tuple[float, float, float]:
    r"""Return the mean of A - B, and its standard errors over images and over seeds.

    .. math:: d_i = \bar a_i - \bar b_i, \quad s_d / \sqrt N, \quad \sqrt{s_A^2 / K_A + s_B^2 / K_B}

    Args:
        ours, theirs: values of the same N images, for each of K seeds: shapes (K, N).  A side of
            one seed adds nothing to the error over seeds, which is NaN if both are of one.
        same_seeds: the seeds come in pairs too, whose differences have the error over seeds.
    """
    mean, error = _mean_and_error(ours.mean(0) - theirs.mean(0))
    sides = [ours.mean(1) - theirs.mean(1)] if same_seeds else [ours.mean(1), theirs.mean(1)]
    errors = [_mean_and_error(side)[1] for side in sides if len(side) > 1]
    return mean, error, float(np.linalg.norm(errors)) if errors else np.nan


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error, NaN for a single value."""
    n = len(values)
    return values.mean(), values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan


def compare(first: Path, second: Path, rows: Sequence[str] = (), output: Path | None = None) -> str:
    """Return a table of all differences in Markdown, and draw them if there is an ``output``.

    Args:
        first, second: output folders, of one seed or several, or CSV files.
        rows: their names, by default those of the table.
        output: the PNG file to write.

    Raises:
        FileError: a file is missing or damaged, or lacks a number.
        OSError: the output can't be written.
        UsageError: images, masks or likelihoods differ, or there are no such rows.
    """
    lines, panels, notes = [], dict[str, dict[str, np.ndarray]](), dict[str, None]()
    for a, b in _match(_read(first), _read(second)):
        about = a if a.fingerprint else b
        heading = f"{setting_name(about.setting)}, " if about.setting else ""
        heading += f"{about.name} ({len(a.values):,})"
        panels[heading] = {}
        kinds = [side.likelihood or "unknown" for side in (a, b)]
        likelihood = kinds[0] if kinds[0] == kinds[1] else "{} of A, {} of B".format(*kinds)
        notes[f"{len(a.seeds)} and {len(b.seeds)} seeds; likelihood: {likelihood}"] = None
        for x, y in _choose_rows(a, b, rows):
            samples = a.particles.get(x), b.particles.get(y)
            row = x if x == y else f"{x} − {y}"
            row += "" if _agree(*samples) else f" ({samples[0]} and {samples[1]} particles)"
            pair = [np.stack([c.seeds[s][k] for s in sorted(c.seeds)]) for c, k in ((a, x), (b, y))]
            panels[heading][row] = pair[0].mean(0) - pair[1].mean(0)
            cells = [with_error(*_mean_and_error(side.mean(0))) for side in pair]
            same_seeds = a.seeds.keys() == b.seeds.keys()
            mean, error, over_seeds = paired_difference(pair[0], pair[1], same_seeds)
            cells += [with_error(mean, error), "" if np.isnan(over_seeds) else f"{over_seeds:.2g}"]
            lines.append(f"| {heading} | {row} | {' | '.join(cells)} |")
    title = f"A: {first}; B: {second}; {'; '.join(notes)}"
    if output:
        save_figure(plot_differences(panels, title), output)
    what = "mean over images ± standard error, of A − B in pairs"
    head = ["| setting | row | A | B | A − B | ± over seeds |", "|---" * 6 + "|"]
    return "\n".join([f"{title}; {what}.", "", *head, *lines])


def _read(path: Path) -> list[Column]:
    """Read an output folder or a CSV file."""
    if not path.is_dir():
        name = re.search(r"_q([123])\.csv$", path.name)
        setting = int(name[1]) if name else None
        frames = _read_csv(path)
        names = {split: f"its {split} images" if split else "its images" for split in frames}
        return [Column(path, setting, s, {0: frames[s]}, names[s]) for s in frames]
    metrics, columns = read_metrics(path), dict[tuple[str, str], Column]()
    for run in metrics["runs"]:
        folder = path / SEED_FOLDER.format(seed=run["seed"]) if len(metrics["runs"]) > 1 else path
        for setting, results in run["results"].items():
            frames = _read_csv(folder / FILES["per_image"].format(n=setting[1:]))
            for split, result in results.items():
                rows, about, frame = result["rows"], metrics["splits"][split], frames[split]
                if any(abs(frame[row].mean() - rows[row]["mean"]) > 1e-3 for row in rows):
                    reason = "the table and the values of each image are of different evaluations"
                    raise FileError(f"{folder}: {reason}; repeat the command of that run")
                of_images = about["name"], about["fingerprint"], result["likelihood"]
                particles = {row: estimate["num_particles"] for row, estimate in rows.items()}
                column = Column(path, int(setting[1:]), split, {}, *of_images, particles)
                columns.setdefault((setting, split), column).seeds[run["seed"]] = frame
    return [each for each in columns.values() if len(each.seeds) == len(metrics["runs"])]


def _read_csv(path: Path) -> dict[Any, pd.DataFrame]:
    """Read values of each image, by split, or None where there is no such column."""
    try:
        table = pd.read_csv(path).set_index("image")
    except OSError as error:
        raise FileError(f"{path} can't be read ({error.strerror})") from error
    except (KeyError, ValueError) as error:
        raise FileError(f"{path} is no CSV file with a column image") from error
    frames = dict[Any, pd.DataFrame]()
    for split, rows in table.groupby("split") if "split" in table else [(None, table)]:
        frame = rows.drop(columns=["split", "label"], errors="ignore").sort_index()
        frames[split] = frame = frame.apply(pd.to_numeric, errors="coerce")
        if len(bad := np.argwhere(~np.isfinite(frame.to_numpy()))):
            line, column = bad[0]
            where = f"image {frame.index[line]} in column {frame.columns[column]}"
            raise FileError(f"{path} has no number for {where}")
        if not frame.index.is_unique:
            raise FileError(f"{path} has image {frame.index[frame.index.duplicated()][0]} twice")
    return frames


def _agree(one: Any, other: Any) -> bool:
    return None in (one, other) or one == other


def _match(ours: list[Column], theirs: list[Column]) -> list[tuple[Column, Column]]:
    """Find the columns of the same masks and the same images, whatever these were used for."""
    pairs = [(a, b) for a, b in product(ours, theirs) if _agree(a.setting, b.setting)]
    if not pairs:
        raise UsageError("A and B have other masks: no number of known quadrants in common")
    pairs = [
        (a, b)
        for a, b in pairs
        if _agree(a.fingerprint, b.fingerprint)
        and (a.fingerprint and b.fingerprint or _agree(a.split, b.split))
    ]
    if not pairs:
        names = [", ".join({column.name: None for column in side}) for side in (ours, theirs)]
        raise UsageError(f"A and B are of other images: {names[0]} in A, {names[1]} in B")
    for a, b in pairs:
        if sum(a is x or b is y for x, y in pairs) > 1:
            advice = "give a CSV file a name such as mine_q1.csv, and a column split"
            raise UsageError(f"{a.path} and {b.path} fit in several settings or splits: {advice}")
        if not _agree(a.likelihood, b.likelihood):
            kinds = f"{a.likelihood} in A, {b.likelihood} in B"
            raise UsageError(f"other likelihoods can't be subtracted: {kinds}")
        images = a.values.index, b.values.index
        lacking = images[0].symmetric_difference(images[1])
        if len(lacking):
            path = b.path if lacking[0] in images[0] else a.path
            raise UsageError(f"{path} lacks image {lacking[0]}, which the other has")
    return pairs


def _choose_rows(a: Column, b: Column, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Pair the rows that both have; or if they share none, each with each."""
    names = [list(side.values) for side in (a, b)]
    there = ", ".join(dict.fromkeys(sum(names, [])))
    if unknown := [row for row in wanted if row not in sum(names, [])]:
        raise UsageError(f"no row {unknown[0]!r} in {a.path} and {b.path}, which have {there}")
    common = [(row, row) for row in names[0] if row in names[1]]
    pairs = common or list(product(*names))
    if wanted:
        pairs = [pair for pair in pairs if {*pair} & {*wanted}]
    else:  # of the table; another method has a likelihood, but no gap
        usual = [{*(side.particles or side.values)} for side in (a, b)]
        pairs = [(x, y) for x, y in pairs if x in usual[0] and y in usual[1]]
        pairs = [pair for pair in pairs if common or "Performance gap" not in pair]
    if not pairs:
        raise UsageError(f"no row to compare in {a.path} and {b.path}, which have {there}")
    return pairs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 for a failure, 2 for a bad line."""
    parser = OneLineParser("python -m cvae.compare", __doc__)
    add = parser.add_argument
    add("A", type=Path, help="output folder of a run, of one seed or several, or a CSV file")
    add("B", type=Path, help="the same, which is subtracted")
    help = "rows or columns, by name (default: those of the table)"
    add("--rows", nargs="+", metavar="NAME", help=help)
    add("--output", type=png_file, metavar="FILE", help="PNG file for a figure of the differences")
    args = parser.parse_args(argv)
    first, second, output = (p and p.expanduser() for p in (args.A, args.B, args.output))
    rows = args.rows or ()
    return run_command(parser.prog, lambda: print(compare(first, second, rows, output)))


if __name__ == "__main__":
    sys.exit(main())
