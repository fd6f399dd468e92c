"""What `python -m xent_fast` runs. Nothing in the library imports it."""
