"""The test vectors of docs/formats.md and docs/formats-values.md."""

from formats import (
    Envelope,
    bucketed_address,
    hashed_address,
    pack_page,
    page_address,
    token_of_nothing_known,
    token_text,
    unpack_envelope,
    unpack_page,
    versioned_address,
)

TOKEN = 0x0123456789ABCDEF


def check_tokens():
    assert token_of_nothing_known("cart/13") == 0x9DD1D4AC2D1BB761
    salt = (7).to_bytes(16, "big")
    assert token_of_nothing_known("cart/13", salt) == 0x8666F9616E292461
    assert token_text(0x9DD1D4AC2D1BB761) == "ndHUrC0bt2E"
    assert token_text(0x8666F9616E292461) == "hmb5YW4pJGE"


def check_cache_addresses():
    assert versioned_address("items::13", 1) == "items::13~1AAAAAAAAAAE"
    assert page_address("get_items_in_cart::13", 25, 3) == "get_items_in_cart::13~p25.3"
    assert bucketed_address("items::13", "cart/13", 64) == "cart/13~b64.7"
    assert bucketed_address("get_items_in_cart::13:10:30", "cart/13", 64) == "cart/13~b64.13"
    assert versioned_address(hashed_address("x" * 238), 1) == "~hnBxNkO1ki1UfsYATDAhlbQ~1AAAAAAAAAAE"


def check_envelopes():
    plain = Envelope(TOKEN, "get_items_in_cart::13", b"two apples")
    head = "0123456789abcdef00156765745f6974656d735f696e5f636172743a3a3133"
    assert plain.pack().hex() == "c70100" + head + "74776f206170706c6573"
    dependent = Envelope(
        TOKEN, "get_items_in_cart::13", b"two apples", ["item/7", "prices/9"], 0xFEDCBA9876543210
    )
    dependencies = "0200066974656d2f3700087072696365732f39fedcba9876543210"
    assert dependent.pack().hex() == "c70101" + head + dependencies + "74776f206170706c6573"
    for envelope in (plain, dependent):
        packed = envelope.pack()
        assert unpack_envelope(packed) == envelope
        ends = len(packed) - len(envelope.value)
        assert all(unpack_envelope(packed[:cut]) is None for cut in range(ends))
    assert unpack_envelope(b"\xc6" + plain.pack()[1:]) is None
    assert unpack_envelope(b"\xc7\x02" + plain.pack()[2:]) is None


def check_pages():
    assert pack_page([]).hex() == "00000000"
    items = [b"1111", b"", b"3"]
    assert pack_page(items).hex() == "0000000300000004313131310000000000000001" + "33"
    assert unpack_page(pack_page(items)) == items
    assert unpack_page(pack_page(items) + b"x") is None
    assert unpack_page(pack_page(items)[:-1]) is None


CHECKS = [check_tokens, check_cache_addresses, check_envelopes, check_pages]
