"""Reading files of others, without executing anything in them."""
