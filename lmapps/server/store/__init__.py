"""What people made -> the database, as it happens."""
