import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvae import options
from cvae.model import ACTIVATIONS, GENERATION_INPUTS
from cvae.options import make_parser, parse_args
from cvae.recipes import RECIPES, describe
from cvae.schedule import POLICIES
from cvae.sources import DATASETS
from cvae.train import ELBOS

ROOT = Path(__file__).parents[1]


def test_defaults_are_the_tutorials():
    args = parse_args([])
    assert args.num_quadrant_inputs == [1, 2, 3]
    assert (args.num_epochs, args.early_stop_patience, args.learning_rate, args.batch_size) == (
        50,
        3,
        1e-3,
        128,
    )
    assert (args.num_particles, args.num_importance_samples, args.num_images, args.num_samples) == (
        10,
        100,
        10,
        10,
    )
    assert (args.dataset, args.device, args.elbo, args.seeds, args.subset) == (
        "auto",
        "auto",
        "mean-field",
        [0],
        None,
    )
    assert (str(args.data_dir), str(args.output_dir)) == ("data", "results")


def test_flags_of_pyros_example_are_understood():
    short = parse_args("-nq 1 2 -n 4 -esp 5 -lr 0.01 --cuda -vi 6 -vs 7 -p 8".split())
    long = parse_args(
        "--num-quadrant-inputs 1 2 --num-epochs=4 --early-stop-patience=5 --learning-rate=0.01 --device cuda "
        "--num-images=6 --num-samples=7 --num-particles=8 --cuda".split()
    )
    assert vars(short) == vars(long)
    assert parse_args(["--num-quadrant-inputs=1"]).num_quadrant_inputs == [1]


def test_choices_are_those_that_the_modules_offer():
    choices = {action.dest: action.choices for action in make_parser()._actions}
    assert options.DATASETS == ("auto", *DATASETS)
    assert choices["elbo"] == tuple(ELBOS)
    assert choices["schedule"] == POLICIES
    assert choices["activation"] == tuple(ACTIVATIONS)
    assert choices["generation_input"] == GENERATION_INPUTS


def test_recipes_set_the_same_flags_which_override_them():
    assert RECIPES["tutorial"].keys() == RECIPES["best"].keys()
    for name, recipe in RECIPES.items():
        args = vars(parse_args(["--recipe", name]))
        assert {key: args[key] for key in recipe} == recipe and describe(args) == f"recipe {name}"
    args = vars(parse_args("--batch-size 7 --recipe best -lr 0.5".split()))
    changed = {key for key, value in RECIPES["best"].items() if args[key] != value}
    assert changed == {"batch_size", "learning_rate"}
    assert describe(args) == "recipe best with --learning-rate 0.5 --batch-size 7"


COUNTS = {
    "-n": 1,
    "--num-epochs": 1,
    "--baseline-epochs": 1,
    "-esp": 1,
    "--batch-size": 1,
    "--subset": 1,
    "--holdout": 0,
    "-p": 1,
    "--num-importance-samples": 1,
    "-vi": 1,
    "-vs": 1,
    "--seed": 0,
    "--seeds": 0,
}
NUMBERS = ("--val-fraction", "-lr", "--learning-rate", "--weight-decay", "--beta2", "--max-grad-norm")
CHOICES = (
    "-nq",
    "--recipe",
    "--schedule",
    "--activation",
    "--generation-input",
    "--elbo",
    "--device",
)
FOLDERS = ("--data-dir", "--output-dir")


def refusal(words, capsys):
    """The line on stderr, of which there is one, less its beginning and end."""
    with pytest.raises(SystemExit) as stop:
        parse_args(words)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == "" and line.startswith("main.py: error: ")
    return line.removeprefix("main.py: error: ").removesuffix(" (--help tells all flags)")


@pytest.mark.parametrize("flag, least", COUNTS.items())
@pytest.mark.parametrize("value", ["least - 1", "-7", "1.5", "nan", "inf", "1e3", "", "many", str(10**30)])
def test_bad_counts_are_refused(flag, least, value, capsys):
    value = str(least - 1) if value == "least - 1" else value
    assert re.search("out of range: must be from|is not a whole number", refusal([f"{flag}={value}"], capsys))


