"""Workloads, peers and reports."""
