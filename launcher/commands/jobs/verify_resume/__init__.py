"""`launcher verify-resume`: runs that are killed and resumed, compared with an uninterrupted one."""
