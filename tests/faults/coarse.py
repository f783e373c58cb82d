"""``main.py`` with figures of few dots and samples, which take less time, also in its children."""

import sys

import cvae.experiment.pictures
import cvae.figures
import main
from cvae.experiment.jobs import run_side_by_side as side_by_side

cvae.figures.DPI = 40
cvae.experiment.pictures.NUM_DIVERSITY_SAMPLES = 20
main.run_side_by_side = lambda config, num_jobs, program: side_by_side(config, num_jobs, __file__)

if __name__ == "__main__":
    sys.exit(main.main())
