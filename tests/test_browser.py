"""A run's report in a real browser: `make browser`. Chromium and its driver must be installed; without them it fails.

The files are opened from the disk, with the browser's own log of messages and of requests.
"""

import json
import shutil

import pytest

from ernie_m_jax.evaluation import report
from tests import left_run
from tests.report_page import HOSTILE

pytestmark = pytest.mark.browser

VISIBLE = """
const sizes = (selector) => [...document.querySelectorAll(selector)].map((element) => {
  const box = element.getBoundingClientRect();
  return [box.width, box.height];
});
return {
  page: [document.documentElement.scrollWidth, innerWidth],
  charts: sizes('.chart svg'), lines: sizes('.chart path.line'), legends: sizes('.legend li'), tables: sizes('table'),
  shares: sizes('.shares rect:not([width="0.00"])'),
  cells: sizes('table.heat tbody td'), titles: sizes('h2'),
  wide: [...document.querySelectorAll('body *')].filter((element) => !element.closest('.scroll, pre, svg')
    && element.getBoundingClientRect().right > innerWidth + 1).map((element) => element.outerHTML.slice(0, 80)),
  texts: [...document.querySelectorAll('.chart text')].filter((text) => {
    const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();
    return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
  }).map((text) => text.textContent),
  letters: Math.min(...sizes('.chart text').map((box) => box[1])),
  colours: [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color],
};
"""


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    assert chromium, "no Chromium: install chromium and chromium-driver, as `apt-get install` names them"
    assert driver, "no chromedriver: install chromium-driver, as `apt-get install` names it"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    whole = left_run.pretraining(folder / "whole")
    stopped = left_run.pretraining(folder / HOSTILE.replace("/", ""), finished=False)
    tuned, _ = left_run.finetuning(folder / "tuned")
    return {name: report.write(path) for name, path in (("whole", whole), ("stopped", stopped), ("tuned", tuned))}


def opened(browser, path, width, scheme):
    """What a reader sees of a page, with the messages and the requests that it made."""
    for name in ("browser", "performance"):
        browser.get_log(name)  # what came before
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    browser.get(path.as_uri())
    seen = browser.execute_script(VISIBLE)
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    return seen, browser.get_log("browser"), asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["whole", "stopped", "tuned"])
def test_the_page_is_seen_whole_and_asks_for_nothing(browser, pages, name, width, scheme):
    seen, messages, asked = opened(browser, pages[name], width, scheme)
    assert messages == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    assert seen["page"][0] <= width  # nothing to scroll sideways but what lies in a box of its own
    assert seen["wide"] == []
    for part, least in {"charts": 7, "lines": 7, "legends": 3, "tables": 3, "titles": 4}.items():
        assert len(seen[part]) >= least, part
        assert all(across > 0 for across, _ in seen[part]), part
        assert all(down > 0 for _, down in seen[part] if part != "lines"), part  # a constant is a level line
    if name == "whole":
        assert len(seen["cells"]) == 3 * 16  # three heat maps of three languages and their means
        assert len(seen["shares"]) == 7
    assert all(min(box) > 0 for box in (*seen["cells"], *seen["shares"]))
    assert all(across >= 280 for across, _ in seen["charts"])
    assert seen["texts"] == []  # no tick is cut off
    assert seen["letters"] >= 9
    back, text = (sum(map(int, colour[4:-1].split(", "))) for colour in seen["colours"])
    assert back < text if scheme == "dark" else back > text


def test_the_config_opens_and_the_links_lead_somewhere(browser, pages):
    browser.get(pages["whole"].as_uri())
    closed = browser.execute_script("return document.querySelector('pre').checkVisibility()")
    browser.execute_script("document.querySelector('summary').click()")
    assert (closed, browser.execute_script("return document.querySelector('pre').checkVisibility()")) == (False, True)
    missing = "return [...document.links].filter((link) => !document.querySelector(link.getAttribute('href'))).length"
    assert browser.execute_script(missing) == 0
    assert browser.execute_script("return document.scripts.length + document.images.length") == 0
