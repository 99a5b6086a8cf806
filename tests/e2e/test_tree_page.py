"""The web interface in a real browser: the tree page while parts are taken out and brought back, and the chat page."""

import os
import pathlib
import re

import browser
import pytest
from test_admin import ONE, TWO, order, status
from test_damage import entries, flip

SCREENSHOTS = os.environ.get("BLYAN_SCREENSHOTS")
PARTS = ["node", "security", "storage", "storage/chain", "storage/reward", "serving", "serving/expert_cache", "serving/replicas", ONE, TWO, "edge"]
FORCE = "Do it all the same: chat is refused until something is recovered."

pytestmark = pytest.mark.skipif(browser.binary() is None, reason="needs chromium: `deploy/setup.sh tests` installs Debian's")


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as running:
        yield running


def picture(page, name):
    """Into docs/images, by `make screenshots`."""
    if SCREENSHOTS:
        pathlib.Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(pathlib.Path(SCREENSHOTS) / name)


def unlock(page, key):
    page.focus("textbox", "Admin key")
    page.type(key)
    page.press("Enter")


def unlocked(chromium, node, **view):
    """The tree page with the key given, its events on the line, and a mark that a reload would wipe off."""
    page = chromium.page(f"{node.url}/tree", **view)
    unlock(page, node.admin_key)
    page.wait_text("live", "#link")
    page.script("window.mark = true")
    return page


def row(page, path):
    """What stands in a part's row."""
    return page.text(f'#rows [data-key="{path}"]')


def wait_state(page, path, state):
    page.wait(lambda: page.text(f'#rows [data-key="{path}"] .badge') == state)


def test_anyone_sees_the_tree_and_only_the_key_opens_actions(chromium, node):
    page = chromium.page(f"{node.url}/tree")
    page.wait_text("Everything runs", "#verdict")
    assert page.script("[...document.querySelectorAll('#rows tr')].map((one) => one.dataset.key)") == PARTS
    for path in PARTS:
        assert page.find("rowheader", path), f"{path} is read aloud with its whole path"
    assert page.find("columnheader", "State") and page.find("table", "Parts")
    assert "2 of 2 replicas serve" in page.text("#verdict")
    assert page.text("#link") == "every 2 s"
    assert not page.find("button", f"Quarantine {ONE}") and not page.find("button", f"Fail over {ONE}")

    unlock(page, "wrong")
    page.wait_text("does not know this key", "#key-fault")
    assert page.script("sessionStorage.length") == 0
    assert page.faults() == [refused(401, node, "dashboard")]
    # Selected, so that what is typed stands in its place.
    page.script("document.getElementById('key').select()")
    unlock(page, node.admin_key)
    page.wait_text("live", "#link")
    assert page.find("button", f"Quarantine {ONE}", "#rows")
    assert not page.find("button", "Quarantine security", "#rows") and not page.find("button", "Quarantine edge", "#rows")
    assert node.admin_key not in page.script("location.href + document.documentElement.outerHTML")
    assert page.script("localStorage.length") == 0 and page.call("Network.getCookies")["cookies"] == []
    page.call("Page.reload")
    page.wait_text("live", "#link")

    page.click("button", "Lock")
    page.wait_text("every 2 s", "#link")
    assert page.script("sessionStorage.length") == 0 and not page.find("button", f"Quarantine {ONE}")
    assert len(page.faults()) == 1


def refused(code, node, what):
    """The line that a browser writes of an answer that is an error: not a fault of the page."""
    names = {400: "Bad Request", 401: "Unauthorized"}
    return f"network: Failed to load resource: the server responded with a status of {code} ({names[code]}) {node.url}/security/{what}"


def test_a_replica_is_taken_out_and_brought_back_by_dialog_and_from_outside(chromium, start, store):
    node = start(store)
    page = unlocked(chromium, node)
    # By keyboard alone.
    page.focus("button", f"Quarantine {ONE}", "#rows")
    page.press("Enter")
    page.wait(lambda: page.find("dialog", f"Quarantine {ONE}?"))
    assert "go on at another replica" in page.text("#order")
    page.press("Escape")
    page.wait(lambda: not page.find("dialog", f"Quarantine {ONE}?"))
    assert page.focused() == f"Quarantine {ONE}"
    page.press("Space")
    page.wait(lambda: page.focused().startswith("Why?"))
    page.press("Tab")
    page.press("Tab")
    page.press("Enter")
    assert status(node, ONE)["state"] == "healthy", "without a reason nothing is sent"
    page.focus("textbox", "Why? It is kept in the audit log.")
    page.type("answers look odd")
    page.press("Tab")
    page.press("Tab")
    assert page.focused() == "Quarantine"
    page.press("Enter")

    wait_state(page, ONE, "quarantined")
    page.wait_text("Done: quarantine", "#notice")
    assert status(node, ONE)["reason"] == "answers look odd"
    assert "answers look odd (" in row(page, ONE) and "from 127.0.0.1, " in row(page, ONE)
    assert page.focused() == f"Recover {ONE}", "the focus is where it was, on what can be done now"
    assert page.text("#verdict h2") == "Chat is answered, but one part needs a look"
    assert page.text("#announce") == f"{ONE} is now quarantined."
    assert page.script("document.title").startswith("(1) ")
    picture(page, "tree.png")

    # From outside, twice: seen without a reload, and with its reason, which only the events bring.
    assert order(node, "recover_node", ONE, reason="another admin").status_code == 200
    wait_state(page, ONE, "running")
    page.wait(lambda: re.search(f"{ONE}: recovery, by .* from 127.0.0.1: another admin", page.text("#happened")))
    page.wait_text("Everything runs", "#verdict")
    assert order(node, "quarantine_node", TWO, reason="out for a look").status_code == 200
    wait_state(page, TWO, "quarantined")
    page.wait_text("out for a look", "#problems")

    page.click("button", f"Recover {TWO}", "#problems")
    page.focus("textbox", "Why? It is kept in the audit log.")
    page.type("looked at")
    page.click("button", "Recover", "#order")
    wait_state(page, TWO, "running")
    assert status(node, TWO)["state"] == "healthy" and "Paris" in node.chat().json()["text"]

    before = node.tree()[ONE]["generation"]
    page.click("button", f"Fail over {ONE}", "#rows")
    page.type("for show")
    page.click("button", "Fail over", "#order")
    page.wait_text("Done: failover", "#notice")
    page.wait(lambda: page.text(f'#rows [data-key="{ONE}"] .generation') == str(before + 1))
    assert page.script("window.mark") is True, "it was never loaded again"
    assert page.faults() == []
    assert node.stop() == 0
    page.wait_text("The node does not answer", "#verdict h2")
    page.wait_text("not reached", "#link")


