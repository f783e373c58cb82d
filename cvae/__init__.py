"""Conditional variational auto-encoder for structured prediction, in Pyro.

Read the modules in the order in which data flows: ``sources``, ``own_images`` and ``data``,
``baseline``, ``model``, ``recipes``, ``schedule``, ``progress``, ``fit`` and ``train``, ``estimators`` and
``evaluate``, ``report``; ``trained`` is for those who only use what was trained.  Of the figures, ``sheet`` has
what they share, ``plot``, ``diagram``, ``curves`` and ``animation`` one kind each, ``ambiguity`` and ``snapshots``
choose and draw what they show, and ``pictures`` makes all of a setting.  ``files``, ``checkpoint`` and ``output``
keep what was done, ``reporter`` and ``forecast`` say how far it is, and ``distributed`` shares the work;
``experiment`` wires them together, and ``main.py`` is the command line.
"""

# Sizes of the tutorial's images and networks: the only place where they are written down.
NUM_PIXELS = 784  # 28 x 28
HIDDEN_1 = 500
HIDDEN_2 = 500
Z_DIM = 200
