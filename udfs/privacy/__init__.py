"""The mathematics of differential privacy: accounting, clipping, keyed noise, exact sums, and audits of them."""
