import subprocess
import sys
from pathlib import Path

import pytest

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
    assert choices["dataset"] == ("auto", *DATASETS)
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


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("-nq 4", "invalid choice: 4"),
        ("-nq one", "invalid int value: 'one'"),
        ("-nq", "expected at least one argument"),
        ("-n 0", "0 is out of range: must be at least 1"),
        ("-n 1.5", "'1.5' is not a whole number"),
        ("-esp 0", "out of range"),
        ("-lr 0", "0 is out of range: must be above 0"),
        ("-lr nan", "nan is out of range"),
        ("-lr inf", "inf is out of range"),
        ("-lr fast", "'fast' is not a number"),
        ("-p 0", "out of range"),
        ("--num-importance-samples -1", "out of range"),
        ("-vi 0", "out of range"),
        ("-vs 0", "out of range"),
        ("--batch-size 0", "out of range"),
        ("--subset 0", "out of range"),
        ("--seed -1", "must be from 0 to 4294967295"),
        ("--seed 4294967296", "out of range"),
        ("--dataset cifar", "invalid choice: 'cifar'"),
        ("--device tpu", "invalid choice: 'tpu'"),
        ("--holdout -1", "-1 is out of range"),
        ("--weight-decay -0.1", "-0.1 is out of range: must be at least 0 and finite"),
        ("--beta2 1", "1 is out of range: must be at least 0 and below 1"),
        ("--recipe worst", "invalid choice: 'worst'"),
        ("--recipe", "expected one argument"),
        ("--seeds", "expected at least one argument"),
        ("--schedule cosine", "invalid choice: 'cosine'"),
        ("--elbo none", "invalid choice: 'none'"),
        ("--cuda --device cpu", "--cuda contradicts --device cpu"),
        ("--colour", "unrecognized arguments: --colour"),
    ],
)
def test_bad_command_line_ends_with_one_clear_line_and_status_2(line, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(line.split())
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


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
