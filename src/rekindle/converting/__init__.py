"""One conversion: what is taken from a checkpoint, how it is written, and what proves that it arrived.

The parts that `rekindle.verbs.convert` and `rekindle.verbs.average` are made of, in the order in which they act:
`choosing` the part of the object that goes over, `emitting` it into a container while `streams` watches its bytes,
`checking` the new file; `job` is what they share, `notes` what is said about it, `result` what comes back, and `files`
the names that all this ends under.

Law: the source is never written to, and the target is either whole and right or as it was before.
"""
