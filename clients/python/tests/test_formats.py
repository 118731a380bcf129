"""The vectors of docs/formats-values.md, which the Rust client's tests check as well."""

from __future__ import annotations

import pathlib
import re

import pytest

from grapevine_client.errors import FormatError
from grapevine_client.formats import Dependencies, Envelope, decode_page, encode_page, page_address

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "formats-values.md"
TOKEN = 0x0123456789ABCDEF
ADDRESS = "get_items_in_cart::13"
HEAD = "0123456789abcdef00156765745f6974656d735f696e5f636172743a3a3133"
PLAIN = "c70100" + HEAD + "74776f206170706c6573"
DEPENDENT = "c70101" + HEAD + "0200066974656d2f3700087072696365732f39fedcba9876543210" + "74776f206170706c6573"
LOOKS_LIKE_ONE = "c70100" + HEAD + "c700"
PAGES = ("00000000", "000000030000000431313131000000000000000133")


def test_the_vectors_are_those_of_the_document() -> None:
    blocks = re.findall(r"```\n(.*?)```", DOCUMENT.read_text(), re.S)
    vectors = {"".join(block.split()) for block in blocks} | {
        "".join(line.split()) for block in blocks for line in block.splitlines()
    }
    for vector in (PLAIN, DEPENDENT, LOOKS_LIKE_ONE, *PAGES, "get_items_in_cart::13~p25.3"):
        assert vector in vectors


@pytest.mark.parametrize(
    ("envelope", "golden"),
    [
        (Envelope(TOKEN, ADDRESS, b"two apples"), PLAIN),
        (
            Envelope(TOKEN, ADDRESS, b"two apples", Dependencies(("item/7", "prices/9"), 0xFEDCBA9876543210)),
            DEPENDENT,
        ),
        (Envelope(TOKEN, ADDRESS, b"\xc7\x00"), LOOKS_LIKE_ONE),
    ],
)
def test_envelopes_have_their_bytes_and_cut_ones_are_misses(envelope: Envelope, golden: str) -> None:
    packed = envelope.encode()
    assert packed.hex() == golden
    assert Envelope.parse(packed) == envelope
    for cut in range(len(packed) - len(envelope.value)):
        assert Envelope.parse(packed[:cut]) is None


def test_what_is_no_envelope_is_a_miss() -> None:
    packed = Envelope(TOKEN, ADDRESS, b"v").encode()
    assert Envelope.parse(b"") is None
    assert Envelope.parse(b"\xc6" + packed[1:]) is None
    assert Envelope.parse(b"\xc7\x02" + packed[2:]) is None
    assert Envelope.parse(b"\xc7\x01\x02" + packed[3:]) is None
    assert Envelope.parse(packed.replace(b"get", b"\xff\xfe\xfd")) is None
    # Dependencies that are announced and not listed.
    assert Envelope.parse(bytes.fromhex("c70101" + HEAD) + b"\x00" + bytes(8) + b"v") is None


def test_pages_have_their_bytes() -> None:
    items = [b"1111", b"", b"3"]
    assert (encode_page([]).hex(), encode_page(items).hex()) == PAGES
    assert decode_page(encode_page(items)) == items
    assert decode_page(encode_page(items) + b"x") is None
    assert decode_page(encode_page(items)[:-1]) is None
    assert decode_page(b"\xff\xff\xff\xff") is None
    assert decode_page(b"") is None
    assert page_address(ADDRESS, 25, 3) == "get_items_in_cart::13~p25.3"


def test_what_is_too_long_for_its_field_is_an_error_that_names_the_limit() -> None:
    with pytest.raises(FormatError, match="65536 bytes; the limit is 65535"):
        Envelope(TOKEN, "a" * 65_536, b"").encode()
    with pytest.raises(FormatError, match="0 dependencies are outside 1 to 255"):
        Envelope(TOKEN, ADDRESS, b"", Dependencies((), 1)).encode()
