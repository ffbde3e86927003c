"""Learns on a device: keeps its data there, and sends what the terms of a model version allow."""
