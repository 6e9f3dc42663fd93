"""The commands, one file each; ``segc.cli`` loads the one that is asked for."""
