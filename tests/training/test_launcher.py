import pytest

from cvae.errors import UsageError
from cvae.training.launcher import launched

WHOLE = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def read(monkeypatch):
    """What a process finds that was started with such variables, where None is for a variable that is not set."""

    def read(**changes):
        for name, value in (WHOLE | changes).items():
            monkeypatch.setenv(name, value or "")
            if value is None:
                monkeypatch.delenv(name)
        return launched()

    return read


def test_all_variables_tell_which_process_this_is(read):
    assert read() == (3, 1, 4)
    assert read(LOCAL_RANK=None) == (3, 0, 4)


@pytest.mark.parametrize("missing", [None, ""])
@pytest.mark.parametrize("name", [name for name in WHOLE if name != "LOCAL_RANK"])
def test_variables_that_are_not_whole_are_ignored(read, name, missing):
    assert read(**{name: missing}) == (0, 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        "RANK=x",
        "RANK=-1",
        "RANK=4",
        "LOCAL_RANK=4",
        "WORLD_SIZE=1.0",
        "WORLD_SIZE=0",
        "MASTER_PORT=70000",
    ],
)
def test_values_that_can_not_be_are_refused(read, change):
    name, value = change.split("=")
    with pytest.raises(
        UsageError, match=f"{change}.* can't be right: unset them, or start .* with torchrun"
    ):
        read(**{name: value})
