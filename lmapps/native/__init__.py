"""Ids and a state -> logits, logits -> next ids, each in one native call: C++ and its binding."""

WEIGHTS = ("float32", "bfloat16", "int8")
"""Precisions in which a model's matrices can be used; the order is that of kernels.h."""
