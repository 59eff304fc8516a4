"""One file for each data set, and the folders and tables that are the user's own."""
