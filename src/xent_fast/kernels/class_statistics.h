/* Classes shared out: what a range of classes says of its rows, and the gradient of a range.  A
 * template over REAL_BITS.
 *
 * Knows: how block summaries become plain doubles and blocks again, and that a range's classes
 * begin anywhere.
 * Must not know: the formulas, which row_stage.h and lanes_along_classes.h have; instruction sets,
 * threads, Python.
 *
 * A range is cut into blocks from its own first class, so that one that begins and ends at blocks
 * of the whole gives the whole's blocks.  All ranges' blocks in class order then go through
 * `merge_blocks` as those of one row do.  There a class counts for nothing but whose target and
 * weight it has: each block's maximum stands for its class, and the block's number for the class's
 * index.
 */
enum { whole_row_bytes = sizeof(block_summary) + 2 * sizeof(REAL) };

/* Blocks of a row, with target and weight of each block's maximum; local blocks and their sums of
 * class weights behind. */
typedef struct {
    block_summary *blocks, *local;
    double *weight_sums;
    REAL *targets, *weights;
} shard_workspace;

static size_t shard_workspace_bytes(int64_t whole_blocks, int64_t classes) {
    const size_t local = (size_t)count_blocks(classes);
    return (size_t)whole_blocks * whole_row_bytes +
           local * (sizeof(block_summary) + sizeof(double));
}

KERNEL_INLINE shard_workspace shard_workspace_at(void *memory, int64_t whole_blocks,
                                                 int64_t classes) {
    shard_workspace w;
    w.blocks = (block_summary *)memory;
    w.local = w.blocks + whole_blocks;
    w.weight_sums = (double *)(void *)(w.local + count_blocks(classes));
    w.targets = (REAL *)(void *)(w.weight_sums + count_blocks(classes));
    w.weights = w.targets + whole_blocks;
    return w;
}

/* The range's part of row `row`, whose label `local` counts from the range's first class and may
 * lie outside. */
KERNEL_INLINE long_row row_of_shard(const xent_shard *shard, int64_t row, int64_t local,
                                    const shard_workspace *w, int kind) {
    const xent_batch *batch = &shard->batch;
    long_row r = long_row_at(batch, row, local, w->local, w->weight_sums, NULL, kind);
    r.label = (uint64_t)local < (uint64_t)batch->classes ? local : -1;
    r.masses.smoothing = kind == XENT_SMOOTHED_TARGETS
                             ? batch->options.label_smoothing / (double)shard->num_classes
                             : 0;
    if (kind == XENT_SHAPED_TARGETS)
        r.masses.floor = (REAL)(batch->options.label_smoothing / (double)shard->num_classes);
    return r;
}

KERNEL_INLINE void sum_weights_of_shard(const xent_shard *shard, const shard_workspace *w,
                                        int kind) {
    const xent_batch *batch = &shard->batch;
    if (kind == XENT_SMOOTHED_TARGETS && batch->class_weight)
        sum_weights_of_blocks((const REAL *)(const void *)batch->class_weight, batch->classes, 0,
                              count_blocks(batch->classes), w->weight_sums);
}

KERNEL_INLINE void measure_row(const xent_shard *shard, int64_t row, int64_t label,
                               const shard_workspace *w, const call_settings *settings, int kind) {
    const xent_batch *batch = &shard->batch;
    const int64_t blocks = count_blocks(batch->classes);
    double *values = shard->values + row * shard->row_step;
    memset(values, 0, (size_t)shard->row_step * sizeof *values);
    if (HAS_LABELS(kind) && is_ignored(&batch->labels, label)) {
        values[XENT_TARGETS_HERE] = -1;
        return;
    }
    const long_row r =
        row_of_shard(shard, row, HAS_LABELS(kind) ? label - shard->first_class : -1, w, kind);
    const REAL *targets = r.masses.targets, *weights = r.masses.class_weight;
    if (r.label >= 0) {
        values[XENT_TARGETS_HERE] = 1;
        values[XENT_TARGET_LOGIT] = logit_of_label(&r, kind);
        values[XENT_TARGET_WEIGHT] = weight_of_class(batch, r.label);
    }
    values[XENT_TARGET_CLASS] = (double)label;
    forward_some_blocks(&r, 0, blocks, settings, kind);
    for (int64_t b = 0; b < blocks; ++b) {
        const block_summary *block = w->local + b;
        double *to = values + XENT_ROW_STATISTICS + b * XENT_BLOCK_STATISTICS;
        to[0] = block->sum_of_others;
        to[1] = block->maximum;
        to[2] = block->shift;
        to[3] = block->reference;
        to[6] = block->exp_of_pivot;
        if (!HAS_MASS(kind)) {
            to[4] = block->sum_below;
            continue;
        }
        to[4] = block->target_mass;
        to[5] = block->distance;
        to[7] = block->pivot < 0 ? -1 : (double)(block->pivot + shard->first_class);
        to[8] = block->pivot >= 0 && targets ? (double)targets[block->pivot] : 0;
        to[9] = block->pivot >= 0 && weights ? (double)weights[block->pivot] : 1;
    }
}

