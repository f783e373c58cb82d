import shutil
from types import SimpleNamespace

import pytest

from cvae.checkpoint import Checkpoint
from cvae.options import UsageError
from cvae.output import check_room, check_settings, check_unmixed, checkpoint_path, claim, clear


def test_claimed_folder_is_made_and_refuses_another(tmp_path):
    folder = tmp_path / "a" / "b"
    with claim(folder):
        assert folder.is_dir()
        with pytest.raises(OSError, match="another run is writing to .*b: wait for it"):
            with claim(folder):
                pass
        with claim(tmp_path / "other"):
            pass
    with claim(folder):
        pass


def test_folder_that_can_not_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't write to .*file/below .Not a directory.: choose another"):
        with claim(tmp_path / "file" / "below"):
            pass


def test_room_is_checked_for_what_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=30e6))
    check_room(tmp_path, unfinished=0, bytes_of_nets=10**9)
    check_room(tmp_path, unfinished=1, bytes_of_nets=3_000_000)
    with pytest.raises(OSError, match="room for 30 MB, and the run may need 42 MB: make room"):
        check_room(tmp_path, unfinished=3, bytes_of_nets=3_000_000)


@pytest.mark.parametrize(
    "present, single, several",
    [
        ([], True, True),
        (["notes.txt", "weights.pth"], True, True),
        (["checkpoint_q1.pt", "results.csv"], True, False),
        (["results.csv"], False, False),
        (["cvae_net_q3.pth"], False, False),
        (["seed_0/checkpoint_q1.pt"], False, True),
        (["seed_0/checkpoint_q1.pt", "results.csv"], False, True),
        (["seed_0/results.csv", "metrics.json"], False, False),
    ],
)
def test_runs_of_two_kinds_are_never_mixed(tmp_path, present, single, several):
    for name in present:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for several_seeds, fine in ((False, single), (True, several)):
        if fine:
            check_unmixed(tmp_path, several_seeds)
        else:
            with pytest.raises(UsageError, match="is there from another run: .* --overwrite"):
                check_unmixed(tmp_path, several_seeds)


def test_settings_are_compared_one_by_one(tmp_path):
    settings = {"seed": 0, "batch_size": 128, "subset": None}
    for n in (1, 3):
        Checkpoint(checkpoint_path(tmp_path, n), settings).save(done=n)
    found = check_settings(tmp_path, settings)
    assert {n: checkpoint.parts["done"] for n, checkpoint in found.items()} == {1: 1, 3: 3}
    with pytest.raises(UsageError) as failure:
        check_settings(tmp_path, {"seed": 0, "batch_size": 64, "new": 1.5})
    assert (
        "(batch size 128 there, 64 here; new unknown there, 1.5 here; subset None there, unknown here)"
        in str(failure.value)
    )


def test_clearing_deletes_what_runs_leave_and_nothing_else(tmp_path):
    theirs = ["notes.txt", "weights.pth", "checkpoint_q4.pt", "seed_1/notes.txt", "plots/results.csv"]
    ours = [
        "results.csv",
        "checkpoint_q1.pt",
        "cvae_net_q2.pth",
        "seed_1/metrics.json",
        "seed_1/cvae_plot_q3.png",
    ]
    for name in theirs + ours:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    clear(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(theirs)
