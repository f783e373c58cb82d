"""Conditional variational auto-encoder for structured prediction, in Pyro.

Read ``main.py`` first, then the files of this folder in the order in which data flows: ``data``,
``baseline``, ``model``, ``train``, ``estimators``, ``evaluate`` and ``trained``.
"""
