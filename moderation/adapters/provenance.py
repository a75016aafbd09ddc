"""Content credentials (C2PA 2): what a released file says of itself, signed by its maker.

A manifest says that a picture was opened and edited, by what, and whether pixels came out of a trained network. Of the inputs it
says nothing but that there were two; no thumbnail, no hash, no name of theirs is in it, and nothing is fetched from anywhere.

Who signs is configured, or is a development authority that is made on first start and says so in its name: it proves that files
come from this installation to whoever holds its certificate, and to nobody else.
"""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from cryptography import x509
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
LEAF_DAYS: Final = 365
RENEW_BEFORE: Final = timedelta(days=30)
SIGN_S: Final = 30.0
THREADS: Final = 2
_LONGEST_PEM: Final = 64 * 1024
_START: Final = timedelta(minutes=5)
"""Certificates begin a little in the past: clocks differ."""

_SETTINGS: Final[Mapping[str, Any]] = {
    "builder": {
        "thumbnail": {"enabled": False},
        "actions": {name: {"enabled": False} for name in ("auto_opened_action", "auto_created_action", "auto_placed_action")},
    },
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {"allowed_network_hosts": []},
}


class IdentityRefused(Exception):
    """The certificate or its key cannot be used; the text is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SigningIdentity:
    """A chain of certificates (PEM, the signer's own first) and the signer's key (PKCS 8, PEM)."""

    chain: bytes
    key: bytes
    is_development: bool

    @property
    def anchor(self) -> bytes:
        """The last certificate of the chain, PEM: what a verifier has to trust."""
        return x509.load_pem_x509_certificates(self.chain)[-1].public_bytes(serialization.Encoding.PEM)


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
        """Raises IdentityRefused where the library will not sign with it."""
        import c2pa  # noqa: PLC0415  # a large library that only those who sign need

        self._c2pa = c2pa
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sign")
        try:
            self._context = c2pa.Context.from_dict(dict(_SETTINGS))
            info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain, identity.key, None)
            self._signer = c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise IdentityRefused(f"content credentials: {type(error).__name__}") from error

    async def sign(self, data: bytes, claim: Claim) -> bytes:
        """See the port. What was signed before is signed anew, its earlier manifest dropped."""
        if claim.media_type not in SIGNED_TYPES:
            raise CannotSign(f"{claim.media_type} is not signed")
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._sign, data, claim)
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
            raise CannotSign(f"{type(error).__name__}: {error}") from error
        return out.getvalue()


def _manifest(claim: Claim) -> dict[str, Any]:
    """An edit of one picture with a face of another. Both are named by their part only: an action must have its ingredient."""
    return {
        "title": claim.title,
        "format": claim.media_type,
        "claim_generator_info": [{"name": "facegate", "version": version("facegate")}],
        "ingredients": [_ingredient("target", "parentOf", claim), _ingredient("source", "componentOf", claim)],
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


def _ingredient(label: str, relationship: str, claim: Claim) -> dict[str, str]:
    return {
        "title": label,
        "format": claim.media_type,
        "relationship": relationship,
        "instance_id": f"xmp:iid:{uuid.uuid4()}",
        "label": label,
    }


def read_credentials(data: bytes, media_type: str, *, anchors: bytes | None) -> Credentials:
    """What a file says of itself. `anchors` are certificates (PEM) that are trusted; without, nobody is. Raises nothing on bad files."""
    import c2pa  # noqa: PLC0415  # as above

    trust = {} if anchors is None else {"trust": {"trust_anchors": anchors.decode()}}
    try:
        with c2pa.Reader(media_type, io.BytesIO(data), context=c2pa.Context.from_dict({**_SETTINGS, **trust})) as reader:
            report = json.loads(reader.json())
    except c2pa.C2paError as error:
        is_absent = "ManifestNotFound" in type(error).__name__
        return Credentials(state="none") if is_absent else Credentials(state="Invalid", faults=(type(error).__name__,))
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
        chain = certificate.read_bytes()[:_LONGEST_PEM]
        private = read_private(key, most=_LONGEST_PEM)
        certificates = x509.load_pem_x509_certificates(chain)
        loaded = serialization.load_pem_private_key(private, password=None)
    except OSError as error:
        raise IdentityRefused(f"content credentials: {error.filename}: {error.strerror}") from error
    except NotPrivate as error:
        raise IdentityRefused(f"content credentials: {key}: {error}") from error
    except (ValueError, TypeError) as error:
        raise IdentityRefused("content credentials: certificate and key are PEM, the key without a password") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise IdentityRefused(f"content credentials: {key} is not a P-256 key")
    _check_leaf(certificates[0], loaded)
    plain = loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SigningIdentity(chain=chain, key=plain, is_development=False)


def _check_leaf(leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """What C2PA asks of a signer's certificate (C2PA 2.2 section 14.5), said before the first file is refused for it."""
    if leaf.public_key() != key.public_key():
        raise IdentityRefused("content credentials: the key is not that of the first certificate")
    if not leaf.not_valid_before_utc <= datetime.now(UTC) < leaf.not_valid_after_utc:
        raise IdentityRefused(
            f"content credentials: the certificate is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}"
        )
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound as missing:
        raise IdentityRefused(f"content credentials: the certificate lacks {missing.oid._name}") from missing  # noqa: SLF001  # its only name
    if not usage.digital_signature:
        raise IdentityRefused("content credentials: the certificate is not for digital signatures")


def load_or_make_identity(folder: Path) -> SigningIdentity:
    """The development identity of this data directory, made on first use and renewed a month before it ends.

    Several processes may ask at once: all get what the first one made. Raises IdentityRefused, OSError.
    """
    authority, leaf = folder / "development-ca.pem", folder / "development-leaf.pem"
    if not authority.exists():
        make_private(authority, _pem(*_issue(DEVELOPMENT, days=CA_DAYS)))
    if not leaf.exists():
        _make_leaf(authority, leaf, replace=False)
    if _ends(leaf) < datetime.now(UTC) + RENEW_BEFORE:
        _make_leaf(authority, leaf, replace=True)
    key, certificate = _load(leaf)
    _, root = _load(authority)
    pem = serialization.Encoding.PEM
    return SigningIdentity(chain=certificate.public_bytes(pem) + root.public_bytes(pem), key=_key_pem(key), is_development=True)


def _make_leaf(authority: Path, leaf: Path, *, replace: bool) -> None:
    make_private(leaf, _pem(*_issue("facegate development signer - not trusted", days=LEAF_DAYS, by=_load(authority))), replace=replace)


_Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def _issue(name: str, *, days: int, by: _Pair | None = None) -> _Pair:
    """A key and its certificate: an authority's own, or a signer's issued by one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "facegate"), x509.NameAttribute(NameOID.COMMON_NAME, name)])
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


def _load(path: Path) -> _Pair:
    try:
        pem = read_private(path, most=_LONGEST_PEM)
        key = serialization.load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
    except NotPrivate as error:
        raise IdentityRefused(f"content credentials: {path}: {error}") from error
    except (ValueError, TypeError) as error:
        raise IdentityRefused(f"content credentials: {path} is damaged; remove it to have another made") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityRefused(f"content credentials: {path} is damaged; remove it to have another made")
    return key, certificate


def _ends(path: Path) -> datetime:
    return _load(path)[1].not_valid_after_utc


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    return _key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
