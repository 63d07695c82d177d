"""A run's report as a person opens it: from the disk, without a network, in any scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training
from tests.browser.hands import device, serious

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "a.txt").write_text("The cat sat on the mat, and the dog sat on the cat. " * 200)
    values: dict[str, Any] = {
        "data": [str(folder / "a.txt")], "out": str(folder / "m"), "steps": 30, "vocab_size": 300,
        "context": 32, "layers": 1, "width": 32, "batch_tokens": 256, "micro_batch_tokens": 256,
    }  # fmt: skip
    run_training(TrainSettings.from_values(values))
    return folder / "m" / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_offline_and_reads_well(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(**device(width), color_scheme=scheme)
    try:
        context.set_offline(True)
        page, asked, faults = context.new_page(), list[str](), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.goto(report.as_uri())
        assert "Training report: m" in page.title()
        assert asked == [report.as_uri()] and not faults
        assert page.locator("svg polyline").count() >= 5
        assert page.locator("svg").first.bounding_box()["width"] > 200
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not serious(page)
        brightness = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3)"
            ".reduce((sum, part) => sum + Number(part), 0)"
        )
        assert brightness > 700 if scheme == "light" else brightness < 120
    finally:
        context.close()
