"""The page in headless Chromium, which is driven by Selenium; checks of accessibility need axe-core in node_modules."""

import json
import re
import shutil
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("uvicorn")

import browsing
import fake_network
from browsing import CONTRAST, SAFER, axe_core, emulate, press, serving, submit, text, until_text, value, violations
from http_server import started, until
from suffice_runtime.serving import history
from suffice_runtime.serving.engine import Engine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("selenium"), reason="needs selenium"),
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs Chromium"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    driver = browsing.chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def axe():
    source = axe_core()
    if source is None:
        pytest.skip("needs axe-core: npm install axe-core, or AXE_CORE as its folder")
    return source


@pytest.fixture
def browser(chromium):
    yield chromium
    chromium.execute_script("try { sessionStorage.clear() } catch {}")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    chromium.get("about:blank")
    chromium.get_log("browser")


@pytest.fixture
def fast(monkeypatch):
    """Let histories have a point every 100 ms."""
    monkeypatch.setattr(history, "SECONDS", 0.1)


def test_the_page_shows_what_was_answered_and_audited(browser):
    with serving(browser) as server:
        for seed in range(10):
            submit(server, seed=seed)
        until(lambda: server.engine().watch().audited == 600)
        until_text(browser, '[data-value="audited"]', "^600")
        assert value(browser, "loss") == "0%"
        assert value(browser, "promised").startswith("5%")
        assert value(browser, "step").startswith("1 of 3")
        assert "At most 5% of the answers differ" in text(browser, "#promise-text")
        bound = server.engine().watch().bound
        assert float(value(browser, "bound").split("%")[0]) == pytest.approx(100 * bound, rel=5e-3)  # of three digits
        assert "So far the promise holds" in text(browser, "#promise-finding")
        assert "600" in text(browser, "#outcomes")
        assert text(browser, "#alarms-text") == "No alarms since the start."
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_alarms_come_while_the_page_is_open_in_plain_words(browser, fast):
    with serving(browser) as server:
        until_text(browser, "#alarms-text", "No alarms")
        for seed in range(30):
            submit(server, loss=0.5, seed=seed)
        until(lambda: server.engine().watch().step == 2)
        until_text(browser, "#alarms-text", r"^2 alarms since the start of net\. Latest: loss alarm at ")
        assert "answers differed from those of the last exit more often than promised" in text(browser, "#meanings")
        assert value(browser, "step").startswith("3 of 3")
        assert browser.execute_script("return document.querySelectorAll('#loss-chart .alarm-mark').length") >= 2
        assert browser.execute_script("return document.querySelector('#alarms-text').ariaLive") == "assertive"
        assert browser.title.startswith("(2) net")


def test_charts_grow_and_have_tables_and_names(browser, fast):
    points = "return (document.querySelector('#rate-chart path')?.getAttribute('d').match(/[ML]/g) ?? []).length"
    with serving(browser) as server:
        submit(server)
        until(lambda: browser.execute_script(points) > 3)
        before = browser.execute_script(points)
        until(lambda: browser.execute_script(points) > before + 10)
        label = "return document.querySelector('#loss-chart svg.chart').getAttribute('aria-label')"
        expected = r"Loss of audited answers and its upper bound\. At present: loss 0%, upper bound .+%.*"
        assert re.fullmatch(expected, browser.execute_script(label))
        browser.execute_script("document.querySelector('#loss-chart summary').click()")
        until(lambda: browser.execute_script("return document.querySelectorAll('#loss-chart tbody tr').length") > 3)
        assert text(browser, "#loss-chart thead") == "Timelossupper boundpromised at most"
        submit(server, seed=1)
        until(lambda: browser.execute_script("return document.querySelector('#loss-chart details').open"))


def test_the_token_is_asked_for_and_kept_in_the_tab(browser):
    with serving(browser, token=b"a-secret") as server:
        until_text(browser, "#connection", "Waiting for the token")
        assert "This server has a token" in text(browser, "#token-text")
        assert not browser.execute_script("return document.querySelector('#content').checkVisibility()")
        for given, expected in (("wrong", "does not accept this token"), ("ü", "printable ASCII")):
            browser.find_element("id", "token").send_keys(f"{given}\n")
            until_text(browser, "#token-text", expected)
        assert browser.execute_script("return sessionStorage.length") == 0
        browser.find_element("id", "token").send_keys("a-secret\n")
        until_text(browser, "#connection", "Live")
        assert browser.execute_script("return document.querySelector('#content').checkVisibility()")
        assert browser.execute_script("return [...Object.values(sessionStorage)]") == ["a-secret"]
        assert browser.execute_script("return localStorage.length") == 0
        assert "a-secret" not in browser.page_source
        browser.refresh()
        until_text(browser, "#connection", "Live")
        assert server.service.responses[401] >= 2


