/* Bytes to a batch: see problem.h. */
#include "problem.h"

#include <math.h>
#include <string.h>

#include "dispatch.h"

double real_at(const char *values, xent_dtype dtype, int64_t at) {
    if (dtype == XENT_FLOAT32) {
        float value;
        memcpy(&value, values + at * 4, sizeof value);
        return (double)value;
    }
    double value;
    memcpy(&value, values + at * 8, sizeof value);
    return value;
}

void set_real(char *values, xent_dtype dtype, int64_t at, double value) {
    const float narrow = (float)value;
    if (dtype == XENT_FLOAT32)
        memcpy(values + at * 4, &narrow, sizeof narrow);
    else
        memcpy(values + at * 8, &value, sizeof value);
}

void narrow(const xent_isa *isa, xent_storage storage, const char *values, int64_t count,
            char *stored) {
    isa->storage_kernels[storage].store((const float *)(const void *)values, 0, 1, count, stored,
                                        0);
}

void widen(const xent_isa *isa, xent_storage storage, const char *stored, int64_t count,
           char *values) {
    isa->storage_kernels[storage].load(stored, 0, 1, count, (float *)(void *)values, 0);
}

int label_size(xent_label_type type) {
    static const int sizes[] = {1, 2, 4, 8, 1, 2, 4, 8};
    return sizes[type];
}

static int is_unsigned(xent_label_type type) { return type >= XENT_UINT8; }

int64_t label_at(const problem *p, int64_t row) {
    const int bytes = label_size(p->label_type);
    uint64_t bits = 0;
    for (int k = 0; k < bytes; ++k)
        bits |= (uint64_t)(uint8_t)p->labels[row * bytes + k] << 8 * k;
    if (is_unsigned(p->label_type))
        return bits > INT64_MAX ? INT64_MIN : (int64_t)bits;
    const uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
    return (int64_t)((bits ^ sign) - sign);
}

static void set_label(problem *p, int64_t row, uint64_t label) {
    const int bytes = label_size(p->label_type);
    for (int k = 0; k < bytes; ++k)
        p->labels[row * bytes + k] = (char)(label >> 8 * k);
}

int is_ignored_row(const problem *p, int64_t row) {
    return p->has_labels && p->has_ignore_index && label_at(p, row) == p->ignore_index;
}

int is_bad_label(const problem *p, int64_t row) {
    if (!p->has_labels || is_ignored_row(p, row))
        return 0;
    const int64_t label = label_at(p, row);
    return label < 0 || label >= p->classes;
}

/* --- shape and options ------------------------------------------------------------------------ */

/* Few classes, some, any, or around the lengths at which vectors, groups and blocks end. */
static int64_t take_classes(choices *c) {
    static const int lengths[] = {8, 16, 32, 64, 128, 1024, 2048, 3072, 4096, 6140};
    const int way = take_choice(c, 4);
    const unsigned number = take_short(c);
    if (way == 0)
        return 1 + number % 40;
    if (way == 1)
        return 1 + number % 600;
    if (way == 2)
        return 1 + number % MOST_CLASSES;
    return lengths[number % 10] + (int)(number / 16 % 9) - 4;
}

/* Mostly few logits in all, so that inputs are quick. */
static int64_t take_rows(choices *c, int64_t classes) {
    const unsigned byte = take_byte(c);
    const int64_t rows = byte < 192 ? 1 + byte % 40 : 1 + (byte - 192) * MOST_ROWS / 64;
    const int64_t most = (byte < 224 ? MOST_LOGITS / 8 : MOST_LOGITS) / classes;
    return most < 1 ? 1 : rows < most ? rows : most;
}

