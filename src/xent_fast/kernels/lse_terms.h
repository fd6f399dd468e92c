/* What a row pays for its lse itself.  A template over REAL_BITS.
 *
 * Knows: the terms of the loss that depend on lse alone: the only place of their formulas.
 * Must not know: rows, blocks, target kinds, instruction sets.
 *
 *     loss / a = sum q_c (lse - x_c) + f(lse)
 *     the slope f' takes part in Q before p, the curvature f'' in the Hessian as f'' p p'
 *
 *     f = z lse^2      f' = 2 z lse      f'' = 2 z
 *
 * f comes as two factors, whose product a lane adds in its own way.
 */
#ifndef XENT_FAST_LSE_TERMS_H
#define XENT_FAST_LSE_TERMS_H

typedef struct {
    far loss, slope, curvature;
} far_lse_terms;

KERNEL_INLINE far_lse_terms far_lse_terms_of(const xent_options *options, far lse) {
    const far z = far_of(options->z_loss), curvature = far_sum(z, z);
    const far_lse_terms terms = {far_product(far_product(z, lse), lse), far_product(curvature, lse),
                                 curvature};
    return terms;
}

KERNEL_INLINE double slope_of_lse(const xent_options *options, double lse) {
    return 2 * options->z_loss * lse;
}

KERNEL_INLINE double curvature_of_lse(const xent_options *options) { return 2 * options->z_loss; }

/* Whether there is such a term. */
KERNEL_INLINE int lse_counts(const xent_options *options) { return options->z_loss != 0; }

#endif

typedef struct {
    vec left, right; /* f is their product */
    vec slope;
} lse_terms;

KERNEL_INLINE lse_terms lse_terms_of(const xent_options *options, vec lse) {
    const vec z = v_splat((REAL)options->z_loss);
    const lse_terms terms = {v_mul(z, lse), lse, v_mul(v_add(z, z), lse)};
    return terms;
}

/* Whether a term's size leaves the lanes' type, so that all rows are taken as far ones. */
KERNEL_INLINE int lse_terms_leave_lanes(const xent_options *options) {
    const double size = fabs(options->z_loss);
    return size != 0 && (size < 1 / LARGEST_FACTOR || size >= LARGEST_FACTOR);
}
