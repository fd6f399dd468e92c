"""From Python's arguments to the kernels and back: compiled modules, one step of a call each.

`options` and `arguments` check, `arrays` lays out, `batch` describes what the kernels take, the
modules `…_calls` put a call together, `engine` plans and runs it
with the kernels that `instruction_sets` has.

Knows: nothing; what is needed is imported from the module that has it.
"""
