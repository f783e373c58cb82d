"""The errors that end a run with one line rather than a traceback."""

__all__ = ["DataError", "FileError", "TrainingError", "UsageError"]


class UsageError(ValueError):
    """The command line or an argument asks for something that cannot be done."""


class DataError(RuntimeError):
    """The data set is missing, damaged or cannot be downloaded."""


class FileError(RuntimeError):
    """A file of an earlier run is missing, damaged or belongs to another run."""


class TrainingError(RuntimeError):
    """Training cannot continue."""
