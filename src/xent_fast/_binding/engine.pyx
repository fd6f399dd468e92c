"""Plans a batch and runs it: chunks of rows, parallel regions, the kernels of this processor.

The only module with OpenMP; everything that computes comes here.

Knows: the kernels' contract, threads, fork, the float mode.
Must not know: NumPy, Python's arguments, instruction sets, the mathematics.
"""

import os

from cython.parallel cimport parallel, prange
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from xent_fast._binding.instruction_sets import active_isa_name, available_isas

from xent_fast._binding.instruction_sets cimport (
    ShardBatch,
    VjpBatch,
    check_labels,
    storage_kernels,
)
from xent_fast._binding.kernels cimport (
    XENT_ASSERT,
    XENT_FLOAT32,
    XENT_MAX_ROWS_PER_CALL,
    XENT_ROW_GRANULARITY,
    XENT_WORKSPACE_ALIGNMENT,
    xent_add_to_sum,
    xent_aligned,
    xent_batch,
    xent_batch_from,
    xent_distillation_batch,
    xent_dtype,
    xent_grad_hessian_batch,
    xent_group_of,
    xent_is_turned,
    xent_row_kernels,
    xent_running_sum,
    xent_second_order_batch,
    xent_shared_row_bytes,
    xent_sum_total,
    xent_workspace_bytes,
)
from xent_fast._binding.stored cimport (
    LOAD,
    STORE,
    Groups,
    StoredMatrices,
    advance_factors,
    are_apart,
    move_rows,
    own_bytes,
    place_rows,
    take_as_kernels_do,
)


cdef extern from "_binding/threads.h" nogil:
    const char *XENT_COMPILER
    const char *XENT_FAST_VERSION
    int xent_max_threads()
    int xent_processor_count()
    int64_t xent_take_next(xent_section *section)


cdef extern from "_binding/team.h" nogil:
    int xent_possible_threads()
    int xent_startable_threads(int threads)


cdef enum:
    # Rows go to the kernels in chunks of about this many logits: enough to hide what a chunk costs,
    # few enough to share out evenly and to stay in a core's own cache.
    CHUNK_LOGITS = 16384

    # The same where classes lie apart, so that long runs of rows are read at a time.
    TURNED_CHUNK_LOGITS = 65536

    # Waking a worker takes as long as this many logits, a row counted as ROW_LOGITS more: between
    # two calls of a training step the workers sleep.
    WAKING_LOGITS = 524288
    ROW_LOGITS = 8

    # An explicit num_threads counts up to this or the number of processors, whichever is more.
    MOST_THREADS = 64

    # Rows of this many logits or more are shared by threads where there are fewer than
    # SHARED_ROWS rows a thread, in parts of PART_BLOCKS blocks.
    SHARED_LOGITS = 32768
    SHARED_ROWS = 4
    PART_BLOCKS = 4

    # Threads check labels where there are so many; with fewer, waking them takes as long.
    MANY_LABELS = 524288


ctypedef void (*block_sweep)(int64_t first_block, int64_t count, void *workspace) noexcept nogil
ctypedef void (*section_task)(const Plan *plan, int64_t number, int thread) noexcept nogil


# A copy of any batch, and what each of them begins with.
cdef union AnyBatch:
    xent_batch rows
    xent_second_order_batch second_order
    xent_distillation_batch distillation
    xent_grad_hessian_batch grad_hessian
    VjpBatch vjp
    ShardBatch shard


# --- chunks and threads ---------------------------------------------------------------------------


cdef int make_plan(
    Plan *plan,
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    int requested_threads,
) except -1:
    """Share out the rows and allocate, or raise MemoryError."""
    cdef size_t missing = share_out(plan, batch, groups, stored, kernels, requested_threads)
    if missing != 0:
        raise MemoryError(f"cannot allocate {missing} bytes of workspace")
    return 0