def test_a_panic_is_told_with_its_reason(chromium, faultnode, store):
    node = faultnode(store)
    page = unlocked(chromium, node)
    node.command("arm chain panic")
    node.http.get("/chain/B/head")
    page.wait_text("storage/chain ended: panicked", "#happened")
    page.wait(lambda: "running 2 1 1 panicked" in row(page, "storage/chain"))
    assert "panicked: " in row(page, "storage/chain"), "with its words, which the key opens"
    page.wait_text("Everything runs", "#verdict")
    assert page.faults() == []
    assert node.stop() == 0


def test_a_refusal_is_said_in_words_and_force_is_a_choice_of_its_own(chromium, start, store):
    node = start(store)
    assert order(node, "quarantine_node", ONE).status_code == 200
    page = unlocked(chromium, node)
    page.click("button", f"Quarantine {TWO}", "#rows")
    assert "No other replica serves" in page.text("#order") and not page.find("checkbox", FORCE)
    page.type("all at once")
    page.click("button", "Quarantine", "#order")
    page.wait_text(f"Without {TWO} nothing would be left that serves.", "#order-fault")
    assert node.tree()[TWO]["state"] == "running"
    assert page.script("document.getElementById('order-send').disabled"), "not again without the choice"
    assert page.focused() == FORCE
    page.press("Space")
    page.click("button", "Quarantine by force", "#order")
    wait_state(page, TWO, "quarantined")
    page.wait_text("Chat is not answered", "#verdict h2")
    assert node.http.get("/ready").status_code == 503

    # Decided elsewhere while the dialog is open: an order may change nothing, and is told so.
    page.click("button", f"Recover {TWO}", "#rows")
    assert order(node, "recover_node", TWO).status_code == 200
    page.type("by me")
    page.click("button", "Recover", "#order")
    page.wait_text("was so before", "#notice")
    wait_state(page, TWO, "running")
    assert page.faults() == [refused(400, node, f"quarantine_node/{TWO}")]
    assert node.stop() == 0


def test_a_damaged_weight_is_named_and_recovered_only_when_it_is_whole(chromium, start, store):
    name = "layer3.expert9"
    path = store / "payloads" / entries(store)[name]["payload_hash"]
    whole = path.read_bytes()
    flip(path, 20_000, 3)
    node = start(store)
    assert node.chat().json()["error"]["code"] == "expert_corrupt"
    page = chromium.page(f"{node.url}/tree")
    page.wait_text(f"{name} is corrupt", "#verdict")
    unlock(page, node.admin_key)
    page.wait_text("put the damaged file back whole first", "#problems")
    page.click("button", f"Recover {name}", "#problems")
    assert "verified in full first" in page.text("#order")
    page.type("is it whole?")
    page.click("button", "Recover", "#order")
    page.wait_text("did not take effect", "#order-fault")
    mended = path.with_suffix(".whole")
    mended.write_bytes(whole)
    mended.rename(path)
    page.click("button", "Recover", "#order")
    page.wait_text("Everything runs", "#verdict")
    assert "Paris" in node.chat().json()["text"]
    assert [fault.split()[-1] for fault in page.faults()] == [f"{node.url}/security/recover_node/{name}"], "the one refusal"
    assert node.stop() == 0


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
@pytest.mark.parametrize("path", ["/", "/tree"])
def test_nothing_sticks_out_on_a_phone_or_a_desk(chromium, node, path, width):
    page = chromium.page(node.url + path, width=width, height=844, phone=width < 700, dark=width == 390)
    page.wait(lambda: "SmolLM2" in page.text() or page.find("rowheader", ONE))
    if path == "/tree":
        unlock(page, node.admin_key)
        page.wait_text("live", "#link")
    assert page.script("document.documentElement.scrollWidth") <= width
    paper = page.script("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(18, 22, 20)" if width == 390 else "rgb(251, 252, 251)"), "as the system asks for"
    assert page.faults() == []


@pytest.mark.parametrize("transport", ["sse", "ws"])
def test_a_chat_on_the_page(chromium, node, transport):
    page = chromium.page(node.url, width=900, height=640)
    page.wait_text("SmolLM2", "#model")
    page.script(f"document.getElementById('transport').value = '{transport}'; document.getElementById('temperature').value = 0")
    page.focus("textbox", "Your message")
    page.type("What is the capital of France?")
    page.press("Enter")
    page.wait_text("experts used (", ".turn.assistant", timeout=60)
    assert "Paris" in page.text(".turn.assistant")
    picture(page, "chat.png")
    page.click("link", "Tree")
    page.wait_text("Everything runs")
    assert page.faults() == []
