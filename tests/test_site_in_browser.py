"""A page of the documentation is no wider than its window, with wide tables and programs, and bars beside it."""

from pathlib import Path
from shutil import which

import pytest

pytestmark = pytest.mark.browser

DOCS = Path(__file__).parents[1] / "docs"
CHROMIUM = which("chromium") or which("chromium-browser")
CONF = f'html_theme = "furo"\nhtml_static_path = [{str(DOCS / "_static")!r}]\nhtml_css_files = ["site.css"]\n'
CONF += 'extensions = ["myst_parser"]\nroot_doc = "page"\n'
ROW = f"| {' | '.join(['a mean of three seeds ± 0.12'] * 9)} |\n"
PAGE = f"# Page\n\n{ROW}|{'---|' * 9}\n{ROW}\n```python\n{'x' * 100}\n```\n\n## Part\n\n{'Some words. ' * 60}\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    pytest.importorskip("furo", reason="furo is missing: pip install furo")
    build = pytest.importorskip("sphinx.cmd.build", reason="sphinx is missing: pip install sphinx")
    folder = tmp_path_factory.mktemp("site")
    (folder / "conf.py").write_text(CONF, encoding="utf-8")
    (folder / "page.md").write_text(PAGE, encoding="utf-8")
    assert build.main(["-q", str(folder), str(folder / "out")]) == 0
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.goto((folder / "out" / "page.html").as_uri())
        yield shown
        browser.close()


# The bars beside a page go at 82em and 63em of 16 px, and its padding shrinks at 67em and 48em.
@pytest.mark.parametrize("width", [360, 780, 800, 1000, 1020, 1100, 1200, 1400, 1800])
def test_a_page_is_no_wider_than_its_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("table").bounding_box()["width"] > 300
