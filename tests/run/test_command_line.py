import contextlib
import io
import math
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvae.choices import ACTIVATIONS, ELBOS, GENERATION_INPUTS, SCHEDULES
from cvae.images.catalogue import DATASETS, VAL_FRACTION
from cvae.run.command_line import make_parser, parse_args
from cvae.run.settings import RECIPES, Experiment, Settings

ROOT = Path(__file__).parents[2]


def test_defaults_are_the_tutorials():
    args = parse_args([])
    assert args.num_quadrant_inputs == (1, 2, 3)
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
        (0,),
        None,
    )
    assert (str(args.data_dir), str(args.output_dir)) == ("data", "results")


def test_flags_of_pyros_example_are_understood():
    short = parse_args("-nq 1 2 -n 4 -esp 5 -lr 0.01 --cuda -vi 6 -vs 7 -p 8".split())
    long = parse_args(
        "--num-quadrant-inputs 1 2 --num-epochs=4 --early-stop-patience=5 --learning-rate=0.01 --device cuda "
        "--num-images=6 --num-samples=7 --num-particles=8 --cuda".split()
    )
    assert short == long
    assert parse_args(["--num-quadrant-inputs=1"]).num_quadrant_inputs == (1,)


def test_choices_are_those_that_the_modules_offer():
    choices = {action.dest: action.choices for action in make_parser()._actions}
    assert choices["elbo"] == ELBOS
    assert choices["schedule"] == SCHEDULES
    assert choices["activation"] == ACTIVATIONS
    assert choices["generation_input"] == GENERATION_INPUTS
    assert choices["recipe"] == tuple(RECIPES)
    for name in ("auto", *DATASETS):
        assert parse_args(["--dataset", name]).dataset == name


def test_flags_override_the_recipe():
    for name, recipe in RECIPES.items():
        settings = parse_args(["--recipe", name])
        assert {key: getattr(settings, key) for key in vars(recipe)} == vars(recipe)
        assert settings.description == f"recipe {name}"
    settings = parse_args("--batch-size 7 --recipe best -lr 0.5".split())
    best = vars(RECIPES["best"])
    assert {key for key in best if getattr(settings, key) != best[key]} == {
        "batch_size",
        "learning_rate",
    }
    assert settings.description == "recipe best with --learning-rate 0.5 --batch-size 7"


@pytest.mark.parametrize("name", [field.name for field in fields(Experiment)])
def test_every_setting_that_is_not_usual_is_in_the_description(name):
    changed: dict[str, Any] = {
        name: {"schedule": "one-cycle", "precision": "bfloat16", "binarize": True}.get(name, 7)
    }
    shown = {"schedule": " one-cycle", "precision": " bfloat16", "binarize": ""}.get(name, " 7")
    if name not in ("recipe", "dataset"):  # which it names, and which the tables name
        description = replace(Settings(), **changed).description
        assert description == f"recipe tutorial with --{name.replace('_', '-')}{shown}"


def test_results_depend_on_every_setting_of_the_experiment_and_no_other():
    settings = Settings(num_quadrant_inputs=(2,), seeds=(4,), num_images=3, quiet=True)
    assert settings.training_options() == Settings().training_options()
    assert Settings(elbo="trace").training_options() != Settings().training_options()
    training, evaluation = set(settings.training_options()), set(settings.evaluation_options())
    assert not training & evaluation and training | evaluation == {
        field.name for field in fields(Experiment)
    }
    assert set(vars(RECIPES["best"])) < training | evaluation < set(vars(settings))


@pytest.mark.parametrize("flag", ["--num-particles", "--num-importance-samples"])
def test_training_does_not_depend_on_samples_of_the_evaluation(flag):
    settings = parse_args([flag, "7"])
    assert settings.training_options() == Settings().training_options()
    assert settings.evaluation_options() != Settings().evaluation_options()


def test_baseline_has_its_own_epochs_and_is_not_clipped():
    baseline = parse_args(["--recipe", "best"]).baseline
    assert (baseline.num_epochs, baseline.max_grad_norm, baseline.learning_rate) == (
        12,
        math.inf,
        3e-3,
    )
    assert parse_args(["-n", "7"]).baseline.num_epochs == 7


@pytest.mark.parametrize(
    "words, images, epochs",
    [
        ("--recipe quick", 60_000, (12, 3)),
        ("--recipe quick", 50_000, (12, 3)),  # --holdout 10000
        ("--recipe best", 50_000, (12, 30)),
        ("--recipe quick", 4_000, (60, 20)),  # 32 steps an epoch
        ("--recipe best", 4_000, (119, 40)),  # 16 steps an epoch
        ("--recipe quick", 40, (240, 60)),  # 20 times as many are the most
        ("--recipe quick -n 5", 4_000, (60, 5)),
        ("--recipe quick --baseline-epochs 7", 4_000, (7, 20)),
        ("", 4_000, (None, 50)),
        ("--recipe quick --batch-size 32", 4_000, (16, 6)),
    ],
)
def test_small_data_sets_have_more_epochs_unless_the_command_line_gives_them(words, images, epochs):
    settings = parse_args(words.split()).with_enough_steps(images)
    assert (settings.baseline_epochs, settings.num_epochs) == epochs
    steps = math.ceil(images / settings.batch_size)
    for number, least, usual in zip(epochs, (1900, 640), (12, 3)):
        if words == "--recipe quick":
            assert number * steps >= least or number == 20 * usual


