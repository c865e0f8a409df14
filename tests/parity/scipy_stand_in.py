"""The two functions of scipy that diffusers' schedulers call, so that these can be compared without scipy.

`LMSDiscreteScheduler` integrates polynomials, `use_beta_sigmas` asks for quantiles of a beta distribution; without scipy, diffusers has
neither. What scipy itself makes of them stands in runtime/diffusion/tests/samplers/reference.json.
"""

import contextlib
import importlib
import importlib.machinery
import sys
import types

import diffusers
import mpmath
import numpy
from diffusers.utils import is_scipy_available

# Exact for polynomials up to degree 7; the schedulers' have at most degree 3.
NODES, WEIGHTS = numpy.polynomial.legendre.leggauss(4)
BETA_CLASSES = ["euler_discrete", "heun_discrete", "k_dpm_2_discrete", "k_dpm_2_ancestral_discrete", "dpmsolver_multistep"]
BETA_CLASSES += ["dpmsolver_singlestep", "deis_multistep", "unipc_multistep"]


def quad(function, begin, end, **_):
    """The integral and, as scipy's, an error; that of a polynomial is none."""
    middle, half = (float(begin) + float(end)) / 2, (float(end) - float(begin)) / 2
    return half * sum(weight * float(function(middle + half * node)) for node, weight in zip(NODES, WEIGHTS)), 0.0


def ppf(share, a, b):
    """The value below which `share` of the distribution lies, by bisection."""
    low, high = mpmath.mpf(0), mpmath.mpf(1)
    for _ in range(60):
        middle = (low + high) / 2
        below = mpmath.betainc(a, b, 0, middle, regularized=True) < share
        low, high = (middle, high) if below else (low, middle)
    return float(high if share > 0 else 0)


def module(name, **contents):
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(contents)
    return made


@contextlib.contextmanager
def imported(modules):
    """These modules can be imported by name; afterwards nobody else finds them."""
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def install():
    """Makes diffusers' classes that need scipy usable. Does nothing where scipy is installed."""
    if is_scipy_available():
        return
    stats = module("scipy.stats", beta=types.SimpleNamespace(ppf=ppf))
    integrate = module("scipy.integrate", quad=quad)
    scipy = module("scipy", stats=stats, integrate=integrate)
    with imported({"scipy": scipy, "scipy.stats": stats, "scipy.integrate": integrate}):
        lms = importlib.import_module("diffusers.schedulers.scheduling_lms_discrete")
    diffusers.LMSDiscreteScheduler = lms.LMSDiscreteScheduler
    for name in BETA_CLASSES:
        scheduling = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        scheduling.scipy, scheduling.is_scipy_available = scipy, lambda: True
