"""Fill a small disk up in the middle of a run, make room, and resume.  Needs the right to mount a tmpfs."""

import subprocess
import tempfile
from pathlib import Path

from cvae.storage.files import read_tensors

from .runs import SMALL, Child, outcome

SIZE = "200m"
COMPLAINT = "No space left on device"


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        alone = Child([*SMALL, "--output-dir", f"{place}/alone"], Path(place, "alone.log"))
        if alone.wait() != 0:
            raise SystemExit(alone.printed())
        disk = Path(place, "disk")
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)]
        if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
            raise SystemExit("can't mount a tmpfs here: run this as root")
        try:
            return _fill_and_resume(disk, Path(place))
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def _fill_and_resume(disk: Path, place: Path) -> int:
    words, filler = [*SMALL, "--output-dir", str(disk / "results")], disk / "filler"
    child = Child(words, place / "full.log")
    if not child.wait_for(lambda: "3 quadrants, baseline, epoch 1" in child.printed()):
        raise SystemExit(child.printed())
    _fill(filler)
    status, line = child.wait(), child.printed().strip().splitlines()[-1]
    print(f"exit status {status}: {line}")
    whole = [path.name for path in sorted((disk / "results").glob("*.pt*")) if read_tensors(path)]
    print(f"files that are whole: {', '.join(whole)}")
    leftovers = list((disk / "results").glob(".*.part"))
    small = Child(words, place / "small.log")
    refused, reason = small.wait(), small.printed().strip().splitlines()[-1]
    print(f"repeated on the full disk, exit status {refused}: {reason}")
    filler.unlink()
    again = Child(words, place / "again.log")
    same = again.wait() == 0 and outcome(disk / "results") == outcome(place / "alone")
    print("with room again it resumed, with the same results" if same else again.printed())
    fine = (
        (status, refused) == (1, 1)
        and COMPLAINT in line
        and "Traceback" not in child.printed()
        and not leftovers
    )
    return int(not (fine and same))


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            pass


if __name__ == "__main__":
    raise SystemExit(main())
