"""Between a connection and the routes: limits, bodies, tokens, logs."""
