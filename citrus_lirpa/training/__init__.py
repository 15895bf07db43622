"""Training: configuration, the loop, and what a run keeps on the disk."""
