"""``main.py`` with figures of few dots and samples, which take less time, also in its children."""

import sys

import cvae.figures
import cvae.results
import main

cvae.figures.DPI = 40
cvae.results.NUM_DIVERSITY_SAMPLES = 20

if __name__ == "__main__":
    sys.exit(main.main())
