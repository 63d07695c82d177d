"""An answer of the page or the API -> the headers that tell a browser what it may do with it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache

Headers = list[tuple[bytes, bytes]]

ALWAYS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
]
POLICY_OF_DATA = b"default-src 'none'; frame-ancestors 'none'; sandbox"
"""For every answer that is no page: shown by itself, it can do nothing."""

# Scripts: this server's own, and those that stand in the page as it was sent, by their hash. What
# is put into the page later, by a reply or a title, is none of them, nor is an `onerror=`. Gradio
# makes functions of the texts of our `js=` handlers, which takes 'unsafe-eval', and writes styles
# into elements, which takes 'unsafe-inline' for styles.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {hashes}; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; "
    "frame-src 'none'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc\s*=)[^>]*>(.*?)</script", re.S | re.I)


@lru_cache(maxsize=16)
def policy_of_page(html: bytes) -> bytes:
    """The Content-Security-Policy of a page: the scripts inside it, and no others."""
    hashes = (
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in _SCRIPT.findall(html)
        if script.strip()
    )
    return _POLICY.format(hashes=" ".join(f"'sha256-{one}'" for one in hashes)).encode()


def secured(headers: Headers, policy: bytes | None) -> Headers:
    """The headers of an answer with ours in place of those that are there already, but for a
    policy of its own."""
    has_policy = any(name.lower() == b"content-security-policy" for name, _ in headers)
    ours = [*ALWAYS, *([(b"content-security-policy", policy)] if policy and not has_policy else [])]
    names = {name for name, _ in ours} | {b"server"}
    return [pair for pair in headers if pair[0].lower() not in names] + ours