/* An ordinary number, an unusual one, or any. */
static double take_option(choices *c, const double *usual, int count) {
    const int choice = take_choice(c, count + 1);
    if (choice < count)
        return usual[choice];
    const uint64_t bits = take_bits(c, 8);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double within(double value, double low, double high) {
    return value >= low && value <= high ? value : low;
}

static void take_options(choices *c, problem *p) {
    static const double factors[] = {1, 1, 0.01, -1, 0, 37.5, 0x1p-60, 1e-3};
    static const double smoothings[] = {0.1, 0, 1, 0.5, 1e-6};
    static const double temperatures[] = {1, 1, 1, 2, 0.3, 17, 0.01, 300};
    static const double z_losses[] = {0, 0, 0, 0, 1e-4, 1, -0.5};
    p->weight_factor = take_option(c, factors, 8);
    const double smoothing = within(take_option(c, smoothings, 5), 0, 1);
    const double temperature = take_option(c, temperatures, 8);
    const double z_loss = take_option(c, z_losses, 7);
    p->temperature = temperature >= 0x1p-126 && isfinite(temperature) ? temperature : 1;
    p->z_loss = isfinite(z_loss) ? z_loss : 0;
    p->label_smoothing =
        p->kind == XENT_SHAPED_TARGETS || p->kind == XENT_SMOOTHED_TARGETS ? smoothing : 0;
}

/* What the contract lets go together. */
static void take_targets(choices *c, problem *p) {
    const unsigned flags = take_byte(c);
    p->kind = (xent_target_kind)take_choice(c, XENT_TARGET_KIND_COUNT);
    p->has_labels = p->kind == XENT_INDEX_TARGETS || p->kind == XENT_SMOOTHED_TARGETS;
    p->has_class_weight = p->kind != XENT_DENSE_TARGETS && (flags >> 1 & 1);
    p->has_sample_weight = flags >> 2 & 1;
    p->shares_targets = !p->has_labels && (flags >> 3 & 1);
    p->storage = p->dtype == XENT_FLOAT32 && p->family == ROW_KERNELS
                     ? (xent_storage)((flags >> 6) % XENT_STORAGE_COUNT)
                     : XENT_AS_COMPUTED;
    p->output = XENT_GRADIENT;
    if (p->has_labels && (flags >> 4 & 1))
        p->output = p->kind == XENT_INDEX_TARGETS || (flags >> 5 & 1) ? XENT_PROBABILITIES
                                                                      : XENT_LOG_PROBABILITIES;
    p->label_type = (xent_label_type)take_choice(c, 8);
    take_options(c, p);
    if (p->kind == XENT_INDEX_TARGETS && p->has_class_weight)
        p->z_loss = 0; /* those would be shaped targets */
    if (p->family != ROW_KERNELS)
        p->has_labels = p->has_class_weight = p->has_sample_weight = 0;
}

/* An ignored value that the label type can hold. */
static void take_ignore_index(choices *c, problem *p) {
    static const int64_t usual[] = {-1, -100, 0, 1, 127, INT64_MAX, INT64_MIN + 1};
    const int choice = take_choice(c, 14);
    p->has_ignore_index = 0;
    if (choice >= 7)
        return;
    const int bits = 8 * label_size(p->label_type) - !is_unsigned(p->label_type);
    const int64_t value = usual[choice],
                  highest = bits >= 63 ? INT64_MAX : (int64_t)(((uint64_t)1 << bits) - 1);
    p->ignore_index = value;
    p->has_ignore_index =
        value <= highest && (is_unsigned(p->label_type) ? value >= 0 : value >= -highest - 1);
}

/* --- values ----------------------------------------------------------------------------------- */

/* Where the formats and the kernels change their ways. */
static const double special_values[] = {
    0.0,      -0.0,          1.0,       -1.0,      INFINITY, -INFINITY, NAN,
    0x1p-149, 0x1p-126,      0x1p-1074, 0x1p-1022, 3.4e38,   -3.4e38,   1e8,
    -1e8,     65535.9,       -65536,    5.36e8,    -5.37e8,  1.7e308,   -1.7e308,
    88.7,     -103.9,        709.7,     -745.1,    0.5,      80,        -80,
    30,       -30,           1e30,      -1e30,     1e-30,    -1e-30,    0x1.8p-24,
    -20,      0x1.fffffep-1, 16777216,  2.5,       -87.3365, -708.396,  1.0000001192,
    100,      -100,
};

static double take_value(choices *c, xent_dtype dtype) {
    enum { SPECIAL_COUNT = sizeof special_values / sizeof special_values[0] };
    const unsigned choice = take_byte(c);
    if (choice < SPECIAL_COUNT)
        return special_values[choice];
    if (choice < 200)
        return ((int)choice - 122) / 8.0;
    const uint64_t bits = take_bits(c, item_size(dtype));
    return real_at((const char *)&bits, dtype, 0);
}

/* A flat bump over [-16, 16], in steps of 2^-16: exact in float32. */
static double random_value(uint64_t *state) {
    return (double)((int64_t)(next_random(state) & 0xfffff) +
                    (int64_t)(next_random(state) & 0xfffff) - 0xfffff) /
           65536;
}

static void fill_logits(problem *p, uint64_t *state, double offset, double spread) {
    for (int64_t k = 0; k < p->rows * p->classes; ++k)
        set_real(p->logits, p->dtype, k, offset + spread * random_value(state));
}

static void fill_positive(char *values, xent_dtype dtype, int64_t count, int zeros_in_8,
                          uint64_t *state) {
    for (int64_t k = 0; k < count; ++k) {
        const double value = (double)(1 + (next_random(state) & 0xfff)) / 4096;
        set_real(values, dtype, k, (int)(next_random(state) & 7) < zeros_in_8 ? 0 : value);
    }
}

static void fill_labels(problem *p, uint64_t *state) {
    const int64_t most = p->label_type == XENT_INT8    ? 128
                         : p->label_type == XENT_UINT8 ? 256
                                                       : MOST_CLASSES;
    const int64_t count = p->classes < most ? p->classes : most;
    for (int64_t row = 0; row < p->rows; ++row) {
        const int is_ignored = p->has_ignore_index && next_random(state) % 8 == 0;
        set_label(p, row,
                  is_ignored ? (uint64_t)p->ignore_index : next_random(state) % (uint64_t)count);
    }
}

/* What chance has filled, changed here and there. */
static void take_edit(choices *c, problem *p) {
    const int array = take_choice(c, 8);
    const int64_t position = take_short(c);
    if (array == 2)
        set_real(p->class_weight, p->dtype, position % p->classes, take_value(c, p->dtype));
    else if (array == 3)
        p->sample_weight[position % p->rows] = take_value(c, XENT_FLOAT64);
    else if (array == 4)
        set_label(p, position % p->rows, take_bits(c, label_size(p->label_type)));
    else if (array == 5)
        set_label(p, position % p->rows,
                  (uint64_t)p->classes + take_byte(c) % 3 - 1); /* on either side of the last */
    else if (array == 1)
        set_real(p->targets, p->dtype, position % (p->rows * p->classes), take_value(c, p->dtype));
    else
        set_real(p->logits, p->dtype, position % (p->rows * p->classes), take_value(c, p->dtype));
}

static void take_values(choices *c, problem *p) {
    static const double offsets[] = {0, 0, 0, 0, 1e4, -1e6, 1e8, 3.3e38},
                        spreads[] = {0.25, 1, 1e-3, 4, 30, 0, 1000, 0x1p-20};
    const double offset = offsets[take_choice(c, 8)], spread = spreads[take_choice(c, 8)];
    const int zeros = take_choice(c, 8);
    uint64_t state = take_short(c);
    fill_logits(p, &state, offset, spread);
    fill_positive(p->targets, p->dtype, p->rows * p->classes, zeros, &state);
    fill_positive(p->class_weight, p->dtype, p->classes, zeros / 2, &state);
    fill_positive((char *)p->sample_weight, XENT_FLOAT64, p->rows, zeros / 2, &state);
    fill_labels(p, &state);
}

static void take_shape(choices *c, problem *p) {
    const int family = take_choice(c, 8);
    p->family = family < 6 ? ROW_KERNELS : family == 6 ? SOFTMAX_VJP : LOG_SOFTMAX_VJP;
    p->dtype = (xent_dtype)take_flag(c);
    p->classes = take_classes(c);
    p->rows = take_rows(c, p->classes);
}

/* --- layouts ---------------------------------------------------------------------------------- */

/* The k-th ISA of this processor, going round. */
static const xent_isa *supported_isa(int k) {
    const xent_isa *supported[8];
    int count = 0;
    for (int j = 0; j < xent_isa_count() && count < 8; ++j)
        if (xent_isa_at(j)->is_supported())
            supported[count++] = xent_isa_at(j);
    return supported[k % count];
}

static int is_portable(const xent_isa *isa) { return strcmp(isa->name, "portable") == 0; }

/* Of one layout the gradient is always float32, for the oracle; in place it lies as the logits. */
static void take_storages(unsigned asked, const problem *p, int has_wide_gradient, layout *l) {
    const xent_row_kernels *kernels = &l->isa->kernels[p->dtype][p->kind];
    const xent_batch outline = {.classes = p->classes,
                                .logits.class_stride = l->is_turned,
                                .dense_targets =
                                    xent_matrix_of(p->has_labels ? NULL : p->targets, 0, 0)};
    l->logits_storage = l->grad_storage = l->targets_storage = XENT_AS_COMPUTED;
    if (p->family != ROW_KERNELS || !kernels->knows_storage(&outline))
        return;
    if ((asked & 4) && !p->has_labels)
        l->targets_storage = p->storage;
    if ((asked & 1) && !(has_wide_gradient && l->in_place))
        l->logits_storage = p->storage;
    if (l->in_place)
        l->grad_storage = l->logits_storage;
    else if ((asked & 2) && !has_wide_gradient)
        l->grad_storage = p->storage;
}

static void take_layout(choices *c, const problem *p, int has_wide_gradient, layout *l) {
    const unsigned asked = take_byte(c);
    const int can_share = p->family == ROW_KERNELS &&
                          l->isa->kernels[p->dtype][p->kind].blocks_to_share(p->classes) > 0;
    l->order = (row_order)take_choice(c, can_share ? 4 : 3);
    l->rows_a_call = 1 + take_choice(c, 64);
    l->in_place = asked & 1;
    l->with_grad = p->family != ROW_KERNELS || l->in_place || (asked >> 1 & 1);
    l->with_row_loss = asked >> 2 & 1;
    l->with_statistics = asked >> 3 & 1;
    l->at_end = take_choice(c, 256);
    l->is_reversed = take_choice(c, 8);
    l->is_turned = take_choice(c, 16); /* as often none */
    if (l->is_turned >= 8 || l->order == SHARED_ROWS || p->family != ROW_KERNELS)
        l->is_turned = 0;
    for (int k = 0; k < 3; ++k)
        l->gap[k] = take_choice(c, 20);
    l->label_gap = take_choice(c, 9);
    l->label_offset = take_choice(c, 8);
    take_storages(asked >> 4, p, has_wide_gradient, l);
}

/* The portable path has bits of its own; all others agree. */
static const xent_isa *alike(const xent_isa *first, const xent_isa *candidate) {
    return is_portable(first) == is_portable(candidate) ? candidate : first;
}

static void take_layouts(choices *c, const problem *p, layout layouts[2]) {
    layouts[0].isa = supported_isa((int)take_byte(c));
    layouts[1].isa = alike(layouts[0].isa, supported_isa((int)take_byte(c)));
    for (int k = 0; k < 2; ++k)
        take_layout(c, p, k == 0, &layouts[k]);
    layouts[0].with_grad = layouts[0].with_row_loss = layouts[0].with_statistics = 1;
}

/* Numbers that 16 bits hold without loss. */
static void round_matrix(const problem *p, const xent_isa *isa, char *values) {
    static char stored[ROOM_FOR_LOGITS * 2];
    if (p->storage == XENT_AS_COMPUTED)
        return;
    narrow(isa, p->storage, values, p->rows * p->classes, stored);
    widen(isa, p->storage, stored, p->rows * p->classes, values);
}

/* Probabilities are asked for without options, and of smoothed targets without weight. */
static void clear_options(problem *p) {
    p->has_class_weight = p->has_sample_weight = 0;
    p->weight_factor = p->kind == XENT_INDEX_TARGETS;
    p->label_smoothing = p->z_loss = 0;
}

void take_case(choices *c, problem *p, layout layouts[2]) {
    take_shape(c, p);
    take_targets(c, p);
    take_ignore_index(c, p);
    take_layouts(c, p, layouts);
    take_values(c, p);
    while (has_choices(c))
        take_edit(c, p);
    round_matrix(p, layouts[0].isa, p->logits);
    if (p->family == ROW_KERNELS && !p->has_labels)
        round_matrix(p, layouts[0].isa, p->targets);
    if (p->output != XENT_GRADIENT)
        clear_options(p);
}
