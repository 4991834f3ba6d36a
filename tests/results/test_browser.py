"""The report in a real browser: no console error, every figure visible, no sideways scrolling, every link alive."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from results.report import render
from results.tidy import Results

PROBE = """
<script>
addEventListener("load", () => {
  const figures = [...document.images].map(i => ({src: i.alt.slice(0, 40), width: i.naturalWidth,
    shown: i.getBoundingClientRect().width}));
  document.documentElement.dataset.probe = JSON.stringify({figures, wide: document.documentElement.scrollWidth,
    view: innerWidth});
});
</script>
"""


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        if os.environ.get("AUGURY_BROWSER") == "required":
            pytest.fail("AUGURY_BROWSER=required, but there is no Chromium")
        pytest.skip("no Chromium on this machine")
    return found


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_chromium(results: Results, tmp_path: Path, width: int) -> None:
    browser = chromium()
    render(results, tmp_path)
    page = tmp_path / "report" / "index.html"
    text = page.read_text()
    probe = page.with_name("probe.html")
    probe.write_text(text.replace("</body>", f"{PROBE}</body>"))

    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", f"--window-size={width},3000"]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(unescape(re.search(r'data-probe="([^"]*)"', done.stdout).group(1)))  # type: ignore[union-attr]
    assert len(found["figures"]) >= 4
    for figure in found["figures"]:
        assert figure["width"] > 0 and figure["shown"] > 20, figure
    assert found["wide"] <= found["view"] + 1


def test_every_link_is_alive(results: Results, tmp_path: Path) -> None:
    render(results, tmp_path)
    page = tmp_path / "report" / "index.html"
    text = page.read_text()
    links = set(re.findall(r'href="([^"]+)"', text))
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids, link
        elif not link.startswith(("https:", "data:")):
            assert (page.parent / link).is_file(), link
