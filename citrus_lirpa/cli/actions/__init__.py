"""What commands do, apart from their options: here torch is imported."""
