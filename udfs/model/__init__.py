"""Model bundles: the files of one epoch, written by training and verified before they serve."""
