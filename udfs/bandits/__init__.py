"""Policies that learn which of a few arms to play, one a file, with their probabilities written out.

All have the interface of `udfs.bandits.policy` and pass one suite of tests. `udfs.bandit` is the one that fills
slots today: a Thompson sampling over the sources of a list, kept in the user's state.
"""
