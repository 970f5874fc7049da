"""The small program inside the enclave: verify, attest, lease, run, seal, sign."""
