"""A page of the documentation is no wider than its window, with wide tables and programs, and bars beside it."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

DOCS = Path(__file__).parents[1] / "docs"
CONF = f'html_theme = "furo"\nhtml_static_path = [{str(DOCS / "_static")!r}]\nhtml_css_files = ["site.css"]\n'
CONF += 'extensions = ["myst_parser"]\nroot_doc = "page"\n'
ROW = f"| {' | '.join(['a mean of three seeds ± 0.12'] * 9)} |\n"
PAGE = f"# Page\n\n{ROW}|{'---|' * 9}\n{ROW}\n```python\n{'x' * 100}\n```\n\n## Part\n\n{'Some words. ' * 60}\n"


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    pytest.importorskip("furo", reason='the theme is missing: pip install "openwork[docs]"; `make docs` has it')
    from sphinx.cmd.build import main

    folder = tmp_path_factory.mktemp("site")
    (folder / "conf.py").write_text(CONF, encoding="utf-8")
    (folder / "page.md").write_text(PAGE, encoding="utf-8")
    assert main(["-q", str(folder), str(folder / "out")]) == 0
    shown = browser.new_page()
    shown.goto((folder / "out" / "page.html").as_uri())
    return shown


# The bars beside a page go at 82em and 63em of 16 px, and its padding shrinks at 67em and 48em.
@pytest.mark.parametrize("width", [360, 780, 800, 1000, 1020, 1100, 1200, 1400, 1800])
def test_a_page_is_no_wider_than_its_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("table").bounding_box()["width"] > 300
