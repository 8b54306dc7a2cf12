"""Who results are sent to, and how connections are encrypted. Loads no pynetdicom."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from medfuse.errors import MedfuseError

if TYPE_CHECKING:
    import ssl

_PEER = re.compile(
    r"(?P<tls>tls:)?(?P<aet>[^@\\\s][^@\\]{0,15})@(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d+)"
)


@dataclass(frozen=True)
class Peer:
    """Who receives results.

    Attributes:
        text: As it was written: its name in journals.
        aet: AE title; empty for STOW-RS.
        host: Name or address.
        port: Its port.
        tls: Whether to speak TLS.
        url: Of a DICOMweb service, up to `/studies`; empty for C-STORE.
    """

    text: str
    aet: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False
    url: str = ""


@dataclass(frozen=True)
class Tls:
    """Files of TLS, in PEM.

    Attributes:
        certificate: Of this service, with the chain up to its authority.
        key: Of the certificate.
        authority: Certificates that vouch for others; with it, whoever calls must show one.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def server(self) -> ssl.SSLContext | None:
        """Return what to listen with; None without a certificate.

        Raises:
            MedfuseError: A file cannot be used.
        """
        import ssl

        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> ssl.SSLContext:
        """Return what to call peers with; each must show a certificate of its host that an authority vouches for.

        Raises:
            MedfuseError: A file cannot be used.
        """
        import ssl

        context = ssl.create_default_context()
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            if self.authority is not None:
                context.load_verify_locations(self.authority)
        except (OSError, ValueError) as error:
            why = (getattr(error, "strerror", None) or type(error).__name__).lower()
            raise MedfuseError(
                f"--tls-cert, --tls-key and --tls-ca must be PEM files that belong together, got {why!r}; check them."
            ) from None


def ae_title(text: str) -> str:
    """Return an AE title: 1 to 16 printable letters of ASCII, without backslash (PS3.5 6.2).

    Raises:
        ValueError: It is none.
    """
    if not text.strip() or len(text) > 16 or "\\" in text or not all(" " <= letter <= "~" for letter in text):
        raise ValueError("an AE title must be 1 to 16 letters of ASCII without backslash")
    return text.strip()


def peer(text: str) -> Peer:
    """Return the peer of a text: `AE@HOST:PORT`, `tls:AE@HOST:PORT`, or the URL of a DICOMweb service.

    Raises:
        ValueError: It is none.
    """
    if text.startswith(("http://", "https://")):
        parts = urlsplit(text)
        if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment or parts.port == 0:
            raise ValueError("a DICOMweb service must be http(s)://HOST/PATH, without user and query")
        if not all("!" <= letter <= "~" for letter in text):  # RFC 3986; a name in a journal has no tab, either
            raise ValueError("the URL of a DICOMweb service must be of printable ASCII without spaces")
        return Peer(text, host=parts.hostname, url=text.rstrip("/").removesuffix("/studies"))
    match = _PEER.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError("a peer must be AE@HOST:PORT, tls:AE@HOST:PORT or the URL of a DICOMweb service")
    return Peer(
        text, ae_title(match["aet"]), match["host"].strip("[]"), int(match["port"]), tls=match["tls"] is not None
    )
