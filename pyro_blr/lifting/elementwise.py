# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What is known of recorded operations: which act element by element, move elements, or jump."""

from .tensor import LiftedTensor, program

#: Torch functions that act element by element. Others may too; a name belongs here if and only if
#: each element of the result depends on one element of each (broadcast) argument.
ELEMENTWISE = set(
    """
    abs absolute acos arccos acosh add addcdiv addcmul angle asin asinh atan atan2 ceil celu clamp
    clamp_max clamp_min clip cos cosh deg2rad digamma div divide elu erf erfc erfinv exp exp2 expit
    expm1 float_power floor fmod frac gelu hardsigmoid hardtanh hypot i0 leaky_relu lerp lgamma log
    log10 log1p log2 log_ndtr logaddexp logaddexp2 logit log_sigmoid logsigmoid max maximum min
    minimum mish mul multiply mvlgamma ndtr neg negative polygamma positive pow rad2deg reciprocal
    relu relu6 round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus softsign sqrt
    square sub subtract tan tanh tanhshrink true_divide trunc where xlog1py xlogy eq ne lt le
    gt ge less greater less_equal greater_equal isfinite isnan logical_and logical_or logical_not
    masked_fill nan_to_num clone contiguous double float to type type_as full_like zeros_like
    ones_like hardshrink softshrink threshold special_expit special_logit special_ndtr
    special_log_ndtr special_erf special_erfc special_erfcx special_xlogy special_xlog1py
    special_exp2 special_expm1 special_log1p special_gammaln special_digamma special_psi
    special_polygamma special_multigammaln special_zeta special_i0 special_i0e special_i1
    special_i1e special_sinc special_erfinv special_ndtri special_entr special_round
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __div__ __rdiv__
    __pow__ __rpow__ __neg__ __pos__ __abs__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__
    __or__ __invert__
    """.split()  # noqa: SIM905 - a table of words reads better than a list of a hundred lines
)

#: Operations that are linear in their first argument and may stand between the elementwise log
#: density and the factor: its elements' expectations are passed through them.
LINEAR_TAIL = frozenset(
    "sum mean neg __neg__ reshape view squeeze unsqueeze expand broadcast_to".split()  # noqa: SIM905
)

#: Operations that move or repeat elements without mixing them. They name shapes, so that the
#: program has to be mapped over the nodes instead of broadcast.
REARRANGING = frozenset(
    """
    expand expand_as broadcast_to broadcast_tensors reshape view view_as unsqueeze squeeze
    transpose swapaxes permute movedim flatten unflatten t t_all mT __getitem__ index_select
    select narrow flip repeat tile roll unbind split chunk stack cat
    """.split()  # noqa: SIM905 - as above
)

#: Operations with jumps: at draws, the gradient of what they enter lacks the part of the jump.
JUMPING = set(
    """
    sign sgn floor ceil round trunc frac fmod remainder heaviside argmax argmin eq ne lt le gt ge
    less greater less_equal greater_equal logical_and logical_or logical_not bucketize searchsorted
    special_round __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __invert__ __floordiv__
    __mod__
    """.split()  # noqa: SIM905 - as above
)


#: Operations with kinks: along a draw their second derivative is 0, which is not its expectation.
KINKED = set(
    """
    abs absolute relu relu6 leaky_relu max min maximum minimum amax amin aminmax clamp clamp_max
    clamp_min clip hardsigmoid hardtanh hardswish hardshrink softshrink threshold where masked_fill
    sort topk median nanmedian quantile cummax cummin pairwise_distance cdist
    __abs__ max_pool1d max_pool2d adaptive_max_pool1d rrelu prelu
    """.split()  # noqa: SIM905 - as above
)

#: Distributions whose log density has a kink in the value or in a parameter.
KINKED_DENSITIES = frozenset({"Laplace", "AsymmetricLaplace", "Uniform"})

#: Sums and products: what they join is not what makes an expectation hard.
ARITHMETIC = frozenset(
    """
    add addcmul sub subtract rsub mul multiply div divide true_divide neg negative positive sum mean
    lerp matmul mm mv bmm dot einsum linear cumsum where log_prob to type double float clone
    contiguous __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __neg__
    __pos__ __matmul__ __rmatmul__
    """.split()  # noqa: SIM905 - as above
)


def functions_of(density: LiftedTensor) -> tuple[str, ...]:
    """The functions that a value without a polynomial went through, the outermost first.

    Sums, products, what moves elements, and the transforms that q's own variables go through are
    left out.
    """
    values = {id(n) for n in program([density]) if n.is_value}
    nodes = (n for n in reversed(program([density], values)) if id(n) not in values)
    names = (name_of(n) for n in nodes if n.poly is None)
    return tuple(dict.fromkeys(n for n in names if n and n not in ARITHMETIC | REARRANGING))


def name_of(node: LiftedTensor) -> str:
    """The name of the torch function that a node is a result of."""
    return "" if node.call is None else node.call.name


def is_elementwise(node: LiftedTensor) -> bool:
    """Whether a node was computed element by element."""
    assert node.call is not None
    declared = getattr(node.call.function, "elementwise", None)
    if declared is not None:
        return bool(declared)
    name = node.call.name
    if name in ("max", "min", "sum", "mean"):  # elementwise only in their two-tensor form
        return (
            name in ("max", "min")
            and len(node.call.args) == 2
            and hasattr(node.call.args[1], "dim")
        )
    return name in ELEMENTWISE or name in REARRANGING


def rearranges(node: LiftedTensor) -> bool:
    """Whether a node's elements are its inputs' elements, moved or repeated."""
    return name_of(node) in REARRANGING


def is_affine(node: LiftedTensor) -> bool:
    """Whether a node is affine in Gaussian latents, with constant coefficients."""
    return node.poly is not None and all(
        t.is_constant
        or (
            len(t.atoms) == 1
            and not t.exponentials
            and t.atoms[0].site.gaussian
            and t.atoms[0].kind == "power"
            and t.atoms[0].power == 1
        )
        for t in node.poly.terms
    )


def has_kinks(density: LiftedTensor) -> bool:
    """Whether a log density's second derivative misses a part at a kink."""
    return any(
        (name_of(n) in KINKED and not _is_guard(n)) or _density_of(n) in KINKED_DENSITIES
        for n in program([density])
    )


#: Bounds this close to 0 or 1 guard a logarithm from rounding; no mass lies beyond them.
GUARD = 1e-5


def _is_guard(node: LiftedTensor) -> bool:
    """Whether a clamp only keeps a probability off 0 and 1, as torch's own transforms do."""
    if node.call is None or not name_of(node).startswith("clamp"):
        return False
    bounds = [b for b in (*node.call.args[1:], *node.call.kwargs.values()) if b is not None]
    return bool(bounds) and all(
        isinstance(b, int | float) and min(abs(b), abs(1 - b)) <= GUARD for b in bounds
    )


def _density_of(node: LiftedTensor) -> str:
    """The class of the distribution whose recorded log density a node is."""
    fn = getattr(getattr(node.call, "function", None), "fn", None)
    while fn is not None and getattr(fn, "base_dist", None) is not None:
        fn = fn.base_dist
    return getattr(getattr(fn, "distribution", type(fn)), "__name__", "")


def jumping_operations(density: LiftedTensor) -> tuple[str, ...]:
    """The operations with jumps that a log density went through."""
    return tuple(sorted({name_of(n) for n in program([density])} & JUMPING))
