"""An open page -> whose it is: a random name that the browser keeps, the same in every tab.

What a person saves belongs to that name, where people have no accounts (`server/who.py`). It is as
good as a password: nobody else is told it.
"""

from __future__ import annotations

# Asked for and made in one go: two tabs that open at the same time get the same name.
NAME = """(() => {
    const made = [...crypto.getRandomValues(new Uint8Array(16))];
    const name = localStorage.getItem("lmapps-visitor")
        ?? made.map(byte => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem("lmapps-visitor", name);
    return name;
})()"""
"""A JavaScript expression of the name."""
