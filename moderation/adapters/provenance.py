"""Content credentials (C2PA 2): what a released file says of itself, signed by its maker.

A manifest says that a picture was opened and edited, by what, and whether pixels came out of a trained network. Of the inputs it
says nothing but that there were two; no thumbnail, no hash, no name of theirs is in it, and nothing is fetched from anywhere.

Who signs is configured, or is a development authority that is made on first start and says so in its name: it proves that files
come from this installation to whoever holds its certificate, and to nobody else.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moderation.adapters.private_files import NotPrivate, make_private, read_private
from moderation.errors import CannotSign
from moderation.ports import Claim

COMPOSITE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/composite"
COMPOSITE_TRAINED: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source types, as C2PA 2.2 section 18 names them."""

SIGNED_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/webp", "video/mp4"})
DEVELOPMENT: Final = "facegate development CA - not trusted"
CA_DAYS: Final = 3650
LEAF_DAYS: Final = 730
RENEW_BEFORE: Final = timedelta(days=365)
"""Without a time stamp of somebody else credentials hold only as long as the certificate: a file keeps its own for at least this long."""

SIGN_S: Final = 30.0
THREADS: Final = 2
_OUR_ID: Final = re.compile(r"([a-z]{2,8}_)?[0-9a-f]{32}")
"""What a title may be: a UUID, on the wire or bare. A file's name, and whoever gave it, cannot get into a manifest."""

_LONGEST_PEM: Final = 64 * 1024
_START: Final = timedelta(minutes=5)
"""Certificates begin a little in the past: clocks differ."""

_PURPOSES: Final = (
    ExtendedKeyUsageOID.EMAIL_PROTECTION,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36"),  # documentSigning, RFC 9336
    x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1"),  # c2pa-kp-claimSigning
)
"""One of these has to be among the extended key usages of a signer (C2PA 2.2 section 14.5)."""

_SETTINGS: Final[Mapping[str, Any]] = {
    "builder": {
        "thumbnail": {"enabled": False},
        "actions": {name: {"enabled": False} for name in ("auto_opened_action", "auto_created_action", "auto_placed_action")},
        # The hash of an MP4 otherwise leaves out `free` and `skip` boxes, and anything could be put into them.
        "bmff_hash_exclude_free_and_skip_boxes": False,
    },
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
    "core": {"allowed_network_hosts": []},
    "trust": {"trust_config": "\n".join(oid.dotted_string for oid in _PURPOSES)},
}
"""The library passes over names that it does not know: what these have to do is held by tests, not by their spelling."""

_TRIAL: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
"""A PNG of one black pixel, signed once to learn whether an identity can sign at all."""


class IdentityRefused(Exception):
    """The certificate or its key cannot be used; the text is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SigningIdentity:
    """A chain of certificates (PEM, the signer's own first) and the signer's key (PKCS 8, PEM), which never shows."""

    chain: bytes
    key: bytes
    is_development: bool

    @property
    def anchor(self) -> bytes:
        """The last certificate of the chain, PEM: what a verifier has to trust."""
        return _certificate_pem(x509.load_pem_x509_certificates(self.chain)[-1])

    @property
    def subject(self) -> str:
        """Whom the signer's certificate names, in one line."""
        return _subject(x509.load_pem_x509_certificates(self.chain)[0])

    @property
    def ends(self) -> datetime:
        """When the first certificate of the chain ends: nothing that is signed with it is trusted afterwards."""
        return min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(self.chain))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a file's credentials say, as read by the c2pa library."""

    state: str
    """`Trusted`, `Valid` (nobody vouches for the signer), `Invalid`, or `none` where there are none."""
    faults: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    source_type: str = ""
    agent: str = ""
    generator: str = ""
    issuer: str = ""


