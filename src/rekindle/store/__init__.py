"""Snapshots of a run on disk: written whole or not at all, vouched for by a manifest, found again after any crash."""
