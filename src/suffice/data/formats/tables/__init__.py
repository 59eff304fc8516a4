"""Tables: delimited text and Parquet, read in blocks of rows and checked."""
