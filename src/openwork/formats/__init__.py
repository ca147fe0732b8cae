"""Reading files from elsewhere without executing anything in them."""
