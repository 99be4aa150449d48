import logging

from camapp.core.log_once import LogOnce

log = logging.getLogger(__name__)


def test_each_key_is_logged_once_until_a_reset(caplog):
    once = LogOnce(log)
    assert once(logging.WARNING, "disk", "disk is full: %s", "a")
    assert not once(logging.WARNING, "disk", "disk is full: %s", "b")
    assert once(logging.WARNING, "net", "network is down")
    once.reset()
    assert once(logging.WARNING, "disk", "disk is full: %s", "c")
    assert [record.getMessage() for record in caplog.records] == [
        "disk is full: a", "network is down", "disk is full: c"
    ]  # fmt: skip


def test_the_traceback_is_logged_at_debug_level(caplog):
    caplog.set_level(logging.DEBUG)
    LogOnce(log)(logging.ERROR, 1, "failed", error=ValueError("cause"))
    assert [record.levelname for record in caplog.records] == ["ERROR", "DEBUG"]
    assert "ValueError: cause" in caplog.text
