"""Conditional variational auto-encoder for structured prediction, in Pyro.

Read ``main.py`` first, then the files of this folder in the order in which data flows: ``data``, ``baseline``,
``model``, ``train``, ``estimators``, ``evaluate`` and ``trained``.  The folders hold what surrounds them: where
``images`` come from, the loop in ``training``, files in ``storage``, ``figures``, and the command line in ``run``.
"""

# Sizes of the tutorial's images and networks.
NUM_PIXELS = 784  # 28 x 28
HIDDEN_1 = 500
HIDDEN_2 = 500
Z_DIM = 200
