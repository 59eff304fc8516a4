"""Reading of files as they come: images, tables, text, pickles."""
