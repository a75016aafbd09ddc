"""Who signs content credentials: what settings make of it, what `facegate doctor` says of it, and a start that refuses what cannot sign."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from rich.console import Console

from deployments import doctor
from deployments.doctor import Finding, examine
from deployments.first_run import check_signer
from deployments.settings import SettingsRefused, load_settings
from deployments.wiring import signing_identity
from moderation.adapters.provenance import DEVELOPMENT, IdentityRefused, load_or_make_identity

YEAR = timedelta(days=365)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("FACEGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FACEGATE_HOME", str(tmp_path / "home"))


@pytest.fixture
def configure(monkeypatch, tmp_path):
    """Write a signer's certificate, issued by a root that is not in the chain, and its key; and configure both."""

    def write(*, lasts=YEAR, mode=0o600) -> None:
        key, root_key, now = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        on = dict.fromkeys(("key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio Han")]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Their root")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * YEAR)
            .not_valid_after(now + lasts)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, content_commitment=True, key_cert_sign=False, crl_sign=False, **on), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
            .sign(root_key, hashes.SHA256())
        )
        chain, private = tmp_path / "chain.pem", tmp_path / "key.pem"
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        private.chmod(mode)
        monkeypatch.setenv("FACEGATE_C2PA_CERTIFICATE_FILE", str(chain))
        monkeypatch.setenv("FACEGATE_C2PA_KEY_FILE", str(private))

    return write


def found(monkeypatch) -> Finding:
    """What doctor says of who signs; its other checks start a decoder, a database and models, and have nothing to do with it."""
    for other in (
        "_front_door",
        "_home",
        "_local_key",
        "_decoder",
        "_classifiers",
        "_faces",
        "_database",
        "_policies",
        "_store",
        "_service",
    ):
        monkeypatch.setattr(doctor, other, lambda _: "not looked at here")
    return {finding.what: finding for finding in examine(load_settings())}["content credentials"]


def test_without_settings_the_development_authority_of_the_data_directory_signs(tmp_path):
    identity = signing_identity(load_settings())
    assert identity.is_development
    assert identity == load_or_make_identity(tmp_path / "home" / "c2pa")


def test_what_is_configured_signs_and_no_development_authority_is_made(configure, tmp_path):
    configure()
    identity = signing_identity(load_settings())
    assert (identity.is_development, identity.subject) == (False, "O=Studio Han")
    assert not (tmp_path / "home" / "c2pa").exists()


def test_a_configured_identity_that_is_no_good_is_refused_and_not_replaced_by_the_development_one(configure, tmp_path):
    configure(mode=0o644)
    with pytest.raises(IdentityRefused, match="others can reach it"):
        signing_identity(load_settings())
    assert not (tmp_path / "home" / "c2pa").exists()


def test_paths_may_start_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FACEGATE_C2PA_CERTIFICATE_FILE", "~/chain.pem")
    monkeypatch.setenv("FACEGATE_C2PA_KEY_FILE", "~/key.pem")
    settings = load_settings()
    assert (settings.c2pa_certificate_file, settings.c2pa_key_file) == (tmp_path / "chain.pem", tmp_path / "key.pem")


def test_doctor_warns_of_a_development_authority_that_is_not_made_yet_and_does_not_make_it(monkeypatch, tmp_path):
    finding = found(monkeypatch)
    assert (finding.is_good, finding.is_warning) == (True, True)
    assert finding.detail.startswith(f"{DEVELOPMENT} (made on first start)")
    assert not (tmp_path / "home").exists()


def test_doctor_warns_of_a_development_authority_and_says_how_to_have_another(monkeypatch):
    ends = signing_identity(load_settings()).ends
    finding = found(monkeypatch)
    assert (finding.is_good, finding.is_warning) == (True, True)
    assert f"{DEVELOPMENT}, until {ends:%Y-%m-%d}" in finding.detail
    assert "FACEGATE_C2PA_CERTIFICATE_FILE" in finding.detail


def test_doctor_says_in_whose_name_files_are_signed_and_until_when(monkeypatch, configure):
    configure()
    finding = found(monkeypatch)
    assert finding == Finding(
        what="content credentials", is_good=True, detail=f"signed as O=Studio Han, until {datetime.now(UTC) + YEAR:%Y-%m-%d}"
    )


def test_doctor_warns_of_a_certificate_that_ends_soon(monkeypatch, configure):
    configure(lasts=timedelta(days=29))
    finding = found(monkeypatch)
    assert (finding.is_good, finding.is_warning) == (True, True)
    assert "Studio Han, only until" in finding.detail


@pytest.mark.parametrize(("wrong", "said"), [({"lasts": -YEAR}, "is valid from"), ({"mode": 0o640 | 0o004}, "others can reach it")])
def test_doctor_says_no_to_what_cannot_sign(monkeypatch, configure, wrong, said):
    configure(**wrong)
    finding = found(monkeypatch)
    assert not finding.is_good
    assert said in finding.detail


def test_doctor_marks_a_warning_as_neither_good_nor_bad(monkeypatch):
    monkeypatch.setattr(
        doctor, "examine", lambda _: [Finding(what="content credentials", is_good=True, detail="[development]", is_warning=True)]
    )
    out = io.StringIO()
    assert doctor.show(load_settings(), Console(width=200, file=out)) == 0
    (line,) = (line for line in out.getvalue().splitlines() if "content credentials" in line)
    assert "note" in line
    assert "[development]" in line


@pytest.mark.parametrize(("wrong", "said"), [({"lasts": -YEAR}, "is valid from"), ({"mode": 0o604}, "others can reach it")])
def test_a_service_whose_identity_cannot_sign_does_not_start(configure, wrong, said):
    configure(**wrong)
    with pytest.raises(SettingsRefused, match=said) as refused:
        check_signer(load_settings())
    assert "\n" not in str(refused.value)


def test_the_first_start_makes_the_development_authority(tmp_path):
    check_signer(load_settings())
    assert (tmp_path / "home" / "c2pa" / "development-ca.pem").exists()
