"""The table of a run or of several seeds: rows are estimates, columns settings and splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cvae.evaluate import Evaluation, with_error
from cvae.experiment.options import Config, setting_name
from cvae.files import FILES, atomic_write

__all__ = ["Table", "describe_split", "make_caption", "write_text"]

SPLIT_NAMES = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Table:
    """The tutorial's table: a column for each number of known quadrants, a row for each estimate.

    Attributes:
        values: in nats per image, unless the row says otherwise.
        errors: of these, in the same shape; NaN where there is none.
        caption: what the numbers are: sign, unit, images, particles, recipe and seed.
    """

    values: pd.DataFrame
    errors: pd.DataFrame
    caption: str

    @classmethod
    def of_run(
        cls, results: dict[int, dict[str, Evaluation]], caption: str, diagnostics: bool = False
    ) -> "Table":
        """Make the table of one seed, of evaluations by number of known quadrants and split."""
        values, errors, order = {}, {}, dict[str, None]()
        for n, evaluations in results.items():
            for split, evaluation in evaluations.items():
                column = setting_name(n)
                column += f", {SPLIT_NAMES[split]}" if len(evaluations) > 1 else ""
                more = evaluation.diagnostics if diagnostics else {}
                rows: dict[str, Any] = {**evaluation.rows, **more}
                order |= dict.fromkeys(rows)
                # series, as pandas 2.1 sorts the rows of a single dict
                values[column] = pd.Series({row: getattr(e, "mean", e) for row, e in rows.items()})
                errors[column] = pd.Series(
                    {row: getattr(e, "standard_error", None) for row, e in rows.items()}
                )
        caption = f"{caption}; ± standard error over images"
        index = list(order)  # else pandas sorts rows that not all columns have
        return cls(pd.DataFrame(values, index), pd.DataFrame(errors, index, dtype=float), caption)

    @classmethod
    def of_seeds(cls, tables: Sequence["Table"], caption: str) -> "Table":
        """Make the table of means over seeds, with standard deviations, of the columns of all."""
        values = pd.concat([table.values for table in tables], join="inner")
        by_row = values.groupby(level=0, sort=False)
        return cls(by_row.mean(), by_row.std(), f"{caption} ± standard deviation over them")

    def markdown(self) -> str:
        """Format it in Markdown, with errors."""
        gap = ". Performance gap: baseline minus Monte Carlo"
        lines = [
            f"{self.caption}{gap if 'Performance gap' in self.values.index else ''}.",
            "",
            f"| | {' | '.join(self.values.columns)} |",
            f"|---|{'---|' * len(self.values.columns)}",
        ]
        for row in self.values.index:
            cells = map(with_error, self.values.loc[row], self.errors.loc[row])
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``results.csv`` and ``results.md`` to an existing folder."""
        write_text(folder / FILES["table"], self.values.to_csv(lineterminator="\n"))
        write_text(folder / FILES["text"], self.markdown())


def make_caption(config: Config, about: Mapping[str, Any]) -> str:
    """Say what the numbers of a table are.

    Args:
        config: of the command.
        about: ``splits``, name and number of images of each, ``likelihood``, ``particles`` of the
            CVAE's rows, and ``other_code``, files that have changed since a setting was trained.
    """
    splits = about["splits"]
    names = {key: describe_split(split["name"], split["images"]) for key, split in splits.items()}
    where = f"{names['val']}, which also decided when to stop training"
    if "test" in names:
        decided = f"validation: {names['val']}, which decided when to stop training"
        where = f"{decided}; test: {names['test']}"
    trained = [f"{n} ({', '.join(files)})" for n, files in about["other_code"].items()]
    kept = f"; trained by other code: {', '.join(trained)}" if trained else ""
    return (
        f"Negative CLL (nats per image; lower is better); {where}; likelihood: "
        f"{about['likelihood']}; {_particles(about['particles'])}; {config.description}{kept}"
    )


def _particles(by_row: Mapping[str, int]) -> str:
    """Say how many latent samples an image the CVAE's rows have."""
    others = dict(by_row)
    first = others.pop("CVAE (Monte Carlo)", None)
    words = [] if first is None else [f"Monte Carlo {first}"]
    if others:
        words.append(f"the others {' or '.join(map(str, sorted({*others.values()})))}")
    return f"{' and '.join(words)} particles"


def describe_split(name: str, num_images: int) -> str:
    """Name a split with the number of its images."""
    return f"{name} ({num_images:,} images)"


def write_text(path: Path, text: str) -> None:
    """Write a text as a whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())
