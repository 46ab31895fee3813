"""Devices: which one to use, and bringing things there."""
