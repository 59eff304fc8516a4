"""Long robustness checks of the library, run by `make hardening`; docs/reliability.md has their results."""
