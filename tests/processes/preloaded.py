"""A module whose import computes with several threads: what a fork server has done before it forks.

Knows the work. Must not know who imports it.
"""

from work import digest

RESULT = digest(4)
