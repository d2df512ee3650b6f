"""What hostile sites, servers and couriers try."""
