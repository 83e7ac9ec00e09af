"""How failures become weights: one readable main path a method."""
