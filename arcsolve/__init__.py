"""arcsolve: solve ARC-AGI tasks with a small recursive network."""

__version__ = "0.1.0"
