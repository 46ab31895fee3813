"""What `rekindle train` runs: configuration, data sets, networks and the loop over them."""
