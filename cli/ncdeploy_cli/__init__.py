"""The command line of ncdeploy: one file a command, no logic of its own."""
