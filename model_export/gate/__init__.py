"""The evaluation gate: a candidate and what serves, measured on the same later events."""
