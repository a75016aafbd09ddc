"""Content credentials on real bytes: written by the c2pa library, read back by it and by one that shares no code with it."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import socketserver
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import av
import c2pa
import encypher_c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from PIL import Image

from face_pipeline.encoding import MEDIA_TYPES, encode_picture
from moderation.adapters import provenance
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.provenance import (
    COMPOSITE,
    COMPOSITE_TRAINED,
    DEVELOPMENT,
    C2paSigner,
    IdentityRefused,
    SigningIdentity,
    load_identity,
    load_or_make_identity,
    read_credentials,
)
from moderation.errors import CannotSign
from moderation.frames import DecodePlan
from moderation.ports import Claim

ROOT = Path(__file__).parents[3]
TITLE = "trf_0190a0b0c0d07000800000000000000f"
PLANTED = b"Kim Minji 37.5665N holiday.jpg"
"""What an uploader's file might say of its owner."""

SMALL, LARGE = (160, 120), (1024, 1024)
FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("image/jpeg", "JPEG", {"quality": 90}),
    "png": ("image/png", "PNG", {}),
    "webp": ("image/webp", "WEBP", {"quality": 90}),
    "webp lossless": ("image/webp", "WEBP", {"lossless": True}),
}
CLAIM_SIGNING, DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1"), x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")


@pytest.fixture(autouse=True)
def the_verifier_keeps_its_preferences_in_a_folder_of_the_test(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "preferences"))


@pytest.fixture(scope="module")
def identity(tmp_path_factory) -> SigningIdentity:
    return load_or_make_identity(tmp_path_factory.mktemp("home") / "c2pa")


@pytest.fixture(scope="module")
def signer(identity) -> C2paSigner:
    return C2paSigner(identity)


def picture(size=SMALL) -> Image.Image:
    width, height = size
    noise = np.random.default_rng(7).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(form: str, size=SMALL, **more) -> bytes:
    out = io.BytesIO()
    _, name, options = FORMS[form]
    picture(size).save(out, name, **options, **more)
    return out.getvalue()


def movie(**options) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SMALL, "yuv420p"
        pixels = np.asarray(picture())
        for shift in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(pixels, 5 * shift, axis=1), format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def shown(data: bytes) -> list[bytes]:
    """Every frame's pixels, as Pillow or PyAV decode them."""
    if data[4:8] == b"ftyp":
        with av.open(io.BytesIO(data)) as container:
            return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]
    return [Image.open(io.BytesIO(data)).convert("RGB").tobytes()]


def claim_of(media_type: str, **changes) -> Claim:
    return replace(Claim(title=TITLE, media_type=media_type, is_trained=False, swapper="classical 1"), **changes)


def signed(signer: C2paSigner, data: bytes, claim: Claim) -> bytes:
    return asyncio.run(signer.sign(data, claim))


def second_opinion(data: bytes, media_type: str, anchor: bytes | None) -> dict:
    """The report of the library that shares no code with the first; files that end too soon it refuses to report on."""
    trust = None if anchor is None else anchor.decode()
    try:
        return dict(encypher_c2pa.verify(data, media_type, trust_pem=trust, no_default_trust=True, telemetry=False, online=False))
    except ValueError as fault:
        assert "unexpected end of data" in str(fault)  # noqa: PT017  # any other refusal fails the test
        return {"validation_state": "Invalid"}


def states(data: bytes, media_type: str, anchor: bytes | None) -> tuple[str, str]:
    """What both libraries make of a file."""
    return read_credentials(data, media_type, anchors=anchor).state, second_opinion(data, media_type, anchor)["validation_state"]


FILES = [pytest.param(FORMS[form][0], lambda form=form: encoded(form), id=form) for form in FORMS] + [
    pytest.param("video/mp4", movie, id="mp4"),
    pytest.param("video/mp4", lambda: movie(movflags="frag_keyframe+delay_moov+default_base_moof+skip_trailer"), id="fragmented mp4"),
]


# --- what is said -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("media_type", "build"), FILES)
def test_a_signed_file_is_trusted_under_our_anchor_valid_without_and_shows_the_same(signer, identity, media_type, build):
    data = build()
    out = signed(signer, data, claim_of(media_type))
    assert states(data, media_type, identity.anchor)[0] == "none"
    assert states(out, media_type, identity.anchor) == ("Trusted", "Trusted")
    assert states(out, media_type, None) == ("Valid", "Valid")
    assert read_credentials(out, media_type, anchors=None).faults == ("signingCredential.untrusted",)
    assert shown(out) == shown(data)


