"""Webhook endpoints: their configuration, keys and addresses, published for the gateway."""
