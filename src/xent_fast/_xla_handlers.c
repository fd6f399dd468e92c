/* Handlers for calls of XLA, the compiler of JAX: one loss a row of logits, and its gradient in the
 * logits' place.
 *
 * The module _xla.py compiles this file where JAX is used, since XLA's header comes with JAX.
 *
 * Knows: XLA's call frames, xent_fast.h.   Must not know: Python, how the loss is computed.
 */
#include <stdint.h>
#include <stdio.h>

#include <xent_fast.h>
#include <xla/ffi/api/c_api.h>

enum { MESSAGE_BYTES = 1024 };

static const xent_fast_api *xent_fast;

/* The capsule's table; once, before any call. */
void xent_fast_xla_use(const xent_fast_api *api) { xent_fast = api; }

static XLA_FFI_Error *failure(const XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code,
                              const char *message) {
    XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, code};
    return frame->api->XLA_FFI_Error_Create(&args);
}

/* XLA asks first by which version of its header a handler was compiled. */
static int answers_version(const XLA_FFI_CallFrame *frame) {
    for (XLA_FFI_Extension_Base *extension = frame->extension_start; extension;
         extension = extension->next)
        if (extension->type == XLA_FFI_Extension_Metadata) {
            XLA_FFI_Metadata *metadata = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
            metadata->api_version.major_version = XLA_FFI_API_MAJOR;
            metadata->api_version.minor_version = XLA_FFI_API_MINOR;
            metadata->traits = 0;
            return 1;
        }
    return 0;
}

static int64_t label_at(const XLA_FFI_Buffer *labels, int64_t row) {
    return labels->dtype == XLA_FFI_DataType_S32 ? ((const int32_t *)labels->data)[row]
                                                 : ((const int64_t *)labels->data)[row];
}

static int32_t dtype_of(const XLA_FFI_Buffer *logits) {
    switch (logits->dtype) {
    case XLA_FFI_DataType_F64:
        return XENT_FAST_FLOAT64;
    case XLA_FFI_DataType_F16:
        return XENT_FAST_FLOAT16;
    case XLA_FFI_DataType_BF16:
        return XENT_FAST_BFLOAT16;
    default:
        return XENT_FAST_FLOAT32;
    }
}

/* In the words of the IndexError of Python's functions. */
static XLA_FFI_Error *bad_label(const XLA_FFI_CallFrame *frame, const xent_fast_call *call,
                                const XLA_FFI_Buffer *labels) {
    char message[MESSAGE_BYTES];
    int64_t rest = call->error_row, size = call->rows;
    int used =
        snprintf(message, sizeof message,
                 "IndexError: index %lld is out of bounds for axis %lld with size %lld (labels",
                 (long long)label_at(labels, call->error_row), (long long)labels->rank,
                 (long long)call->classes);
    for (int64_t k = 0; k < labels->rank && used < MESSAGE_BYTES; k++) {
        size /= labels->dims[k];
        used += snprintf(message + used, (size_t)(MESSAGE_BYTES - used), "%s%lld", k ? ", " : "[",
                         (long long)(rest / size));
        rest %= size;
    }
    if (used < MESSAGE_BYTES)
        snprintf(message + used, (size_t)(MESSAGE_BYTES - used), labels->rank ? "])" : ")");
    return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT, message);
}

/* Logits and labels, either integers without the class axis or one number a class; results are
 * the rows' losses, float of logits of 16 bits, and, `with_grad`, the gradient.  Arrays are
 * contiguous, classes on the last axis. */
static XLA_FFI_Error *compute(XLA_FFI_CallFrame *frame, int with_grad) {
    if (answers_version(frame))
        return NULL;
    const XLA_FFI_Buffer *logits = frame->args.args[0], *labels = frame->args.args[1];
    XLA_FFI_Buffer *const *results = (XLA_FFI_Buffer *const *)frame->rets.rets;
    xent_fast_call call;
    xent_fast->init(&call);
    call.rows = 1;
    for (int64_t k = 0; k < logits->rank - 1; k++)
        call.rows *= logits->dims[k];
    call.classes = logits->dims[logits->rank - 1];
    call.dtype = dtype_of(logits);
    call.logits = logits->data;
    if (labels->dtype == logits->dtype) {
        call.targets = labels->data;
    } else {
        call.labels = labels->data;
        call.label_type = labels->dtype == XLA_FFI_DataType_S32 ? XENT_FAST_INT32 : XENT_FAST_INT64;
    }
    call.reduction = XENT_FAST_SUM;
    call.row_loss = results[0]->data;
    if (with_grad)
        call.grad = results[1]->data;
    const int status = xent_fast->loss_and_grad(&call);
    if (status == XENT_FAST_OK)
        return NULL;
    if (status == XENT_FAST_BAD_LABEL)
        return bad_label(frame, &call, labels);
    return failure(frame,
                   status == XENT_FAST_NO_MEMORY ? XLA_FFI_Error_Code_RESOURCE_EXHAUSTED
                                                 : XLA_FFI_Error_Code_INVALID_ARGUMENT,
                   xent_fast->message(status));
}

XLA_FFI_Error *xent_fast_xla_losses(XLA_FFI_CallFrame *frame) { return compute(frame, 0); }

XLA_FFI_Error *xent_fast_xla_losses_and_grads(XLA_FFI_CallFrame *frame) {
    return compute(frame, 1);
}
