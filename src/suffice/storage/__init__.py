"""Files that are whole or absent, and artifacts in them."""
