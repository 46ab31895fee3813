"""Weights into models: fitting, heads, what is frozen, and groups of parameters."""
