"""Experiments: who sees which variant, what each variant earned, and when the difference is more than chance."""
