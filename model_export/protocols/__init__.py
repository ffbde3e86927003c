"""Evaluation protocols on files of real behaviour, one module each, and what they share."""
