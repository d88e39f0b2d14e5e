"""report.html: what a result says, for people. Made of the folder's files; only drawing needs matplotlib."""