cdef size_t share_out(
    Plan *plan,
    const xent_batch *batch,
    const Groups *groups,
    const StoredMatrices *stored,
    const xent_row_kernels *kernels,
    int requested_threads,
) noexcept nogil:
    """Make the plan; 0, or the bytes of workspace that cannot be had.

    What a chunk is depends on shape and layout alone.
    """
    cdef size_t workspace_bytes, section_bytes = 0, loss_bytes, missing
    cdef AnyBatch copy
    cdef const xent_batch *taken = batch
    plan.batch = batch
    plan.groups = groups
    plan.stored = NULL
    plan.kernels = kernels
    plan.chunk_count = 0
    plan.threads = 1
    plan.parts = 0
    plan.workspaces = NULL
    plan.memory = NULL
    if batch.rows == 0:
        return 0
    if stored != NULL and not knows_storage(kernels, batch):
        memcpy(&copy, batch, stored.batch_bytes)
        taken = &copy.rows
        if take_as_kernels_do(stored, &copy) or has_groups_of_its_own(groups, stored):
            plan.stored = stored
    plan.chunk_rows = rows_per_chunk(
        groups.rows, batch.classes,
        xent_is_turned(batch) if stored == NULL else are_apart(stored, batch),
    )
    plan.group_chunks = (groups.rows - 1) // plan.chunk_rows + 1
    plan.chunk_count = groups.count * plan.group_chunks
    plan.parts = parts_per_row(plan, requested_threads)
    plan.threads = xent_startable_threads(
        thread_count(
            max(plan.chunk_count, batch.rows * plan.parts),
            batch.rows,
            batch.classes,
            requested_threads,
        )
    )
    if plan.parts > 0:
        plan.workspace_step = xent_shared_row_bytes(kernels, taken)
        workspace_bytes = batch.rows * plan.workspace_step
        section_bytes = 2 * plan.threads * sizeof(xent_section)
        loss_bytes = batch.rows * sizeof(double)
    else:
        plan.workspace_step = plan.kernel_bytes = xent_workspace_bytes(kernels, taken)
        if plan.stored != NULL:
            plan.workspace_step += own_bytes(
                stored, batch, taken, plan.chunk_rows, batch.classes
            )
        workspace_bytes = plan.threads * plan.workspace_step
        loss_bytes = 0
        if plan.threads > 1:
            section_bytes = plan.threads * sizeof(xent_section)
            loss_bytes = plan.chunk_count * sizeof(double)
    missing = workspace_bytes + section_bytes + loss_bytes
    if missing == 0:
        return 0
    plan.memory = malloc(missing + XENT_WORKSPACE_ALIGNMENT)
    if plan.memory == NULL:
        return missing
    XENT_ASSERT(plan.workspace_step % XENT_WORKSPACE_ALIGNMENT == 0 or plan.threads == 1)
    plan.workspaces = <char *>xent_aligned(<uintptr_t>plan.memory)
    plan.sections = <xent_section *>(plan.workspaces + workspace_bytes)
    plan.chunk_losses = <double *>(plan.workspaces + workspace_bytes + section_bytes)
    return 0


cdef inline bint knows_storage(
    const xent_row_kernels *kernels, const xent_batch *batch
) noexcept nogil:
    """Whether the kernels widen and round these rows by themselves; planes come in longer lines."""
    return kernels.knows_storage != NULL and kernels.knows_storage(batch)


cdef inline bint has_groups_of_its_own(
    const Groups *groups, const StoredMatrices *stored
) noexcept nogil:
    """Whether a function's batch has matrices besides those of `group_of`, in groups."""
    return groups.count > 1 and stored.batch_bytes > sizeof(xent_batch)


cdef inline int64_t rows_per_chunk(int64_t rows, int64_t classes, bint turned) noexcept nogil:
    """As many rows as make CHUNK_LOGITS or, so that the chunks are even, fewer."""
    cdef int64_t most = (TURNED_CHUNK_LOGITS if turned else CHUNK_LOGITS) // max(classes, 1)
    most = min(most, <int64_t>XENT_MAX_ROWS_PER_CALL)
    if turned:
        most = max(most, <int64_t>XENT_ROW_GRANULARITY)
    if most < XENT_ROW_GRANULARITY:
        most = max(most, <int64_t>1)
        return evenly(rows, most)
    most -= most % XENT_ROW_GRANULARITY
    return evenly(
        (rows + XENT_ROW_GRANULARITY - 1) // XENT_ROW_GRANULARITY, most // XENT_ROW_GRANULARITY
    ) * XENT_ROW_GRANULARITY


