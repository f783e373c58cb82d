"""The figures of a run: which images they show, how these are laid out, drawn and animated."""
