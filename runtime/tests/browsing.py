"""Headless Chromium, driven by Selenium, on the page of a server."""

import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from http_server import SECONDS, started, until
from serving import labeled
from suffice_runtime.serving.engine import Engine

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,1000",
)  # fmt: skip

PROMISED = replace(labeled.PROMISED, promise=replace(labeled.PROMISE, max_loss=0.05))
SAFER = replace(labeled.SAFER, promise=PROMISED.promise)

CONTRAST = """
    const numbers = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = (color) => numbers(color).map(part).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const background = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        return /, 0\\)$/.test(color) && node.parentElement ? background(node.parentElement) : color;
    };
    const found = [];
    for (const node of document.querySelectorAll("body *")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!own || !node.checkVisibility()) continue;
        const style = getComputedStyle(node);
        const color = node instanceof SVGElement ? style.fill : style.color;
        const [a, b] = [light(color), light(background(node))].sort((x, y) => y - x);
        found.push([(a + 0.05) / (b + 0.05), node.outerHTML.slice(0, 80)]);
    }
    return found;
"""


def chromium(folder):
    """Return a driver of Chromium with a profile of its own in a folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def axe_core():
    """Return the source of axe-core, or None if it is not installed."""
    given, parents = os.environ.get("AXE_CORE"), Path(__file__).parents
    folders = [Path(given)] if given else [parent / "node_modules/axe-core" for parent in parents]
    files = [folder / "axe.min.js" for folder in folders]
    return next((file.read_text("utf-8") for file in files if file.is_file()), None)


@contextmanager
def serving(browser, token=None, policies=(SAFER,)):
    """Yield a server of a classifier that audits every answer, whose page is open in a browser."""
    network = labeled.network(PROMISED, policies)
    with started(
        engines=[Engine(labeled.as_runner(network), name="net", audit_share=1.0)],
        **({} if token is None else {"token": token}),
    ) as server:
        browser.get(f"http://{server.url}/")
        yield server


def text(browser, selector):
    return browser.execute_script(f"return document.querySelector({json.dumps(selector)})?.textContent ?? ''")


def until_text(browser, selector, pattern):
    until(lambda: re.search(pattern, text(browser, selector)))


def value(browser, name):
    return text(browser, f'[data-value="{name}"]')


def submit(server, loss=0.0, n=60, seed=0):
    server.engine().submit(labeled.stream(n, loss, seed)).result(SECONDS)


def emulate(browser, width=1200, **features):
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    time.sleep(0.3)  # for the observers of sizes


def press(browser, key):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(key).perform()


def violations(browser, source):
    """Return what axe-core finds on the page in a browser."""
    browser.execute_script(source)
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return [(each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]
