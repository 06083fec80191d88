"""The command line: one file a command, each a thin layer over the function of the same name in `gnnexport.api`."""
