/* The loss's Hessian times a vector, and its diagonal.  A template over REAL_BITS.
 *
 * Knows: the two formulas, and how differences near 0 keep their digits.
 * Must not know: instruction sets, threads, Python; how a softmax is computed.
 *
 *     product      a/T^2 (A p (v - s) + 2 z p s)         s = sum p v      A = Q + 2 z lse
 *     diagonal     a/T^2 (A p (1 - p) + 2 z p^2)
 *
 * Both are taken relative to the likeliest class m, whose p may be near 1.  v - s is the same for v and v + constant:
 * with u = v - v_m it is u - sum p u, to which m itself adds nothing.  1 - p_m is the sum of the other probabilities.
 * Sums are wide (sums.h): what is left are the errors of p and four roundings.  Rows whose probabilities the lanes' type
 * cannot hold are left to double_rows.h.
 */

/* a A / T^2 and 2 a z / T^2 of one row. */
typedef struct {
    NAME(scaled_factor) factor;
    double z; /* times 2^(-3 third) of the factor */
    int has_z;
    double size; /* of the larger of the two */
} NAME(curvature);

/* Q = (1 - E) sum w t + E / C sum w */
KERNEL_INLINE double NAME(mass_of_target)(const xent_second_order_batch *problem, int64_t row, int64_t label) {
    const xent_batch *batch = &problem->batch;
    const REAL *weights = (const REAL *)(const void *)batch->class_weight;
    const REAL *targets = (const REAL *)(const void *)(batch->dense_targets + row * batch->dense_targets_row_stride);
    double mass;
    if (!batch->dense_targets)
        mass = NAME(class_weight)(batch, clamped_label(label, batch->classes));
    else if (weights)
        mass = NAME(wide_total)(NAME(sum_of_products)(targets, weights, batch->classes));
    else
        mass = NAME(wide_total)(NAME(sum_of)(targets, batch->classes));
    return (1 - batch->label_smoothing) * mass + batch->label_smoothing * problem->mean_class_weight;
}

KERNEL_INLINE NAME(curvature)
    NAME(curvature_of_row)(const xent_second_order_batch *problem, int64_t row, int64_t label, double lse) {
    const xent_batch *batch = &problem->batch;
    const double weight =
        batch->sample_weight ? batch->weight_factor * batch->sample_weight[row] : batch->weight_factor;
    const double over_square = weight / batch->temperature / batch->temperature, slope = 2 * batch->z_loss;
    const int has_z = slope != 0;
    const double mass = NAME(mass_of_target)(problem, row, label) + (has_z ? slope * lse : 0);
    const double factor = over_square * mass, z = over_square * slope;
    const int third = NAME(third_of_exponent)(has_z && fabs(z) > fabs(factor) ? z : factor);
    const NAME(curvature) result = {NAME(scaled_factor_of)(factor, third), has_z ? NAME(scaled_down)(z, third) : 0,
                                    has_z, fmax(fabs(factor), fabs(z))};
    return result;
}

KERNEL_INLINE vec NAME(hessian_product)(vec p, vec v, vec v_of_likeliest, NAME(pair) mean, vec z_term,
                                        const NAME(curvature) * c) {
    const vec above_mean = v_sub(v_sub(v_sub(v, v_of_likeliest), mean.high), mean.low);
    return NAME(times_factor)(v_mul(p, above_mean), &c->factor, c->has_z ? v_mul(p, z_term) : v_splat(0));
}

KERNEL_INLINE void NAME(hessian_times_vector)(const REAL *p, const REAL *v, REAL *product, int64_t count,
                                              int64_t likeliest, const NAME(curvature) * c) {
    const double value_of_likeliest = (double)v[likeliest];
    const vec v_of_likeliest = v_splat(v[likeliest]);
    NAME(wide) sum = NAME(zero_wide)();
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        NAME(wide_add_product)(&sum, v_load(p + k), v_sub(v_load(v + k), v_of_likeliest));
    const int left = (int)(count - k);
    if (left)
        NAME(wide_add_product)(&sum, v_load_first(p + k, left, 0), v_sub(v_load_first(v + k, left, 0), v_of_likeliest));
    double error;
    const double total = NAME(wide_total_and_error)(sum, &error);
    const NAME(pair) mean = NAME(splat_pair)(total, error);
    const vec z_term = v_splat((REAL)(c->z * (value_of_likeliest + total)));
    for (k = 0; k + LANES <= count; k += LANES)
        v_store(product + k, NAME(hessian_product)(v_load(p + k), v_load(v + k), v_of_likeliest, mean, z_term, c));
    if (left)
        v_store_first(product + k, left,
                      NAME(hessian_product)(v_load_first(p + k, left, 0), v_load_first(v + k, left, 0), v_of_likeliest,
                                            mean, z_term, c));
}

KERNEL_INLINE vec NAME(hessian_entry)(vec p, vec one_minus_p, const NAME(curvature) * c) {
    const vec z_term = c->has_z ? v_mul(v_splat((REAL)c->z), v_mul(p, p)) : v_splat(0);
    return NAME(times_factor)(v_mul(p, one_minus_p), &c->factor, z_term);
}

