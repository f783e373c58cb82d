"""``main.py`` with figures of few dots and samples, which take less time, also in its children."""

import sys

import cvae.experiment.pictures
import cvae.figures
import main

cvae.figures.DPI = 40
cvae.experiment.pictures.NUM_DIVERSITY_SAMPLES = 20
main.__file__ = __file__  # which children run

if __name__ == "__main__":
    sys.exit(main.main())
