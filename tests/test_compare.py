"""Runs and CSV files are compared image by image."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cvae.compare import compare, main, paired_difference
from cvae.files import UsageError

N, ROWS = 300, ["NN (baseline)", "CVAE (importance sampling)"]
HARD = np.random.default_rng(0).normal(100, 16, N)  # what is hard for one method is hard for all


@pytest.fixture
def make(tmp_path, request):
    """Write what a run leaves, as far as it takes to compare it; return the values of each seed."""

    def write(name, n=1, seeds=(0,), images=None, likelihood="Bernoulli", particles=100, off=0.0):
        runs, values, images = [], [], images or {"val": "a1"}
        rng = np.random.default_rng([*name.encode()])
        for seed in seeds:
            frames, results = [], {}
            for split in images:
                rows: dict[str, Any] = {
                    row: HARD + rng.normal(i + seed, 2, N) for i, row in enumerate(ROWS)
                }
                rows["Performance gap"] = rows[ROWS[0]] - rows[ROWS[1]]
                about = {k: {"mean": v.mean(), "num_particles": particles} for k, v in rows.items()}
                about[ROWS[0]]["mean"] += off
                results[split] = {"rows": about, "likelihood": likelihood}
                rows |= {"label": np.arange(N) % 10, "KL": rng.normal(20, 3, N)}
                frames.append(pd.DataFrame({"split": split} | rows))
            folder = tmp_path / name / (f"seed_{seed}" if len(seeds) > 1 else "")
            folder.mkdir(parents=True)
            values.append(pd.concat(frames))
            values[-1].to_csv(folder / f"per_image_q{n}.csv", index_label="image")
            runs.append({"seed": seed, "results": {f"q{n}": results}})
        splits = {split: {"name": f"{split} set", "fingerprint": images[split]} for split in images}
        metrics = {"splits": splits, "runs": runs}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        return values

    return write


def cells(text: str, row: str) -> list[str]:
    """Return the numbers of the only line of a row: of A, of B, the difference, over seeds."""
    (line,) = [line for line in text.splitlines() if f"| {row} |" in line]
    return [cell.strip() for cell in line.split("|")[3:-1]]


def test_error_is_that_of_pairs_and_of_the_means_over_seeds():
    a, b = np.array([[1.0, 5, 9], [3, 7, 11]]), np.array([[1.0, 4, 7]])
    mean, error, over_seeds = paired_difference(a, b)
    differences = pd.Series([1.0, 2, 3])
    assert (mean, error) == (differences.mean(), pytest.approx(differences.sem()))
    assert over_seeds == pytest.approx(pd.Series([5.0, 7]).sem())
    c = np.array([[1.0, 4, 7], [1, 4, 1]])  # means 4 and 2
    assert paired_difference(a, c)[2] == pytest.approx(2**0.5)
    assert paired_difference(a, c, same_seeds=True)[2] == pytest.approx(pd.Series([1.0, 5]).sem())
    assert np.isnan(paired_difference(a[:1, :1], b[:, :1])[1])


def test_table_has_the_rows_of_both_and_errors_of_pairs(make, tmp_path):
    (a,), (b,) = make("a"), make("b", particles=20)
    text = compare(tmp_path / "a", tmp_path / "b")
    assert (
        "1 and 1 seeds; likelihood: Bernoulli" in text and "| 1 quadrant, val set (300) |" in text
    )
    for row in (*ROWS, "Performance gap"):
        difference, label = a[row] - b[row], f"{row} (100 and 20 particles)"
        expected = f"{difference.mean():.1f} ± {difference.sem():.1f}"
        assert cells(text, label)[2:] == [expected, ""]
        assert cells(text, label)[0] == f"{a[row].mean():.1f} ± {a[row].sem():.1f}"
        assert a[row].sem() > 4 * difference.sem() or row == "Performance gap"
    assert " KL " not in text
    assert " KL " in compare(tmp_path / "a", tmp_path / "b", rows=["KL"])
    with pytest.raises(UsageError, match="no row 'no' in .*/a and .*/b, which have NN"):
        compare(tmp_path / "a", tmp_path / "b", rows=["no"])


def test_seeds_are_averaged_and_their_spread_shown(make, tmp_path):
    a, b = make("a", seeds=(0, 1, 5)), make("b", seeds=(0, 1))
    means = [pd.Series([frame[ROWS[0]].mean() for frame in side]) for side in (a, b)]
    difference = sum(f[ROWS[0]] for f in a) / 3 - sum(f[ROWS[0]] for f in b) / 2
    *_, found, over_seeds = cells(compare(tmp_path / "a", tmp_path / "b"), ROWS[0])
    assert found == f"{difference.mean():.1f} ± {difference.sem():.1f}"
    assert over_seeds == f"{(means[0].sem() ** 2 + means[1].sem() ** 2) ** 0.5:.2g}"
    c = make("c", seeds=(0, 1))  # seeds in common are compared in pairs
    spread = pd.Series([(x[ROWS[0]] - y[ROWS[0]]).mean() for x, y in zip(b, c, strict=True)]).sem()
    assert cells(compare(tmp_path / "b", tmp_path / "c"), ROWS[0])[-1] == f"{spread:.2g}"


def test_images_are_matched_by_their_fingerprint_whatever_their_split(make, tmp_path):
    _, (b,) = make("a"), make("b", images={"val": "c", "test": "a1"})
    values = b.loc[b["split"] == "test", ROWS[0]]
    expected = f"{values.mean():.1f} ± {values.sem():.1f}"
    assert cells(compare(tmp_path / "a", tmp_path / "b"), ROWS[0])[1] == expected


def test_any_method_is_compared_by_a_csv_file(make, tmp_path, capsys):
    """Its lines may come in any order; its column stands beside each likelihood of the table."""
    (a,) = make("a", images={"val": "a1", "test": "b"})
    mine = pd.DataFrame({"image": range(N), "neighbours": HARD + 3, "split": "test"})
    mine.sample(frac=1, random_state=0).to_csv(tmp_path / "mine_q1.csv", index=False)
    words = [str(tmp_path / "mine_q1.csv"), str(tmp_path / "a"), "--output", f"{tmp_path}/out.png"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.count("neighbours −") == 2 and "1 quadrant, test set" in text
    difference = HARD + 3 - a.loc[a["split"] == "test", ROWS[0]]
    expected = f"{difference.mean():.1f} ± {difference.sem():.1f}"
    assert cells(text, f"neighbours − {ROWS[0]}")[2] == expected
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_are_paired_by_their_numbers(make, tmp_path):
    make("a", seeds=(0, 1, 2))
    make("b", seeds=(0, 1, 2))
    text = (tmp_path / "b/metrics.json").read_text()
    metrics = json.loads(text)
    metrics["runs"].reverse()  # as --seeds 2 1 0 has them
    before = compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/metrics.json").write_text(json.dumps(metrics))
    assert compare(tmp_path / "a", tmp_path / "b") == before


def test_two_csv_files_are_compared_in_each_split(tmp_path):
    splits = [pd.DataFrame({"image": range(N), "split": s, "nll": HARD}) for s in ("val", "test")]
    for name in "ab":
        pd.concat(splits).to_csv(tmp_path / f"{name}_q1.csv", index=False)
    text = compare(tmp_path / "a_q1.csv", tmp_path / "b_q1.csv", (), tmp_path / "out.png")
    for split in ("val", "test"):
        assert f"| 1 quadrant, its {split} images ({N}) | nll |" in text


def spoil(change):
    """Return what changes the second folder's values of each image."""

    def write(folder):
        path = folder / "per_image_q1.csv"
        change(pd.read_csv(path)).to_csv(path, index=False)

    return write