/* Overwrites the largest probability. */
KERNEL_INLINE void NAME(hessian_diagonal)(REAL *p, REAL *diagonal, int64_t count, int64_t likeliest,
                                          const NAME(curvature) * c) {
    const vec one = v_splat(1), p_of_likeliest = v_splat(p[likeliest]);
    p[likeliest] = 0;
    const vec others = v_splat((REAL)NAME(wide_total)(NAME(sum_of)(p, count)));
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        const vec x = v_load(p + k);
        v_store(diagonal + k, NAME(hessian_entry)(x, v_sub(one, x), c));
    }
    if (k < count) {
        const vec x = v_load_first(p + k, (int)(count - k), 0);
        v_store_first(diagonal + k, (int)(count - k), NAME(hessian_entry)(x, v_sub(one, x), c));
    }
    diagonal[likeliest] = v_first(NAME(hessian_entry)(p_of_likeliest, others, c));
}

/* Whether a vector of probabilities has one that the lanes' type may have rounded to few digits, or to 0. */
KERNEL_INLINE int NAME(has_rounded)(const REAL *p, int64_t count) {
    const vec limit = v_splat(SMALLEST_EXACT);
    vec below = v_splat(0);
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        below = v_max(v_sub(limit, v_load(p + k)), below);
    if (k < count)
        below = v_max(v_sub(limit, v_load_first(p + k, (int)(count - k), 1)), below);
    return v_largest(below) > 0;
}

/* Whether those show: beside a factor above 1, or where 1 - p of the likeliest class is made of nothing else.  A class does
 * not whose p times the factor and the number of classes stays below every number. */
static NEVER_INLINE int NAME(rounded_show)(const xent_batch *batch, int64_t row, const REAL *p, const REAL *vector,
                                           int64_t likeliest, double factor) {
    const REAL *logits = (const REAL *)(const void *)(batch->logits + row * batch->logits_row_stride);
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
    if (!(nearest < INFINITY) || (size <= 1 && others >= (double)SMALLEST_EXACT * (double)batch->classes))
        return 0;
    const double steps =
        EXPONENT_BIAS + SIGNIFICAND_SHIFT + 1 + far_of(fmax(size, 1) * (double)batch->classes).exponent;
    return nearest / batch->temperature < steps * ln_2_f64;
}

/* Rows that share the workspace. */
KERNEL_INLINE void NAME(second_order_part)(const xent_second_order_batch *problem, int64_t first_row, int64_t row_count,
                                           void *workspace) {
    const xent_batch *batch = &problem->batch;
    const int64_t classes = batch->classes;
    const int has_labels = batch->dense_targets == NULL;
    REAL *probabilities = NAME(part_matrix)(workspace, classes, 0), lse[XENT_MAX_ROWS_PER_CALL];
    int64_t labels[XENT_MAX_ROWS_PER_CALL] = {0}, likeliest[XENT_MAX_ROWS_PER_CALL];
    if (has_labels)
        xent_read_labels(&batch->labels, first_row, row_count, labels);
    NAME(softmax_part)(batch->logits + first_row * batch->logits_row_stride, batch->logits_row_stride, row_count,
                       classes, batch->temperature, probabilities, likeliest, lse, workspace);
    for (int64_t k = 0; k < row_count; ++k) {
        const int64_t row = first_row + k;
        REAL *p = probabilities + k * (NAME(part_row_stride)(classes) / (ptrdiff_t)sizeof(REAL));
        REAL *result = (REAL *)(void *)(batch->grad + row * batch->grad_row_stride);
        const int ignored = has_labels && is_ignored(&batch->labels, labels[k]);
        if (ignored || likeliest[k] < 0) {
            NAME(fill)(result, classes, ignored ? 0 : NAN);
            continue;
        }
        const NAME(curvature) c = NAME(curvature_of_row)(problem, row, labels[k], (double)lse[k]);
        const REAL *vector =
            problem->vector ? (const REAL *)(const void *)(problem->vector + row * problem->vector_row_stride) : NULL;
        if (NAME(has_rounded)(p, classes) && NAME(rounded_show)(batch, row, p, vector, likeliest[k], c.size))
            NAME(curvature_of_far_row)(batch, row, labels[k], kind_of_targets(batch), vector, result);
        else if (vector)
            NAME(hessian_times_vector)(p, vector, result, classes, likeliest[k], &c);
        else
            NAME(hessian_diagonal)(p, result, classes, likeliest[k], &c);
    }
}

/* Function of the contract. */
static double NAME(second_order_rows)(const xent_batch *batch, int64_t first_row, int64_t row_count, void *workspace) {
    const int64_t at_once = NAME(rows_of_part)(batch->classes);
    for (int64_t k = 0; k < row_count; k += at_once)
        NAME(second_order_part)((const xent_second_order_batch *)(const void *)batch, first_row + k,
                                row_count - k < at_once ? row_count - k : at_once, workspace);
    return 0;
}

static size_t NAME(second_order_workspace_bytes)(int64_t classes) { return NAME(workspace_with_matrices)(classes, 1); }
