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
from torch.utils.data import Subset

import main
from cvae import distributed
from cvae.baseline import BaselineNet
from cvae.data import get_data, make_loader, make_shared_loader, part
from cvae.model import CVAE
from cvae.options import UsageError
from cvae.train import ELBOS

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM

ROOT = Path(__file__).parents[1]
IMAGES = 24
TINY = "--dataset mnist-5k --subset 300 -n 2 -p 2 --num-importance-samples 3 -vi 3 -vs 2 -nq 3".split()


def test_one_process_has_it_all():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.share("x") == "x" and distributed.gather("x") == ["x"]
    assert distributed.sums({"loss": 1.5}) == {"loss": 1.5}


def test_parts_are_the_whole(random_digits):
    dataset = get_data(2, 8, dataset="mnist")[0]["train"]
    dataset.keep_guess(lambda inputs: inputs + 2)
    for of in (1, 3, 7):
        parts = [part(dataset, number, of) for number in range(of)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        whole = torch.cat([next(iter(make_loader(each, 40)))["guess"] for each in parts])
        assert torch.equal(whole, dataset.batch(range(40))["guess"])


def test_processes_share_batches_in_one_order(random_digits, monkeypatch):
    dataset = get_data(2, 8, dataset="mnist")[0]["train"]
    monkeypatch.setattr("cvae.data.world_size", lambda: 2)
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr("cvae.data.rank", lambda rank=rank: rank)
        seen.append([batch["original"] for batch in make_shared_loader(dataset, 8, seed=3)])
    assert [len(batch) for batch in seen[0]] == [4] * 5 == [len(batch) for batch in seen[1]]
    images = torch.cat([torch.cat(batches) for batches in seen]).view(40, -1)
    assert len(images.unique(dim=0)) == len(dataset.images.view(40, -1).unique(dim=0))
    with pytest.raises(UsageError, match="--batch-size 9 can't be divided among 2 processes"):
        make_shared_loader(dataset, 9, seed=3)


def gradients(elbo, baseline, shares=1, share=0):
    """Gradients of the loss of one batch, of which this process has a share, with noise that is always the same."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = BaselineNet(HIDDEN_1, HIDDEN_2)
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, copy.deepcopy(net))
    dataset = get_data(1, IMAGES, dataset="mnist-5k", subset=IMAGES)[0]["train"]
    (batch,) = make_loader(Subset(dataset, range(share, IMAGES, shares)), IMAGES)
    noise = torch.linspace(-1.5, 1.5, Z_DIM)
    original = torch.distributions.normal._standard_normal
    torch.distributions.normal._standard_normal = lambda shape, **_: noise.expand(shape)
    try:
        trained = (
            net
            if baseline
            else torch.nn.ModuleList([cvae.prior_net, cvae.recognition_net, cvae.generation_net])
        )

        def loss(batch):
            if baseline:
                return net.logits(batch["input"]).square().sum()
            return ELBOS[elbo]().differentiable_loss(cvae.model, cvae.guide, batch["input"], batch["output"])

        with pyro.get_param_store().scope():
            parallel_loss = distributed.parallel(trained, loss)  # has to live until the gradients are there
            parallel_loss(batch).backward()
    finally:
        torch.distributions.normal._standard_normal = original
    return torch.cat([torch.as_tensor(parameter.grad).flatten() for parameter in trained.parameters()])


CASES = [("mean-field", False), ("trace", False), ("mean-field", True)]


def _in_group(share, shares, port, results):
    torch.set_num_threads(1)  # two processes share two cores
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(share), "WORLD_SIZE": str(shares), "LOCAL_RANK": str(share)}
    with distributed.joined(torch.device("cpu")):
        assert (distributed.rank(), distributed.world_size()) == (share, shares)
        assert distributed.gather(share) == list(range(shares)) and distributed.share(share) == 0
        assert distributed.sums({"rank": share})["rank"] == sum(range(shares))
        found = [gradients(*case, shares, share).numpy() for case in CASES]
        results.put((share, found))


def test_gradients_are_those_of_one_process(shares=2):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [spawn.Process(target=_in_group, args=(i, shares, port, results)) for i in range(shares)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for number, case in enumerate(CASES):
        alone = gradients(*case)
        for share in range(shares):
            shared = torch.as_tensor(found[share][number])
            assert (shared - alone).norm() <= 1e-6 * alone.norm()


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


def test_two_processes_make_one_run_that_one_continues(tmp_path, capsys):
    words = [*TINY, "--output-dir", str(tmp_path)]
    done = torchrun(2, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 quadrants, CVAE, epoch 2/2") == 1  # one process speaks for both
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["q3"]["processes"] == 2
    assert metrics["results"]["q3"]["val"]["rows"]["NN (baseline)"]["num_images"] == 300
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert main.main(words) == 0
    assert "done before" in capsys.readouterr().out
    assert table.equals(pd.read_csv(tmp_path / "results.csv", index_col=0))
