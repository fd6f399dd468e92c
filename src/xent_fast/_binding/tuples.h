/* A two-field instance of a tuple's subclass, made the way tuple.__new__ makes it but from two
 * values instead of a sequence: a NamedTuple's own constructor takes longer than the kernels on a
 * small batch.
 *
 * Knows: CPython's tuples. Must not know: NumPy, what the fields mean.
 */
#ifndef XENT_FAST_TUPLES_H
#define XENT_FAST_TUPLES_H

#include <Python.h>

/* `type` is a subclass of tuple without fields of its own. Returns a new reference, or NULL with
 * MemoryError set. */
static inline PyObject *xent_new_pair(PyTypeObject *type, PyObject *first, PyObject *second) {
    PyObject *pair = type->tp_alloc(type, 2);
    if (pair == NULL)
        return NULL;
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)pair)->ob_hash = -1; /* not yet computed */
#endif
    Py_INCREF(first);
    Py_INCREF(second);
    PyTuple_SET_ITEM(pair, 0, first);
    PyTuple_SET_ITEM(pair, 1, second);
    return pair;
}

#endif
