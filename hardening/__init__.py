"""Long attacks on the library, for `make hardening`; docs/reliability.md has what they found."""