@pytest.mark.parametrize("form", FORMS)
def test_our_own_decoder_takes_a_signed_file_and_shows_the_frame_it_showed_before(signer, form):
    async def story():
        decoder = ChildDecoder(1)
        await decoder.start()
        try:
            data = encoded(form)
            out = await signer.sign(data, claim_of(FORMS[form][0]))
            return [await decoder.frame_digest(one, DecodePlan(specs=())) for one in (data, out)]
        finally:
            await decoder.close()

    before, after = asyncio.run(story())
    assert before == after


@pytest.mark.parametrize(("is_trained", "kind"), [(False, COMPOSITE), (True, COMPOSITE_TRAINED)])
def test_it_says_that_a_picture_was_opened_and_edited_by_what_and_what_kind_of_picture_that_made(signer, identity, is_trained, kind):
    out = signed(signer, encoded("jpeg"), claim_of("image/jpeg", is_trained=is_trained, swapper="inswapper 128"))
    said = read_credentials(out, "image/jpeg", anchors=identity.anchor)
    assert (said.actions, said.source_type, said.agent) == (("c2pa.opened", "c2pa.edited"), kind, "inswapper 128")
    assert said.generator.startswith("facegate/")
    assert said.issuer.endswith("not trusted")


def test_the_whole_manifest_as_somebody_else_reads_it_is_what_we_mean_to_say(signer, identity):
    out = signed(signer, encoded("png"), claim_of("image/png"))
    report = second_opinion(out, "image/png", identity.anchor)["manifest_report"]
    (manifest,) = report["manifests"].values()
    assert manifest["title"] == TITLE
    assertions = {one["label"]: one["data"] for one in manifest["assertions"]}
    assert set(assertions) == {"c2pa.ingredient.v3", "c2pa.ingredient.v3__1", "c2pa.actions.v2", "c2pa.hash.data"}
    assert assertions["c2pa.ingredient.v3"] == {"relationship": "parentOf", "dc:title": "target"}
    assert assertions["c2pa.ingredient.v3__1"] == {"relationship": "componentOf", "dc:title": "source"}
    opened, edited = assertions["c2pa.actions.v2"]["actions"]
    links = [action.pop("parameters")["ingredients"][0]["url"].rpartition("/")[2] for action in (opened, edited)]
    assert links == ["c2pa.ingredient.v3", "c2pa.ingredient.v3__1"]
    assert opened == {"action": "c2pa.opened"}
    assert edited == {
        "action": "c2pa.edited",
        "digitalSourceType": COMPOSITE,
        "softwareAgent": {"name": "classical 1"},
        "description": "A face was replaced by another.",
    }
    assert "certificate" not in str(manifest["signature_info"]).lower()
    assert manifest["signature_info"]["issuer"] == "facegate development - not trusted"


def test_signing_again_leaves_one_manifest(signer, identity):
    once = signed(signer, encoded("jpeg"), claim_of("image/jpeg"))
    twice = signed(signer, once, claim_of("image/jpeg", is_trained=True))
    assert states(twice, "image/jpeg", identity.anchor) == ("Trusted", "Trusted")
    assert len(second_opinion(twice, "image/jpeg", None)["manifest_report"]["manifests"]) == 1
    assert COMPOSITE_TRAINED.encode() in twice
    assert COMPOSITE.encode() + b"k" not in twice
    assert abs(len(twice) - len(once)) < 100


# --- what is not said ---------------------------------------------------------------------------------


