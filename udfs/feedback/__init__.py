"""What users did with the lists they saw: impressions and outcomes joined with lists, as examples and credits."""