def test_the_slider_moves_by_keyboard_and_only_shows(browser):
    from selenium.webdriver.common.keys import Keys

    with serving(browser) as server:
        until_text(browser, "#policy-text", "^Policy 1 of 2: expected cost 63.3%, in force$")
        for _ in range(60):
            press(browser, Keys.TAB)
            if browser.switch_to.active_element.get_attribute("id") == "policy":
                break
        slider = browser.switch_to.active_element
        assert slider.get_attribute("id") == "policy"
        press(browser, Keys.ARROW_RIGHT)
        until_text(browser, "#policy-text", "^Policy 2 of 2: expected cost 90%$")
        assert slider.get_attribute("aria-valuetext") == text(browser, "#policy-text")
        assert "Share of exit 1" in text(browser, "#policy-table")
        assert server.engine().policy_version == 1
        requests = sum(server.service.responses.values())
        until(lambda: sum(server.service.responses.values()) > requests + 1)
        assert slider.get_attribute("value") == "1"  # also after further polls
        press(browser, Keys.ARROW_LEFT)
        until_text(browser, "#policy-text", "in force$")


def test_the_command_puts_the_policy_in_force_and_holds_no_token(browser):
    with serving(browser, token=b"a-secret") as server:
        browser.find_element("id", "token").send_keys("a-secret\n")
        until_text(browser, "#policy-text", "^Policy 1 of 2")
        browser.execute_script(
            "const s = document.querySelector('#policy'); s.value = 1; s.dispatchEvent(new Event('input'))"
        )
        command = browser.execute_script("return document.querySelector('#command').value")
        assert f"curl --fail-with-body 'http://{server.url}/v1/models/net/policy'" in command
        assert "Bearer $SUFFICE_RUNTIME_TOKEN" in command
        assert "a-secret" not in command
        document = json.loads(re.search(r"--data '(.*)'$", command).group(1))
        status, found = server.json("POST", "/v1/models/net/policy", document, authorization="Bearer a-secret")
        assert (status, found["version"]) == (200, 2)
        until_text(browser, "#policy-text", "^Policy 2 of 2: expected cost 90%, in force$")
        browser.execute_cdp_cmd(
            "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        )
        browser.find_element("id", "copy").click()
        until_text(browser, "#copied", "Copied")


def test_a_hidden_page_sends_no_requests(browser):
    hide = (
        "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    with serving(browser) as server:
        until_text(browser, "#connection", "Live, every 2 s")
        browser.execute_script(hide.format("true"))
        until_text(browser, "#connection", "Paused while the page is hidden")
        time.sleep(0.3)
        requests = sum(server.service.responses.values())
        time.sleep(3)
        assert sum(server.service.responses.values()) == requests
        browser.execute_script(hide.format("false"))
        until_text(browser, "#connection", "Live, every 2 s")
        assert sum(server.service.responses.values()) > requests


def test_a_server_that_ends_is_seen(browser):
    with serving(browser):
        until_text(browser, "#connection", "Live")
    until_text(browser, "#connection", r"No answer from the server\. The data shown are old\. Next try in \d+ s\.")


def test_regressions_and_single_policies_are_shown_in_plain_words(browser):
    class Sleeping:
        manifest = fake_network.network().manifest
        _network = fake_network.network()

    with started(engines=[Engine(Sleeping, name="numbers")]) as server:
        browser.get(f"http://{server.url}/")
        until_text(browser, "#promise-finding", "Answers of a regression are not audited.")
        assert text(browser, "#promise-text") == "The policy in force makes no promise on the loss."
        assert "The bundle holds a single policy. Number 1 is in force." in text(browser, "#policies-text")
        assert browser.execute_script("return document.querySelector('#policy').disabled")
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_page_of_one_of_several_replicas_shows_that_there_is_none(browser, runner):
    with started(runner, is_replica=True) as server:
        browser.get(f"http://{server.url}/")
        until_text(browser, "#connection", "^This server is one of several replicas behind a proxy, and has no page")
        assert not browser.execute_script("return document.querySelector('#content').checkVisibility()")


@pytest.fixture
def full(browser, fast):
    """Open the page of a server with alarms, with all tables shown."""
    with serving(browser, policies=(SAFER, replace(SAFER, thresholds=np.array([np.inf, 0.9])))) as server:
        for seed in range(30):
            submit(server, loss=0.4, seed=seed)
        until(lambda: server.engine().watch().alarms)
        until_text(browser, "#alarms-text", "[1-9] alarm")
        browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_and_all_text_has_contrast(full, scheme, width):
    emulate(full, width, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    assert full.execute_script("return document.documentElement.scrollWidth") <= width
    ratios = full.execute_script(CONTRAST)
    assert len(ratios) > 50
    assert [found for found in ratios if found[0] < 4.5] == []
    assert full.execute_script("return document.getAnimations().length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page(full, axe, scheme):
    for width in (390, 1200):
        emulate(full, width, prefers_color_scheme=scheme)
        assert violations(full, axe) == []


def test_the_form_for_the_token_fits_and_is_focused(browser):
    with serving(browser, token=b"token"):
        until_text(browser, "#connection", "Waiting for the token")
        emulate(browser, 390)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        assert browser.execute_script("return document.activeElement.id") == "token"


def test_axe_finds_nothing_on_the_form_for_the_token(browser, axe):
    with serving(browser, token=b"token"):
        until_text(browser, "#connection", "Waiting for the token")
        assert violations(browser, axe) == []


def test_prints_are_light_and_leave_out_what_is_operated(full):
    emulate(full, prefers_color_scheme="dark")
    full.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    seen = "return [...document.querySelectorAll('select, input, button, textarea')].filter((e) => e.checkVisibility())"
    assert full.execute_script(seen) == []
    assert full.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(full.execute_script("return document.querySelectorAll('.chart path')")) > 3
