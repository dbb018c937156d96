"""`launcher verify-resume`: runs that are killed and gone on with, compared with one that was not."""
