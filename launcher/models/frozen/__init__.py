"""The frozen part of a network: `freeze` says which, `split` cuts it off, `engine` runs it as inference."""