def without_manifest(data: bytes) -> bytes:
    """The file without the segments, chunks or boxes that C2PA lets a manifest be in; a WebP without the size in its head as well."""
    if data.startswith(b"\xff\xd8"):
        kept, at = data[:2], 2
        while data[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            kept += b"" if data[at + 1] == 0xEB else data[at:end]
            at = end
        return kept + data[at:]
    if data.startswith(b"\x89PNG"):
        kept, at = data[:8], 8
        while at < len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4])
            kept += b"" if data[at + 4 : at + 8] == b"caBX" else data[at:end]
            at = end
        return kept
    kept, at = b"", 12
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        kept += b"" if data[at : at + 4] == b"C2PA" else data[at:end]
        at = end
    return kept


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_added_but_one_manifest_without_a_thumbnail(signer, form):
    media_type, data = FORMS[form][0], encoded(form, LARGE)
    out = signed(signer, data, claim_of(media_type))
    assert without_manifest(out) == without_manifest(data)
    assert len(out) - len(data) < 5000
    added = out[len(data) // 2 :] if form.startswith("webp") else out
    assert b"thumbnail" not in added
    assert out.count(b"\xff\xd8\xff") == data.count(b"\xff\xd8\xff")


@pytest.mark.parametrize("form", FORMS)
def test_not_one_word_of_what_a_file_says_of_its_owner_gets_into_the_manifest(signer, form):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = PLANTED.decode(), PLANTED.decode()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><dc:creator>" + PLANTED + b"</dc:creator></x:xmpmeta>"
    more = {} if form == "png" else {"xmp": xmp}
    data = encoded(form, exif=exif, **more)
    assert data.count(PLANTED) >= 2
    out = signed(signer, data, claim_of(FORMS[form][0]))
    assert out.count(PLANTED) == data.count(PLANTED)
    fresh = signed(signer, encoded(form), claim_of(FORMS[form][0]))
    assert not [word for word in PLANTED.split() if word in fresh]


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_not_one_word_of_an_upload_is_in_the_file_that_we_encode_and_sign(signer, identity, format):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = PLANTED.decode(), PLANTED.decode()
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><dc:creator>" + PLANTED + b"</dc:creator></x:xmpmeta>"
    upload = encoded("jpeg", exif=exif, xmp=xmp, comment=PLANTED)
    assert upload.count(PLANTED) == 4

    async def story() -> bytes:
        decoder = ChildDecoder(1)
        await decoder.start()
        try:
            frame = (await decoder.picture(upload, DecodePlan(specs=()))).pixels
        finally:
            await decoder.close()
        return await signer.sign(encode_picture(frame, format), claim_of(MEDIA_TYPES[format]))

    out = asyncio.run(story())
    assert states(out, MEDIA_TYPES[format], identity.anchor) == ("Trusted", "Trusted")
    assert not [word for word in (*PLANTED.split(), b"xmpmeta", b"Exif") if word in out]


@pytest.mark.parametrize(
    "title", ["holiday.jpg", "Kim Minji", "", "trf_", "trf_" + "0" * 31, "0" * 32 + "\n", "TRF_" + "0" * 32, "../" + "0" * 32]
)
def test_a_title_that_is_no_id_of_ours_is_not_signed(signer, title):
    with pytest.raises(CannotSign, match="not an id"):
        signed(signer, encoded("jpeg"), claim_of("image/jpeg", title=title))


class Listener(BaseHTTPRequestHandler):
    """Counts who calls."""

    calls: list[str]

    def do_GET(self):
        self.calls.append(self.path)
        self.send_error(404)

    do_POST = do_GET  # noqa: N815  # the library's name

    def log_message(self, *args):
        """Says nothing."""


@pytest.fixture
def listener():
    """An HTTP server and the list of what it was asked for."""
    calls: list[str] = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), type("One", (Listener,), {"calls": calls})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", calls
        finally:
            server.shutdown()
            thread.join()


def test_neither_signing_nor_reading_asks_anybody(listener, tmp_path, monkeypatch):
    url, calls = listener
    chain = made_chain(ocsp=url + "/ocsp")
    identity = load_identity(*chain.write(tmp_path))
    out = signed(C2paSigner(identity), encoded("jpeg"), claim_of("image/jpeg"))
    assert read_credentials(out, "image/jpeg", anchors=chain.root_pem).state == "Trusted"
    pointing = io.BytesIO()
    builder = c2pa.Builder({"title": "x", "format": "image/jpeg"}, context=c2pa.Context.from_dict({}))
    builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.COMPOSITE)
    builder.set_no_embed()
    builder.set_remote_url(url + "/manifest.c2pa")
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain, identity.key, None)
    builder.sign(c2pa.Signer.from_info(info), "image/jpeg", io.BytesIO(encoded("jpeg")), pointing)
    assert read_credentials(pointing.getvalue(), "image/jpeg", anchors=None).state in ("none", "Invalid")
    assert calls == []
    careless = {"verify": {"remote_manifest_fetch": True, "ocsp_fetch": True}, "core": {}, "builder": {}, "trust": {"trust_config": ""}}
    monkeypatch.setattr(provenance, "_SETTINGS", careless)
    read_credentials(pointing.getvalue(), "image/jpeg", anchors=None)
    read_credentials(out, "image/jpeg", anchors=chain.root_pem)
    assert [call[:7] for call in calls] == ["/manife", "/MFUwUz"], "the listener hears those who do ask; the second is an OCSP request"


