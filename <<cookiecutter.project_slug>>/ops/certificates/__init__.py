"""The certificate that nginx serves: asked of Let's Encrypt, renewed in time, watched from outside.

`python -m ops.certificates watch` is the service; `issue` and `status` are for people. nginx reads the certificate at the
handshake, so a renewed one needs no reload and no way from here into nginx' container.
"""
