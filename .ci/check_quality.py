"""Fail if a quick run on the 5,000 digits does not have a CVAE that beats the baseline."""

import sys
from pathlib import Path

import pandas as pd

nll = pd.read_csv(Path(sys.argv[1]) / "results.csv", index_col=0)["1 quadrant"]
tighter = nll["CVAE (Monte Carlo)"] - nll["CVAE (importance sampling)"]
checks = {
    "NN (baseline) at most 112": nll["NN (baseline)"] <= 112,
    "Performance gap at least 20": nll["Performance gap"] >= 20,  # three seeds: 24.3 ± 1.4
    "importance sampling at least 3 below Monte Carlo": tighter >= 3,
}
if failed := [name for name, passed in checks.items() if not passed]:  # nor is NaN enough
    sys.exit(f"the quality of the CVAE has dropped; expected {', and '.join(failed)}:\n{nll}")