@pytest.mark.parametrize("flag", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "-1", "-inf", "inf", "1e999", "", "fast", "0x10", "1,5"])
def test_bad_numbers_are_refused(flag, value, capsys):
    assert re.search("is out of range: must be|is not a number", refusal([f"{flag}={value}"], capsys))


@pytest.mark.parametrize("flag", CHOICES)
@pytest.mark.parametrize("value", ["", "0", "-1", "4", "MNIST", "none", "mnist\nmnist", "ä"])
def test_unknown_choices_are_refused(flag, value, capsys):
    assert re.search("invalid choice|invalid int value|expected", refusal([f"{flag}={value}"], capsys))


@pytest.mark.parametrize("value", ["", "MNIST", "cifar", "absent/images.npz", __file__, "/dev/null"])
def test_unknown_data_sets_are_refused(value, capsys):
    assert "nor an .npz file, nor a folder of images" in refusal(["--dataset", value], capsys)


@pytest.mark.parametrize("flag", FOLDERS)
@pytest.mark.parametrize("value", ["", "  ", __file__, "/dev/null"])
def test_what_is_no_folder_is_refused(flag, value, capsys):
    assert re.search("is not a folder|name of the folder is empty", refusal([f"{flag}={value}"], capsys))


@pytest.mark.parametrize("flag", [*COUNTS, *NUMBERS, *CHOICES, *FOLDERS, "--dataset"])
def test_missing_values_are_refused(flag, capsys):
    assert re.search("expected (at least )?one argument", refusal([flag], capsys))


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("-n 0", "argument -n/--num-epochs: 0 is out of range: must be from 1 to 1000000000"),
        ("-lr 0", "argument -lr/--learning-rate: 0 is out of range: must be above 0 and finite"),
        ("-vs 101", "must be from 1 to 100"),
        ("--seed 4294967296", "must be from 0 to 4294967295"),
        ("--beta2 1", "1 is out of range: must be at least 0 and below 1"),
        ("-nq 4", "invalid choice: 4 (choose from 1, 2, 3)"),
        ("-nq 1 1", "-nq 1 1: each may be given once"),
        ("-nq 1 2 3 4", "invalid choice: 4"),
        ("--seeds 0 1 0", "--seeds 0 1 0: each may be given once"),
        ("--cuda --device cpu", "--cuda contradicts --device cpu"),
        ("--colour", "unrecognized arguments: --colour"),
        ("results", "unrecognized arguments: results"),
        ("--cuda=yes", "ignored explicit argument 'yes'"),
        ("--num 3", "ambiguous option: --num could match"),
        ("-nq 1 -- 2", "unrecognized arguments: "),
        ("-", "unrecognized arguments: -"),
    ],
)
def test_bad_command_lines_are_refused(line, complaint, capsys):
    assert complaint in refusal(line.split(), capsys)


@given(flag=st.sampled_from([*COUNTS, *NUMBERS, *CHOICES]), text=st.text(max_size=20))
def test_any_text_is_taken_or_refused_in_one_line(flag, text):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        parse_args([flag, text])
    assert len(errors.getvalue().splitlines()) == bool(errors.getvalue())


def test_help_shows_every_default():
    shown = " ".join(make_parser("about").format_help().split())
    for action in make_parser()._actions:
        if action.dest != "help":
            assert f"(default: {action.default})" in shown, action.dest


def test_help_and_bad_command_lines_do_not_wait_for_the_libraries():
    program = "import sys, main\ntry: main.main(sys.argv[1:])\nexcept SystemExit: print(*sorted(sys.modules))"
    for word in ("--help", "--colour"):
        done = subprocess.run(
            [sys.executable, "-c", program, word], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert not {"torch", "pyro", "matplotlib", "pandas", "numpy"} & set(done.stdout.split())
