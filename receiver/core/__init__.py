"""What the PHP script of Kazoo's documentation does, done so that nothing is lost."""
