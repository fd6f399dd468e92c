/* xent_fast for C, C++, Cython and Numba: softmax cross-entropy and its gradient, without Python.
 *
 * Knows: what a caller in another language hands over and gets back.
 * Must not know: NumPy, kernels, threads.
 *
 *     const xent_fast_api *api = xent_fast_import();      needs the GIL, once
 *     xent_fast_call call;
 *     api->init(&call);
 *     call.rows = rows, call.classes = classes, call.logits = logits, call.labels = labels;
 *     call.grad = logits;                                 in place
 *     int status = api->loss_and_grad(&call);      needs no GIL; any number of threads at once
 *     if (status != XENT_FAST_OK)
 *         puts(api->message(status));                     nothing was written
 *
 * The results have the bits of xent_fast.softmax_cross_entropy_grad.  docs/c_api.md has the rules
 * and more examples.
 */
#ifndef XENT_FAST_H
#define XENT_FAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of the structs and functions below.  Another number means that programs must be compiled, and
 * perhaps changed, anew. */
enum { XENT_FAST_API_VERSION = 1 };

/* dtype */
enum {
    XENT_FAST_FLOAT32 = 0,
    XENT_FAST_FLOAT64 = 1,
    XENT_FAST_FLOAT16 = 2,
    XENT_FAST_BFLOAT16 = 3
};

/* label_type */
enum { XENT_FAST_INT32 = 0, XENT_FAST_INT64 = 1 };

/* reduction */
enum { XENT_FAST_MEAN = 0, XENT_FAST_SUM = 1 };

/* What a call returns.  After anything but XENT_FAST_OK every array holds what it held before. */
enum {
    XENT_FAST_OK = 0,
    /* `size` is not this header's: init was not called, or the header is another version's */
    XENT_FAST_BAD_SIZE = 1,
    /* a count below 0, rows without a class, an unknown dtype, label type or reduction, no logits,
     * neither labels nor targets or both, an ignored index with targets */
    XENT_FAST_BAD_ARGUMENT = 2,
    /* label_smoothing, temperature, z_loss or num_threads out of range */
    XENT_FAST_BAD_OPTION = 3,
    /* misaligned numbers, an output that overlaps itself or an input */
    XENT_FAST_BAD_LAYOUT = 4,
    /* neither in [0, classes) nor ignored: error_row says where */
    XENT_FAST_BAD_LABEL = 5,
    /* a mean would divide by it; error_row is its row, or -1 for a class weight */
    XENT_FAST_NEGATIVE_WEIGHT = 6,
    /* what a mean divides by lies outside [1e-290, 1e290]: scale the weights */
    XENT_FAST_BAD_WEIGHT_SUM = 7,
    XENT_FAST_NO_MEMORY = 8
};

/* One batch, its options and its results.  Strides are in bytes, of any sign; 0 stands for rows
 * one after the other.  The classes of a row are contiguous, and every number is aligned to its
 * own size. */
typedef struct {
    size_t size; /* set by init */

    int64_t rows, classes;
    int32_t dtype; /* of logits, targets and grad; row_loss and class_weight: float where that has
                      16 bits */
    int32_t label_type; /* of labels */
    const void *logits;
    ptrdiff_t logits_row_stride;
    const void *labels; /* one class index a row */
    ptrdiff_t label_stride;
    const void *targets; /* in place of labels: dense targets, `classes` numbers a row */
    ptrdiff_t target_row_stride;
    void *grad; /* NULL: the loss alone; `logits` with their stride, or memory of its own */
    ptrdiff_t grad_row_stride;
    void *row_loss; /* NULL, or each row's share of the loss, one after the other */

    /* The options of xent_fast.softmax_cross_entropy, with the defaults of that function. */
    const double *sample_weight; /* NULL, or one a row */
    const void *class_weight;    /* NULL, or one a class */
    double label_smoothing, temperature, z_loss, scale;
    int64_t ignore_index; /* counts where has_ignore_index is not 0 */
    int32_t has_ignore_index;
    int32_t reduction;
    int32_t num_threads; /* 0: the library's choice */
    int32_t reserved;

    /* Results. */
    int64_t error_row; /* where the status says so */
    double loss;
} xent_fast_call;

typedef struct {
    int version; /* XENT_FAST_API_VERSION of the library */
    void (*init)(xent_fast_call *call);
    int (*loss_and_grad)(xent_fast_call *call);
    const char *(*message)(int status); /* in a few words; of static storage */
} xent_fast_api;

#ifdef Py_PYTHON_H
/* The functions of the installed package, or NULL with a Python exception.  Include Python.h
 * before this header. */
static inline const xent_fast_api *xent_fast_import(void) {
    PyObject *module = PyImport_ImportModule("xent_fast.c_api");
    const xent_fast_api *api;
    if (module == NULL)
        return NULL;
    Py_DECREF(module);
    api = (const xent_fast_api *)PyCapsule_Import("xent_fast.c_api._C_API", 0);
    if (api != NULL && api->version != XENT_FAST_API_VERSION) {
        PyErr_Format(PyExc_ImportError,
                     "compiled for version %d of the C functions of xent_fast; installed is %d",
                     (int)XENT_FAST_API_VERSION, api->version);
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif
#endif
