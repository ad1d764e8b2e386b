"""What webhooks did not bring: missed events are fetched, subscriptions at providers kept alive."""
