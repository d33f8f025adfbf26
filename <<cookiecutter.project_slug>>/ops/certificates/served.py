"""What clients are shown: asked of nginx by a handshake, not read from a file."""

from __future__ import annotations

import socket
import ssl

from cryptography import x509

SECONDS = 5


def served(address: tuple[str, int], name: str) -> x509.Certificate:
    """The certificate that a client gets who asks for this name; whether it is trusted does not matter here.

    Raises:
        OSError: there is no handshake.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(address, timeout=SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=name) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown
    return x509.load_der_x509_certificate(shown)