# --- what was changed ---------------------------------------------------------------------------------


def changed_pixel(data: bytes, media_type: str) -> bytes:
    """One bit of the coded picture. In a WebP the manifest comes last, elsewhere first."""
    start = {"image/webp": 60, "video/mp4": data.rindex(b"mdat") + 300 if b"mdat" in data else 0}.get(media_type, len(data) - 60)
    return data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]


@pytest.mark.parametrize(("media_type", "build"), FILES[:5])
def test_a_changed_bit_of_the_picture_and_a_changed_word_are_seen_by_both(signer, identity, media_type, build):
    out = signed(signer, build(), claim_of(media_type))
    at = out.index(b"classical")
    for altered in (changed_pixel(out, media_type), out[:at] + b"K" + out[at + 1 :]):
        assert states(altered, media_type, identity.anchor) == ("Invalid", "Invalid")
        assert read_credentials(altered, media_type, anchors=identity.anchor).faults


def test_a_changed_byte_of_the_manifest_is_seen_or_changes_nothing_that_it_says(signer, identity):
    """Padding and the switches of boxes are outside every signature, by the format: what is said has to be inside."""
    out = signed(signer, encoded("jpeg"), claim_of("image/jpeg"))
    good = read_credentials(out, "image/jpeg", anchors=identity.anchor)
    start, size = out.index(b"JP"), len(out) - len(encoded("jpeg"))
    unseen = []
    for at in range(start, start + size - 4, 13):
        read = read_credentials(out[:at] + bytes([out[at] ^ 1]) + out[at + 1 :], "image/jpeg", anchors=identity.anchor)
        if read.state not in ("Invalid", "none"):
            assert read == good
            unseen.append(at)
    seen = size // 13 - len(unseen)
    assert seen > 200
    assert seen > 2 * len(unseen)


@pytest.mark.parametrize(("media_type", "build"), FILES[:5])
@pytest.mark.parametrize("fewer", [1, 20, 0.5])
def test_a_file_that_was_cut_is_seen_by_both(signer, identity, media_type, build, fewer):
    out = signed(signer, build(), claim_of(media_type))
    kept = out[: len(out) // 2] if fewer == 0.5 else out[:-fewer]
    assert set(states(kept, media_type, identity.anchor)) <= {"Invalid", "none"}


@pytest.mark.parametrize(("media_type", "build"), FILES[:5])
@pytest.mark.parametrize("appended", [b"junk", bytes(1000)])
def test_appended_bytes_are_seen(signer, identity, media_type, build, appended):
    """The second library passes over fewer bytes than a box of an MP4 has and stops at others; boxes it sees, by the test below."""
    altered = signed(signer, build(), claim_of(media_type)) + appended
    assert read_credentials(altered, media_type, anchors=identity.anchor).state == "Invalid"
    if media_type != "video/mp4":
        assert second_opinion(altered, media_type, identity.anchor)["validation_state"] == "Invalid"


@pytest.mark.parametrize("kind", [b"free", b"skip", b"uuid", b"mdat"])
def test_nothing_can_be_put_into_a_box_that_players_pass_over(signer, identity, kind):
    out = signed(signer, movie(), claim_of("video/mp4"))
    box = b"0123456789abcdef" + b"what nobody judged"
    altered = out + (8 + len(box)).to_bytes(4) + kind + box
    assert shown(altered) == shown(out)
    assert states(altered, "video/mp4", identity.anchor) == ("Invalid", "Invalid")


def test_what_was_signed_by_another_authority_of_the_same_name_is_not_trusted(signer, tmp_path):
    other = load_or_make_identity(tmp_path)
    out = signed(signer, encoded("jpeg"), claim_of("image/jpeg"))
    assert states(out, "image/jpeg", other.anchor) == ("Valid", "Valid")


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_reading_what_is_no_file_says_that_and_raises_nothing(data):
    assert read_credentials(data, "image/jpeg", anchors=None).state in ("none", "Invalid")


def test_a_manifest_cut_anywhere_is_never_read_as_good(signer, identity):
    out = signed(signer, encoded("jpeg"), claim_of("image/jpeg"))
    for cut in range(0, len(out), len(out) // 40):
        assert read_credentials(out[:cut], "image/jpeg", anchors=identity.anchor).state in ("none", "Invalid")


def test_anchors_that_hold_no_certificate_are_an_error_and_not_silently_nobody(signer):
    out = signed(signer, encoded("jpeg"), claim_of("image/jpeg"))
    with pytest.raises(ValueError, match="PEM"):
        read_credentials(out, "image/jpeg", anchors=b"not a certificate")


# --- what cannot be signed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("image/jpeg", b""),
        ("image/jpeg", b"junk"),
        ("image/jpeg", encoded("jpeg")[:200]),
        ("image/png", encoded("jpeg")),
        ("image/jpeg", encoded("png")),
        ("video/mp4", encoded("png")),
        ("image/gif", encoded("png")),
        ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("", encoded("jpeg")),
    ],
)
def test_what_cannot_be_signed_raises_in_one_line_and_gives_nothing_back(signer, media_type, data):
    with pytest.raises(CannotSign) as fault:
        signed(signer, data, claim_of(media_type))
    assert "\n" not in str(fault.value)


