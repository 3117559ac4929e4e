"""Moments of Adam in eight bits, by the block-wise maps of bitsandbytes (Dettmers and others, 2021, arXiv:2110.02861)."""

from __future__ import annotations

from typing import Any

from wbench.errors import FitError

WHOLE = 4096  # moments of fewer numbers stay in 32 bits, as in the authors' optimizer
BLOCK = 256  # numbers of a moment that share a scale
MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))  # and whether they have a sign


def functional() -> Any:
    """Return the functions of bitsandbytes.

    Raises:
        FitError: If it is not installed.
    """
    try:
        import bitsandbytes.functional as functions
    except ImportError:
        raise FitError(
            "q_galore: state_bits=8 needs bitsandbytes: pip install bitsandbytes, or state_bits=32"
        ) from None
    return functions


def quantized(state: dict[str, Any]) -> dict[str, Any]:
    """Return the moments as codes and scales.

    Args:
        state: With `exp_avg` and `exp_avg_sq`.
    """
    found = {}
    for key, signed in MOMENTS:
        code = functional().create_dynamic_map(signed=signed).to(state[key].device)
        codes, held = functional().quantize_blockwise(state[key].float(), code=code, blocksize=BLOCK)
        found[key] = {"codes": codes, "scale": held.absmax}
    return found


def dequantized(state: dict[str, Any]) -> dict[str, Any]:
    """Return the step and the moments, if there are any yet, in 32 bits.

    Args:
        state: With `step`, and what `quantized` gave.
    """
    found = {"step": state["step"]}
    for key, signed in MOMENTS:
        if key in state:
            held = state[key]
            code = functional().create_dynamic_map(signed=signed).to(held["codes"].device)
            found[key] = functional().dequantize_blockwise(
                held["codes"], absmax=held["scale"], code=code, blocksize=BLOCK
            )
    return found
