"""Two processes do what one does."""

import copy
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch.utils.data import Subset

import main
from cvae.baseline import BaselineNet
from cvae.data import get_data
from cvae.errors import UsageError
from cvae.images.loader import make_loader
from cvae.model import CVAE
from cvae.training import distributed
from cvae.training.loop import _means
from cvae.training.optimizer import Optimizer
from cvae.training.settings import TrainingSettings

from ..conftest import HIDDEN_1, HIDDEN_2, Z_DIM

ROOT = Path(__file__).parents[2]
IMAGES = 24
TINY = (
    "--dataset mnist-5k --subset 300 -n 2 -p 2 --num-importance-samples 3 -vi 3 -vs 2 -nq 3".split()
)


def test_one_process_does_it_all(random_digits):
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.broadcast("x") == "x" and distributed.gather("x") == ["x"]
    assert _means({"loss": 1.5, "images": 2.0}) == {"loss": 0.75}
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, -2.0])
    distributed.sum_gradients([parameter])
    assert parameter.grad.tolist() == [1, -2]
    _, dataloaders, _ = get_data(2, 8, dataset="mnist")
    assert distributed.divide(dataloaders, seed=3) is dataloaders


@pytest.fixture
def as_process(monkeypatch):
    """Let this process pass for one of several."""

    def set_rank(rank, world_size):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: world_size)

    return set_rank


@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_portions_of_all_processes_are_the_whole(random_digits, as_process, world_size):
    dataset = get_data(2, 8, dataset="mnist")[0]["train"]
    dataset.cache_baseline_predictions(lambda inputs: inputs + 2)
    portions = []
    for rank in range(world_size):
        as_process(rank, world_size)
        portions.append(distributed.process_portion(dataset))
    assert max(map(len, portions)) - min(map(len, portions)) <= 1
    whole = torch.cat([next(iter(make_loader(portion, 40)))["y_hat"] for portion in portions])
    assert torch.equal(whole, dataset[:]["y_hat"])


def test_processes_divide_each_training_batch_in_one_order(random_digits, as_process):
    datasets, dataloaders, _ = get_data(2, 8, dataset="mnist")
    images = []
    for rank in (0, 1):
        as_process(rank, 2)
        batches = [batch["original"] for batch in distributed.divide(dataloaders, seed=3)["train"]]
        assert [len(batch) for batch in batches] == [4] * 5
        images += batches
    originals = datasets["train"].original.images.view(40, -1)
    assert len(torch.cat(images).view(40, -1).unique(dim=0)) == len(originals.unique(dim=0))


def test_processes_divide_the_other_images_into_portions(random_digits, as_process):
    datasets, dataloaders, _ = get_data(2, 8, val_batch_size=15, dataset="mnist", holdout=10)
    for split, sizes in (("val", [5]), ("test", [15, 5])):
        images = []
        for rank in (0, 1):
            as_process(rank, 2)
            batches = [
                batch["original"] for batch in distributed.divide(dataloaders, seed=3)[split]
            ]
            assert [len(batch) for batch in batches] == sizes
            images += batches
        assert torch.equal(torch.cat(images), datasets[split][:]["original"])


def test_batch_that_can_not_be_divided_is_refused(random_digits, as_process):
    _, dataloaders, _ = get_data(2, 9, dataset="mnist")
    as_process(0, 2)
    with pytest.raises(UsageError, match="--batch-size 9 can't be divided among 2 processes"):
        distributed.divide(dataloaders, seed=3)


def test_more_processes_than_images_are_refused(random_digits, as_process):
    _, dataloaders, _ = get_data(2, 8, dataset="mnist", holdout=1)
    as_process(0, 2)
    with pytest.raises(UsageError, match=r"there are more processes \(2\) than val images \(1\)"):
        distributed.divide(dataloaders, seed=3)


def test_divided_images_have_a_new_order_in_each_epoch(random_digits, as_process):
    _, dataloaders, _ = get_data(2, 8, dataset="mnist")

    def order(epoch):
        """Images of both processes in one epoch."""
        batches = []
        for rank in (0, 1):
            as_process(rank, 2)
            loader = distributed.divide(dataloaders, seed=3)["train"]
            distributed.set_epoch(loader, epoch)
            batches.append(torch.cat([batch["original"] for batch in loader]))
        return torch.cat(batches)

    assert torch.equal(order(1), order(1)) and not torch.equal(order(1), order(2))
    sums = [order(epoch).sum((1, 2, 3)).sort().values for epoch in (1, 2)]
    assert torch.equal(*sums)  # all images in both


