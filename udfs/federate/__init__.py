"""Learning from devices: who may still contribute, what contributions add up to, and when a version is released."""
