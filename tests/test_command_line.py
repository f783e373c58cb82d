"""Every option once: defaults, recipes, what a command line becomes, and what it is refused for."""

import contextlib
import io
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import TraceMeanField_ELBO

from cvae.config import TrainingConfig
from cvae.experiment.command_line import make_parser, parse_args
from cvae.experiment.options import RECIPES, PhaseConfig
from cvae.files import UsageError


def test_defaults_are_the_tutorials():
    config = parse_args([])
    assert config.num_quadrant_inputs == (1, 2, 3) and config.seeds == (0,)
    assert config.baseline == config.cvae == TrainingConfig()
    cvae = config.cvae
    assert (cvae.num_epochs, cvae.early_stop_patience, cvae.learning_rate) == (50, 3, 1e-3)
    assert (config.data.batch_size, config.evaluation.num_particles) == (128, 10)
    assert (config.num_images, config.num_samples) == (10, 10)
    assert config.description == "recipe tutorial"


def test_flags_of_pyros_example_are_understood():
    short = parse_args("-nq 1 2 -n 4 -esp 5 -lr 0.01 --cuda -vi 6 -vs 7 -p 8".split())
    long = parse_args(
        "--num-quadrant-inputs 1 2 --num-epochs=4 --early-stop-patience=5 --learning-rate=0.01 "
        "--device cuda --num-images=6 --num-samples=7 --num-particles=8 --cuda".split()
    )
    assert short == long
    assert short.cvae == short.baseline == TrainingConfig(4, 5, 0.01)
    assert (short.num_images, short.num_samples, short.evaluation.num_particles) == (6, 7, 8)
    assert (short.num_quadrant_inputs, short.device) == ((1, 2), "cuda")
    assert parse_args("--cuda --device cuda:1".split()).device == "cuda:1"


def test_flags_override_the_recipe():
    best = parse_args(["--recipe", "best"])
    changed = parse_args("--batch-size 7 --recipe best -lr 0.5".split())
    differing = {name for name in best.options if best.options[name] != changed.options[name]}
    assert differing == {"batch_size", "learning_rate"}
    assert changed.description == "recipe best with --batch-size 7 --learning-rate 0.5"
    for recipe in RECIPES:
        assert parse_args(["--recipe", recipe]).description == f"recipe {recipe}"


def test_baseline_has_its_own_epochs_and_what_is_for_the_cvae_is_not_for_it():
    best = parse_args(["--recipe", "best"])
    assert (best.baseline.num_epochs, best.baseline.max_grad_norm) == (16, math.inf)
    assert best.baseline.learning_rate == best.cvae.learning_rate == 2e-3
    assert parse_args(["-n", "7"]).baseline.num_epochs == 7
    for recipe, epochs in ("quick", 3), ("best", 40):  # as many as the CVAE's
        words = f"--recipe {recipe} --baseline-epochs {epochs}".split()
        described = f"recipe {recipe} with --baseline-epochs {epochs}"
        assert parse_args(words).description == described
    words = "-n 7 --baseline-epochs 50".split()
    described = "recipe tutorial with --num-epochs 7 --baseline-epochs 50"
    assert parse_args(words).description == described


# Each of these differs from the tutorial's, and trained nets depend on it.
TRAINED_BY = (
    "--val-fraction 0.3, --subset 7, --holdout 7, --binarize, --batch-size 7, --num-epochs 7, "
    "--early-stop-patience 7, --learning-rate 0.5, --schedule one-cycle, --weight-decay 0.5, "
    "--beta2 0.5, --max-grad-norm 7.0, --precision bfloat16, --baseline-epochs 7, "
    "--activation silu, --generation-input xz, --residual-blocks 7, --elbo trace, --shift 7, "
    "--bound-samples 7, --last-phase 0.7, --model mine.py:Mine"
).split(", ")
EVALUATED_BY = ["--num-particles 7", "--num-importance-samples 7"]
NEITHER = "-nq 1, --seed 3, -vi 3, -vs 3, --quiet, --debug, --diagnostics, --jobs 2, --animate, "
NEITHER += "--keep-trained"


@pytest.mark.parametrize("words", [*TRAINED_BY, *EVALUATED_BY])
def test_options_of_the_results_are_named_in_the_description(words):
    config = parse_args(words.split())
    assert config.description == f"recipe tutorial with {words}"
    assert (config.training_options != parse_args([]).training_options) == (words in TRAINED_BY)


@pytest.mark.parametrize("words", NEITHER.split(", "))
def test_other_options_change_no_result(words):
    config, usual = parse_args(words.split()), parse_args([])
    assert config != usual and config.description == "recipe tutorial"
    assert config.result_options == usual.result_options


def test_every_flag_is_covered_above():
    tested = " ".join([*TRAINED_BY, *EVALUATED_BY, NEITHER, "--recipe", "--device", "--cuda"])
    others = {"help", "dataset", "data_dir", "output_dir", "overwrite"}
    for action in make_parser()._actions:
        known = set(action.option_strings) & set(re.findall(r"-[^ ,]+", tested))
        assert known or action.dest in others, action.dest


