"""The command line `fishdip`: one verb a file."""
