"""The providers' side of Patchbay, simulated: their APIs, their signed webhooks, and their bad days."""