def test_a_certificate_that_ended_while_the_service_ran_signs_nothing_more(identity):
    """The library's part is put into a signer that passed its trial, so that nobody has to wait for the end."""
    chain = made_chain(begins=NOW - 3 * DAY, ends=NOW - DAY)
    pem = chain.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signer = C2paSigner(identity)
    signer._signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain.leaf_pem + chain.root_pem, pem, None))
    with pytest.raises(CannotSign, match="not valid at time"):
        signed(signer, encoded("png"), claim_of("image/png"))


def test_signing_that_takes_too_long_ends_in_an_error_and_disturbs_no_later_file(signer, identity, monkeypatch):
    monkeypatch.setattr(provenance, "SIGN_S", 0.0)
    with pytest.raises(CannotSign, match="too long"):
        signed(signer, encoded("jpeg", LARGE), claim_of("image/jpeg"))
    monkeypatch.undo()
    out = signed(signer, encoded("jpeg"), claim_of("image/jpeg"))
    assert read_credentials(out, "image/jpeg", anchors=identity.anchor).state == "Trusted"


def test_a_signer_that_closes_ends_what_it_has_in_hand_leaves_no_thread_and_signs_nothing_more(identity):
    async def story():
        signer = C2paSigner(identity)
        works = [asyncio.create_task(signer.sign(encoded("jpeg"), claim_of("image/jpeg"))) for _ in range(8)]
        await asyncio.sleep(0)
        await asyncio.to_thread(signer.close)
        signer.close()
        files = await asyncio.gather(*works)
        with pytest.raises(CannotSign):
            await signer.sign(encoded("jpeg"), claim_of("image/jpeg"))
        return files

    before = set(threading.enumerate())
    files = asyncio.run(story())
    assert {read_credentials(out, "image/jpeg", anchors=identity.anchor).state for out in files} == {"Trusted"}
    assert not {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("sign")}


def test_eight_threads_sign_at_once_and_every_file_is_good(signer, identity):
    forms = list(FORMS) * 4

    def one(number: int) -> tuple[str, bytes, str]:
        media_type, title = FORMS[forms[number]][0], f"trf_{number:032x}"
        return media_type, signed(signer, encoded(forms[number]), claim_of(media_type, title=title, is_trained=number % 2 == 0)), title

    with ThreadPoolExecutor(8) as threads:
        for number, (media_type, out, title) in enumerate(threads.map(one, range(len(forms)))):
            assert title.encode() in out
            said = read_credentials(out, media_type, anchors=identity.anchor)
            assert (said.state, said.source_type) == ("Trusted", COMPOSITE_TRAINED if number % 2 == 0 else COMPOSITE)


