"""Speed of xent_fast beside its peers: `python -m benchmarks --help`."""
