"""What rekindle does with files: paths in, a value out; one file per verb."""
