"""Nothing for Python: what other compiled modules use stands in the file of this name in .pxd."""
