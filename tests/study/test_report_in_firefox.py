"""The report page in headless Firefox: it draws, filters, saves, and fits a phone."""

from shutil import which

import pytest

from openwork.study.report.page import write_report
from tests.study.firefox import Firefox
from tests.study.studies import row, study

FIREFOX = which("firefox-esr") or which("firefox")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(FIREFOX is None, reason="there is no Firefox on this machine: apt-get install firefox-esr")
def test_firefox_draws_filters_and_saves_the_page(tmp_path):
    rows = [row(name, f"s={s}", seed, s, 0.9 + 0.01 * seed) for name in "AB" for s in (0.5, 0.9) for seed in range(2)]
    path = write_report(study(tmp_path / "study", rows), tmp_path / "report")
    (tmp_path / "profile").mkdir()
    browser = Firefox(FIREFOX, tmp_path / "profile", width=500)  # Firefox has no narrower windows
    try:
        browser.open(path)
        charts = browser.evaluate("Promise.all(Object.values(drawn)).then(() => Object.keys(drawn))")
        assert charts[:2] == ["trade-off", "differences"]
        assert browser.evaluate("document.querySelectorAll('.chart svg.marks').length") == len(charts)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.evaluate("(await saving.SVG('trade-off'))[0]").startswith("<svg")
        assert browser.evaluate("(await saving.PNG('trade-off'))[0].type") == "image/png"
        assert ["\nfrontier,B," in browser.evaluate("csv('trade-off')")] == [True]
        browser.evaluate("document.querySelectorAll('#filters input')[1].click(), filtered.then(() => 0)")
        assert ["\nfrontier,B," in browser.evaluate("csv('trade-off')")] == [False]
        assert browser.evaluate("[...document.querySelectorAll('#points tbody tr')].length") == 2
    finally:
        browser.close()
