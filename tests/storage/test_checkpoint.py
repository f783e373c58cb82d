import pytest
import torch

from cvae.errors import FileError
from cvae.storage.checkpoint import FORMAT, Checkpoint
from cvae.storage.files import atomic_write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint_q1.pt"


def test_checkpoint_is_what_was_saved(path):
    checkpoint = Checkpoint(path, {"seed": 3, "max_grad_norm": float("inf"), "subset": None})
    assert not path.exists() and checkpoint.parts == {}
    checkpoint.save(first=[1, "two"])
    checkpoint.save(second=torch.ones(2), first=None)
    again = Checkpoint.load(path)
    assert again.settings == {"seed": 3, "max_grad_norm": float("inf"), "subset": None}
    assert again.parts["first"] is None and torch.equal(again.parts["second"], torch.ones(2))


def test_only_the_part_of_that_name_is_restored(path):
    net, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    before = other.weight.detach().clone()
    checkpoint = Checkpoint(path, {})
    checkpoint.restore("baseline", other.load_state_dict)
    checkpoint.save(baseline=net.state_dict())
    again = Checkpoint.load(path)
    again.restore("CVAE", other.load_state_dict)
    assert torch.equal(other.weight, before)
    again.restore("baseline", other.load_state_dict)
    assert torch.equal(other.weight, net.weight) and torch.equal(other.bias, net.bias)


@pytest.mark.parametrize(
    "content, cause",
    [
        ([], "TypeError"),
        ("a text", "TypeError"),
        (torch.ones(3), "does not fit"),
        ({}, "KeyError: 'format'"),
        ({"format": 0, "settings": {}, "parts": {}}, "format is 0 instead of"),
        ({"format": FORMAT, "parts": {}}, "KeyError: 'settings'"),
        ({"format": FORMAT, "settings": 3, "parts": {}}, "TypeError"),
        ({"format": FORMAT, "settings": {}, "parts": "none"}, "ValueError"),
        ({"format": FORMAT, "settings": {}, "parts": {"baseline": 7}}, "TypeError|AttributeError"),
        ({"format": FORMAT, "settings": {}, "parts": {"baseline": {}}}, "Missing key"),
        (
            {"format": FORMAT, "settings": {}, "parts": {"baseline": {"weight": torch.ones(3, 2)}}},
            "Missing key",
        ),
        (
            {
                "format": FORMAT,
                "settings": {},
                "parts": {"baseline": torch.nn.Linear(5, 3).state_dict()},
            },
            "size mismatch",
        ),
        (
            {"format": FORMAT, "settings": {}, "parts": {"baseline": {"weight": "w", "bias": "b"}}},
            "does not fit",
        ),
    ],
)
def test_content_that_does_not_fit_is_refused_by_name(path, content, cause):
    with atomic_write(path) as file:
        torch.save(content, file)
    with pytest.raises(FileError, match=cause) as failure:
        Checkpoint.load(path).restore("baseline", torch.nn.Linear(2, 3).load_state_dict)
    message = str(failure.value)
    assert (
        message.startswith(str(path))
        and "\n" not in message
        and "start afresh with --overwrite" in message
    )