def test_other_processes_draw_random_numbers_of_their_own(as_process):
    def drawn(rank):
        as_process(rank, 3)
        pyro.set_rng_seed(5)
        distributed.seed_other_processes(0, "CVAE")
        return torch.rand(()).item()

    pyro.set_rng_seed(5)
    assert drawn(0) == drawn(0) and len({drawn(0), drawn(1), drawn(2)}) == 3
    pyro.set_rng_seed(5)
    assert torch.rand(()).item() == drawn(0)


def gradients(elbo, processes=1, rank=0):
    """Gradients that a step is taken with, from one batch, of which this process has its portion of the images.

    The noise is always the same.  Without an ELBO, they are those of the baseline.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = BaselineNet(HIDDEN_1, HIDDEN_2)
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, copy.deepcopy(net))
    dataset = get_data(1, IMAGES, dataset="mnist-5k", subset=IMAGES)[0]["train"]
    (batch,) = make_loader(Subset(dataset, range(rank, IMAGES, processes)), IMAGES)
    nets = [cvae.prior_net, cvae.recognition_net, cvae.generation_net] if elbo else [net]
    optimizer = Optimizer(
        dict(torch.nn.ModuleList(nets).named_parameters()), TrainingSettings(), steps_per_epoch=1
    )
    found: list = []
    optimizer.adamw.register_step_pre_hook(
        lambda *_: found.extend(
            torch.as_tensor(each.grad).flatten().clone() for each in optimizer.parameters
        )
    )
    noise = torch.linspace(-1.5, 1.5, Z_DIM)
    original = torch.distributions.normal._standard_normal
    torch.distributions.normal._standard_normal = lambda shape, **_: noise.expand(shape)
    try:
        if elbo:
            with pyro.get_param_store().scope():
                SVI(cvae.model, cvae.guide, optimizer, elbo()).step(batch["input"], batch["output"])
        else:
            net.logits(batch["input"]).square().sum().backward()
            optimizer()
    finally:
        torch.distributions.normal._standard_normal = original
    return torch.cat(found)


CASES = [TraceMeanField_ELBO, Trace_ELBO, None]


def _in_group(rank, processes, port, results):
    torch.set_num_threads(1)  # there are two cores for two processes
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)}
    with distributed.process_group(torch.device("cpu")):
        assert (distributed.rank(), distributed.world_size()) == (rank, processes)
        assert (
            distributed.gather(rank) == list(range(processes)) and distributed.broadcast(rank) == 0
        )
        assert _means({"rank": rank, "images": 1})["rank"] == sum(range(processes)) / processes
        results.put((rank, [gradients(elbo, processes, rank).numpy() for elbo in CASES]))


def test_gradients_are_those_of_one_process(processes=2):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    group = [
        spawn.Process(target=_in_group, args=(i, processes, port, results))
        for i in range(processes)
    ]
    for process in group:
        process.start()
    found = dict(results.get(timeout=120) for _ in group)
    for process in group:
        process.join()
        assert process.exitcode == 0
    for number, elbo in enumerate(CASES):
        alone = gradients(elbo)
        assert alone.norm() > 0
        for rank in range(processes):
            summed = torch.as_tensor(found[rank][number])
            assert (summed - alone).norm() <= 1e-6 * alone.norm()


def torchrun(processes, *words):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "main.py",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *words], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )


def test_two_processes_make_one_run_that_one_resumes(tmp_path, capsys):
    words = [*TINY, "--output-dir", str(tmp_path)]
    done = torchrun(2, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 quadrants, CVAE, epoch 2/2") == 1  # one process prints for both
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["q3"]["processes"] == 2
    assert metrics["results"]["q3"]["val"]["rows"]["NN (baseline)"]["num_images"] == 300
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert main.main(words) == 0
    assert "done before" in capsys.readouterr().out
    assert table.equals(pd.read_csv(tmp_path / "results.csv", index_col=0))
