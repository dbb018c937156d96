"""`launcher compare`: what differs in the recipes of runs beside what differs in their results."""