class C2paSigner:
    """Implements `moderation.ports.Signer`. One context and one signer, used from `THREADS` threads."""

    def __init__(self, identity: SigningIdentity) -> None:
        """Signs a trial file, since the library finds most faults of an identity only then. Raises IdentityRefused."""
        import c2pa  # noqa: PLC0415  # a large library that only those who sign need

        self._c2pa = c2pa
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sign")
        try:
            self._context = c2pa.Context.from_dict(dict(_SETTINGS))
            info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain, identity.key, None)
            self._signer = c2pa.Signer.from_info(info)
            self._sign(_TRIAL, Claim(title="0" * 32, media_type="image/png", is_trained=False, swapper="none"))
        except (c2pa.C2paError, CannotSign) as error:
            raise IdentityRefused(f"content credentials: {_one_line(error)}") from error

    def close(self) -> None:
        """Wait for the files in hand, end the threads and let go of the key. Nothing can be signed afterwards."""
        self._threads.shutdown()
        self._signer.close()
        self._context.close()

    async def sign(self, data: bytes, claim: Claim) -> bytes:
        """See the port. What was signed before is signed anew, its earlier manifest dropped."""
        if claim.media_type not in SIGNED_TYPES:
            raise CannotSign(f"{claim.media_type} is not signed")
        if not _OUR_ID.fullmatch(claim.title):
            raise CannotSign("the title is not an id of ours")
        try:
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._sign, data, claim)
        except RuntimeError as error:  # closed, or no thread is to be had
            raise CannotSign(_one_line(error)) from error
        try:
            async with asyncio.timeout(SIGN_S):
                return await work
        except TimeoutError as error:
            raise CannotSign("signing took too long") from error

    def _sign(self, data: bytes, claim: Claim) -> bytes:
        out = io.BytesIO()
        try:
            builder = self._c2pa.Builder(_manifest(claim), context=self._context)
            builder.sign(self._signer, claim.media_type, io.BytesIO(data), out)
        except self._c2pa.C2paError as error:
            raise CannotSign(_one_line(error)) from error
        return out.getvalue()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _manifest(claim: Claim) -> dict[str, Any]:
    """An edit of one picture with a face of another. Both are named by their part only: an action must have its ingredient."""
    return {
        "title": claim.title,
        "format": claim.media_type,
        "claim_generator_info": [{"name": "facegate", "version": version("facegate")}],
        "ingredients": [_ingredient("target", "parentOf"), _ingredient("source", "componentOf")],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["target"]}},
                        {
                            "action": "c2pa.edited",
                            "digitalSourceType": COMPOSITE_TRAINED if claim.is_trained else COMPOSITE,
                            "softwareAgent": {"name": claim.swapper},
                            "description": "A face was replaced by another.",
                            "parameters": {"ingredientIds": ["source"]},
                        },
                    ]
                },
            }
        ],
    }


def _ingredient(label: str, relationship: str) -> dict[str, str]:
    """Neither hash nor format nor instance: they would be true of what somebody sent us."""
    return {"title": label, "relationship": relationship, "label": label}


def read_credentials(data: bytes, media_type: str, *, anchors: bytes | None) -> Credentials:
    """What a file of ours says of itself; it is opened in this process, so this is not for what was sent to us.

    `anchors` are certificates (PEM) that are trusted; without, nobody is. Raises nothing on bad files, ValueError on bad anchors.
    """
    import c2pa  # noqa: PLC0415  # as above

    trust = dict(_SETTINGS["trust"])
    if anchors is not None:  # the library takes text without a certificate for no anchors at all
        trust["trust_anchors"] = b"".join(_certificate_pem(one) for one in x509.load_pem_x509_certificates(anchors)).decode()
    try:
        with c2pa.Reader(media_type, io.BytesIO(data), context=c2pa.Context.from_dict({**_SETTINGS, "trust": trust})) as reader:
            return _said(json.loads(reader.json()))
    except c2pa.C2paError.ManifestNotFound:
        return Credentials(state="none")
    except (c2pa.C2paError, LookupError, TypeError, ValueError, AttributeError):  # the report of a damaged manifest lacks parts of it
        return Credentials(state="Invalid", faults=("unreadable",))


