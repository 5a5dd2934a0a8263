"""Files of users and of releases, read within bounds."""
