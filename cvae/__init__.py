"""Conditional variational auto-encoder for structured prediction, in Pyro.

Read the modules in the order in which data flows: ``sources`` and ``data``, ``baseline``, ``model``,
``train``, ``evaluate``, ``plot`` and ``report``.  ``main.py`` wires them together.
"""

# Sizes of the tutorial's networks: the only place where they are written down.
HIDDEN_1 = 500
HIDDEN_2 = 500
Z_DIM = 200
