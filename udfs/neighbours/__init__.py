"""Live session neighbours: what sessions like this one clicked next, updated with every click."""
