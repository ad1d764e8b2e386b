"""`make bench-health`: how fast an outage is seen, told and over, beside a counter of five failures in a row."""
