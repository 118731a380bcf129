"""The test vectors of docs/formats.md and docs/formats-values.md."""

from formats import (
    Envelope,
    bucketed_address,
    digest_of_heads,
    hashed_address,
    load,
    pack_page,
    page_address,
    store,
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


def check_digests_of_heads():
    assert digest_of_heads() == "99aa06d3014798d86001c324468d497f"
    five = (7, 5, 0)
    assert digest_of_heads(five, (9, 0, 0)) == "b4ced94921113f52c44bc13150f840e1"
    assert digest_of_heads((11, 1, 300), five) == "be2383091fb6d34a3237e71211f37cf5"


def check_envelopes():
    plain = Envelope(TOKEN, "get_items_in_cart::13", b"two apples")
    head = "0123456789abcdef00156765745f6974656d735f696e5f636172743a3a3133"
    assert plain.pack().hex() == "c70100" + head + "74776f206170706c6573"
    dependent = Envelope(TOKEN, "get_items_in_cart::13", b"two apples", ["item/7", "prices/9"], 0xFEDCBA9876543210)
    dependencies = "0200066974656d2f3700087072696365732f39fedcba9876543210"
    assert dependent.pack().hex() == "c70101" + head + dependencies + "74776f206170706c6573"
    for envelope in (plain, dependent):
        packed = envelope.pack()
        assert unpack_envelope(packed) == envelope
        ends = len(packed) - len(envelope.value)
        assert all(unpack_envelope(packed[:cut]) is None for cut in range(ends))
    assert unpack_envelope(b"\xc6" + plain.pack()[1:]) is None
    assert unpack_envelope(b"\xc7\x02" + plain.pack()[2:]) is None


def check_which_form_a_value_has():
    address, head = "get_items_in_cart::13", "c701000123456789abcdef00156765745f6974656d735f696e5f636172743a3a3133"

    def form(wrapped, value, *dependencies):
        return store(wrapped, Envelope(TOKEN, address, value, *dependencies))

    # At a versioned address: as it is, unless it would be taken for an envelope or has dependencies.
    assert form(False, b"two apples").hex() == "74776f206170706c6573"
    assert form(False, b"") == b""
    assert form(False, b"\xc7\x00").hex() == head + "c700"
    dependent = form(False, b"two apples", ["item/7"], 5)
    assert dependent[:3].hex() == "c70101"
    # Everywhere else: always an envelope.
    assert form(True, b"two apples").hex() == head + "74776f206170706c6573"
    assert form(True, b"").hex() == head
    for wrapped in (False, True):
        for value in (b"two apples", b"", b"\xc7\x00", b"\xc7"):
            assert load(wrapped, TOKEN, address, form(wrapped, value)).value == value
        assert load(wrapped, TOKEN, address, dependent).dependencies == ["item/7"]
        # An envelope counts for what it says, wherever it stands.
        assert load(wrapped, TOKEN ^ 1, address, form(wrapped, b"\xc7")) is None
        assert load(wrapped, TOKEN, "get_items_in_cart::14", form(wrapped, b"\xc7")) is None
        assert load(wrapped, TOKEN, address, bytes.fromhex("c7") + b"no envelope") is None
    assert load(True, TOKEN, address, b"two apples") is None
    assert load(True, TOKEN, address, b"") is None
    assert load(False, TOKEN, address, b"two apples").value == b"two apples"


def check_pages():
    assert pack_page([]).hex() == "00000000"
    items = [b"1111", b"", b"3"]
    assert pack_page(items).hex() == "0000000300000004313131310000000000000001" + "33"
    assert unpack_page(pack_page(items)) == items
    assert unpack_page(pack_page(items) + b"x") is None
    assert unpack_page(pack_page(items)[:-1]) is None


CHECKS = [
    check_tokens,
    check_cache_addresses,
    check_digests_of_heads,
    check_envelopes,
    check_which_form_a_value_has,
    check_pages,
]
