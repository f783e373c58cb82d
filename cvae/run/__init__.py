"""The run: command line, settings and recipes, console, output folder, resuming, tables."""
