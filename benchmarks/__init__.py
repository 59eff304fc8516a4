"""Speed, always beside a peer or the plain pass, always a ratio."""