cdef inline int64_t evenly(int64_t things, int64_t most) noexcept nogil:
    """How many go into each of as few shares as take `most` at most."""
    cdef int64_t shares = (things + most - 1) // most
    return (things + shares - 1) // shares


cdef int64_t parts_per_row(const Plan *plan, int requested_threads) noexcept nogil:
    """How many parts threads take of each row; 0 where they take whole rows."""
    cdef int64_t classes = plan.batch.classes
    cdef int threads
    if classes < SHARED_LOGITS or plan.groups.count > 1 or xent_is_turned(plan.batch):
        return 0
    if plan.stored != NULL:  # brought there row by row
        return 0
    if plan.kernels.blocks_to_share == NULL:
        return 0
    threads = thread_count(MOST_THREADS, plan.batch.rows, classes, requested_threads)
    if threads == 1 or plan.batch.rows >= SHARED_ROWS * threads:
        return 0
    return (plan.kernels.blocks_to_share(classes) - 1) // PART_BLOCKS + 1


cdef int thread_count(
    int64_t chunk_count, int64_t rows, int64_t classes, int requested
) noexcept nogil:
    """As many as asked for or, by default, one a processor where the work is worth it."""
    cdef int64_t threads
    if is_forked or chunk_count == 1 or requested == 1:
        return 1
    if requested == 0:
        threads = default_threads()
        # A share each, and the waking, must take less than all of it: W + T / n < T.
        if rows * (classes + ROW_LOGITS) * (threads - 1) < WAKING_LOGITS * threads:
            return 1
    else:
        threads = min(requested, max(xent_processor_count(), <int>MOST_THREADS))
    return <int>max(min(threads, chunk_count), 1)


cdef int default_threads() noexcept nogil:
    """Of a call that is large enough for more than one."""
    if is_forked or spins_freely:
        return 1
    return min(xent_max_threads(), xent_processor_count(), xent_possible_threads())


cdef double process_rows(const Plan *plan) noexcept:
    """Sum of all losses, having written everything else."""
    cdef double loss_sum
    if plan.batch.rows * plan.batch.classes < UNLOCKED_LOGITS:
        return process_chunks(plan)
    with nogil:
        loss_sum = process_chunks(plan)
    return loss_sum


cdef double process_chunks(const Plan *plan) noexcept nogil:
    """Add the chunks' losses in their order, whoever computed them."""
    cdef xent_running_sum losses
    cdef int64_t chunk
    cdef int thread
    cdef xent_float_mode mode
    losses.sum = losses.error = 0.0
    if plan.parts > 0:
        return process_shared_rows(plan)
    if plan.threads == 1:
        for chunk in range(plan.chunk_count):
            xent_add_to_sum(&losses, process_chunk(plan, chunk, 0))
        return xent_sum_total(&losses)
    cut_sections(plan, plan.sections, plan.chunk_count)
    with parallel(num_threads=plan.threads):
        mode = xent_use_default_mode()
        for thread in prange(plan.threads, schedule="static", chunksize=1):
            work_through(plan, plan.sections, thread, process_chunk_of)
        xent_restore_mode(mode)
    for chunk in range(plan.chunk_count):
        xent_add_to_sum(&losses, plan.chunk_losses[chunk])
    return xent_sum_total(&losses)


cdef void cut_sections(const Plan *plan, xent_section *sections, int64_t count) noexcept nogil:
    """As many for every thread."""
    cdef int thread
    for thread in range(plan.threads):
        sections[thread].next = count * thread // plan.threads
        sections[thread].end = count * (thread + 1) // plan.threads


cdef void work_through(
    const Plan *plan, xent_section *sections, int thread, section_task task
) noexcept nogil:
    """A thread's own section, then what others have left of theirs.

    Neighbouring rows are one thread's: the kernels ask memory for the row that comes next, and a
    line that two threads ask for travels between their caches. A worker that wakes late, or finds
    its processor taken, leaves its work to the others.
    """
    cdef xent_section *section
    cdef int64_t number
    cdef int step
    for step in range(plan.threads):
        section = sections + (thread + step) % plan.threads
        number = xent_take_next(section)
        while number >= 0:
            task(plan, number, thread)
            number = xent_take_next(section)