def test_many_wait_on_one_loop_and_one_that_gives_up_disturbs_no_other(signer, identity):
    async def story():
        works = [asyncio.create_task(signer.sign(encoded("jpeg", LARGE), claim_of("image/jpeg"))) for _ in range(12)]
        await asyncio.sleep(0)
        works[3].cancel()
        works[11].cancel()
        return await asyncio.gather(*works, return_exceptions=True)

    done = asyncio.run(story())
    assert [number for number, out in enumerate(done) if isinstance(out, asyncio.CancelledError)] == [3, 11]
    files = [out for out in done if not isinstance(out, BaseException)]
    assert {read_credentials(out, "image/jpeg", anchors=identity.anchor).state for out in files} == {"Trusted"}


# --- who signs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A signer's certificate with its key, and the root that issued it."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    leaf: x509.Certificate
    root: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey

    @property
    def root_pem(self) -> bytes:
        return self.root.public_bytes(serialization.Encoding.PEM)

    @property
    def leaf_pem(self) -> bytes:
        return self.leaf.public_bytes(serialization.Encoding.PEM)

    def write(self, folder: Path, *, chain: bytes | None = None, key=None, password: bytes | None = None) -> tuple[Path, Path]:
        certificate, private = folder / "chain.pem", folder / "key.pem"
        certificate.write_bytes(self.leaf_pem + self.root_pem if chain is None else chain)
        shut = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
        form = serialization.PrivateFormat.TraditionalOpenSSL  # SEC 1: what `openssl ecparam -genkey` writes
        private.write_bytes((key or self.key).private_bytes(serialization.Encoding.PEM, form, shut))
        private.chmod(0o600)
        return certificate, private


def made_chain(
    *,
    purposes=(ExtendedKeyUsageOID.EMAIL_PROTECTION,),
    key=None,
    digital_signature=True,
    authority_key=True,
    begins=None,
    ends=None,
    ocsp=None,
    name="Somebody",
) -> Chain:
    """A root and a signer as C2PA wants them, but for what is asked to be otherwise."""
    now = datetime.now(UTC)
    begins = begins or now - timedelta(days=1)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())
    subject, root_name = (x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)]) for text in (name, "Their root"))
    off = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    start = x509.CertificateBuilder().not_valid_before(begins).serial_number(x509.random_serial_number()).issuer_name(root_name)
    ids = x509.SubjectKeyIdentifier.from_public_key, x509.AuthorityKeyIdentifier.from_issuer_public_key
    root = (
        start.subject_name(root_name)
        .public_key(root_key.public_key())
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **off), critical=True)
        .add_extension(ids[0](root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        start.subject_name(subject)
        .public_key(key.public_key())
        .not_valid_after(ends or now + timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=digital_signature,
                key_cert_sign=False,
                crl_sign=False,
                **{**off, "content_commitment": True},
            ),
            critical=True,
        )
        .add_extension(ids[0](key.public_key()), critical=False)
    )
    if purposes:
        leaf = leaf.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if authority_key:
        leaf = leaf.add_extension(ids[1](root_key.public_key()), critical=False)
    if ocsp:
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp))
        leaf = leaf.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    return Chain(key=key, leaf=leaf.sign(root_key, hashes.SHA256()), root=root, root_key=root_key)


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.EMAIL_PROTECTION, DOCUMENT_SIGNING, CLAIM_SIGNING])
@pytest.mark.parametrize("with_root", [True, False])
def test_a_configured_identity_signs_in_its_own_name(tmp_path, purpose, with_root):
    chain = made_chain(purposes=(purpose,))
    identity = load_identity(*chain.write(tmp_path, chain=chain.leaf_pem + (chain.root_pem if with_root else b"")))
    assert not identity.is_development
    out = signed(C2paSigner(identity), encoded("jpeg"), claim_of("image/jpeg"))
    assert states(out, "image/jpeg", chain.root_pem) == ("Trusted", "Trusted")
    assert read_credentials(out, "image/jpeg", anchors=chain.root_pem).issuer == "Somebody"