def _said(report: Mapping[str, Any]) -> Credentials:
    """The library's report in short. Raises LookupError, TypeError, AttributeError where it has another form."""
    manifest = report["manifests"][report["active_manifest"]]
    actions = [
        action
        for assertion in manifest.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    results = report.get("validation_results", {}).get("activeManifest", {})
    generators = manifest.get("claim_generator_info", [])
    return Credentials(
        state=report["validation_state"],
        faults=tuple(result["code"] for result in results.get("failure", ())),
        actions=tuple(action["action"] for action in actions),
        source_type=next((action["digitalSourceType"] for action in actions if "digitalSourceType" in action), ""),
        agent=next(
            (str(action["softwareAgent"].get("name", "")) for action in actions if isinstance(action.get("softwareAgent"), dict)), ""
        ),
        generator=" ".join(f"{one.get('name')}/{one.get('version')}" for one in generators),
        issuer=str(manifest.get("signature_info", {}).get("common_name") or manifest.get("signature_info", {}).get("issuer", "")),
    )


# --- who signs --------------------------------------------------------------------------------------


def load_identity(certificate: Path, key: Path) -> SigningIdentity:
    """A configured identity: a PEM chain, the signer's certificate first, and its P-256 key, readable by its owner only.

    Raises IdentityRefused.
    """
    try:
        certificates = x509.load_pem_x509_certificates(certificate.read_bytes())
        loaded = serialization.load_pem_private_key(read_private(key, most=_LONGEST_PEM), password=None)
    except OSError as error:
        raise IdentityRefused(f"content credentials: {error.filename}: {error.strerror}") from error
    except NotPrivate as error:
        raise IdentityRefused(f"content credentials: {key}: {error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityRefused("content credentials: certificate and key are PEM, the key without a password") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise IdentityRefused(f"content credentials: {key} is not a P-256 key")
    try:
        _check_leaf(certificates[0], loaded)
        _check_chain(certificates)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise IdentityRefused("content credentials: the certificate is damaged") from error
    return SigningIdentity(chain=b"".join(map(_certificate_pem, certificates)), key=_key_pem(loaded), is_development=False)


def _check_leaf(leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """What C2PA asks of a signer's certificate (C2PA 2.2 section 14.5), said before the first file is refused for it."""
    if leaf.public_key() != key.public_key():
        raise IdentityRefused("content credentials: the key is not that of the first certificate")
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound as missing:
        raise IdentityRefused(f"content credentials: the certificate lacks {missing.oid._name}") from missing  # noqa: SLF001  # its only name
    if not usage.digital_signature:
        raise IdentityRefused("content credentials: the certificate is not for digital signatures")
    if not set(_PURPOSES) & set(purposes):
        raise IdentityRefused("content credentials: the certificate is for neither emailProtection, documentSigning nor C2PA claims")


def _check_chain(certificates: list[x509.Certificate]) -> None:
    """Each is valid now, and issued by the next. The last one's issuer is for those to know who verify."""
    now = datetime.now(UTC)
    for one in certificates:
        if not one.not_valid_before_utc <= now < one.not_valid_after_utc:
            between = f"from {one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
            raise IdentityRefused(f"content credentials: {_subject(one)} is valid {between}")
    for one, issuer in pairwise(certificates):
        if not _is_issued_by(one, issuer):
            raise IdentityRefused("content credentials: the certificates are not a chain, the signer's first and each issued by the next")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def load_or_make_identity(folder: Path) -> SigningIdentity:
    """The development identity of this data directory, made on first use and renewed when half its time is over.

    `development-ca.pem` is for those who verify; what holds a key has `key` in its name. Several processes may ask at once: all
    get what the first one made. Raises IdentityRefused.
    """
    try:
        with _alone(folder):
            return _load_or_make(folder)
    except OSError as error:
        raise IdentityRefused(f"content credentials: {error.filename or folder}: {error.strerror}") from error


def _load_or_make(folder: Path) -> SigningIdentity:
    authority = _kept(folder / "development-ca-key.pem")
    if authority is None or _ends_within(authority[1], timedelta(days=LEAF_DAYS)):
        authority = _issue(DEVELOPMENT, days=CA_DAYS)
        make_private(folder / "development-ca-key.pem", _pem(*authority), replace=True)
    anchor, public = _certificate_pem(authority[1]), folder / "development-ca.pem"
    if not public.exists() or public.read_bytes() != anchor:
        make_private(public, anchor, replace=True)
    signer = _kept(folder / "development-signer-key.pem")
    if signer is None or _ends_within(signer[1], RENEW_BEFORE) or not _is_issued_by(signer[1], authority[1]):
        signer = _issue("facegate development signer - not trusted", days=LEAF_DAYS, by=authority)
        make_private(folder / "development-signer-key.pem", _pem(*signer), replace=True)
    return SigningIdentity(chain=_certificate_pem(signer[1]) + anchor, key=_key_pem(signer[0]), is_development=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _ends_within(certificate: x509.Certificate, time: timedelta) -> bool:
    return certificate.not_valid_after_utc < datetime.now(UTC) + time


_Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]
_NOBODY: Final = "facegate development - not trusted"
"""The organisation, which many viewers show as the one who vouches for a file."""


def _issue(name: str, *, days: int, by: _Pair | None = None) -> _Pair:
    """A key and its certificate: an authority's own, or a signer's issued by one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, _NOBODY), x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_key, issuer = (key, subject) if by is None else (by[0], by[1].subject)
    is_ca, now = by is None, datetime.now(UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _START)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return key, builder.sign(issuer_key, hashes.SHA256())


def _kept(path: Path) -> _Pair | None:
    """A key and its certificate as they were kept, or None."""
    damaged = f"content credentials: {path} is damaged; remove it to have another made"
    try:
        pem = read_private(path, most=_LONGEST_PEM)
        key = serialization.load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
    except FileNotFoundError:
        return None
    except NotPrivate as error:
        raise IdentityRefused(f"content credentials: {path}: {error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityRefused(damaged) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise IdentityRefused(damaged)
    return key, certificate


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    return _key_pem(key) + _certificate_pem(certificate)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _subject(certificate: x509.Certificate) -> str:
    return " ".join(certificate.subject.rfc4514_string().split())  # whoever issued it may have put line breaks there
