from dataclasses import replace

import pytest
import torch

from cvae.errors import UsageError
from cvae.run.preparation import choose_device, choose_jobs, prepare
from cvae.run.settings import Settings

CPU = torch.device("cpu")


@pytest.mark.parametrize("cuda, expected", [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_if_it_is_there(monkeypatch, cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert choose_device("auto") == torch.device(expected)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("world_size, expected", [("4", "cuda:1"), ("", "cuda")])
def test_each_process_of_a_machine_has_a_gpu(monkeypatch, world_size, expected):
    variables = {"RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "first", "MASTER_PORT": "29500"}
    for name, value in (variables | {"WORLD_SIZE": world_size}).items():
        monkeypatch.setenv(name, value)
    chosen: list = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("cuda") == torch.device(expected)
    assert chosen == [1] * (expected == "cuda:1")


@pytest.mark.parametrize(
    "jobs, device, seeds, expected",
    [
        (1, "cpu", (0, 1), 1),
        (4, "cpu", (0, 1), 4),
        (9, "cpu", (0, 1), 6),
        (None, "cpu", (0,), 2),
        (None, "cuda", (0, 1), 5),
        (None, "mps", (0,), 1),
    ],
)
def test_jobs_are_those_asked_for_or_as_many_as_processors(
    monkeypatch, jobs, device, seeds, expected
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert choose_jobs(Settings(jobs=jobs, seeds=seeds), torch.device(device)) == expected


@pytest.mark.parametrize("jobs", [2, None])
def test_jobs_are_refused_with_torchrun(monkeypatch, jobs):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "first",
        "MASTER_PORT": "29500",
    }.items():
        monkeypatch.setenv(name, value)
    assert choose_jobs(Settings(), CPU) == 1
    with pytest.raises(
        UsageError, match="^--jobs is for a single process: leave it out, or start main.py without"
    ):
        choose_jobs(Settings(jobs=jobs), CPU)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_absent_device_is_an_error(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"--device {name} is absent here: choose from cpu"):
        choose_device(name)


@pytest.mark.parametrize("holdout", [0, 2, 20])
def test_images_to_show_are_those_of_the_last_split(tmp_path, holdout):
    settings = Settings(dataset="mnist-5k", holdout=holdout, subset=10, output_dir=tmp_path)
    prepare(settings, CPU)
    with pytest.raises(
        UsageError, match="--num-images 11 is more than the 10 images .first 10 of the MNIST-5k val"
    ):
        prepare(replace(settings, num_images=11), CPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("flags", ["avx2", "avx512f avx512_bf16", "asimd bf16"])
def test_cpu_that_can_not_compute_in_bfloat16_is_told(
    tmp_path, monkeypatch, caplog, precision, flags
):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr("cvae.run.preparation.CPU_INFO", tmp_path / "cpuinfo")
    prepare(Settings(dataset="mnist-5k", subset=10, output_dir=tmp_path, precision=precision), CPU)
    assert ("takes longer" in caplog.text) == (precision == "bfloat16" and flags == "avx2")
