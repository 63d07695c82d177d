"""Prompts and decoding settings in, streams of text out."""