/* The whole row again, from its statistics; its results in lane 0. */
KERNEL_INLINE long_row settle_row(const xent_shard *shard, int64_t row, const shard_workspace *w,
                                  const call_settings *settings, row_results *results, int kind) {
    const xent_batch *batch = &shard->batch;
    const double *values = shard->values + row * shard->row_step;
    long_row r;
    memset(&r, 0, sizeof r);
    r.classes = shard->whole_blocks * BLOCK;
    r.label = -1;
    r.weight = batch->sample_weight ? batch->weight_factor * batch->sample_weight[row]
                                    : batch->weight_factor;
    r.gradient_weight = r.weight;
    r.blocks = w->blocks;
    for (int64_t b = 0; b < shard->whole_blocks; ++b) {
        const double *from = values + XENT_ROW_STATISTICS + b * XENT_BLOCK_STATISTICS;
        block_summary *block = w->blocks + b;
        block->sum_of_others = from[0];
        block->maximum = from[1];
        block->shift = from[2];
        block->reference = from[3];
        block->target_mass = block->sum_below = from[4];
        block->distance = from[5];
        block->exp_of_pivot = from[6];
        block->pivot = from[7] < 0 ? -1 : b;
        w->targets[b] = (REAL)from[8];
        w->weights[b] = (REAL)from[9];
        if (HAS_LABELS(kind) && from[7] == values[XENT_TARGET_CLASS])
            r.label = b;
    }
    r.masses.share = 1;
    if (kind == XENT_SMOOTHED_TARGETS) {
        r.masses.label_mass = (1 - batch->options.label_smoothing) * values[XENT_TARGET_WEIGHT];
        r.masses.smoothing = batch->options.label_smoothing / (double)shard->num_classes;
    } else if (kind == XENT_SHAPED_TARGETS) {
        r.masses.share = (REAL)(1 - batch->options.label_smoothing);
        r.masses.floor = (REAL)(batch->options.label_smoothing / (double)shard->num_classes);
    }
    if (HAS_OWN_MASSES(kind))
        r.masses.targets = w->targets;
    if (shard->has_class_weight)
        r.masses.class_weight = w->weights;
    row_sums sums;
    memset(&sums, 0, sizeof sums);
    sums.target_logit[0] = values[XENT_TARGET_LOGIT];
    merge_blocks(&r, settings, &sums, 0, kind);
    repeat_first_lane(&sums, 1);
    settle_rows(&sums, &settings->row, results, kind);
    return r;
}

KERNEL_INLINE void write_row(const xent_shard *shard, int64_t row, int64_t label,
                             const shard_workspace *w, const call_settings *settings, int kind) {
    const xent_batch *batch = &shard->batch;
    const int64_t blocks = count_blocks(batch->classes);
    const double *values = shard->values + row * shard->row_step;
    const int64_t local = HAS_LABELS(kind) ? label - shard->first_class : -1;
    long_row r = row_of_shard(shard, row, local, w, kind);
    row_results results;
    if (values[XENT_TARGETS_HERE] < 0) {
        fill_gradient(&r, 0, batch->classes, 0);
        return;
    }
    const long_row whole = settle_row(shard, row, w, settings, &results, kind);
    r.weight = whole.weight;
    r.masses.label_mass = whole.masses.label_mass;
    r.pivot = r.label;
    if (HAS_MASS(kind))
        r.pivot =
            whole.pivot < 0
                ? -1
                : (int64_t)values[XENT_ROW_STATISTICS + whole.pivot * XENT_BLOCK_STATISTICS + 7] -
                      shard->first_class;
    if (!shard->has_exponentials)
        forward_some_blocks(&r, 0, blocks, settings, kind);
    for (int64_t b = 0; b < blocks; ++b)
        w->local[b].weight = w->blocks[shard->first_block + b].weight;
    backward_some_blocks(&r, 0, blocks, settings->row.temperature, &results, 0, kind);
}

KERNEL_INLINE void work_on_rows(const xent_shard *shard, int64_t row_count, void *workspace,
                                int work, int kind) {
    const shard_workspace w =
        shard_workspace_at(workspace, shard->whole_blocks, shard->batch.classes);
    const call_settings settings = call_settings_of(&shard->batch);
    REAL *row_loss = (REAL *)(void *)shard->batch.row_loss;
    row_results results;
    if (work != XENT_SETTLE)
        sum_weights_of_shard(shard, &w, kind);
    for (int64_t row = 0; row < row_count; ++row) {
        int64_t label = -1;
        if (HAS_LABELS(kind) && work != XENT_SETTLE)
            xent_read_labels(&shard->batch.labels, row, 1, &label);
        if (work == XENT_MEASURE) {
            measure_row(shard, row, label, &w, &settings, kind);
        } else if (work == XENT_WRITE) {
            write_row(shard, row, label, &w, &settings, kind);
        } else if (shard->values[row * shard->row_step + XENT_TARGETS_HERE] < 0) {
            row_loss[row] = 0;
        } else {
            settle_row(shard, row, &w, &settings, &results, kind);
            row_loss[row] = (REAL)(results.is_number & 1 ? results.loss[0] : NAN);
        }
    }
}

static void work_on_shard(const xent_shard *shard, int64_t row_count, void *workspace, int work) {
    xent_assert_shard(shard, count_blocks(shard->batch.classes), work, sizeof(REAL));
    xent_assert_row_range(0, row_count, shard->batch.rows);
    xent_assert_workspace(workspace, 1);
#define WORK_ON_KIND(name, number, storages) \
    if (shard->kind == number)               \
        work_on_rows(shard, row_count, workspace, work, number);
    EACH_TARGET_KIND(WORK_ON_KIND)
#undef WORK_ON_KIND
}

static int64_t shard_block_count(int64_t classes) { return count_blocks(classes); }

#ifndef SHARD_KERNELS_TABLE
#define SHARD_KERNELS_TABLE(dtype) \
    {work_on_shard##dtype, shard_block_count##dtype, shard_workspace_bytes##dtype}
#endif
