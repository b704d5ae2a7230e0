"""A net specification becomes a graph of modules, and its blobs are matched with those of a weight file."""