@pytest.mark.parametrize("words, jobs", [([], 1), (["--jobs", "3"], 3), (["--jobs", "auto"], None)])
def test_jobs_are_a_number_or_left_to_the_machine(words, jobs):
    assert parse_args(words).jobs == jobs


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
    "--jobs": 1,
}
NUMBERS = (
    "--val-fraction",
    "-lr",
    "--learning-rate",
    "--weight-decay",
    "--beta2",
    "--max-grad-norm",
)
CHOICES = (
    "-nq",
    "--recipe",
    "--schedule",
    "--activation",
    "--generation-input",
    "--elbo",
    "--device",
    "--precision",
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
    return line.removeprefix("main.py: error: ").removesuffix(" (--help lists all flags)")


@pytest.mark.parametrize("flag, least", COUNTS.items())
@pytest.mark.parametrize(
    "value", ["least - 1", "-7", "1.5", "nan", "inf", "1e3", "", "many", str(10**30)]
)
def test_bad_counts_are_refused(flag, least, value, capsys):
    value = str(least - 1) if value == "least - 1" else value
    assert re.search(
        "out of range: must be from|(is not|nor) a whole number",
        refusal([f"{flag}={value}"], capsys),
    )


@pytest.mark.parametrize("flag", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "-1", "-inf", "inf", "1e999", "", "fast", "0x10", "1,5"])
def test_bad_numbers_are_refused(flag, value, capsys):
    assert re.search(
        "is out of range: must be|is not a number", refusal([f"{flag}={value}"], capsys)
    )


@pytest.mark.parametrize("flag", CHOICES)
@pytest.mark.parametrize("value", ["", "0", "-1", "4", "MNIST", "none", "mnist\nmnist", "ä"])
def test_unknown_choices_are_refused(flag, value, capsys):
    assert re.search(
        "invalid choice|invalid int value|expected", refusal([f"{flag}={value}"], capsys)
    )


@pytest.mark.parametrize(
    "value", ["", "MNIST", "cifar", "absent/images.npz", __file__, "/dev/null"]
)
def test_unknown_data_sets_are_refused(value, capsys):
    assert "nor an .npz file, nor a folder of images" in refusal(["--dataset", value], capsys)


@pytest.mark.parametrize("flag", FOLDERS)
@pytest.mark.parametrize("value", ["", "  ", __file__, "/dev/null"])
def test_what_is_no_folder_is_refused(flag, value, capsys):
    assert re.search(
        "is not a folder|name of the folder is empty", refusal([f"{flag}={value}"], capsys)
    )


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
        ("--jobs 0", "argument --jobs: 0 is out of range: must be from 1 to 1024"),
        ("--jobs x", "argument --jobs: 'x' is neither auto nor a whole number"),
        ("--precision float16", "invalid choice: 'float16' (choose from"),
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


def test_help_shows_every_default_and_recipes_that_have_another():
    def words(value):
        if isinstance(value, tuple):
            return " ".join(map(str, value))
        return {VAL_FRACTION: "1/6", math.inf: "none"}.get(value, str(value))

    parser = make_parser()
    shown = " ".join(parser.format_help().split())
    flags = {action.dest: " ".join((action.help or "").split()) for action in parser._actions}
    assert flags.keys() - {"help", "cuda"} == vars(Settings()).keys() - {"chosen_epochs"}
    for name, usual in vars(Settings()).items():
        if name == "chosen_epochs":
            continue
        parts = [] if usual is None or usual is False else [f"default: {words(usual)}"]
        for recipe, values in RECIPES.items():
            if vars(values).get(name, usual) != usual:
                parts.append(f"{recipe}: {words(vars(values)[name])}")
        text = f"({'; '.join(parts)})"
        assert flags[name].endswith(text) if parts else "(" not in flags[name], name
        assert flags[name] in shown, name


def test_help_shows_each_default_that_says_something():
    shown = " ".join(make_parser("about").format_help().split())
    for nothing in ("None", "False", "0.1666", "SUPPRESS", "inf)"):
        assert nothing not in shown
    for default in (
        "(default: 1 2 3)",
        "(default: 1/6)",
        "each net (default: 50; quick: 3; best: 30)",
        "another one (quick: 12; best: 12)",
        "lower validation loss (default: 3; quick: 30; best: 30)",
        "plain Adam (default: 0.0; quick: 0.1; best: 0.1)",
        "(default: none; quick: 40.0; best: 40.0)",
        "(default: relu; quick: silu; best: silu)",
        "importance sampling (default: 100; quick: 20; best: 1000)",
        "sample figure (default: 10)",
        "(default: results)",
    ):
        assert default in shown, default


def test_help_and_bad_command_lines_do_not_wait_for_the_libraries():
    program = "import sys, main\ntry: main.main(sys.argv[1:])\nexcept SystemExit: print(*sorted(sys.modules))"
    for word in ("--help", "--colour"):
        done = subprocess.run(
            [sys.executable, "-c", program, word],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert not {"torch", "pyro", "matplotlib", "pandas", "numpy"} & set(done.stdout.split())
