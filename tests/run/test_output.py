import pytest

from cvae.errors import UsageError
from cvae.run.output import delete_results, load_checkpoints, lock_output
from cvae.run.settings import Settings
from cvae.storage.checkpoint import Checkpoint


def lock(folder):
    return lock_output(Settings(output_dir=folder))


def test_locked_folder_is_made_and_refuses_another(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock(folder):
        assert folder.is_dir()
        with pytest.raises(OSError, match="another run is writing to .*b: wait for it"):
            with lock(folder):
                pass
        with lock(tmp_path / "other"):
            pass
    with lock(folder):
        pass


def test_leftovers_of_killed_runs_are_deleted(tmp_path):
    for name in (
        ".results.csv.0123456789abcdef.part",
        ".checkpoint_q1.pt.0123456789abcdef.part",
        ".mine.part",
    ):
        (tmp_path / name).touch()
    with lock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".mine.part"}


def test_folder_that_can_not_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UsageError, match="can't write to .*file/below .Not a directory.: choose another"
    ):
        with lock(tmp_path / "file" / "below"):
            pass


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
    for seeds, fine in (((0,), single), ((0, 1), several)):
        settings = Settings(output_dir=tmp_path, seeds=seeds)
        if fine:
            with lock_output(settings):
                pass
        else:
            with pytest.raises(UsageError, match="is there from another run: .* --overwrite"):
                with lock_output(settings):
                    pass


def test_settings_are_compared_one_by_one(tmp_path):
    settings = {"seed": 0, "batch_size": 128, "subset": None}
    for n in (1, 3):
        Checkpoint(tmp_path / f"checkpoint_q{n}.pt", settings).save(done=n)
    checkpoints = load_checkpoints(tmp_path, [2, 3], settings)
    found = {n: checkpoint.parts for n, checkpoint in checkpoints.items()}
    assert found == {1: {"done": 1}, 2: {}, 3: {"done": 3}}
    assert checkpoints[2] == Checkpoint(tmp_path / "checkpoint_q2.pt", settings)
    with pytest.raises(UsageError) as failure:
        load_checkpoints(tmp_path, [1], {"seed": 0, "batch_size": 64, "new": 1.5})
    assert (
        "(batch size 128 there, 64 here; new unknown there, 1.5 here; subset None there, unknown here)"
        in str(failure.value)
    )


def test_folders_of_all_seeds_are_locked(tmp_path):
    with lock_output(Settings(output_dir=tmp_path, seeds=(3, 4))):
        for folder in (tmp_path, tmp_path / "seed_3", tmp_path / "seed_4"):
            with pytest.raises(OSError, match="another run is writing to"):
                with lock(folder):
                    pass
    with lock(tmp_path / "seed_4"):
        pass


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
@pytest.mark.parametrize("used", ["seed_0", "seed_2"])
def test_folders_to_be_cleared_are_locked(tmp_path, seeds, used):
    (tmp_path / "seed_notes.txt").write_text("")
    with (
        lock(tmp_path / used),
        pytest.raises(OSError, match=f"another run is writing to .*{used}: wait"),
    ):
        with lock_output(Settings(output_dir=tmp_path, seeds=seeds, overwrite=True)):
            pass
    with lock_output(Settings(output_dir=tmp_path, seeds=seeds, overwrite=True)):
        pass


def test_clearing_deletes_what_runs_leave_and_nothing_else(tmp_path):
    theirs = [
        "notes.txt",
        "weights.pth",
        "checkpoint_q4.pt",
        "seed_1/notes.txt",
        "plots/results.csv",
    ]
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
    delete_results(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(theirs)