DAY = timedelta(days=1)
NOW = datetime.now(UTC)
P256 = ec.generate_private_key(ec.SECP256R1())
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another key": ({}, {"key": P256}, "not that of the first certificate"),
    "ended": ({"begins": NOW - 3 * DAY, "ends": NOW - DAY}, {}, "is valid from"),
    "not begun": ({"begins": NOW + DAY}, {}, "is valid from"),
    "for web servers": ({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, {}, "neither emailProtection"),
    "for anything": ({"purposes": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, {}, "neither emailProtection"),
    "for nothing said": ({"purposes": ()}, {}, "lacks extendedKeyUsage"),
    "no authority key": ({"authority_key": False}, {}, "lacks authorityKeyIdentifier"),
    "not for signatures": ({"digital_signature": False}, {}, "not for digital signatures"),
    "P-384": ({"key": ec.generate_private_key(ec.SECP384R1())}, {}, "not a P-256 key"),
    "RSA": ({"key": rsa.generate_private_key(65537, 2048)}, {}, "not a P-256 key"),
    "locked key": ({}, {"password": b"secret"}, "without a password"),
    "no chain": ({}, {"chain": b""}, "are PEM"),
    "no certificate": ({}, {"chain": b"junk"}, "are PEM"),
    "another's root": ({}, {"chain": "others"}, "not a chain"),
    "root first": ({}, {"chain": "turned"}, "not that of the first"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_identity_that_cannot_sign_is_refused_at_once_in_one_line(tmp_path, case):
    made, written, said = REFUSED[case]
    chain = made_chain(**made)
    swapped = {"others": chain.leaf_pem + made_chain().root_pem, "turned": chain.root_pem + chain.leaf_pem}
    written = {name: swapped.get(value, value) if name == "chain" else value for name, value in written.items()}
    with pytest.raises(IdentityRefused, match=said) as refused:
        load_identity(*chain.write(tmp_path, **written))
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_root_that_signs_for_itself_is_refused_by_a_trial(tmp_path):
    root = made_chain()
    itself = replace(root, key=root.root_key, leaf=root.root)
    with pytest.raises(IdentityRefused, match="lacks"):
        load_identity(*itself.write(tmp_path, chain=root.root_pem))
    pem = itself.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(IdentityRefused, match="self-signed"):
        C2paSigner(SigningIdentity(chain=root.root_pem, key=pem, is_development=False))


def test_what_only_the_library_finds_is_refused_when_the_signer_is_made_and_not_by_the_first_file(tmp_path):
    chain = made_chain(purposes=(ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.TIME_STAMPING))
    with pytest.raises(IdentityRefused, match="invalid") as refused:
        C2paSigner(load_identity(*chain.write(tmp_path)))
    assert "\n" not in str(refused.value)


def test_a_key_that_is_none_is_refused_without_a_word_of_it(tmp_path):
    files = made_chain().write(tmp_path)
    for junk in (b"", b"hunter2", b"-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n", files[0].read_bytes()):
        files[1].write_bytes(junk)
        with pytest.raises(IdentityRefused, match="are PEM") as refused:
            load_identity(*files)
        assert not [word for word in ("hunter2", "aHVudGVyMg", "\n") if word in str(refused.value)]


def test_a_name_with_line_breaks_stays_in_one_line(tmp_path):
    chain = made_chain(name="Some\nbody", begins=NOW - 3 * DAY, ends=NOW - DAY)
    with pytest.raises(IdentityRefused, match="Some body is valid") as refused:
        load_identity(*chain.write(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode):
    files = made_chain().write(tmp_path)
    files[1].chmod(mode)
    with pytest.raises(IdentityRefused, match="others can reach it"):
        load_identity(*files)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_file_that_is_not_there_is_named(tmp_path, missing):
    files = made_chain().write(tmp_path)
    files[missing].unlink()
    with pytest.raises(IdentityRefused, match=f"{files[missing].name}: No such file"):
        load_identity(*files)


def test_an_identity_does_not_show_its_key(identity):
    assert "PRIVATE" in identity.key.decode()
    assert "PRIVATE" not in repr(identity) + str(identity)


# --- the development authority ------------------------------------------------------------------------


def test_a_development_authority_is_made_once_private_and_says_what_it_is(tmp_path):
    folder = tmp_path / "home" / "c2pa"
    before = os.umask(0)
    try:
        first = load_or_make_identity(folder)
    finally:
        os.umask(before)
    again = load_or_make_identity(folder)
    assert (first.chain, first.key, first.is_development) == (again.chain, again.key, True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    leaf, root = x509.load_pem_x509_certificates(first.chain)
    assert root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == DEVELOPMENT
    assert all("not trusted" in name.rfc4514_string() for name in (root.subject, leaf.subject))
    assert (folder / "development-ca.pem").read_bytes() == first.anchor
    with_keys = {file.name for file in folder.iterdir() if b"PRIVATE" in file.read_bytes()}
    assert with_keys == {"development-ca-key.pem", "development-signer-key.pem"}


def _identity_in(folder, barrier, answers):
    barrier.wait()
    identity = load_or_make_identity(folder)
    answers.put((identity.chain, identity.key))


def test_processes_that_start_at_once_get_the_same_identity(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_identity_in, args=(tmp_path / "c2pa", barrier, answers)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = {answers.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    kept = load_or_make_identity(tmp_path / "c2pa")
    assert found == {(kept.chain, kept.key)}


def test_a_signer_is_renewed_in_time_under_the_same_authority_and_what_it_signed_stays_good(tmp_path, monkeypatch):
    first = load_or_make_identity(tmp_path)
    out = signed(C2paSigner(first), encoded("jpeg"), claim_of("image/jpeg"))
    monkeypatch.setattr(provenance, "RENEW_BEFORE", timedelta(days=provenance.LEAF_DAYS - 1))
    assert load_or_make_identity(tmp_path).chain == first.chain
    monkeypatch.setattr(provenance, "RENEW_BEFORE", timedelta(days=provenance.LEAF_DAYS + 1))
    renewed = load_or_make_identity(tmp_path)
    assert renewed.anchor == first.anchor
    assert renewed.key != first.key
    anew = signed(C2paSigner(renewed), encoded("jpeg"), claim_of("image/jpeg"))
    assert [states(file, "image/jpeg", renewed.anchor) for file in (out, anew)] == [("Trusted", "Trusted")] * 2


def test_an_authority_that_would_end_before_its_signers_is_made_anew_with_its_signer(tmp_path, monkeypatch):
    first = load_or_make_identity(tmp_path)
    monkeypatch.setattr(provenance, "LEAF_DAYS", provenance.CA_DAYS + 1)
    monkeypatch.setattr(provenance, "CA_DAYS", provenance.CA_DAYS + 10)
    second = load_or_make_identity(tmp_path)
    assert second.anchor != first.anchor
    assert (tmp_path / "development-ca.pem").read_bytes() == second.anchor
    out = signed(C2paSigner(second), encoded("jpeg"), claim_of("image/jpeg"))
    assert states(out, "image/jpeg", second.anchor) == ("Trusted", "Trusted")


def test_a_signer_of_an_authority_that_is_gone_is_made_anew(tmp_path):
    first = load_or_make_identity(tmp_path)
    (tmp_path / "development-ca-key.pem").unlink()
    second = load_or_make_identity(tmp_path)
    leaf, root = x509.load_pem_x509_certificates(second.chain)
    leaf.verify_directly_issued_by(root)
    assert second.anchor != first.anchor


@pytest.mark.parametrize("name", ["development-ca-key.pem", "development-signer-key.pem"])
@pytest.mark.parametrize("content", [b"", b"junk", "other"])
def test_damaged_files_are_named_and_not_replaced_by_themselves(tmp_path, name, content):
    load_or_make_identity(tmp_path)
    file = tmp_path / name
    if content == "other":
        chain = made_chain()
        content = chain.write(tmp_path)[1].read_bytes() + made_chain().leaf_pem
    file.write_bytes(content)
    with pytest.raises(IdentityRefused, match=f"{name} is damaged"):
        load_or_make_identity(tmp_path)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["development-ca-key.pem", "development-signer-key.pem"])
def test_a_development_key_that_others_can_reach_is_refused(tmp_path, name):
    load_or_make_identity(tmp_path)
    (tmp_path / name).chmod(0o644)
    with pytest.raises(IdentityRefused, match="others can reach it"):
        load_or_make_identity(tmp_path)


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path):
    in_the_way = tmp_path / "c2pa"
    in_the_way.write_bytes(b"a file where the folder should be")
    with pytest.raises(IdentityRefused, match=f"{in_the_way}: ") as refused:
        load_or_make_identity(in_the_way)
    assert "\n" not in str(refused.value)


# --- what it costs those who do not sign --------------------------------------------------------------


def test_importing_the_module_does_not_load_the_library():
    program = "import sys, moderation.adapters.provenance; print(sorted({'c2pa', 'requests', 'PIL'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
