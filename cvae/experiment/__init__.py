"""What surrounds a run: options, command line, console, checkpoints, tables, figures, jobs.

Nothing in the rest of the package needs this folder, but for the commands ``complete``,
``compare`` and ``demo``.  Take the other files with you and train in a loop of your own.
"""