cdef void process_chunk_of(const Plan *plan, int64_t chunk, int thread) noexcept nogil:
    plan.chunk_losses[chunk] = process_chunk(plan, chunk, thread)


cdef inline double process_chunk(const Plan *plan, int64_t chunk, int thread) noexcept nogil:
    cdef int64_t group = chunk // plan.group_chunks
    cdef int64_t first_row = (chunk - group * plan.group_chunks) * plan.chunk_rows
    cdef int64_t row_count = min(plan.chunk_rows, plan.groups.rows - first_row)
    cdef char *workspace = plan.workspaces + thread * plan.workspace_step
    cdef xent_batch batch
    cdef const xent_batch *rows = plan.batch
    XENT_ASSERT(thread < plan.threads and row_count > 0)
    if plan.stored != NULL:
        return process_stored_rows(plan, group, first_row, row_count, workspace)
    if group != 0:
        batch = group_of(plan, group)
        rows = &batch
    return plan.kernels.process_rows(rows, first_row, row_count, workspace)


cdef xent_batch group_of(const Plan *plan, int64_t group) noexcept nogil:
    """The batch whose row 0 is the group's."""
    cdef const Groups *groups = plan.groups
    cdef xent_batch batch = xent_batch_from(plan.batch, group * groups.rows, groups.real_bytes)
    batch.logits = xent_group_of(&plan.batch.logits, group)
    batch.grad = xent_group_of(&plan.batch.grad, group)
    batch.dense_targets = xent_group_of(&plan.batch.dense_targets, group)
    return batch


cdef double process_shared_rows(const Plan *plan) noexcept nogil:
    """The same for rows that threads share: all forward parts, then all rows, then all backward."""
    cdef const xent_row_kernels *kernels = plan.kernels
    cdef xent_running_sum losses
    cdef int64_t row
    cdef int thread
    cdef xent_float_mode mode
    losses.sum = losses.error = 0.0
    for row in range(plan.batch.rows):
        kernels.begin_row(plan.batch, row, workspace_of(plan, row))
    cut_sections(plan, plan.sections, plan.batch.rows * plan.parts)
    cut_sections(plan, plan.sections + plan.threads, plan.batch.rows * plan.parts)
    with parallel(num_threads=plan.threads):
        mode = xent_use_default_mode()
        for thread in prange(plan.threads, schedule="static", chunksize=1):
            work_through(plan, plan.sections, thread, forward_part)
        for row in prange(plan.batch.rows, schedule="dynamic"):
            plan.chunk_losses[row] = finish_shared_row(plan, row)
        if plan.batch.grad.data != NULL:
            # the same parts again, as far as may be: their exponentials lie in its cache
            for thread in prange(plan.threads, schedule="static", chunksize=1):
                work_through(plan, plan.sections + plan.threads, thread, backward_part)
        xent_restore_mode(mode)
    for row in range(plan.batch.rows):
        xent_add_to_sum(&losses, plan.chunk_losses[row])
    return xent_sum_total(&losses)


cdef void forward_part(const Plan *plan, int64_t part, int thread) noexcept nogil:
    sweep_part(plan, part, plan.kernels.forward_blocks)


cdef void backward_part(const Plan *plan, int64_t part, int thread) noexcept nogil:
    sweep_part(plan, part, plan.kernels.backward_blocks)


cdef inline void *workspace_of(const Plan *plan, int64_t row) noexcept nogil:
    return plan.workspaces + row * plan.workspace_step


