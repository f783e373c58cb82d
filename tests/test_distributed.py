"""Several processes do what one does."""

import copy
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch.utils.data import Subset

import main
from cvae import distributed
from cvae.baseline import BaselineNet, missing_pixel_nll
from cvae.config import TrainingConfig
from cvae.data import get_data, make_loader
from cvae.files import UsageError
from cvae.model import CVAE
from cvae.optimizer import Optimizer

from .faults import ROOT

Z_DIM, HIDDEN_1, HIDDEN_2, IMAGES = 3, 16, 12, 24
TINY = "--dataset mnist-5k --subset 300 -n 2 -p 2 --num-importance-samples 3 -vi 3 -vs 2 -nq 3"
TINY += " --device cpu"  # a GPU is for one process


CASES = [TraceMeanField_ELBO, Trace_ELBO, None]


def gradients(elbo: Any, world_size: int = 1, rank: int = 0) -> torch.Tensor:
    """Return the gradients of one step on a batch, of which this process has a part.

    The noise is always the same.  Without an ELBO, they are those of the baseline.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    baseline = BaselineNet(HIDDEN_1, HIDDEN_2)
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, copy.deepcopy(baseline))
    dataset = get_data(2, 8, dataset="mnist-5k", subset=IMAGES)[0]["train"]
    (batch,) = make_loader(Subset(dataset, range(rank, IMAGES, world_size)), IMAGES)
    xs, ys = batch["input"], batch["output"]
    optimizer = Optimizer(cvae if elbo else baseline, TrainingConfig(), steps_per_epoch=1)
    found: list[torch.Tensor] = []

    def record(*_: Any) -> None:
        gradients = [torch.as_tensor(parameter.grad) for parameter in optimizer.parameters]
        found.extend(gradient.flatten().clone() for gradient in gradients)

    optimizer.adamw.register_step_pre_hook(record)
    noise = torch.linspace(-1.5, 1.5, Z_DIM)
    with pytest.MonkeyPatch.context() as patch:
        place = "torch.distributions.normal._standard_normal"
        patch.setattr(place, lambda shape, **_: noise.expand(shape))
        if elbo:
            with pyro.get_param_store().scope():
                SVI(cvae.model, cvae.guide, optimizer, elbo()).step(xs, ys)
        else:
            missing_pixel_nll(baseline, xs, ys).sum().backward()
            optimizer()
    return torch.cat(found)


def _in_group(rank: int, world_size: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    with distributed.process_group(torch.device("cpu")):
        group = weakref.ref(torch.distributed.group.WORLD)
        assert (distributed.rank(), distributed.world_size()) == (rank, world_size)
        assert distributed.gather(rank) == [0, 1] and distributed.from_main(lambda: rank) == 0
        assert distributed.gather_images(torch.full((2, 1), rank)).tolist() == [[0, 1]] * 2
        net = torch.nn.BatchNorm1d(2)
        net(torch.full((3, 2), 10.0 * (1 + rank)))  # a mean of 10 or 20, at a momentum of 0.1
        distributed.share_buffers(net)
        assert torch.as_tensor(net.running_mean).tolist() == [1, 1] and net.num_batches_tracked == 1
        results.put((rank, [gradients(elbo, world_size, rank).numpy() for elbo in CASES]))
    assert group() is None  # its threads, if they went on, could abort the end of the process


def test_gradients_are_those_of_one_process():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    group = [spawn.Process(target=_in_group, args=(rank, 2, port, results)) for rank in (0, 1)]
    for process in group:
        process.start()
    found = dict(results.get(timeout=120) for _ in group)
    for process in group:
        process.join()
        assert process.exitcode == 0
    for number, elbo in enumerate(CASES):
        alone = gradients(elbo)
        assert alone.norm() > 0
        for rank in (0, 1):
            summed = torch.as_tensor(found[rank][number])
            assert (summed - alone).norm() <= 1e-6 * alone.norm()


def test_two_processes_make_one_run_that_one_resumes(tmp_path: Path, capsys):
    words = [*TINY.split(), "--output-dir", str(tmp_path)]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, "-m", *launcher, "-m", "tests.faults.coarse", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 quadrants, CVAE, epoch 2/2") == 1  # one process prints for both
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["runs"][0]["settings"]["q3"]["processes"] == 2
    assert metrics["runs"][0]["results"]["q3"]["val"]["rows"]["NN (baseline)"]["num_images"] == 300
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert main.main(words) == 0
    assert "done before" in capsys.readouterr().out
    assert table.equals(pd.read_csv(tmp_path / "results.csv", index_col=0))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    complaint = r"more processes \(2\) than GPUs \(1\) on this machine: start 1"
    with pytest.raises(UsageError, match=complaint):
        with distributed.process_group(torch.device("cuda")):
            pass


@pytest.mark.parametrize(
    "variables, complaint",
    [
        ("WORLD_SIZE=2", "environment variable RANK expected"),
        ("WORLD_SIZE=x RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500", "'x'"),
        ("WORLD_SIZE=2 RANK=x MASTER_ADDR=127.0.0.1 MASTER_PORT=29500", "'x'"),
    ],
)
def test_wrong_variables_are_refused_in_one_line(
    tmp_path, monkeypatch, capsys, variables, complaint
):
    for name, value in (word.split("=") for word in variables.split()):
        monkeypatch.setenv(name, value)
    assert main.main([*TINY.split(), "--output-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("main.py: error: ") and complaint in line
    assert line.endswith(": start the processes with torchrun")
