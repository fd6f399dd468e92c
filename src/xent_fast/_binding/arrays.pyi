"""Nothing for Python: what other compiled modules use stands in arrays.pxd."""
