"""What a person does with the page: look, press, choose, fill in, and wait for what comes of it.

Also for docs/screenshots.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def device(width: int) -> dict[str, Any]:
    """What a browser is told to be: a desk, or a phone with fingers."""
    is_phone = width < 720
    size = {"width": width, "height": 844 if is_phone else 800}
    return {"viewport": size, "has_touch": is_phone, "is_mobile": is_phone}


def seen(page: Any, selector: str) -> Any:
    """What of it is to be seen: a tab that is not open is there too."""
    return page.locator(selector).locator("visible=true")


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True).locator("visible=true")


def tabs(page: Any) -> list[str]:
    """The names of all tabs, those in the menu of what has no room included."""
    menu = seen(page, ".overflow-menu button")
    listed = page.locator("[role=tab], .overflow-dropdown button")
    if menu.count():
        menu.first.click()
    names = [name.strip() for name in listed.all_inner_texts() if name.strip()]
    if menu.count():
        menu.first.click()
    return list(dict.fromkeys(names))


def open_tab(page: Any, name: str) -> Any:
    """The page, with the tab of that name open, wherever the row of tabs has room for it."""
    from playwright.sync_api import TimeoutError as Late

    in_row = page.get_by_role("tab", name=name, exact=True).locator("visible=true")
    menu = seen(page, ".overflow-menu button")
    in_menu = page.locator(".overflow-dropdown button", has_text=name)
    for last in (False, False, True):
        try:
            if not in_row.count():
                menu.first.click(timeout=3000)
            (in_row if in_row.count() else in_menu).first.click(timeout=3000)
            return page
        except Late:  # the row was laid out anew in between
            if last:
                raise
    return page


def unfold(page: Any, name: str) -> None:
    seen(page, "button.label-wrap").filter(has_text=name).click()


def fill(page: Any, where: str, text: str) -> None:
    seen(page, f"{where} textarea, {where} input").first.fill(text)


def value(page: Any, where: str) -> str:
    """What stands in a box."""
    return str(seen(page, f"{where} textarea, {where} input").first.input_value())


def shown(page: Any, place: str) -> str:
    return str(page.locator(place).inner_text()).strip()


def told(page: Any, where: str, text: Any, seconds: float = 20) -> None:
    """Wait for a text."""
    page.locator(where).get_by_text(text).first.wait_for(timeout=seconds * 1000)


def wait_for(page: Any, check: Callable[[], bool]) -> None:
    for _ in range(200):
        if check():
            return
        page.wait_for_timeout(50)
    raise AssertionError(page.locator("body").inner_text()[:2000])


def wait_until_pressable(page: Any, name: str) -> None:
    page.wait_for_function(
        "name => [...document.querySelectorAll('button')].some("
        "b => b.offsetParent && b.innerText.trim() === name && !b.disabled)",
        arg=name,
        timeout=30_000,
    )


def choose(page: Any, box: str, name: str) -> None:
    """Choose in a box with a list."""
    field = seen(page, f"{box} input")

    def chosen() -> bool:  # what the page finds out as it opens may fill the box anew
        field.click()
        page.get_by_role("option", name=name, exact=True).locator("visible=true").click()
        page.wait_for_timeout(200)
        return bool(field.input_value() == name)

    wait_for(page, chosen)


def serious(page: Any) -> list[str]:
    """What axe-core finds that keeps people out."""
    from axe_playwright_python.sync_playwright import Axe

    found = list[str]()
    for fault in Axe().run(page).response["violations"]:
        if fault["impact"] in ("serious", "critical"):
            where = fault["nodes"][0]
            told = f"{where['target']} {where['html'][:200]} {where['failureSummary']}"
            found.append(f"{fault['id']} x{len(fault['nodes'])}: {told}")
    return found
