"""Embedded tokens and a state -> logits, in one native call: C++ sources, build, binding."""

WEIGHTS = ("float32", "bfloat16", "int8")
"""Precisions in which a model's matrices can be used; the order is that of kernels.h."""
