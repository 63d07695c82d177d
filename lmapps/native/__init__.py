"""Embedded tokens and a state -> logits, in one native call: C++ sources, build, binding."""
