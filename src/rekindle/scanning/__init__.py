"""What loading a file would import and call, found without doing it: the parts that `rekindle.verbs.scan` is made of.

Law: nothing is called clean that was not understood to its last byte. Severities are the answer: DANGER says what
would run, ERROR that something could not be looked at, WARNING that something unknown would be imported, NOTE changes
nothing.
"""
