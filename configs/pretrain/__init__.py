"""Pre-training at the size of the paper."""
