import pytest

from camapp.core.errors import SettingsError
from camapp.core.settings import load_settings
from camapp.core.web_address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", "127.0.0.1:8080"),
        (":9000", "127.0.0.1:9000"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:81", "[::1]:81"),
        ("localhost", "localhost:8080"),
        ("pi.local", "pi.local:8080"),
        ("[::]", "[::]:8080"),
    ],
)
def test_what_a_user_writes(text, expected):
    assert str(parse_address(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "a b", "x:y", "300.1.1.1:80", "1.2.3:80", "[::1", "host:99999", "h:1:2", "http://x"]
)
def test_what_is_no_address_is_refused(text):
    if not text:
        assert parse_address(text) == Address("127.0.0.1", 8080)
        return
    with pytest.raises(ValueError):  # noqa: PT011 - the text differs, and `checked` puts it into a sentence
        parse_address(text)


def test_which_addresses_only_this_machine_reaches():
    for text, loopback in {"127.0.0.1": True, "127.8.9.1": True, "[::1]": True, "localhost": True}.items():
        assert parse_address(text).is_loopback is loopback
    for text in ("0.0.0.0", "[::]", "192.168.1.5", "pi.local"):
        assert not parse_address(text).is_loopback


def test_the_setting_is_off_by_default_and_can_be_turned_off_again():
    assert load_settings({}, environment={}).web is None
    assert load_settings({"web": "8081"}, environment={}).web == "127.0.0.1:8081"
    assert load_settings({"web": "off"}, environment={"CAMAPP_WEB": "8081"}).web is None
    with pytest.raises(SettingsError, match="--web = 'nowhere:x' is not allowed: HOST:PORT, such as"):
        load_settings({"web": "nowhere:x"}, environment={})
