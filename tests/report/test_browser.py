"""The page in a real browser, at the widths of a phone and of a desk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from tests.report.plans import DEEP, MERA, PADDED, plan_of
from tncompile.report import as_html

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")

# The page in frames as wide as the screens, measured from outside: it runs no script itself.
OUTSIDE = """<!DOCTYPE html><body>{frames}<pre id="found"></pre><script>
const measured = {{}};
for (const frame of document.querySelectorAll("iframe")) frame.addEventListener("load", () => {{
  const page = frame.contentDocument, root = page.documentElement;
  for (const details of page.querySelectorAll("details")) details.open = true;
  const boxes = [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  measured[frame.width] = {{
    needs: root.scrollWidth, has: root.clientWidth, height: root.scrollHeight,
    empty: boxes.filter(box => box.width < 40 || box.height < 15).length,
    pictures: boxes.length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").length,
    clipped: [...page.querySelectorAll(".chart text")].filter(text => {{
      const own = text.getBoundingClientRect(), all = text.closest("svg").getBoundingClientRect();
      return own.left < all.left - 1 || own.right > all.right + 1;
    }}).map(text => text.textContent),
  }};
  document.getElementById("found").textContent = JSON.stringify(measured);
}});
</script></body>"""


def measured(text: str, folder: Path) -> dict[str, Any]:
    assert BROWSER is not None
    page = escape(as_html(plan_of(text)))
    frames = [f'<iframe width="{w}" height="800" srcdoc="{page}"></iframe>' for w in (390, 1280)]
    (folder / "outside.html").write_text(OUTSIDE.format(frames="".join(frames)), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [*command, (folder / "outside.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found is not None
    result: dict[str, Any] = json.loads(unescape(found[1]))
    assert set(result) == {"390", "1280"}
    return result


@pytest.mark.parametrize("text", [MERA, PADDED, DEEP], ids=["mera", "padded", "deep"])
def test_the_page_fits_phone_and_desk(text: str, tmp_path: Path) -> None:
    for seen in measured(text, tmp_path).values():
        assert seen["needs"] <= seen["has"]  # no sideways scrolling of the page
        assert seen["pictures"] >= 4
        assert seen["empty"] == 0
        assert seen["clipped"] == []
        assert seen["loaded"] == 0
        assert seen["height"] > 1000
