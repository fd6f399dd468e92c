/* The loss's Hessian times a vector, and its diagonal.  A template over REAL_BITS.
 *
 * Knows: the two formulas, and how differences near 0 keep their digits.
 * Must not know: instruction sets, threads, Python; how a softmax is computed.
 *
 *     product      a/T^2 (A p (v - s) + 2 z p s)         s = sum p v      A = Q + 2 z lse
 *     diagonal     a/T^2 (A p (1 - p) + 2 z p^2)
 *
 * Both are taken relative to the likeliest class m, whose p may be near 1.  v - s is the same for v
 * and v + constant: with u = v - v_m it is u - sum p u, to which m itself adds nothing.  1 - p_m is
 * the sum of the other probabilities. Sums are wide (sums.h): what is left are the errors of p and
 * four roundings.  Rows whose probabilities the lanes' type cannot hold are left to double_rows.h.
 */

/* a A / T^2 and 2 a z / T^2 of one row. */
typedef struct {
    scaled_factor factor;
    double z; /* times 2^(-3 third) of the factor */
    int has_z;
    double size;   /* of the larger of the two */
    int is_simple; /* one factor of middling size and nothing else */
} row_curvature;

/* Q = (1 - E) sum w t + E / C sum w */
KERNEL_INLINE double mass_of_target(const xent_second_order_batch *problem, int64_t row,
                                    int64_t label) {
    const xent_batch *batch = &problem->batch;
    const REAL *weights = (const REAL *)(const void *)batch->class_weight;
    const REAL *targets = (const REAL *)(const void *)xent_row(&batch->dense_targets, row);
    double mass;
    if (!batch->dense_targets.data)
        mass = weight_of_class(batch, clamped_label(label, batch->classes));
    else if (weights)
        mass = wide_total(sum_of_products(targets, weights, batch->classes));
    else
        mass = wide_total(sum_of(targets, batch->classes));
    return (1 - batch->options.label_smoothing) * mass +
           batch->options.label_smoothing * problem->mean_class_weight;
}

/* a / T^2 */
KERNEL_INLINE double weight_over_square(const xent_batch *batch, int64_t row) {
    const double weight = batch->sample_weight ? batch->weight_factor * batch->sample_weight[row]
                                               : batch->weight_factor;
    return weight / batch->options.temperature / batch->options.temperature;
}

KERNEL_INLINE row_curvature curvature_of_row(const xent_second_order_batch *problem, int64_t row,
                                             int64_t label, double lse) {
    const xent_batch *batch = &problem->batch;
    const double over_square = weight_over_square(batch, row),
                 curvature = curvature_of_lse(&batch->options);
    const int has_z = lse_counts(&batch->options);
    const double mass =
        mass_of_target(problem, row, label) + (has_z ? slope_of_lse(&batch->options, lse) : 0);
    const double factor = over_square * mass, z = over_square * curvature;
    const int third = third_of_exponent(has_z && fabs(z) > fabs(factor) ? z : factor);
    const row_curvature result = {scaled_factor_of(factor, third),
                                  has_z ? scaled_down(z, third) : 0, has_z,
                                  fmax(fabs(factor), fabs(z)), !has_z && third == 0};
    return result;
}

/* What of a product with a vector is the same for all classes. */
typedef struct {
    vec of_likeliest; /* v_m */
    vec_pair mean;    /* sum p u */
    vec z_term;
} product_frame;

KERNEL_INLINE vec hessian_product(vec p, vec v, const product_frame *frame, const row_curvature *c,
                                  int is_simple) {
    const vec above_mean =
        v_sub(v_sub(v_sub(v, frame->of_likeliest), frame->mean.high), frame->mean.low);
    if (is_simple)
        return v_mul(v_mul(p, c->factor.factor.high), above_mean);
    return times_factor(v_mul(p, above_mean), &c->factor,
                        c->has_z ? v_mul(p, frame->z_term) : v_splat(0));
}

KERNEL_INLINE void hessian_products(const REAL *p, const REAL *v, REAL *product, int64_t count,
                                    const product_frame *frame, const row_curvature *c,
                                    int is_simple) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        v_store(product + k, hessian_product(v_load(p + k), v_load(v + k), frame, c, is_simple));
    const int left = (int)(count - k);
    if (left)
        v_store_first(product + k, left,
                      hessian_product(v_load_first(p + k, left, 0), v_load_first(v + k, left, 0),
                                      frame, c, is_simple));
}

