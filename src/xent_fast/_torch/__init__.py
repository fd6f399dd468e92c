"""What `xent_fast.torch` is made of."""
