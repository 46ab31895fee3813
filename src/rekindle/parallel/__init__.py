"""Several processes: starting them, telling them apart, and what they share."""
