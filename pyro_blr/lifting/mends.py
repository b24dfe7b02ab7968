# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""For operations that leave the polynomials: which spelling keeps a factor deterministic.

A mend is one sentence, and true: tests run the spelling that it names.
"""

import re

_KINK = (
    "has a kink: by quadrature it reaches 1e-8 nats only where the kink is far from the mass of "
    "its Gaussian; `F.softplus` of a single Gaussian scalar is smooth"
)
_ORDER = "needs the order of several latents, which has no closed form; leave it out of the model"
_MATRIX = (
    "of a latent matrix has no closed form; of a constant one it is computed before latents enter, "
    "so let latents enter the equations' right-hand side, `torch.linalg.solve(A, z)`; a Wishart "
    "latent is exact as the precision_matrix of a MultivariateNormal"
)
_ONE_SCALAR = (
    "is by quadrature of one Gaussian scalar an element, as in `{0}(X @ w)` with Gaussian weights"
)
_NORMALISER = "couples several latents; with a Dirichlet latent `Categorical(probs=theta)` is exact"

#: From the name of a torch operation to its mend.
MENDS: dict[str, str] = {
    **dict.fromkeys(
        ("norm", "linalg_norm", "linalg_vector_norm", "linalg_matrix_norm"),
        "takes the root of a sum; if the square is enough, `(z ** 2).sum(-1)` is a polynomial",
    ),
    **dict.fromkeys(
        ("dist", "cdist", "pdist", "pairwise_distance"),
        "takes a root; if the square is enough, `((x - z) ** 2).sum(-1)` is a polynomial",
    ),
    **dict.fromkeys(
        ("std", "std_mean"), "takes the root of a variance; `z.var(-1)` is a polynomial"
    ),
    **dict.fromkeys(
        ("softmax", "log_softmax", "softmin", "logsumexp", "logcumsumexp"), _NORMALISER
    ),
    **dict.fromkeys(("relu", "abs", "clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"), _KINK),
    **dict.fromkeys(("leaky_relu", "threshold", "hardsigmoid", "hardshrink", "softshrink"), _KINK),
    **dict.fromkeys(("max", "min", "maximum", "minimum", "amax", "amin", "cummax"), _ORDER),
    **dict.fromkeys(("sort", "argsort", "topk", "median", "quantile", "kthvalue"), _ORDER),
    **dict.fromkeys(("argmax", "argmin", "cummin", "mode", "nanmedian", "nanquantile"), _ORDER),
    **dict.fromkeys(
        ("cholesky", "linalg_cholesky", "inverse", "linalg_inv", "cholesky_inverse"), _MATRIX
    ),
    **dict.fromkeys(
        ("det", "linalg_det", "logdet", "slogdet", "linalg_slogdet", "matrix_exp"), _MATRIX
    ),
    **dict.fromkeys(("linalg_eigh", "linalg_svd", "linalg_qr", "linalg_pinv"), _MATRIX),
    **dict.fromkeys(
        ("linalg_solve", "linalg_solve_triangular", "cholesky_solve"),
        "is linear in the right-hand side; the matrix must be constant, as in "
        "`torch.linalg.solve(A, z)`",
    ),
    **dict.fromkeys(
        ("prod", "cumprod"),
        "is spelled out for at most four elements by `prod` along a dim; a sum of logarithms of "
        "positive latents is a polynomial, `tau.log().sum(-1)`",
    ),
    **{
        name: _ONE_SCALAR.format(spelling)
        for name, spelling in {
            "sigmoid": "torch.sigmoid",
            "tanh": "torch.tanh",
            "softplus": "F.softplus",
            "logsigmoid": "F.logsigmoid",
            "erf": "torch.erf",
            "special_ndtr": "torch.special.ndtr",
            "special_expit": "torch.special.expit",
            "sin": "torch.sin",
            "cos": "torch.cos",
            "gelu": "F.gelu",
            "silu": "F.silu",
            "atan": "torch.atan",
        }.items()
    },
    "log": "is exact of a product of positive latents and constants, `(2 * tau).log()`",
    "sqrt": "is exact of a product of positive latents and constants, `(2 * tau).sqrt()`",
    "rsqrt": "is exact of a product of positive latents and constants, `(2 * tau).rsqrt()`",
    "div": "is exact where the divisor is a product of positive latents and constants, `z / tau`",
    "reciprocal": "is exact of a product of positive latents and constants, `1 / tau`",
    "pow": "of a sum is exact for the exponents 1 to 4, `(z + 1) ** 2`",
    "where": "is exact on a constant condition, `torch.where(mask, z, 0.0)`",
    "__getitem__": "is exact at constant positions, `z[group]`",
    "gather": "is exact at constant positions, `z.gather(-1, index)`",
    "detach": "has no meaning for a latent, whose gradient is q's: leave it out",
    "cosine_similarity": "divides by norms; the product `(x * z).sum(-1)` is a polynomial",
    "normalize": "divides by a norm; `z` itself, not normalised, is a polynomial",
    "layer_norm": "divides by a standard deviation; `z - z.mean(-1, keepdim=True)` is a polynomial",
    "dropout": "draws a mask; multiply by a constant mask, `z * mask`",
    "fft_rfft": "gives complex numbers; products with constant cosines and sines are polynomials",
    "fft_fft": "gives complex numbers; products with constant cosines and sines are polynomials",
}


def mend_of(reason: str) -> str | None:
    """The mend for the first operation that a reason names in backticks, or None."""
    names = re.findall(r"`(\w+)`", reason)
    return next((f"`{n}` {MENDS[n]}" for n in names if n in MENDS), None)