@pytest.mark.parametrize(
    "words, images, epochs",
    [
        ("--recipe quick", 60_000, (12, 3)),
        ("--recipe best", 50_000, (16, 40)),
        ("--recipe quick", 4_000, (60, 20)),  # 32 steps an epoch
        ("--recipe best", 4_000, (119, 40)),  # 16 steps an epoch
        ("--recipe quick", 40, (240, 60)),  # 20 times as many are the most
        ("--recipe quick -n 5", 4_000, (60, 5)),
        ("--recipe quick --baseline-epochs 7", 4_000, (7, 20)),
        ("", 40, (50, 50)),
        ("--recipe quick --batch-size 32", 4_000, (16, 6)),
    ],
)
def test_small_data_sets_have_more_epochs_unless_they_are_given(words, images, epochs):
    config = parse_args(words.split())
    steps = math.ceil(images / config.data.batch_size)
    assert (config.baseline.epochs(steps), config.cvae.epochs(steps)) == epochs


def refusal(words: list[str], capsys: Any) -> str:
    """Return the one line on stderr."""
    with pytest.raises(SystemExit) as stop:
        parse_args(words)
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert stop.value.code == 2 and printed.out == "" and line.startswith("main.py: error: ")
    return line


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("-n 0", "argument -n/--num-epochs: 0 is out of range: must be from 1 to 1000000000"),
        ("-n 1.5", "'1.5' is not a whole number"),
        ("-lr 0", "argument -lr/--learning-rate: 0 is out of range: must be above 0"),
        ("-lr nan", "nan is out of range"),
        ("--beta2 1", "must be above 0 and below 1"),
        ("-vs 101", "must be from 1 to 100"),
        ("--seed 4294967296", "must be from 0 to 4294967295"),
        ("--holdout -1", "must be from 0"),
        ("-nq 4", "invalid choice: 4 (choose from 1, 2, 3)"),
        ("-nq 1 1", "-nq 1 1: each may be given once"),
        ("--seeds 0 1 0", "--seeds 0 1 0: each may be given once"),
        ("--jobs x", "argument --jobs: 'x' is not a whole number"),
        ("--jobs 0", "must be from 1"),
        ("--precision float16", "invalid choice: 'float16'"),
        ("--cuda --device cpu", "--cuda contradicts --device cpu"),
        ("--device cuda:00", "'cuda:00' is none of auto, cpu, cuda, cuda:N"),
        ("--dataset=", "no data set is called ''"),
        ("--colour", "unrecognized arguments: --colour"),
        ("--num 3", "ambiguous option: --num could match"),
        ("-n", "expected one argument"),
        ("--dataset MNIST", "no data set is called 'MNIST': --dataset takes auto"),
        (f"--output-dir {__file__}", "is not a folder"),
        ("--data-dir=", "the name of the folder is empty"),
    ],
)
def test_bad_command_lines_are_refused(line, complaint, capsys):
    assert complaint in refusal(line.split(), capsys)


FLAGS = [flag for action in make_parser()._actions for flag in action.option_strings]


@given(st.lists(st.sampled_from(FLAGS) | st.text(max_size=20) | st.integers().map(str)))
def test_any_words_are_taken_or_refused_in_one_line(words):
    errors, status = io.StringIO(), None
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            parse_args(words)
        except SystemExit as stop:
            status = stop.code
    assert len(errors.getvalue().splitlines()) == (status == 2)
    assert status in (None, 0, 2)


def test_help_shows_each_default():
    shown = " ".join(make_parser("about").format_help().split())
    for nothing in ("None", "False", "0.1666", "SUPPRESS", "inf)"):
        assert nothing not in shown
    for default in (
        "numbers of known quadrants (default: 1 2 3)",
        "for validation; by default 1/6, or the split that they bring",
        "each net (default: 50; quick: 3; best: 40)",
        "another one (quick: 12; best: 16)",
        "lower validation loss (default: 3; quick: 30; best: 30)",
        "plain Adam (default: 0.0; quick: 0.1; best: 0.1)",
        "mean gradients (default: none; quick: 5.0; best: 5.0)",
        "hidden layers (default: relu; quick: silu; best: silu)",
        "importance sampling (default: 100; quick: 20; best: 1000)",
        "(default: results)",
    ):
        assert default in shown, default


@pytest.mark.parametrize(
    "options, num_epochs, expected",
    [
        ({}, 10, [(8, 1, 0), (2, 1, 0)]),  # the same, so that it does not matter
        ({"shift": 1}, 10, [(8, 1, 1), (2, 1, 0)]),
        ({"shift": 1, "bound_samples": 5}, 40, [(32, 1, 1), (8, 5, 0)]),
        ({"bound_samples": 2, "last_phase": 0.34}, 3, [(2, 1, 0), (1, 2, 0)]),
        ({"bound_samples": 2, "last_phase": 0.1}, 3, [(2, 1, 0), (1, 2, 0)]),
        ({"shift": 1, "last_phase": 0.1}, 3, [(3, 1, 1), (0, 1, 0)]),
    ],
)
def test_last_phase_is_a_fraction_of_the_epochs(options, num_epochs, expected):
    phases = PhaseConfig(**options).make_phases(num_epochs, TraceMeanField_ELBO())
    assert [(p.num_epochs, p.elbo.num_particles, p.shift) for p in phases] == expected


def test_shifts_without_an_epoch_are_refused():
    with pytest.raises(UsageError, match="no epoch of 1 is left for --shift: give more with -n"):
        PhaseConfig(shift=1, bound_samples=2).make_phases(1, TraceMeanField_ELBO())
