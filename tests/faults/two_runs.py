"""Start two runs in one output folder at once: one is refused, and the other is not disturbed."""

import tempfile
from pathlib import Path

from .runs import SMALL, Child


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        words = [*SMALL, "--output-dir", f"{place}/results"]
        children = [Child(words, Path(place, f"{number}.log")) for number in range(2)]
        statuses = [child.wait() for child in children]
        for status, child in zip(statuses, children):
            print(f"exit status {status}: {child.printed().strip().splitlines()[-1]}")
        return int(sorted(statuses) != [0, 1])


if __name__ == "__main__":
    raise SystemExit(main())
