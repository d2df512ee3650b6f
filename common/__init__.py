"""The ground floor: wire records, the adapter contract, the base model, settings and errors."""

import os

# gRPC reads this while it is imported, and never again; why it leaves TLS 1.3 alone: security/grpc_tls.py.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