@pytest.mark.parametrize(
    "options, damage, complaint",
    [
        ({"images": {"val": "a2"}}, None, "other images: val set in A, val set in B"),
        ({"n": 2}, None, "other masks"),
        ({"likelihood": "Normal"}, None, "likelihoods can't be subtracted: Bernoulli in A, Normal"),
        ({"off": 0.01}, None, "of different evaluations; repeat the command"),
        ({}, spoil(lambda table: pd.concat([table, table[3:4]])), "per_image_q1.csv has image 3 t"),
        (
            {},
            spoil(lambda t: t.assign(KL=t["KL"].where(t.index != 5))),
            "no number for image 5 in column KL",
        ),
        ({}, spoil(lambda table: table.drop(columns="image")), "no CSV file with a column image"),
        ({}, lambda folder: (folder / "per_image_q1.csv").unlink(), "q1.csv can't be read (No s"),
        ({}, lambda folder: (folder / "metrics.json").write_text("?"), "metrics.json is damaged"),
    ],
)
def test_what_can_not_be_compared_is_refused_in_one_line(
    make, tmp_path, capsys, options, damage, complaint
):
    make("a"), make("b", **options)
    if damage:
        damage(tmp_path / "b")
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m cvae.compare: error: ") and complaint in line


@pytest.mark.parametrize(
    "drop, complaint",
    [
        (["split"], "fit in several settings or splits: give a CSV file a name such as"),
        ([], f"mine.csv lacks image {N - 1}, which the other has"),
    ],
)
def test_a_csv_file_must_fit(make, tmp_path, capsys, drop, complaint):
    make("a", images={"val": "a1", "test": "b"})
    mine = pd.DataFrame({"image": range(N - 1), "mine": HARD[1:], "split": "val"})
    mine.drop(columns=drop).to_csv(tmp_path / "mine.csv", index=False)
    assert main([str(tmp_path / "a"), str(tmp_path / "mine.csv")]) == 1
    assert complaint in capsys.readouterr().err