/* p0 u0 + p1 u1 + p2 u2 + p3 u3; `below` becomes positive where some p is below `limit`. */
KERNEL_INLINE vec four_products(const vec *p, const vec *v, vec of_likeliest, vec limit,
                                vec *below) {
    vec u[4];
    EACH_OF(4, u[j] = v_sub(v[j], of_likeliest); below[j] = v_max(v_sub(limit, p[j]), below[j]));
    return v_fma(p[0], u[0], v_fma(p[1], u[1], v_fma(p[2], u[2], v_mul(p[3], u[3]))));
}

/* The sum of p u, as two doubles, by fours in the lanes' own type; returns whether some p may have
 * been rounded to few digits, or to 0. */
KERNEL_INLINE int sum_products(const REAL *p, const REAL *v, int64_t count, vec of_likeliest,
                               double *total, double *error) {
    const vec limit = v_splat(SMALLEST_EXACT), zero = v_splat(0);
    wide_sum sum = zero_wide();
    vec x[4], y[4], below[4] = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + HALF_GROUP <= count; k += HALF_GROUP) {
        EACH_OF(4, x[j] = v_load(p + k + j * LANES); y[j] = v_load(v + k + j * LANES));
        wide_add(&sum, four_products(x, y, of_likeliest, limit, below));
    }
    if (k < count) {
        const int left = (int)(count - k);
        vec no_class[4] = {zero, zero, zero, zero};
        EACH_OF(4, x[j] = load_up_to(p + k + j * LANES, left - j * LANES, 0);
                y[j] = load_up_to(v + k + j * LANES, left - j * LANES, 0));
        wide_add(&sum, four_products(x, y, of_likeliest, limit, no_class));
        for (int64_t at = k; at < count; at += LANES)
            below[0] = v_max(
                v_sub(limit, load_up_to(p + at, count - at < LANES ? (int)(count - at) : LANES, 1)),
                below[0]);
    }
    *total = wide_total_and_error(sum, error);
    return v_largest(v_max(v_max(below[0], below[1]), v_max(below[2], below[3]))) > 0;
}

/* The frame of a row's product; returns what sum_products does. */
KERNEL_INLINE int begin_product(const REAL *p, const REAL *v, int64_t count, int64_t likeliest,
                                const row_curvature *c, product_frame *frame) {
    double total, error;
    frame->of_likeliest = v_splat(v[likeliest]);
    const int has_rounded = sum_products(p, v, count, frame->of_likeliest, &total, &error);
    frame->mean = splat_pair(total, error);
    frame->z_term = v_splat((REAL)(c->z * ((double)v[likeliest] + total)));
    return has_rounded;
}

KERNEL_INLINE vec hessian_entry(vec p, vec one_minus_p, const row_curvature *c, int is_simple) {
    if (is_simple)
        return v_mul(v_mul(p, c->factor.factor.high), one_minus_p);
    const vec z_term = c->has_z ? v_mul(v_splat((REAL)c->z), v_mul(p, p)) : v_splat(0);
    return times_factor(v_mul(p, one_minus_p), &c->factor, z_term);
}

KERNEL_INLINE void hessian_entries(const REAL *p, REAL *diagonal, int64_t count,
                                   const row_curvature *c, int is_simple) {
    const vec one = v_splat(1);
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        const vec x = v_load(p + k);
        v_store(diagonal + k, hessian_entry(x, v_sub(one, x), c, is_simple));
    }
    if (k < count) {
        const vec x = v_load_first(p + k, (int)(count - k), 0);
        v_store_first(diagonal + k, (int)(count - k),
                      hessian_entry(x, v_sub(one, x), c, is_simple));
    }
}

KERNEL_INLINE void hessian_diagonal(const REAL *p, REAL *diagonal, int64_t count, int64_t likeliest,
                                    const row_curvature *c) {
    const REAL largest = p[likeliest];
    if (c->is_simple)
        hessian_entries(p, diagonal, count, c, 1);
    else
        hessian_entries(p, diagonal, count, c, 0);
    if (largest > (REAL)0.5) {
        const vec others = v_splat((REAL)sum_of_other_classes(p, count, likeliest));
        const vec entry = c->is_simple
                              ? v_mul(v_mul(others, c->factor.factor.high), v_splat(largest))
                              : hessian_entry(v_splat(largest), others, c, 0);
        diagonal[likeliest] = v_first(entry);
    }
}

