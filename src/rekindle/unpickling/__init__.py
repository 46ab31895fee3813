"""Pickle programs, decoded and run as symbols: nothing that a file names is imported, called or guessed."""
