"""A training loop of one's own that survives anything: order, randomness, snapshots, signals, log.

The public name is `rekindle.Run` (`loop.py`); behind it is one value (`core.py`), and functions over it, in a file for
each thing that a run does. Each other file holds one idea: `order.py` which sample comes when, `randomness.py` what is
drawn and from which seed, `loader.py` how samples are fetched, `snapshot.py` what a snapshot holds and how it is put
back, `signals.py` how a run is told to leave.
"""