/* Whether a vector of probabilities has one that the lanes' type may have rounded to few digits, or
 * to 0. */
KERNEL_INLINE int has_rounded_probability(const REAL *p, int64_t count) {
    const vec limit = v_splat(SMALLEST_EXACT), zero = v_splat(0);
    vec below[4] = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + HALF_GROUP <= count; k += HALF_GROUP)
        EACH_OF(4, below[j] = v_max(v_sub(limit, v_load(p + k + j * LANES)), below[j]));
    for (; k < count; k += LANES)
        below[0] =
            v_max(v_sub(limit, load_up_to(p + k, count - k < LANES ? (int)(count - k) : LANES, 1)),
                  below[0]);
    return v_largest(v_max(v_max(below[0], below[1]), v_max(below[2], below[3]))) > 0;
}

/* Whether those show: beside a factor above 1, or where 1 - p of the likeliest class is made of
 * nothing else.  A class does not whose p times the factor and the number of classes stays below
 * every number. */
static NEVER_INLINE int rounded_show(const xent_batch *batch, int64_t row, const REAL *p,
                                     const REAL *vector, int64_t likeliest, double factor) {
    const REAL *logits = (const REAL *)(const void *)xent_row(&batch->logits, row);
    double size = 1, others = 0, nearest = INFINITY;
    for (int64_t k = 0; k < batch->classes; ++k) {
        if (vector)
            size = fmax(size, fabs((double)vector[k] - (double)vector[likeliest]));
        if (k == likeliest)
            continue;
        others += (double)p[k];
        if (p[k] < SMALLEST_EXACT)
            nearest = fmin(nearest, (double)logits[likeliest] - (double)logits[k]);
    }
    size *= factor;
    if (!(nearest < INFINITY) ||
        (size <= 1 && others >= (double)SMALLEST_EXACT * (double)batch->classes))
        return 0;
    const double steps = EXPONENT_BIAS + SIGNIFICAND_SHIFT + 1 +
                         far_of(fmax(size, 1) * (double)batch->classes).exponent;
    return nearest / batch->options.temperature < steps * ln_2_f64;
}

/* Rows that share the workspace. */
KERNEL_INLINE void second_order_part(const xent_second_order_batch *problem, int64_t first_row,
                                     int64_t row_count, void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int64_t classes = batch->classes;
    const int has_labels = batch->dense_targets.data == NULL;
    XENT_ASSERT(row_count <= rows_of_part(classes));
    REAL *probabilities = part_matrix(workspace, classes, 0), lse[XENT_MAX_ROWS_PER_CALL];
    int64_t labels[XENT_MAX_ROWS_PER_CALL] = {0}, likeliest[XENT_MAX_ROWS_PER_CALL];
    if (has_labels)
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    softmax_part(xent_matrix_from(&batch->logits, first_row), row_count, classes,
                 batch->options.temperature, probabilities, likeliest, lse, workspace);
    for (int64_t k = 0; k < row_count; ++k) {
        const int64_t row = first_row + k;
        REAL *p = probabilities + k * (part_row_stride(classes) / (ptrdiff_t)sizeof(REAL));
        REAL *result = (REAL *)(void *)xent_row(&batch->grad, row);
        const int ignored = has_labels && is_ignored(&batch->labels, labels[k]);
        if (ignored || likeliest[k] < 0) {
            fill_classes(result, classes, ignored ? 0 : NAN);
            continue;
        }
        const row_curvature c = curvature_of_row(problem, row, labels[k], (double)lse[k]);
        const REAL *vector = problem->vector.data
                                 ? (const REAL *)(const void *)xent_row(&problem->vector, row)
                                 : NULL;
        product_frame frame;
        int has_rounded;
        if (vector)
            has_rounded = begin_product(p, vector, classes, likeliest[k], &c, &frame);
        else
            has_rounded = has_rounded_probability(p, classes);
        if (has_rounded && rounded_show(batch, row, p, vector, likeliest[k], c.size))
            curvature_of_far_row(batch, row, labels[k], xent_kind_of_targets(batch), vector,
                                 result);
        else if (!vector)
            hessian_diagonal(p, result, classes, likeliest[k], &c);
        else if (c.is_simple)
            hessian_products(p, vector, result, classes, &frame, &c, 1);
        else
            hessian_products(p, vector, result, classes, &frame, &c, 0);
    }
}