cdef inline void sweep_part(const Plan *plan, int64_t part, block_sweep sweep) noexcept nogil:
    cdef int64_t blocks = plan.kernels.blocks_to_share(plan.batch.classes)
    cdef int64_t first = part % plan.parts * PART_BLOCKS
    XENT_ASSERT(first < blocks)
    sweep(first, min(blocks - first, <int64_t>PART_BLOCKS), workspace_of(plan, part // plan.parts))


cdef inline double finish_shared_row(const Plan *plan, int64_t row) noexcept nogil:
    return plan.kernels.finish_row(plan.batch, row, workspace_of(plan, row))


# --- labels ---------------------------------------------------------------------------------------


cdef int64_t check_all_labels(
    const xent_batch *batch,
    const char *class_weight,
    xent_dtype dtype,
    int requested_threads,
    int64_t *counted_rows,
    double *weight_sum,
) noexcept nogil:
    """`check_labels`, by threads where there are many and no weights: these add up in order."""
    cdef int64_t uncounted = 0
    cdef int thread, threads = 1
    if batch.sample_weight == NULL and class_weight == NULL and batch.rows >= MANY_LABELS:
        # as many as will take the rows: threads that a smaller team leaves over are ended
        threads = xent_startable_threads(
            thread_count(batch.rows, batch.rows, batch.classes, requested_threads)
        )
    if threads > 1:
        for thread in prange(threads, num_threads=threads, schedule="static", chunksize=1):
            uncounted += uncounted_rows(
                batch, batch.rows * thread // threads, batch.rows * (thread + 1) // threads
            )
        if uncounted <= batch.rows:
            counted_rows[0] += batch.rows - uncounted
            return -1
    return check_labels(batch, class_weight, dtype, counted_rows, weight_sum)


cdef int64_t uncounted_rows(const xent_batch *batch, int64_t first, int64_t end) noexcept nogil:
    """How many rows are ignored; more than all rows where a label is out of bounds."""
    cdef xent_batch part = batch[0]  # of which nothing but rows, classes and labels is asked
    cdef int64_t counted = 0
    cdef double weight_sum = 0.0
    part.labels.data += first * part.labels.stride
    part.rows = end - first
    if check_labels(&part, NULL, XENT_FLOAT32, &counted, &weight_sum) >= 0:
        return batch.rows + 1
    return part.rows - counted


# --- matrices in memory of a thread's own ---------------------------------------------------------


cdef double process_stored_rows(
    const Plan *plan, int64_t group, int64_t first_row, int64_t row_count, char *workspace
) noexcept nogil:
    """Some rows of a group through memory of the thread's own."""
    cdef const StoredMatrices *stored = plan.stored
    cdef int64_t row = group * plan.groups.rows + first_row
    cdef AnyBatch copy
    cdef double loss
    XENT_ASSERT(row_count <= plan.chunk_rows)
    memcpy(&copy, plan.batch, stored.batch_bytes)
    copy.rows = xent_batch_from(plan.batch, row, plan.groups.real_bytes)
    take_as_kernels_do(stored, &copy)
    advance_factors(stored, &copy, row)
    place_rows(
        stored, plan.batch, &copy, group, first_row, plan.chunk_rows, plan.batch.classes,
        workspace + plan.kernel_bytes
    )
    move_rows(
        stored, plan.batch, &copy, LOAD, storage_kernels(), group, first_row, row_count,
        plan.batch.classes
    )
    loss = plan.kernels.process_rows(&copy.rows, 0, row_count, workspace)
    move_rows(
        stored, plan.batch, &copy, STORE, storage_kernels(), group, first_row, row_count,
        plan.batch.classes
    )
    return loss


# libgomp's threads do not survive a fork, and a parallel region in the child would wait for them
# for ever: a child runs serially, and so do its children. Written where there is one thread.
cdef bint is_forked = False


def _note_fork():
    global is_forked
    is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


# Whether idle workers hold their processors for as long as the OpenMP library likes, which slows
# down whatever computes between two calls: then a call takes one thread unless asked for more.
# Written at import alone, and by tests.
cdef bint spins_freely = False
cdef object how_workers_wait = None


def set_waiting(how, harmful):
    """Note how idle workers wait, in a word for `configuration`, and whether it does harm."""
    global spins_freely, how_workers_wait
    how_workers_wait = how
    spins_freely = harmful


# --- configuration --------------------------------------------------------------------------------


def configuration():
    """Return what this build is and what the next call would use, as a dict of plain values."""
    return {
        "version": XENT_FAST_VERSION.decode(),
        "isa": {"active": active_isa_name(), "supported": list(available_isas())},
        "threads": {
            "openmp": XENT_OPENMP_VERSION or None,
            "default": default_threads(),
            "waiting": how_workers_wait,
            "processors": os.cpu_count(),
        },
        "compiler": XENT_COMPILER.decode(),
    }
