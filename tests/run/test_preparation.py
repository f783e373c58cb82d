from dataclasses import replace

import pytest
import torch

from cvae.errors import UsageError
from cvae.run.preparation import choose_device, prepare
from cvae.run.settings import Settings


@pytest.mark.parametrize("cuda, expected", [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_if_it_is_there(monkeypatch, cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert choose_device("auto") == torch.device(expected)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_absent_device_is_an_error(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"--device {name} is absent here: choose from cpu"):
        choose_device(name)


@pytest.mark.parametrize("holdout", [0, 2, 20])
def test_images_to_show_are_those_of_the_last_split(tmp_path, holdout):
    settings = Settings(dataset="mnist-5k", holdout=holdout, subset=10, output_dir=tmp_path)
    prepare(settings)
    with pytest.raises(UsageError, match="--num-images 11 is more than the 10 images .first 10 of the MNIST-5k val"):
        prepare(replace(settings, num_images=11))