/* --- few classes: lanes along rows ------------------------------------------------------------ */

/* Sum of the masses of dense targets of a few classes, in whatever layout. */
KERNEL_INLINE double mass_of_few_classes(const xent_second_order_batch *problem, int64_t row) {
    const xent_batch *batch = &problem->batch;
    const REAL *weights = (const REAL *)(const void *)batch->class_weight;
    double mass = 0;
    for (int64_t k = 0; k < batch->classes; ++k)
        mass +=
            (double)number_at(&batch->dense_targets, row, k) * (weights ? (double)weights[k] : 1);
    return (1 - batch->options.label_smoothing) * mass +
           batch->options.label_smoothing * problem->mean_class_weight;
}

/* What writes the second derivatives of some rows of a few classes; without z_loss. */
KERNEL_INLINE void begin_curvature(const xent_second_order_batch *problem, int64_t first_row,
                                   int64_t row_count, const int64_t *labels, REAL least,
                                   curvature_writer *writer) {
    const xent_batch *batch = &problem->batch;
    writer->batch = batch;
    writer->kind = xent_kind_of_targets(batch);
    writer->first_row = first_row;
    writer->has_own_weights =
        batch->sample_weight || batch->class_weight || batch->dense_targets.data;
    writer->vector = problem->vector;
    writer->result = batch->grad;
    writer->least = least;
    const int64_t count = writer->has_own_weights ? row_count : 1;
    REAL own = 0;
    for (int64_t k = 0; k < count; ++k) {
        const double mass = batch->dense_targets.data
                                ? mass_of_few_classes(problem, first_row + k)
                                : mass_of_target(problem, first_row + k, labels[k]);
        own = batch->options.temperature < LARGEST_TEMPERATURE
                  ? curvature_weight(weight_over_square(batch, first_row + k) * mass)
                  : (REAL)INFINITY;
        writer->weights[k] = own;
    }
    for (int64_t k = count; k < count + LANES; ++k)
        writer->weights[k] = own;
}

/* Rows of a few classes in any layout; `least` is what smaller numbers of the diagonal become. */
static NEVER_INLINE void second_order_of_few_classes(const xent_second_order_batch *problem,
                                                     int64_t first_row, int64_t row_count,
                                                     REAL least) {
    xent_batch softmax = problem->batch;
    int64_t labels[XENT_MAX_ROWS_PER_CALL + LANES] = {0};
    double losses[XENT_MAX_ROWS_PER_CALL];
    curvature_writer writer;
    if (softmax.dense_targets.data)
        softmax.labels.has_ignore_index = 0;
    else
        xent_read_labels(&softmax.labels, first_row, row_count, labels);
    softmax.grad.data = NULL;
    softmax.class_weight = NULL;
    softmax.sample_weight = NULL;
    softmax.weight_factor = 1;
    softmax.lse = NULL;
    softmax.prediction = NULL;
    begin_curvature(problem, first_row, row_count, labels, least, &writer);
    index_rows_and_curvature(&softmax, first_row, row_count, labels, losses, &writer);
}

KERNEL_INLINE int has_few_classes(const xent_batch *batch) {
    return batch->classes <= MOST_CLASSES_ALONG_ROWS && !lse_counts(&batch->options);
}

/* Function of the contract. */
static double second_order_rows(const xent_batch *batch, int64_t first_row, int64_t row_count,
                                void *workspace) {
    assert_softmax_function(batch, first_row, row_count, workspace, has_few_classes(batch));
    XENT_ASSERT(batch->grad.data);
    if (has_few_classes(batch)) {
        second_order_of_few_classes((const xent_second_order_batch *)(const void *)batch, first_row,
                                    row_count, (REAL)-INFINITY);
        return 0;
    }
    const int64_t at_once = rows_of_part(batch->classes);
    for (int64_t k = 0; k < row_count; k += at_once)
        second_order_part((const xent_second_order_batch *)(const void *)batch, first_row + k,
                          row_count - k < at_once ? row_count - k : at_once, workspace);
    return 0;
}

static size_t second_order_workspace_bytes(int64_t classes) {
    return workspace_with_matrices(classes, 1);
}
