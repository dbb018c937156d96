"""`launcher compare`: what differs in recipes beside what differs in results."""
